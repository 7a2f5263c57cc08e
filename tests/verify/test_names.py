"""The names at the top of `verify`: there when asked for, and the same for people, type checkers and `import *`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import verify


def test_type_checkers_see_what_is_imported_when_it_is_asked_for():
    tree = ast.parse(Path(verify.__file__).read_text(encoding="utf-8"))
    [block] = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: statement.module for statement in block.body for alias in statement.names}
    assert seen == verify.HOMES


def test_every_name_is_there():
    assert set(verify.__all__) <= set(dir(verify))
    assert all(getattr(verify, name) is not None for name in verify.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'radius_certified'"):
        verify.radius_certified  # noqa: B018


def test_names_of_methods_need_no_torch():
    code = "import sys, verify; assert verify.METHODS and verify.NORMS and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

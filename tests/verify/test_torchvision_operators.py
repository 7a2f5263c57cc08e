"""torchvision is imported after our packages, whether its compiled operators can be loaded beside this torch or not."""

import subprocess
import sys
from pathlib import Path

import pytest

import verify

ROOT = Path(verify.__file__).parents[1]
OWN = {
    "__init__": "from . import extension\nfrom torchvision import _meta_registrations",
    "extension": "import torch\nOWN = torch.library.Library('torchvision', 'DEF')\n"
    "for name in ('nms', 'qnms'):\n    OWN.define(f'{name}(Tensor a, Tensor b, float c) -> Tensor')",
    "_meta_registrations": "import torch\nfor name in ('nms', 'qnms'):\n"
    "    torch.library.register_fake(f'torchvision::{name}')(lambda *arguments: arguments[0])",
}
"""A torchvision with operators of its own, which it loads and then describes, in torchvision's order."""


@pytest.fixture
def torchvision_with_operators(tmp_path):
    for name, text in OWN.items():
        (tmp_path / "torchvision").mkdir(exist_ok=True)
        (tmp_path / "torchvision" / f"{name}.py").write_text(text)
    return tmp_path


def check(code: str, *folders: Path) -> None:
    where = [str(folder) for folder in (*folders, ROOT)]
    done = subprocess.run([sys.executable, "-c", f"import sys\nsys.path[:0] = {where}\n{code}"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_after_our_packages():
    check("""
import experiments
assert "torchvision" not in sys.modules
from torchvision import datasets, models, transforms
""")


def test_after_an_import_that_failed():
    check("""
try:
    import torchvision
except RuntimeError:
    pass
import robust_nas
from torchvision import datasets
""")


def test_operators_that_are_there_stay(torchvision_with_operators):
    check("""
import torch, verify, torchvision
assert "c" in [argument.name for argument in torch.ops.torchvision.nms.default._schema.arguments]
""", torchvision_with_operators)

"""The guides as a site: no warning, formulas drawn, nothing fetched from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*/index.html")}
    assert "<math" in pages["methods"] and "arithmatex" not in pages["methods"]
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= set(pages)
    for name, text in pages.items():
        fetched = re.findall(r'<(?:script|img)[^>]* src="(https?:[^"]*)"|<link[^>]* rel="stylesheet" href="(https?:[^"]*)"', text)
        assert not fetched, (name, fetched)

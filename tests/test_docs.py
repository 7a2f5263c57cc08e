"""The Python that the guides show runs as it stands."""

import re
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parents[1]


GUIDES = ["README.md", "docs/extending.md", "docs/genotypes.md", "docs/search.md", "docs/verify.md", "docs/verify-onnx.md"]


@pytest.mark.parametrize("name", GUIDES)
def test_the_code_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_code(name)


def test_the_commands_about_files_that_the_code_writes_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_code("docs/verify-onnx.md")
    lines = re.findall(r"^    dsrna (verify .*)$", (ROOT / "docs/verify-onnx.md").read_text(encoding="utf-8"), re.MULTILINE)
    for line in lines:
        assert cli.main(line.split()) == 0, line
    assert len(lines) == 3


def run_code(name):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), name, "exec"), {})

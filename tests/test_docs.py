"""What the guides show is so: the Python runs as it stands, the commands have such options, the links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import cli
from robust_nas.registry import ATTACKS, DATASETS, METRICS, STRATEGIES
from verify.propagation.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
WITH_CODE = [name for name, text in TEXTS.items() if "```python" in text]


@pytest.fixture
def known():
    """What a guide adds is taken away again."""
    everything = (METRICS, STRATEGIES, ATTACKS, DATASETS, METHODS)
    before = [set(names) for names in everything]
    yield
    for names, there in zip(everything, before, strict=True):
        for name in set(names) - there:
            del names[name]


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_runs(name, tmp_path, monkeypatch, known):
    monkeypatch.chdir(tmp_path)
    run_code(name)


@pytest.mark.slow
def test_what_is_added_by_the_recipes_serves_the_command_line(tmp_path):
    """Each recipe is a file in a copy of the packages, and at most a line in the registry; nothing else changes."""
    for package in ("cli", "experiments", "robust_nas", "verify"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("results", "__pycache__", "weights"))
    text = TEXTS["docs/extending.md"]
    files = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, flags=re.DOTALL))
    for path, content in files.items():
        assert not (tmp_path / path).exists(), path
        (tmp_path / path).write_text(content, encoding="utf-8")
    registry = tmp_path / "robust_nas" / "registry.py"
    lines = re.findall(r'^    ("[\w-]+": "[\w.]+:[\w.]+",) +# a line of (\w+)$', text, flags=re.MULTILINE)
    for line, name in lines:
        before = registry.read_text(encoding="utf-8")
        after = re.sub(rf"^({name}: .*\n    {{\n)", rf"\g<1>        {line}\n", before, flags=re.MULTILINE)
        assert after != before, name
        registry.write_text(after, encoding="utf-8")
    assert (len(files), len(lines)) == (6, 4)
    (tmp_path / "run.py").write_text(ADDED)
    subprocess.run([sys.executable, "run.py"], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})


ADDED = """
import cli, torch, verify
arch, weights = "runs/search/genotype.json", "runs/train/model.safetensors"
for line in (
    "search --method noisy-images --metric linear-radius --nodes 1 --epochs 1 --batch-size 600",
    f"train --arch {arch} --dataset bars --epochs 1 --channels 2",
    f"attack --arch {arch} --weights {weights} --dataset bars --attack corners --images 10 --no-guards",
):
    assert cli.main(line.split()) == 0, line
assert verify.__file__.startswith(__file__.removesuffix("run.py"))
images = torch.rand(1, 4, 4)


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.asinh(x.diagonal(dim1=1, dim2=2))


verify.BoundedNetwork(Model(), images).bounds(images, 0.1)
"""


def test_the_commands_about_files_that_the_code_writes_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_code("docs/verify-onnx.md")
    lines = re.findall(r"^    dsrna (verify .*)$", TEXTS["docs/verify-onnx.md"], re.MULTILINE)
    for line in lines:
        assert cli.main(line.split()) == 0, line
    assert len(lines) == 3


def run_code(name):
    blocks = re.findall(r"```python\n(.*?)```", TEXTS[name], flags=re.DOTALL)
    exec(compile("\n".join(blocks), name, "exec"), {})


def commands(text):
    """Command lines of `dsrna` in indented blocks, continued lines joined; those that leave something out are left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^    (?:for .* do )?(dsrna [^;\n]*)", joined, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines if "..." not in line]


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if commands(text)])
def test_commands_have_options_that_exist(name):
    for command, *arguments in commands(TEXTS[name]):
        if command.startswith("-") or command.isupper():
            continue
        known = cli.dsrna.commands[command]
        known.make_parser(click.Context(known)).parse_args(arguments)


def anchors(text):
    """Of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", TEXTS[name], flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{name}: {link}"


def test_the_readme_can_be_read_in_one_go():
    assert len(TEXTS["README.md"].splitlines()) <= 150

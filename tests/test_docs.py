"""What the guides show is so: the Python runs as it stands, the commands have such options, the links lead somewhere."""

import re
import shlex
from pathlib import Path

import click
import pytest

import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
WITH_CODE = [name for name, text in TEXTS.items() if "```python" in text]


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_code(name)


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

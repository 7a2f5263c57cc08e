"""`--config` and `--json`: what a run leaves repeats it, and results can be read by programs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from cli import config
from robust_nas.options import CertifyOptions
from tests.cli_helpers import LINES, refused, replace, run


def parsed(command, arguments):
    """The options that a command line means."""
    return cli.dsrna.commands[command].make_context(command, [str(word) for word in arguments]).params


@pytest.fixture
def stopped(here, monkeypatch):
    """Runs a good line of a command in a folder, up to where it begins to compute."""

    def go(command, folder="out"):
        def ran(options):
            (here / folder).mkdir()
            (here / folder / "config.json").write_text(json.dumps({"command": command}))
            raise KeyboardInterrupt

        replace(monkeypatch, command, ran)
        assert run(*LINES[command], "--out", folder) == 130

    return go


def test_a_run_leaves_the_file_that_repeats_it(here):
    line = [*LINES["certify"][1:], "--seed", "3", "--epsilon", "0,1/255"]
    assert run("certify", *line, "--out", "out") == 0
    assert parsed("certify", ["--config", "out/run.toml"]) == parsed("certify", line)
    assert run("certify", "--config", "out/run.toml", "--out", "again") == 0
    first, second = (json.loads((here / out / "config.json").read_text()) for out in ("out", "again"))
    assert first == second


@pytest.mark.parametrize("command", ["attack", "audit", "certify", "export", "search", "train"])
def test_every_command_with_a_folder_can_be_repeated(stopped, command):
    """A run that was stopped leaves the file too."""
    stopped(command)
    assert parsed(command, ["--config", "out/run.toml"]) == parsed(command, LINES[command][1:])


def text(name):
    """Values of the kinds that options have, some of them odd."""
    numbers = st.floats(1e-9, 1e9)
    odd = st.text(st.characters(codec="utf-8", exclude_characters="\r\n,"), min_size=1).map(str.strip).filter(bool)
    return {"float": numbers, "floats": st.lists(numbers, min_size=1, max_size=3).map(tuple), "word": odd}[name]


@given(epsilons=text("floats"), time_limit=st.none() | text("float"), targeted=st.booleans(), arch=text("word"))
def test_every_value_survives(tmp_path_factory, epsilons, time_limit, targeted, arch):
    options = CertifyOptions(arch=arch, epsilons=epsilons, time_limit=time_limit, targeted=targeted)
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_text('{"command": "certify"}')
    config.write(cli.dsrna.commands["certify"], options, folder)
    read = parsed("certify", ["--config", folder / "run.toml"])
    assert {name: read[name] for name in ("arch", "epsilons", "time_limit", "targeted")} == {
        "arch": arch, "epsilons": epsilons, "time_limit": time_limit, "targeted": targeted
    }  # fmt: skip


def test_what_is_typed_counts_more(here):
    (here / "mine.toml").write_text('arch = "cell.json"\nimages = 3\nmethod = "crown"\n')
    options = parsed("certify", ["--config", "mine.toml", "--images", "5"])
    assert (options["images"], options["method"], options["arch"]) == (5, "crown", "cell.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("images = ", "not TOML"),
        ('command = "search"', "options of search, not of certify"),
        ('arch = "cell.json"\nimage = 3', "certify has no option image"),
        ('arch = "cell.json"\nimages = 0', "--images"),
        ('arch = "cell.json"\nmethod = "magic"', "magic"),
        ("images = 3", "--arch"),
        ("images = true", "images: must be text, a number or a list of these, not true"),
        ("out = true", "out: must be"),
        ("out = {name = 1}", "out: must be"),
        ('out = "\\u0000"', "out: must be"),
        ("epsilon = [0.1, true]", "epsilon: must be"),
        ("epsilon = 1979-05-27", 'epsilon: must be text, a number or a list of these, not "1979-05-27"'),
        ('targeted = ""', 'targeted: must be true or false, not ""'),
        ("targeted = 1", "targeted: must be true or false, not 1"),
    ],
)
def test_a_wrong_file_is_one_line(here, capsys, content, words):
    (here / "mine.toml").write_text(content)
    assert words in refused(capsys, "certify", "--config", "mine.toml")


def test_the_mark_of_windows_is_no_part_of_the_options(here):
    (here / "mine.toml").write_bytes(b"\xef\xbb\xbfimages = 3\n")
    assert parsed("certify", ["--config", "mine.toml"])["images"] == 3


def test_any_name_of_a_folder_leaves_a_file_that_can_be_read(stopped):
    stopped("certify", "two\nlines")
    assert parsed("certify", ["--config", "two\nlines/run.toml"])["images"] == 2


def test_a_run_that_is_refused_leaves_no_file(here, capsys):
    (here / "good" / "run.toml").write_text("images = 2\n")
    assert "resume it" in refused(capsys, *LINES["certify"], "--seed", "4", "--resume", "--out", "good")


def test_pictures_in_the_folder_of_a_run_leave_its_file_alone(here, stopped):
    stopped("certify")
    before = (here / "out" / "run.toml").read_text()
    assert run(*LINES["show"], "--out", "out") == 0
    assert (here / "out" / "run.toml").read_text() == before


@pytest.mark.parametrize("command", ["show", "convert", "audit", "export", "verify"])
def test_json_holds_what_is_printed_otherwise(here, capsys, command):
    assert run(*LINES[command], *(() if command == "convert" else ("--out", "out"))) == 0
    printed = capsys.readouterr().out
    assert run(*LINES[command], "--json", *(() if command == "convert" else ("--out", "out"))) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["exit_code"] == 0
    assert all(path in printed for path in results.get("paths", ()))
    assert all(name in printed for name, _ in results.get("summary", ()))


def test_quiet_leaves_results_and_errors(here, capsys):
    assert run(*LINES["audit"], "--out", "out") == 0
    loud = capsys.readouterr()
    assert run(*LINES["audit"], "--out", "out", "-q") == 0
    quiet = capsys.readouterr()
    assert loud.err and not quiet.err
    assert [line.split()[0] for line in quiet.out.splitlines()] == [line.split()[0] for line in loud.out.splitlines()]
    assert "resume it" in refused(capsys, *LINES["certify"], "-q", "--seed", "9", "--resume", "--out", "good")

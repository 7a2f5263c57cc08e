"""Bad and unusual values of every option: answered rightly, or refused in one line with nothing written."""

from types import SimpleNamespace

import click
import pytest

import cli
from robust_nas.options.values import NonNegative, NonNegatives, Positive
from tests.cli_helpers import BINARY, CELL, LINES, refused, replace, run, write

NUMBERS = [(command, option) for command, each in cli.dsrna.commands.items() for option in each.params]
SIZES = [(name, option.opts[0]) for name, option in NUMBERS if isinstance(option.type, NonNegative | NonNegatives)]
COUNTS = [(name, option.opts[0]) for name, option in NUMBERS if isinstance(option.type, click.IntRange)]
NO_NUMBERS = ["-1", "nan", "inf", "x", "", "1e400", "0x10", "8/0", "0/0", "8/255/2", "/255", "8/", "-8/255", "1/inf"]
NO_NUMBERS += ["inf/inf", "nan/1", "8/-255", "8//255", "8\\255", ",", "0.1,,0.2", "0.1;0.2", "0.1 0.2"]


def with_value(command: str, option: str, value: str) -> list[str]:
    """The good line with another value of an option or of the argument."""
    return [command, value] if option == "table" else [*LINES[command], option, value]


@pytest.mark.parametrize(("command", "option"), SIZES)
def test_sizes_that_are_no_numbers(command, option, here, capsys):
    for value in NO_NUMBERS:
        assert option in refused(capsys, *with_value(command, option, value))


@pytest.mark.parametrize(("command", "option"), SIZES)
def test_sizes_as_fractions(command, option, here, monkeypatch):
    """8/255 is the same double precision number as Python's."""
    seen = []

    def runner(options):
        seen.append(options)
        return SimpleNamespace(summary=[], text="", paths=[], genotype_path="", weights_path="", broken=0, violated=0)

    replace(monkeypatch, command, runner)
    [parameter] = (each for each in cli.dsrna.commands[command].params if option in each.opts)
    for text, number in {"8/255": 8 / 255, " 2 / 255 ": 2 / 255, "0.5/255": 0.5 / 255, "1e-3": 1e-3}.items():
        assert run(*with_value(command, option, text)) == 0
        assert getattr(seen.pop(), parameter.name) in (number, (number,))
    if isinstance(parameter.type, NonNegatives):
        assert run(*with_value(command, option, "1/255, 2/255,0.5, 0")) == 0
        assert getattr(seen.pop(), parameter.name) == (1 / 255, 2 / 255, 0.5, 0.0)


def test_every_size_in_pixels_is_such_an_option():
    sizes = {(command, option) for command, option in SIZES}
    assert {("train", "--epsilon"), ("attack", "--epsilon"), ("certify", "--epsilon")} <= sizes
    for command, option in NUMBERS:
        takes_text = isinstance(option.type, click.types.StringParamType | click.types.FloatParamType)
        assert not (takes_text and "pixel" in str(getattr(option, "help", ""))), (command, option.opts)


@pytest.mark.parametrize(("command", "option"), [pair for pair in SIZES if pair[1] != "--gamma"])
def test_zero_where_a_size_has_to_be_positive(command, option, here, capsys):
    [kind] = (each.type for each in cli.dsrna.commands[command].params if option in each.opts)
    if isinstance(kind, Positive):
        for value in ("0", "0/255", "1e-400", "-0"):
            assert option in refused(capsys, *with_value(command, option, value))


@pytest.mark.parametrize(("command", "option"), COUNTS)
def test_whole_numbers_that_are_none(command, option, here, capsys):
    values = ["-1", "1.5", "x", "", "1e3", "nan", "1/2", "9" * 20, "9" * 5000]
    for value in values if option == "--seed" else ["0", *values]:
        refused(capsys, *with_value(command, option, value))


@pytest.mark.parametrize("value", ["", "x", "1.5", "-1", "1,,2", "9" * 20, "²"])
def test_seeds_that_are_none(value, here, capsys):
    assert "--seeds" in refused(capsys, *LINES["table"], "--seeds", value)


@pytest.mark.parametrize("command", [name for name in LINES if name != "zoo"])
def test_places_for_results(command, here, capsys):
    """A file in the way, a folder in the way, no place at all."""
    if command == "convert":
        for out in ("", "good", "cell.json/x", "x" * 300, "/proc/x/y"):
            refused(capsys, *LINES[command], "--out", out)
        return
    parsed, tried = ("", "cell.json"), ("cell.json/x", "x" * 300, "/proc/x/y")
    for out in parsed if command in ("search", "table") else (*parsed, *tried):  # of these two it would take a while
        refused(capsys, *LINES[command], "--out", out)


@pytest.mark.parametrize("command", ["train", "attack", "certify"])
def test_nothing_to_resume(command, here, capsys):
    assert "no run to resume" in refused(capsys, *LINES[command], "--out", "nowhere", "--resume")
    for config in (BINARY, "[]", {"options": None}, {"options": {"a": 1}}):
        write("run/config.json", config)
        assert "run: " in refused(capsys, *LINES[command], "--out", "run", "--resume")


@pytest.mark.parametrize(
    "line",
    [
        ["train", "--arch", "cell.json", "--norm", "l2"],
        ["train", "--arch", "cell.json", "--epsilon", "8/255"],
        ["train", "--arch", "cell.json", "--bound", "ibp"],
        ["train", "--arch", "cell.json", "--recipe", "tangent", "--norm", "linf"],
        ["search", "--method", "enas", "--metric", "cb"],
        ["search", "--method", "random", "--hessian"],
        ["search", "--method", "robnet", "--space", "darts"],
        ["search", "--method", "snas", "--order", "second"],
        ["search", "--metric", "jacobian", "--jacobian", "projection"],
        [*LINES["attack"], "--attack", "x"],
        [*LINES["attack"], "--attack", ""],
        [*LINES["attack"], "--attack", "cw", "--norm", "linf"],
        [*LINES["attack"], "--attack", "fgsm,cw", "--epsilon", "8/255"],
        [*LINES["attack"], "--epsilon", "1e7"],
        [*LINES["attack"], "--images", "501"],
        [*LINES["certify"], "--images", "501"],
        [*LINES["certify"], "--tolerance", "1e-9"],
        [*LINES["certify"], "--targeted", "--epsilon", "8/255"],
        ["table", "5", "--dry-run", "--row", ""],
        ["table", "5", "--dry-run", "--dataset", "mnist"],
        ["table", "5", "6"],
        ["zoo", "x"],
    ],
)
def test_options_that_do_not_go_together(line, here, capsys):
    refused(capsys, *line)


def test_names_that_the_terminal_cannot_write(here, capsysbinary):
    """A file's name that is no text, and a note with half a character, are shown as far as they can be."""
    write("cell.json", {**CELL, "meta": {"note": "\ud800"}})
    assert run("show", "cell.json", "--out", "\udcff") == 0
    out = capsysbinary.readouterr().out
    assert b"\\ud800" in out and b"\\udcff/normal.png" in out

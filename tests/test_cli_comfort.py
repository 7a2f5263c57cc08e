"""What makes a command line easy to use: the nearest name, help of one screen, completion, details, JSON."""

import difflib
import json
import logging

import click
import pytest
from click.shell_completion import BashComplete

import cli
import robust_nas.zoo.listing
import verify
from robust_nas.options.option import Name
from robust_nas.registry import ATTACKS
from tests.cli_helpers import LINES, refused, run
from verify.checks.errors import did_you_mean

COMMANDS = cli.dsrna.commands


def misspelt(word: str) -> str:
    """Two letters changed places, or one left out."""
    return word[:-3] + word[-2] + word[-3] + word[-1] if len(word) > 4 else f"{word}s"


def test_words_are_near_however_they_are_written():
    known = ["crown", "crown-ibp", "ibp", "alpha-crown"]
    assert did_you_mean("CROWN_IBP", known) == "; did you mean crown-ibp?"
    assert did_you_mean("alpha", known) == "; did you mean alpha-crown?"
    assert did_you_mean("al", known) == "; did you mean alpha-crown?"
    assert did_you_mean("corwn", known) == "; did you mean crown?"
    assert did_you_mean("crown", known, 2) == "; did you mean crown, crown-ibp?"
    assert did_you_mean("xyz", known) == did_you_mean("", known) == did_you_mean(None, known) == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_wrong_value_names_the_nearest(command, here, capsys):
    for option in COMMANDS[command].params:
        for name in list(option.type.choices)[:2] if isinstance(option.type, Name) else ():
            assert run(*LINES[command], option.opts[-1], misspelt(name)) == 2
            message = capsys.readouterr().err
            near = difflib.get_close_matches(misspelt(name), option.type.choices)
            assert f"did you mean {near[0]}?" in message if near else "did you mean" not in message


@pytest.mark.parametrize("command", COMMANDS)
def test_every_wrong_option_names_the_nearest(command, capsys):
    for option in COMMANDS[command].params:
        if isinstance(option, click.Option) and len(option.opts[0]) > 6:
            assert run(command, misspelt(option.opts[0])) == 2
            assert option.opts[0] in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_wrong_command_names_the_nearest(command, capsys):
    assert run(misspelt(command)) == 2
    assert f"'{command}'" in capsys.readouterr().err


def test_names_that_only_the_work_knows_name_the_nearest_too(here, capsys):
    attack = [*LINES["attack"], "--attack"]
    for name in ATTACKS:
        assert "did you mean" in refused(capsys, *attack, misspelt(name))
    (here / "mine.toml").write_text("epoch = 3")
    assert "did you mean epochs?" in refused(capsys, "train", "--config", "mine.toml")
    with pytest.raises(verify.InputError, match=r"; did you mean linf\?$"):
        verify.Ball([[0.5]], 0.1, norm="Linf")


def lines_of_help(monkeypatch, capsys, *arguments):
    monkeypatch.setenv("COLUMNS", "100")
    assert run(*arguments) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", ["search", "train"])
def test_help_fits_a_screen(command, monkeypatch, capsys):
    assert len(lines_of_help(monkeypatch, capsys, command, "--help")) <= 50


def test_help_all_has_every_option(monkeypatch, capsys):
    few = "\n".join(lines_of_help(monkeypatch, capsys, "search", "--help"))
    everything = "\n".join(lines_of_help(monkeypatch, capsys, "search", "--help-all"))
    flags = {option.opts[-1] for option in COMMANDS["search"].params}
    assert all(flag in everything for flag in flags)
    assert "--hessian" not in few and "--metric" in few and "Rarely needed:" in everything
    assert few == "\n".join(lines_of_help(monkeypatch, capsys, "search", "--help"))


@pytest.mark.parametrize(
    ("typed", "incomplete", "expected"),
    [
        ([], "cert", {"certify"}),
        (["certify"], "--meth", {"--method"}),
        (["certify", "--method"], "al", {"alpha-crown"}),
        (["search", "--metric"], "i", {"ibp-slope"}),
        (["search"], "--hes", {"--hessian"}),
    ],
)
def test_tab_completes_commands_options_and_names(typed, incomplete, expected):
    completer = BashComplete(cli.dsrna, {}, "dsrna", "_DSRNA_COMPLETE")
    assert {item.value for item in completer.get_completions(typed, incomplete)} == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_lines_of_the_guide_give_a_script(shell, monkeypatch, capsys):
    monkeypatch.setenv("_DSRNA_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit, match="^0$"):
        run()
    assert "_DSRNA_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_verbose_tells_each_step(workers, here, capfd):
    assert run(*LINES["certify"], "--workers", workers, "-v", "--out", "out") == 0
    told = capfd.readouterr()
    assert "robust_nas.runs: certify in out" in told.err and "verify.certify.trials: ibp at radii" in told.err
    assert not logging.getLogger("verify").handlers
    assert run(*LINES["certify"], "--workers", "1", "--out", "out") == 0
    assert "verify.certify" not in capfd.readouterr().err


def test_verbose_and_quiet_are_opposites(here, capsys):
    assert "take one of them" in refused(capsys, *LINES["certify"], "-q", "-v")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json(command):
    assert any("--json" in option.opts for option in COMMANDS[command].params if isinstance(option, click.Option))


def test_json_of_the_zoo_and_of_a_report(here, monkeypatch, capsys):
    rows = [{"name": "PC-DARTS", "space": "darts"}]
    monkeypatch.setattr(robust_nas.zoo.listing, "listing", lambda: iter(rows))
    assert run("zoo", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"exit_code": 0, "architectures": rows}
    assert run("report", "good", "--out", "report.html", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"exit_code": 0, "paths": ["report.html"]}

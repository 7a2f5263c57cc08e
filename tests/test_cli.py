"""What a person meets: help, exit codes, one line for each mistake."""

import contextlib
import errno
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cli
import robust_nas.spaces.draw
import robust_nas.spaces.size
import robust_nas.zoo.listing
import verify
from robust_nas.attacks.base import Attack
from robust_nas.data import load
from robust_nas.datasets.base import DataSet
from robust_nas.genotype import Genotype
from robust_nas.options import SearchOptions
from robust_nas.registry import (
    ATTACKS,
    DATASETS,
    METRICS,
    NOTATIONS,
    ORDERS,
    PRESETS,
    RECIPES,
    SPACES,
    STOPPING_RULES,
    STRATEGIES,
)
from robust_nas.search.presets import PRESETS as SEARCH_PRESETS
from robust_nas.training import save_weights
from robust_nas.training.engine import build
from robust_nas.training.presets import PRESETS as TRAINING_PRESETS
from tests.cli_helpers import GOOD, RUNNERS, replace
from verify.checks.errors import InputError

ARCH, WEIGHTS = ["--arch", "cell.json"], ["--weights", GOOD["--weights"]]
BARE = {
    "search": ["search"],
    "train": ["train", *ARCH],
    "attack": ["attack", *ARCH, *WEIGHTS],
    "certify": ["certify", *ARCH],
    "audit": ["audit", *ARCH, *WEIGHTS, "--certificates", GOOD["--certificates"]],
    "table": ["table", "5"],
    "verify": ["verify"],
    "export": ["export", *ARCH, *WEIGHTS, "--epsilon", "0.1"],
}
"""For every command a line with nothing but what it requires."""
EDGES = [["skip_connect", 0], ["sep_conv_3x3", 1]]
FIELDS = {
    "format": "dsrna-genotype",
    "version": 1,
    "space": "darts",
    "nodes": 1,
    "normal": EDGES,
    "normal_concat": [2],
    "reduce": EDGES,
    "reduce_concat": [2],
}


@pytest.fixture
def genotype(tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(FIELDS))
    return path


@pytest.fixture
def network(genotype):
    """A network of that genotype for digits, with random weights."""
    return build(Genotype.load(genotype), load("digits"), TRAINING_PRESETS["quick"]["standard"])


@pytest.fixture
def weights(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(network, path, {"dataset": "digits"})
    return path


@pytest.fixture
def audit_line(genotype):
    """A valid audit command line; any file will do for what is not read."""
    return ["audit", "--arch", genotype, "--weights", genotype, "--certificates", genotype]


def run(arguments):
    return cli.main([str(argument) for argument in arguments])


def fail_with(error):
    def runner(options):
        raise error

    return runner


def assert_one_line(capsys, *words):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dsrna: error: ") and err.count("\n") == 1
    for word in words:
        assert word in err


def test_help_does_not_wait_for_heavy_imports():
    code = """
import sys, cli
assert cli.main(["--help"]) == cli.main(["search", "--help"]) == 0
heavy = {"torch", "numpy", "pandas", "rich", "matplotlib"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(cli.__file__).parents[1])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(arguments, capsys):
    assert run(arguments) == 0
    assert set(cli.dsrna.commands) <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", cli.dsrna.commands)
def test_each_command_has_help_with_an_example(command, capsys):
    assert run([command, "--help"]) == 0
    assert f"  dsrna {command} " in capsys.readouterr().out


def test_search_passes_its_options_and_prints_the_result(monkeypatch, capsys, tmp_path):
    seen = []

    def runner(options):
        seen.append(options)
        return SimpleNamespace(summary=[("loss", "0.5"), ("epsilon", "0.03")], genotype_path=tmp_path)

    replace(monkeypatch, "search", runner)
    assert run(["search", "--gamma", "0", "--norm", "l2", "--out", tmp_path]) == 0
    assert seen == [SearchOptions(gamma=0.0, norm="l2", out=tmp_path)]
    assert capsys.readouterr().out == f"loss     0.5\nepsilon  0.03\n{tmp_path}\n"


def test_search_leaves_to_preset_and_method_what_is_not_said(monkeypatch):
    def runner(options):
        assert options == SearchOptions()
        return SimpleNamespace(summary=[], genotype_path="")

    replace(monkeypatch, "search", runner)
    assert run(["search"]) == 0


def test_certify_takes_a_list_of_radii_and_no_weights(monkeypatch, genotype):
    def runner(options):
        assert options.epsilons == (0.1, 0.3)
        assert options.weights is None
        return SimpleNamespace(summary=[], paths=[])

    replace(monkeypatch, "certify", runner)
    assert run(["certify", "--arch", genotype, "--epsilon", "0.1, 0.3"]) == 0


@pytest.mark.parametrize(("broken", "code"), [(0, 0), (2, 1)])
def test_a_broken_certificate_is_exit_code_1(monkeypatch, audit_line, broken, code):
    replace(monkeypatch, "audit", lambda options: SimpleNamespace(summary=[], paths=[], broken=broken))
    assert run(audit_line) == code


@pytest.mark.parametrize(("violated", "code"), [(0, 0), (2, 1)])
def test_a_certificate_that_an_attack_violates_is_exit_code_1(monkeypatch, genotype, violated, code):
    def runner(options):
        assert options.attacks == ("fgsm", "pgd")
        return SimpleNamespace(summary=[], paths=[], violated=violated)

    replace(monkeypatch, "attack", runner)
    assert run(["attack", "--arch", genotype, "--weights", genotype, "--attack", "fgsm, pgd"]) == code


def test_what_is_known_by_name_is_there():
    """Every line of a registry leads somewhere, and the lists of names are those of the things themselves."""
    for known in (METRICS, STRATEGIES, STOPPING_RULES, RECIPES, ATTACKS, DATASETS, NOTATIONS):
        assert all(callable(entry) or isinstance(entry, Attack | DataSet) for entry in known.values())
    assert all(attack.name == name for name, attack in ATTACKS.items())
    assert set(SEARCH_PRESETS) == set(TRAINING_PRESETS) == set(PRESETS)
    assert {space for strategy in STRATEGIES.values() for space in strategy.spaces} == set(SPACES)
    assert {order for strategy in STRATEGIES.values() for order in strategy.orders} == set(ORDERS)
    assert all(set(sizes) == {"none", *METRICS} for sizes in SEARCH_PRESETS.values())


@pytest.mark.parametrize("command", RUNNERS)
def test_a_command_line_with_nothing_but_what_is_required_gives_the_defaults(command, here, monkeypatch):
    """What click reads and what the class of the options says are one."""
    seen = []
    replace(monkeypatch, command, seen.append)
    with contextlib.suppress(AttributeError):  # a runner gives a result; this one gives nothing
        run(BARE[command])
    [options] = seen
    given = {field.name for field in fields(options) if getattr(options, field.name) != field.default}
    assert given <= {"arch", "weights", "certificates", "epsilons", "table"}


@pytest.mark.parametrize(
    ("dataset", "before", "during"), [("digits", None, "1"), ("digits", "3", "3"), ("mnist", None, "5")]
)
def test_digits_take_one_thread_and_others_all_that_is_free_unless_told_otherwise(monkeypatch, dataset, before, during):
    seen = []
    monkeypatch.setattr("robust_nas.threads.free_cores", lambda: 5)

    def runner(options):
        seen.append(os.environ.get("OMP_NUM_THREADS"))
        return SimpleNamespace(summary=[], genotype_path="")

    monkeypatch.setenv("OMP_NUM_THREADS", before or "")
    if before is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    replace(monkeypatch, "search", runner)
    assert run(["search", "--dataset", dataset]) == 0
    assert seen == [during]


@pytest.mark.parametrize(("failed", "code"), [({}, 0), ({"train/x": "no data"}, 1)])
def test_a_table_with_a_failed_job_is_exit_code_1(monkeypatch, capsys, failed, code):
    def runner(options):
        assert (options.table, options.rows, options.seeds) == (5, ("DSRNA-CB (early stop, batch 64)", "X"), (0, 3))
        return SimpleNamespace(text="| table |", paths=[Path("results.csv")], failed=failed)

    replace(monkeypatch, "table", runner)
    line = ["table", "5", "--row", "DSRNA-CB (early stop, batch 64)", "--row", "X", "--seeds", "0, 3"]
    assert run(line) == code
    out, err = capsys.readouterr()
    assert out == "| table |\nresults.csv\n" and err.splitlines() == [f"no result: {name}: {why}" for name, why in failed.items()]


def test_show_prints_operations_and_pictures(monkeypatch, genotype, tmp_path, capsys):
    monkeypatch.setattr(robust_nas.spaces.draw, "draw", lambda genotype, out: [out / "normal.png"])
    assert run(["show", genotype, "--out", tmp_path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "normal  node 2 <- 1  sep_conv_3x3"
    parameters = robust_nas.spaces.size.size_on_cifar10(Genotype.load(genotype)).parameters
    assert lines[-3] == f"parameters     {parameters:,} for CIFAR-10, 20 cells, 36 channels"
    assert lines[-1] == str(tmp_path / "normal.png")


def test_show_takes_the_name_of_a_published_architecture(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(robust_nas.spaces.draw, "draw", lambda genotype, out: [])
    assert run(["show", "robnet-free", "--out", tmp_path]) == 0
    out = capsys.readouterr().out
    assert "cell_20  node 5 <- 4  res_sep_conv_3x3\n" in out
    assert "When NAS Meets Robustness" in out and "20 cells" in out


def test_zoo_lists_the_published_architectures(monkeypatch, capsys):
    row = {"space": "darts", "nodes": "4", "operations": "", "parameters": "3 M", "multiply-adds": "5 M", "source": "s"}
    monkeypatch.setattr(robust_nas.zoo.listing, "listing", lambda: iter([{"name": "A", **row}, {"name": "B", **row}]))
    assert run(["zoo"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["name", "space", "nodes", "operations", "parameters", "multiply-adds", "source"]
    assert lines[2] == ["B", "darts", "4", "3", "M", "5", "M", "s"]


def test_convert_prints_or_writes(genotype, tmp_path, capsys):
    assert run(["convert", genotype, "--to", "darts"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=[2], reduce=[")
    (tmp_path / "genotypes.txt").write_text(text)
    assert run(["convert", tmp_path / "genotypes.txt", "--out", tmp_path / "new" / "genotype.json"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'genotype.json'}\n"
    assert Genotype.load(tmp_path / "new" / "genotype.json") == Genotype.load(genotype)


def test_what_cannot_be_converted_is_one_line(genotype, tmp_path, capsys):
    assert run(["convert", "RobNet-free", "--to", "darts"]) == 2
    assert_one_line(capsys, "'robnet'")
    genotype.write_text("__import__('os')")
    assert run(["convert", genotype, "--out", tmp_path / "out"]) == 2
    assert_one_line(capsys, str(genotype), "holds no genotype")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sarch"], "sarch"),
        (["search", "--metrc", "cb"], "--metrc"),
        (["search", "--dataset", "imagenet"], "imagenet"),
        (["search", "--gamma", "-0.1"], "--gamma"),
        (["search", "--gamma", "nan"], "--gamma"),
        (["search", "--seed", "-1"], "--seed"),
        (["search", "--out", __file__], "--out"),
        (["table"], "1..6"),
        (["table", "7"], "7"),
        (["table", "5", "--seeds", "1,x"], "--seeds"),
        (["table", "5", "--scale", "huge"], "known: paper, small, smoke"),
        (["show"], "FILE"),
        (["show", "nowhere.json"], "nowhere.json"),
        (["show", "PCDARTS"], "did you mean PC-DARTS"),
        (["train", "--arch", "PCDARTS"], "did you mean PC-DARTS"),
        (["convert", "nowhere.json"], "nowhere.json"),
        (["convert", "RACL", "--to", "yaml"], "yaml"),
        (["train"], "--arch"),
        (["certify", "--arch", "nowhere.json"], "nowhere.json"),
        (["certify", "--arch", __file__, "--epsilon", "0.1,-2"], "-2"),
        (["certify", "--arch", __file__, "--epsilon", "0.1,,0.2"], "--epsilon"),
        (["certify", "--arch", __file__, "--epsilon", "inf"], "inf"),
        (["certify", "--arch", __file__, "--images", "0"], "--images"),
        (["certify", "--arch", __file__, "--weights", "nowhere"], "nowhere"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, word, capsys):
    assert run(arguments) == 2
    assert_one_line(capsys, word)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes: 4", ["holds no genotype"]),
        ("{nodes: 4}", ["not JSON"]),
        (json.dumps({"format": "other"}), ["format: must be 'dsrna-genotype', not 'other'"]),
        (json.dumps({**FIELDS, "version": 2}), ["version: this program reads version 1, not 2"]),
        (json.dumps({**FIELDS, "normal": [["conv", 0]] * 2}), ["normal[0]: unknown operation 'conv'"]),
        (json.dumps({**FIELDS, "reduce": [["none", 2]] * 2}), ["reduce[0]: the input of node 2 must be 0 to 1"]),
    ],
)
@pytest.mark.parametrize("command", [["show"], ["train", "--arch"], ["certify", "--arch"]])
def test_a_bad_genotype_is_one_line_and_exit_code_2(command, text, words, tmp_path, capsys):
    path = tmp_path / "genotype.json"
    path.write_text(text)
    assert run([*command, path, "--out", tmp_path / "out"]) == 2
    assert_one_line(capsys, str(path), *words)
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there_say_how_to_get_them(genotype, tmp_path, capsys):
    assert run(["train", "--arch", genotype, "--dataset", "mnist", "--data", tmp_path / "empty"]) == 2
    assert_one_line(capsys, f"mnist: no complete data in {tmp_path / 'empty'}", "--data DIR", "--download")


@pytest.mark.parametrize("command", ["search", "train", "certify", "audit"])
def test_cuda_that_is_absent_is_one_line(command, genotype, audit_line, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = {"search": ["search"], "audit": audit_line}
    line = lines.get(command, [command, "--arch", genotype])
    assert run([*line, "--device", "cuda", "--out", genotype.parent / "out"]) == 2
    assert_one_line(capsys, "torch finds no CUDA device here; take --device cpu")


def test_weights_of_another_architecture_are_one_line(genotype, weights, capsys):
    genotype.write_text(json.dumps({**FIELDS, "normal": [["skip_connect", 0], ["max_pool_3x3", 1]]}))
    assert run(["certify", "--arch", genotype, "--weights", weights]) == 2
    assert_one_line(capsys, str(weights), "weights of another architecture: normal is")


def test_weights_that_are_nan_are_one_line(network, genotype, weights, capsys):
    torch.nn.init.constant_(network.classifier.bias, torch.nan)
    save_weights(network, weights, {"dataset": "digits"})
    assert run(["certify", "--arch", genotype, "--weights", weights]) == 2
    assert_one_line(capsys, str(weights), "classifier.bias holds NaN or infinity")


def test_weights_that_are_no_weights_are_one_line(genotype, weights, capsys):
    weights.write_bytes(b"weights")
    assert run(["certify", "--arch", genotype, "--weights", weights]) == 2
    assert_one_line(capsys, str(weights), "not a safetensors file")


def test_an_operator_without_a_sound_rule_is_one_line(monkeypatch, capsys):
    replace(monkeypatch, "search", fail_with(verify.UnsupportedOperator("aten.erf: no sound rule")))
    assert run(["search"]) == 2
    assert_one_line(capsys, "aten.erf: no sound rule")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("mnist:\nnot there"), ["mnist: not there"]),
        (MemoryError(), ["out of memory", "--preset"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."), ["out of memory"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), ["out of memory"]),
        (PermissionError(errno.EACCES, "Permission denied", "/runs"), ["/runs: Permission denied"]),
        (OSError("disk on fire"), ["disk on fire"]),
    ],
)
def test_a_failure_that_is_no_bug_is_one_line(monkeypatch, capsys, error, words):
    replace(monkeypatch, "search", fail_with(error))
    assert run(["search"]) == 2
    assert_one_line(capsys, *words)


def test_a_bug_keeps_its_traceback(monkeypatch):
    replace(monkeypatch, "search", fail_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        run(["search"])


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    replace(monkeypatch, "search", fail_with(KeyboardInterrupt()))
    assert run(["search"]) == 130
    assert capsys.readouterr().err.strip() == "dsrna: stopped"

"""The search: reproducible, untouched by a metric of weight 0, written down, safe to stop."""

import csv
import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import cli
from robust_nas.data import Examples
from robust_nas.genotype import Genotype
from robust_nas.options import SearchOptions
from robust_nas.runs import CsvLog
from robust_nas.search import run as search_run
from robust_nas.search import run_search
from robust_nas.search.engine import Search
from robust_nas.search.presets import PRESETS
from robust_nas.search.stage import Plan
from tests.robust_nas.search.helpers import TINY, planned, small_data, tiny_search
from verify.checks.errors import InputError


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Arguments for a search of two steps."""
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], TINY))
    monkeypatch.setattr(search_run, "load", lambda *_: small_data())
    return {
        "metric": "cb",
        "dataset": "digits",
        "data": None,
        "download": False,
        "preset": "quick",
        "norm": "linf",
        "gamma": None,
        "seed": 3,
        "device": "cpu",
        "out": tmp_path / "run",
    }


def searched(options, tmp_path, **changes):
    """Everything a search learnt: alphas, final weights' training losses, genotype."""
    out = tmp_path / "-".join(str(value) for value in changes.values())
    result = run_search(SearchOptions(**{**options, **changes, "out": out}))
    rows = list(csv.DictReader((out / "search.csv").open()))
    alphas = load_file(out / "alphas.safetensors")
    return alphas, [row["train_loss"] for row in rows], Genotype.load(result.genotype_path)


def same(first, second):
    return all(torch.equal(first[0][name], second[0][name]) for name in first[0]) and first[1:] == second[1:]


def test_gamma_0_is_no_metric_bit_for_bit_and_a_metric_moves_alpha(options, tmp_path):
    none = searched(options, tmp_path, metric="none")
    for metric in ("cb", "jacobian", "combined"):
        assert same(searched(options, tmp_path, metric=metric, gamma=0.0), none), metric
        assert not same(searched(options, tmp_path, metric=metric, gamma=10.0), none), metric


def test_gamma_0_leaves_weights_and_buffers_as_no_metric_does():
    states = []
    for metric in (None, planned(metric="combined").metric):
        search = tiny_search(metric=metric)
        list(search.steps())
        states.append(search.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_seed_gives_one_result(options, tmp_path):
    first = searched(options, tmp_path, seed=1)
    torch.rand(3)
    assert same(first, searched(options, tmp_path / "again", seed=1))
    assert not same(first, searched(options, tmp_path, seed=2))


def test_writes_what_was_done(options):
    result = run_search(SearchOptions(**options))
    out = options["out"]
    assert sorted(path.name for path in out.iterdir()) == [
        "alphas.gif",
        "alphas.png",
        "alphas.safetensors",
        "checkpoint.safetensors",
        "config.json",
        "genotype.json",
        "search.csv",
        "search.png",
        "timing.csv",
    ]
    rows = list(csv.DictReader((out / "search.csv").open()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "1"), ("1", "2")]
    assert all(math.isfinite(float(value)) for value in rows[0].values())
    seldom = {"loss_gradient", "robustness_gradient", "cosine"}
    assert {name for name, value in rows[1].items() if not value} == seldom
    numbers = {name: float(value) for name, value in rows[1].items() if value}
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["weighted_robustness"] == pytest.approx(TINY.gamma * numbers["robustness"])
    meta = Genotype.load(result.genotype_path).meta
    assert (meta["metric"], meta["seed"], meta["gamma"]) == ("cb", 3, TINY.gamma)
    assert meta["epsilon"] == numbers["epsilon"]
    config = json.loads((out / "config.json").read_text())
    assert config["options"]["sizes"]["cells"] == 2
    assert ("paper scale", search_run.PAPER_SCALE) in result.summary


def test_warm_up_trains_the_weights_alone():
    search = tiny_search(replace(TINY, warm_up=1))
    before = [alpha.clone() for alpha in search.model.architecture_parameters()]
    rows = list(search.steps())
    assert [row["val_loss"] for row in rows] == [None, None]
    pairs = zip(before, search.model.architecture_parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def test_divergence_is_one_line(options, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(("none", "cb"), replace(TINY, learning_rate=1e306, clip=1e300)))
    with pytest.raises(InputError, match=r"^the search diverged in epoch 1 \(training loss .*try another --seed"):
        run_search(SearchOptions(**options))
    assert not (options["out"] / "genotype.json").exists()


@pytest.mark.parametrize(
    "change",
    [{"preset": "huge"}, {"metric": "best"}, {"norm": "l7"}, {"gamma": -1.0}, {"gamma": math.nan}, {"epochs": 0}],
)
def test_bad_input(options, change):
    with pytest.raises(InputError):
        run_search(SearchOptions(**{**options, **change}))


def test_too_few_images_for_a_step_are_refused():
    data = small_data()
    train = Examples(*(part[:3] for part in data.train))
    with pytest.raises(InputError, match="^digits has 1 images for alpha, and a step needs 2$"):
        Search(Plan(TINY), replace(data, train=train))


def test_float64_only_where_a_bound_needs_it(options, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], replace(TINY, dtype="float32")))
    found = []
    for metric in ("jacobian", "cb"):
        run_search(SearchOptions(**{**options, "metric": metric, "bound": "crown-ibp"}))
        found.append(json.loads((options["out"] / "config.json").read_text())["options"]["sizes"]["dtype"])
    assert found == ["float32", "float64"]


@pytest.mark.parametrize(("epochs", "warm_up"), [(1, 0), (2, 1), (4, 2)])
def test_another_length_leaves_an_epoch_to_alpha(options, monkeypatch, epochs, warm_up):
    monkeypatch.setitem(PRESETS, "quick", {"none": replace(TINY, warm_up=2)})
    run_search(SearchOptions(**{**options, "metric": "none", "epochs": epochs}))
    sizes = json.loads((options["out"] / "config.json").read_text())["options"]["sizes"]
    assert (sizes["epochs"], sizes["warm_up"]) == (epochs, warm_up)
    rows = list(csv.DictReader((options["out"] / "search.csv").open()))
    assert [int(row["epoch"]) for row in rows if row["val_loss"]][0] == warm_up + 1 and int(rows[-1]["epoch"]) == epochs


def test_paper_presets_are_the_papers():
    cb, jacobian = PRESETS["paper"]["cb"], PRESETS["paper"]["jacobian"]
    assert (cb.cells, cb.channels, cb.nodes, cb.epochs, cb.gamma) == (8, 16, 3, 50, 0.01)
    assert (cb.learning_rate, cb.batch_size, cb.momentum, cb.weight_decay) == (0.1, 256, 0.9, 3e-4)
    assert (cb.alpha_learning_rate, cb.alpha_betas, cb.alpha_weight_decay) == (6e-4, (0.5, 0.999), 3e-4)
    assert (jacobian.learning_rate, jacobian.batch_size) == (0.025, 128)
    assert (jacobian.alpha_learning_rate, jacobian.alpha_weight_decay) == (3e-4, 1e-3)


def test_ctrl_c_leaves_whole_files_to_go_on_from(options, tmp_path, monkeypatch):
    """A signal while a row is written; `dsrna` ends with the exit code for it, and goes on with --resume."""
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], replace(TINY, epochs=2)))
    out, append = tmp_path / "run", CsvLog.append

    def interrupted(log, row):
        append(log, row)
        if log.path.name == "search.csv" and (row["epoch"], row["step"]) == (1, 1):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(CsvLog, "append", interrupted)
    line = ["search", "--metric", "none", "--out", str(out)]
    assert cli.main(line) == 130
    names = ["checkpoint.safetensors", "config.json", "run.toml", "search.csv", "timing.csv"]
    assert sorted(path.name for path in out.iterdir() if "previous" not in path.name) == names
    before = (out / "search.csv").read_text()
    assert before.endswith("\n") and before.count("\n") == 2
    monkeypatch.setattr(CsvLog, "append", append)
    assert cli.main([*line, "--resume"]) == 0
    after = (out / "search.csv").read_text()
    assert after.startswith(before) and after.count("\n") == 5

"""The search: reproducible, untouched by a metric of weight 0, written down, safe to stop."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from robust_nas.data import Data, Examples
from robust_nas.genotype import Genotype
from robust_nas.metrics import Measurement, RobustnessMetric
from robust_nas.search import run as search_run
from robust_nas.search import run_search
from robust_nas.search.bilevel import AlphaStep, weight_step
from robust_nas.search.engine import build, optimise
from robust_nas.search.presets import PRESETS
from verify.bounds import BoundedNetwork
from verify.errors import InputError

TINY = replace(
    PRESETS["quick"]["cb"], cells=2, channels=1, nodes=1, epochs=1, warm_up=0, batch_size=6, bound_images=1, dtype="float64"
)


def small_data() -> Data:
    torch.manual_seed(0)
    examples = Examples(torch.rand(24, 1, 6, 6), torch.arange(24) % 3)
    return Data("digits", examples, examples, classes=3, mean=(0.3,), std=(0.4,))


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
    result = run_search(**{**options, **changes, "out": out})
    rows = list(csv.DictReader((out / "search.csv").open()))
    alphas = load_file(out / "alphas.safetensors")
    return alphas, [row["train_loss"] for row in rows], Genotype.load(result.genotype_path)


def same(first, second):
    return all(torch.equal(first[0][name], second[0][name]) for name in first[0]) and first[1:] == second[1:]


@pytest.mark.parametrize("metric", ["cb", "jacobian", "combined"])
def test_gamma_0_is_no_metric_bit_for_bit_and_a_metric_moves_alpha(options, tmp_path, metric):
    none = searched(options, tmp_path, metric="none")
    assert same(searched(options, tmp_path, metric=metric, gamma=0.0), none)
    assert not same(searched(options, tmp_path, metric=metric, gamma=10.0), none)


def test_gamma_0_leaves_weights_and_buffers_as_no_metric_does():
    data, states = small_data(), []
    for metric in (None, search_run._metric("combined", TINY, "linf", 0)):
        torch.manual_seed(0)
        model = build(data, TINY)
        list(optimise(model, data, TINY, metric, 0.0, 0))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_one_seed_gives_one_result(options, tmp_path):
    first = searched(options, tmp_path, seed=1)
    torch.rand(3)
    assert same(first, searched(options, tmp_path / "again", seed=1))
    assert not same(first, searched(options, tmp_path, seed=2))


def test_writes_what_was_done(options):
    result = run_search(**options)
    out = options["out"]
    assert sorted(path.name for path in out.iterdir()) == [
        "alphas.png",
        "alphas.safetensors",
        "config.json",
        "genotype.json",
        "search.csv",
    ]
    rows = list(csv.DictReader((out / "search.csv").open()))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "1"), ("1", "2")]
    numbers = {name: float(value) for name, value in rows[1].items()}
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["weighted_robustness"] == pytest.approx(TINY.gamma * numbers["robustness"])
    meta = Genotype.load(result.genotype_path).meta
    assert (meta["metric"], meta["seed"], meta["gamma"]) == ("cb", 3, TINY.gamma)
    assert meta["epsilon"] == numbers["epsilon"]
    config = json.loads((out / "config.json").read_text())
    assert config["options"]["sizes"]["cells"] == 2
    assert ("paper scale", search_run.PAPER_SCALE) in result.summary


def test_warm_up_trains_the_weights_alone():
    data = small_data()
    torch.manual_seed(0)
    model = build(data, TINY)
    before = [alpha.clone() for alpha in model.architecture_parameters()]
    rows = list(optimise(model, data, replace(TINY, warm_up=1), None, 0.0, 0))
    assert [row["val_loss"] for row in rows] == [None, None]
    pairs = zip(before, model.architecture_parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


class Broken(RobustnessMetric):
    """Not finite, gradient and all."""

    columns = ()

    def __call__(self, network, images, labels):
        return Measurement(network(images).sum() * math.inf, {})


def alpha_step(metric):
    torch.manual_seed(0)
    data = small_data()
    model = build(data, TINY)
    optimiser = torch.optim.Adam(model.architecture_parameters(), lr=0.1)
    batch = Examples(data.train.images.double(), data.train.labels)
    return model, AlphaStep(BoundedNetwork(model, batch.images), optimiser, metric, 1.0), batch


def test_a_metric_that_is_not_finite_counts_for_nothing():
    (plain, step, batch), (model, broken, _) = alpha_step(None), alpha_step(Broken())
    step(batch)
    assert broken(batch)["finite"] == 0
    pairs = zip(plain.architecture_parameters(), model.architecture_parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_nan_weights_do_not_reach_alpha():
    model, step, batch = alpha_step(search_run._metric("combined", TINY, "linf", 0))
    before = [alpha.clone() for alpha in model.architecture_parameters()]
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    assert step(batch)["finite"] == 0
    pairs = zip(before, model.architecture_parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def test_steps_leave_no_gradient_behind():
    model, step, batch = alpha_step(search_run._metric("jacobian", TINY, "l2", 0))
    step(batch)
    weight_step(model, batch, torch.optim.SGD(model.weights(), lr=0.1), clip=5.0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_divergence_is_one_line(options, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", {"cb": replace(TINY, learning_rate=1e200, clip=1e300)})
    with pytest.raises(InputError, match=r"^the search diverged in epoch 1 \(training loss .*try another --seed"):
        run_search(**options)
    assert not (options["out"] / "genotype.json").exists()


@pytest.mark.parametrize(
    "change", [{"preset": "huge"}, {"metric": "best"}, {"norm": "l7"}, {"gamma": -1.0}, {"gamma": math.nan}]
)
def test_bad_input(options, change):
    with pytest.raises(InputError):
        run_search(**{**options, **change})


def test_paper_presets_are_the_papers():
    cb, jacobian = PRESETS["paper"]["cb"], PRESETS["paper"]["jacobian"]
    assert (cb.cells, cb.channels, cb.nodes, cb.epochs, cb.gamma) == (8, 16, 3, 50, 0.01)
    assert (cb.learning_rate, cb.batch_size, cb.momentum, cb.weight_decay) == (0.1, 256, 0.9, 3e-4)
    assert (cb.alpha_learning_rate, cb.alpha_betas, cb.alpha_weight_decay) == (6e-4, (0.5, 0.999), 3e-4)
    assert (jacobian.learning_rate, jacobian.batch_size) == (0.025, 128)
    assert (jacobian.alpha_learning_rate, jacobian.alpha_weight_decay) == (3e-4, 1e-3)


def test_ctrl_c_leaves_whole_files(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "cli", "search", "--metric", "jacobian", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / "search.csv").exists() and (out / "search.csv").read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "search.csv"]
    assert (out / "search.csv").read_text().endswith("\n")

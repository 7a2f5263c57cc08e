"""The training command: reproducible, written down, resumable after kill -9, refused in one line when it cannot go on."""

import csv
import json

import pytest
import torch

from robust_nas.data import Examples
from robust_nas.options import TrainOptions
from robust_nas.training import load_network, run_training
from robust_nas.training import run as training_run
from robust_nas.training.engine import accuracy, build
from robust_nas.training.presets import PRESETS
from robust_nas.training.recipes import RECIPES
from tests.robust_nas import killing
from tests.robust_nas.helpers import GENOTYPE
from tests.robust_nas.training.helpers import TINY, preset, small_data
from verify.checks.errors import InputError


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Arguments for a training of three epochs of a tiny network on 24 images."""
    monkeypatch.setitem(PRESETS, "quick", {recipe: preset(recipe) for recipe in RECIPES})
    monkeypatch.setattr(training_run, "load", lambda *_: small_data())
    GENOTYPE.save(tmp_path / "genotype.json")
    return {"arch": tmp_path / "genotype.json", "device": "cpu", "seed": 3, "out": tmp_path / "run"}


def test_one_seed_gives_one_result(options, tmp_path):
    first = run_training(TrainOptions(**options))
    second = run_training(TrainOptions(**{**options, "out": tmp_path / "again"}))
    other = run_training(TrainOptions(**{**options, "seed": 4, "out": tmp_path / "other"}))
    assert first.weights_path.read_bytes() == second.weights_path.read_bytes()
    assert first.weights_path.read_bytes() != other.weights_path.read_bytes()


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_writes_what_was_done(options, tmp_path, recipe):
    result = run_training(TrainOptions(**options, recipe=recipe, epochs=2))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.previous.safetensors",
        "checkpoint.safetensors",
        "config.json",
        "model.json",
        "model.safetensors",
        "timing.csv",
        "train.csv",
    ]
    rows = list(csv.DictReader((tmp_path / "run" / "train.csv").open()))
    assert [(row["epoch"], row["step"]) for row in rows] == [(e, s) for e in "12" for s in "1234"]
    assert [bool(row["held_out_accuracy"]) for row in rows] == [False, False, False, True] * 2
    sidecar = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (sidecar["dataset"], sidecar["preset"], sidecar["recipe"], sidecar["seed"]) == ("digits", "quick", recipe, 3)
    assert sidecar["settings"]["epsilon"] == {"adversarial": 0.1, "certified": 0.1, "tangent": 0.3}.get(recipe, 0)
    assert sidecar["settings"]["norm"] == RECIPES[recipe].norms[0]
    assert sidecar["sizes"]["epochs"] == 2
    assert sidecar["test_accuracy"] == result.test_accuracy
    network, _ = load_network(GENOTYPE, result.weights_path)
    x = torch.rand(2, 1, 8, 8)
    assert not result.network.training
    assert torch.equal(network(x), result.network(x))


SETUP = """
from robust_nas.options import TrainOptions
from robust_nas.training import run as training_run, run_training
from robust_nas.training.presets import PRESETS
from tests.robust_nas.training.helpers import preset, small_data

PRESETS["quick"] = {"jacobian": preset("jacobian")}
training_run.load = lambda *_: small_data()
"""


def go(options, deadly=0):
    killing.run(SETUP, "run_training(TrainOptions(**options))", "train.csv", options, deadly)


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_to_the_byte(tmp_path):
    """test_engine does this for every recipe, in one process."""
    GENOTYPE.save(tmp_path / "genotype.json")
    options = {"arch": str(tmp_path / "genotype.json"), "recipe": "jacobian", "device": "cpu"}
    go({**options, "out": str(tmp_path / "whole")})
    go({**options, "out": str(tmp_path / "killed")}, 6)
    go({**options, "out": str(tmp_path / "killed"), "resume": True}, 6)
    go({**options, "out": str(tmp_path / "killed"), "resume": True})
    for name in ("model.safetensors", "train.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_a_diverging_run_keeps_the_last_good_checkpoint(options, monkeypatch):
    """A rate of learning that no weights survive, from the second epoch on."""
    step = training_run.Training._set_learning_rate

    def explode(training):
        rate = step(training)
        for group in training._optimiser.param_groups:
            group["lr"] = 1e38 if training.epoch else rate
        return rate

    monkeypatch.setattr(training_run.Training, "_set_learning_rate", explode)
    with pytest.raises(InputError, match=r"^training diverged in step \d of epoch 2 \(loss .*layer.*last good epoch"):
        run_training(TrainOptions(**options))
    assert not (options["out"] / "model.safetensors").exists()
    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "quick", {recipe: preset(recipe) for recipe in RECIPES})
    monkeypatch.setattr(training_run, "load", lambda *_: small_data())
    run_training(TrainOptions(**options, resume=True))
    assert (options["out"] / "model.safetensors").exists()


def test_the_weights_are_those_of_the_last_epoch(options):
    """And of the network alone: the auxiliary head is not among them."""
    result = run_training(TrainOptions(**options))
    plain = build(GENOTYPE, small_data(), TINY)
    assert set(result.network.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize("kind", ["preset", "recipe"])
def test_unknown_name(options, kind):
    with pytest.raises(InputError, match=f"^unknown {kind} 'huge'; known: "):
        run_training(TrainOptions(**{**options, kind: "huge"}))


def test_bad_numbers(options):
    with pytest.raises(InputError, match="^epsilon must be a finite number >= 0, not nan$"):
        run_training(TrainOptions(**options, recipe="certified", epsilon=float("nan")))
    with pytest.raises(InputError, match="^unknown norm 'l1' for recipe certified; known: linf, l2$"):
        run_training(TrainOptions(**options, recipe="certified", norm="l1"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"recipe": "standard", "epsilon": 0.1}, "recipe standard trains against no perturbations; leave out --norm"),
        ({"recipe": "jacobian", "norm": "l2"}, "recipe jacobian trains against no perturbations; leave out --norm"),
        ({"recipe": "adversarial", "bound": "ibp"}, "recipe adversarial has no bound to begin with; leave out --bound"),
    ],
)
def test_what_a_recipe_does_not_take_is_refused(options, given, line):
    with pytest.raises(InputError, match=f"^{line}"):
        run_training(TrainOptions(**{**options, **given}))


def test_accuracy_leaves_the_mode_alone():
    examples = Examples(torch.rand(300, 1, 8, 8), torch.arange(300) % 3)
    network = build(GENOTYPE, small_data(), TINY).train()
    network.eval()
    expected = (network(examples.images).argmax(1) == examples.labels).float().mean().item()
    assert accuracy(network.train(), examples) == pytest.approx(expected)
    assert network.training


@pytest.mark.slow
def test_quick_learns_digits(tmp_path):
    GENOTYPE.save(tmp_path / "genotype.json")
    result = run_training(TrainOptions(arch=tmp_path / "genotype.json", device="cpu", out=tmp_path / "run"))
    assert result.test_accuracy >= 0.95

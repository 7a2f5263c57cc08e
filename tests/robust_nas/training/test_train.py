"""Training: reproducible, written down, refused in one line when it cannot go on."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

from robust_nas.training import load_network, run_training, train
from robust_nas.training.presets import PRESETS
from robust_nas.training.recipes import RECIPES
from tests.robust_nas.helpers import GENOTYPE
from verify.errors import InputError


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Arguments for a training of one epoch of a tiny network."""
    tiny = replace(PRESETS["quick"], epochs=1, channels=2, drop_path=0.1)
    monkeypatch.setitem(PRESETS, "quick", tiny)
    GENOTYPE.save(tmp_path / "genotype.json")
    return {
        "arch": tmp_path / "genotype.json",
        "dataset": "digits",
        "data": None,
        "download": False,
        "preset": "quick",
        "recipe": "standard",
        "seed": 3,
        "device": "cpu",
        "out": tmp_path / "run",
    }


def test_one_seed_gives_one_result(options, tmp_path):
    first = run_training(**options)
    second = run_training(**{**options, "out": tmp_path / "again"})
    other = run_training(**{**options, "seed": 4, "out": tmp_path / "other"})
    assert first.weights_path.read_bytes() == second.weights_path.read_bytes()
    assert first.weights_path.read_bytes() != other.weights_path.read_bytes()


def test_writes_what_was_done(options, tmp_path):
    result = run_training(**options)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.json",
        "model.json",
        "model.safetensors",
        "train.csv",
    ]
    rows = list(csv.DictReader((tmp_path / "run" / "train.csv").open()))
    assert [row["epoch"] for row in rows] == ["1"]
    assert 0 <= float(rows[0]["held_out_accuracy"]) <= 1
    sidecar = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (sidecar["dataset"], sidecar["preset"], sidecar["recipe"], sidecar["seed"]) == (
        "digits",
        "quick",
        "standard",
        3,
    )
    assert sidecar["test_accuracy"] == result.test_accuracy
    network, _ = load_network(GENOTYPE, result.weights_path)
    x = torch.rand(2, 1, 8, 8)
    assert not result.network.training
    assert torch.equal(network(x), result.network(x))


def test_a_loss_that_is_not_finite_stops(options, monkeypatch):
    monkeypatch.setitem(RECIPES, "standard", lambda network, x, y: network(x).sum() * math.nan)
    with pytest.raises(InputError, match=r"^training diverged in epoch 1 \(loss nan\); try another --seed$"):
        run_training(**options)
    assert not (options["out"] / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["preset", "recipe"])
def test_unknown_name(options, kind):
    with pytest.raises(InputError, match=f"^unknown {kind} 'huge'; known: "):
        run_training(**{**options, kind: "huge"})


def test_drop_path_rises_and_ends_with_the_training(monkeypatch):
    data = train.load("digits")
    seen = []

    def note_drop_path(network, passes, recipe, optimiser, clip):
        optimiser.step()
        seen.append(network.cells[0].drop_path)
        return 0.0

    preset = replace(PRESETS["quick"], epochs=3, drop_path=0.3)
    network = train.build(GENOTYPE, data, preset)
    monkeypatch.setattr(train, "train_epoch", note_drop_path)
    list(train.fit(network, data, preset, RECIPES["standard"], seed=0))
    assert seen == pytest.approx([0.0, 0.1, 0.2])
    assert network.cells[0].drop_path == 0.0


def test_accuracy_leaves_the_mode_alone():
    data = train.load("digits")
    network = train.build(GENOTYPE, data, PRESETS["quick"]).train()
    assert 0 <= train.accuracy(network, data.test) <= 1
    assert network.training


def test_the_paper_preset_is_the_papers():
    paper = PRESETS["paper"]
    assert (paper.cells, paper.channels, paper.epochs, paper.batch_size) == (20, 36, 600, 128)
    assert (paper.learning_rate, paper.clip, paper.drop_path) == (0.025, 5, 0.3)


@pytest.mark.slow
def test_quick_learns_digits(tmp_path):
    GENOTYPE.save(tmp_path / "genotype.json")
    result = run_training(
        arch=tmp_path / "genotype.json",
        dataset="digits",
        data=None,
        download=False,
        preset="quick",
        recipe="standard",
        seed=0,
        device="cpu",
        out=tmp_path / "run",
    )
    assert result.test_accuracy >= 0.95

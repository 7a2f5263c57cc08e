"""The study of the recipes: a row of its table from what the runs of a network leave."""

import json

import pandas as pd
import pytest

from experiments.recipes import study
from robust_nas.genotype import Genotype
from robust_nas.training.recipes import RECIPES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A network of which two images were certified and attacked, one of them misclassified."""
    files = {
        "train/model.safetensors": "weights",
        "train/model.json": json.dumps({"settings": {"epsilon": 0.1}, "test_accuracy": 0.75}),
        "train/timing.csv": "epoch,step,seconds,peak_memory_mb\n1,1,1.5,9\n1,2,0.5,9\n",
        "attack/summary.json": json.dumps(
            {
                "images": 2,
                "clean": 0.5,
                "attacks": [{"attack": "fgsm", "norm": "linf", "epsilon": 2 / 255, "accuracy": 0.25}],
                "guards": [{"sign": True}, {"sign": False}, {"sign": True}],
                "violated": [1],
            }
        ),
        "certify-linf-ibp/certify.csv": "radius,seconds\n0.04,1\n0,3\n",
        "certify-linf-affine/certify.csv": "radius,seconds\n0.05,4\n",
        "certify-l2-ibp/certify.csv": "radius,seconds\n0.5,1\n0,1\n",
        "certify-l2-affine/certify.csv": "radius,seconds\n0.6,1\n",
        "audit-linf-ibp/done": "0",
        "audit-linf-affine/done": "0",
        "audit-l2-ibp/done": "2",
        "audit-l2-affine/done": "1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(study, "WEIGHTS", tmp_path / "weights")
    for network in ("certified l2", "standard"):
        study.keep(tmp_path / "train", study.weights_of(network, "mnist"))
    return tmp_path


def test_trained_weights_are_kept_with_what_they_took(folder):
    assert (folder / "weights" / "mnist" / "certified-l2.safetensors").read_text() == "weights"
    sidecar = json.loads((folder / "weights" / "mnist" / "certified-l2.json").read_text())
    assert sidecar == {"settings": {"epsilon": 0.1}, "test_accuracy": 0.75, "training_seconds": 2.0}


def test_a_row_of_the_table(folder):
    assert study.row("certified l2", folder, "mnist") == {
        "dataset": "mnist",
        "training": "certified l2",
        "domain": "free",
        "epsilon": 0.1,
        "test_accuracy": 0.75,
        "images": 2,
        "clean": 0.5,
        "fgsm linf 0.00784": 0.25,
        "linf radius ibp (2)": 0.02,
        "linf radius affine (1)": 0.05,
        "l2 radius ibp (2)": 0.25,
        "l2 radius affine (1)": 0.6,
        "signs of masked gradients": 2,
        "broken": 4,
        "training_seconds": 2.0,
        "ibp seconds": 2.0,
        "affine seconds": 4.0,
    }


def test_the_table_is_written_as_csv_and_markdown(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    study.write([{**study.row("standard", folder, "mnist"), "training": "jacobian"}], "mnist")
    study.write([study.row("standard", folder, "mnist")], "mnist")
    assert pd.read_csv(tmp_path / "recipes_mnist.csv")["training"].tolist() == ["standard", "jacobian"]
    assert pd.read_csv(tmp_path / "recipes_mnist.csv")["linf radius ibp (2)"].tolist() == [0.02, 0.02]
    assert "| standard | free | 0.1 | 0.75 | 2 | 0.5 | 0.25 |" in (tmp_path / "recipes_mnist.md").read_text()


def test_the_networks_are_of_known_recipes_and_one_architecture():
    assert {options["recipe"] for options in study.NETWORKS.values()} == set(RECIPES)
    assert Genotype.load(study.ARCH).nodes == 3

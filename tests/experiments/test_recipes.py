"""The study of the recipes: a row of its table from what the runs of a network leave."""

import json

import pandas as pd
import pytest

from experiments.recipes import study
from robust_nas.genotype import Genotype
from robust_nas.training.recipes import RECIPES

HEADER = "radius,attack_radius,correct,seconds\n"
IMAGES = {"ibp": 2, "affine": 1}


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
        "certify-linf-ibp-2/certify.csv": f"{HEADER}0.04,0.1,True,1\n0,0,False,3\n",
        "certify-linf-affine-1/certify.csv": f"{HEADER}0.05,0.1,True,4\n",
        "certify-l2-ibp-2/certify.csv": f"{HEADER}0.5,1,True,1\n0,0,False,1\n",
        "certify-l2-affine-1/certify.csv": f"{HEADER}0.6,1,True,1\n",
        "certify-l2-affine-3/certify.csv": f"{HEADER}0.6,1,True,1\n0.3,inf,True,1\n0,0,False,1\n",
        "audit-linf-ibp-2/done": "0",
        "audit-linf-affine-1/done": "0",
        "audit-l2-ibp-2/done": "2",
        "audit-l2-affine-1/done": "1",
        "audit-l2-affine-3/done": "4",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(study, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "MORE", {("certified l2", "mnist"): [study.Proof("l2", "affine", 3)]})
    for network in ("certified l2", "standard"):
        study.keep(tmp_path / "train", study.weights_of(network, "mnist"))
    return tmp_path


def test_trained_weights_are_kept_with_what_they_took(folder):
    assert (folder / "weights" / "mnist" / "certified-l2.safetensors").read_text() == "weights"
    sidecar = json.loads((folder / "weights" / "mnist" / "certified-l2.json").read_text())
    assert sidecar == {"settings": {"epsilon": 0.1}, "test_accuracy": 0.75, "training_seconds": 2.0}


def test_a_row_of_the_table(folder):
    assert study.row("certified l2", folder, "mnist", IMAGES) == {
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
        "broken": 8,
        "training_seconds": 2.0,
        "ibp seconds": 2.0,
        "affine seconds": 4.0,
    }


def test_what_is_proven_of_more_images_is_in_a_table_of_its_own(folder):
    rows = study.proven("certified l2", folder, "mnist", IMAGES)
    kinds = [("linf", "ibp", 2), ("linf", "affine", 1), ("l2", "ibp", 2), ("l2", "affine", 1), ("l2", "affine", 3)]
    assert [(row["norm"], row["method"], row["images"]) for row in rows] == kinds
    assert rows[-1] == {
        "dataset": "mnist",
        "training": "certified l2",
        "domain": "free",
        "epsilon": 0.1,
        "test_accuracy": 0.75,
        "norm": "l2",
        "method": "affine",
        "images": 3,
        "correct": pytest.approx(2 / 3),
        "mean_radius": pytest.approx(0.3),
        "median_certified_over_attack": 0.3,  # of .6 and, where no attack was found, 0
        "broken": 4,
        "seconds_an_image": 1.0,
    }


def test_a_network_run_anew_leaves_no_certificates_of_the_old_one(folder, capsys):
    row = study.proven("standard", folder, "mnist", IMAGES)[0]
    study.write("certified_mnist", [{**row, "images": 9}, {**row, "training": "jacobian", "images": 7}])
    study.write("certified_mnist", [row, {**row, "images": 3}])
    table = pd.read_csv(folder / "certified_mnist.csv")
    assert table[["training", "images"]].values.tolist() == [["standard", 2], ["standard", 3], ["jacobian", 7]]


def test_the_table_is_written_as_csv_and_markdown(folder, tmp_path, capsys):
    row = study.row("standard", folder, "mnist", IMAGES)
    study.write("recipes_mnist", [{**row, "training": "jacobian"}])
    study.write("recipes_mnist", [row])
    assert pd.read_csv(tmp_path / "recipes_mnist.csv")["training"].tolist() == ["standard", "jacobian"]
    assert pd.read_csv(tmp_path / "recipes_mnist.csv")["linf radius ibp (2)"].tolist() == [0.02, 0.02]
    assert "| standard | free | 0.1 | 0.75 | 2 | 0.5 | 0.25 |" in (tmp_path / "recipes_mnist.md").read_text()


def test_the_networks_are_of_known_recipes_and_one_architecture():
    assert {options["recipe"] for options in study.NETWORKS.values()} == set(RECIPES)
    assert Genotype.load(study.ARCH).nodes == 3

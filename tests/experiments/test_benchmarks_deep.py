"""The benchmark of deep networks: a row of its table, on two cells and digits."""

from dataclasses import replace

import torch

from experiments.benchmarks import deep
from robust_nas.data import load
from robust_nas.training.presets import preset_for


def test_a_row_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(deep, "ARCH", "SNAS-aggressive")
    monkeypatch.setattr(deep, "preset_for", lambda _, *rest: preset_for("quick", *rest))
    monkeypatch.setattr(deep, "TEST_IMAGES", 40)
    digits = load("digits")
    digits = replace(digits, train=digits.train.take(torch.arange(16)))
    row = deep.row(2, "certified", digits, 1, tmp_path)
    assert row["images"] == 1
    assert row["relu_inputs"] > 1_000
    assert 0 < row["median_radius"] <= row["median_attack"]
    assert row["refuted"] == 0
    written = (tmp_path / "train.csv").read_text()
    deep.trained(2, "certified", digits, tmp_path)
    assert (tmp_path / "train.csv").read_text() == written  # nothing was trained anew

"""The benchmark of a step of alpha: every variant takes one, stock too, and the table adds up."""

import math
from dataclasses import replace

import pytest

from experiments.benchmarks import search_step
from robust_nas.search.presets import PRESETS
from tests.robust_nas.search.helpers import TINY


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    preset = replace(TINY, dtype="float32", jacobian_images=3)
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], preset))
    monkeypatch.setitem(search_step.SIZES, "quick", search_step.Size("quick", (1, 8, 8), None, 1, ("none",)))


@pytest.mark.parametrize("variant", ["none", "combined", search_step.STOCK])
def test_a_variant_takes_steps(variant, monkeypatch):
    monkeypatch.setattr(search_step.torch, "set_num_threads", lambda _: None)
    found = search_step.measure("quick", variant)
    assert 0 < found["seconds"] < math.inf
    assert found["finite"]


def test_ratios_are_to_the_step_without_a_metric():
    names = ("none", "jacobian", search_step.DEFAULT, "combined")
    measured = {name: {"seconds": 0.5 * (i + 1), "memory_mb": 10.0, "finite": True} for i, name in enumerate(names)}
    summary = search_step.summarise(measured)
    assert [summary[f"ratio_{name}"] for name in ("jacobian", "cb", "combined")] == [2.0, 3.0, 4.0]
    assert summary["memory_ratio_cb"] == 1.0

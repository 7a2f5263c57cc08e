"""At paper scale a baseline has the settings of its own authors, and with a metric those of DSRNA."""

from dataclasses import replace

import pytest

from robust_nas.search.presets import OWN, PRESETS, preset_for
from robust_nas.search.strategies import STRATEGIES


def test_darts_has_those_of_its_paper():
    found = preset_for("paper", "none", "darts")
    assert (found.channels, found.cells, found.epochs, found.warm_up, found.batch_size) == (16, 8, 50, 0, 64)
    assert (found.learning_rate, found.last_learning_rate, found.momentum) == (0.025, 0.001, 0.9)
    assert (found.weight_decay, found.clip) == (3e-4, 5.0)
    assert (found.alpha_learning_rate, found.alpha_betas, found.alpha_weight_decay) == (3e-4, (0.5, 0.999), 1e-3)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (
            "pc-darts",
            {"batch_size": 256, "learning_rate": 0.1, "last_learning_rate": 0.0, "alpha_learning_rate": 6e-4},
        ),
        (
            "pc-darts-adv",
            {"batch_size": 256, "learning_rate": 0.1, "last_learning_rate": 0.0, "alpha_learning_rate": 6e-4},
        ),
        ("p-darts", {"batch_size": 96, "last_learning_rate": 0.0, "alpha_learning_rate": 6e-4}),
        ("snas", {"epochs": 150}),
        (
            "enas",
            {"epochs": 150, "batch_size": 160, "learning_rate": 0.05, "last_learning_rate": 5e-4, "weight_decay": 1e-4},
        ),
    ],
)
def test_others_differ_from_darts_in(method, settings):
    assert preset_for("paper", "none", method) == replace(preset_for("paper", "none", "darts"), **settings)


@pytest.mark.parametrize("method", sorted({*STRATEGIES} - {*OWN}))
def test_the_rest_do_not(method):
    assert preset_for("paper", "none", method) == preset_for("paper", "none", "darts")


@pytest.mark.parametrize(("preset", "metric"), [("paper", "cb"), ("paper", "jacobian"), ("quick", "none"), ("small", "cb")])
def test_elsewhere_the_method_does_not_matter(preset, metric):
    assert {preset_for(preset, metric, method) for method in ("darts", "pc-darts", "enas")} == {PRESETS[preset][metric]}

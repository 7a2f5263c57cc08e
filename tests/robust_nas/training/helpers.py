"""A training of a few steps, on random images."""

from dataclasses import replace

import torch

from robust_nas.data import Data, Examples
from robust_nas.distributed import ALONE
from robust_nas.training.engine import Plan, Training
from robust_nas.training.presets import PRESETS
from robust_nas.training.recipes import RecipeSettings
from tests.robust_nas.helpers import GENOTYPE

BOUNDED = ("certified", "tangent")
"""Recipes that know nothing random inside a network."""
TINY = replace(PRESETS["quick"]["standard"], epochs=3, channels=2, batch_size=5, held_out=0.25)
SETTINGS = RecipeSettings("linf", 0.02, attack_steps=2)


def small_data() -> Data:
    generator = torch.Generator().manual_seed(0)
    examples = Examples(torch.rand(24, 1, 8, 8, generator=generator), torch.arange(24) % 3)
    return Data("digits", examples, examples, classes=3, mean=(0.3,), std=(0.4,))


def preset(recipe, **changes):
    """TINY with everything random that the recipe allows."""
    if recipe == "certified":
        return replace(TINY, **{"optimiser": "adam", "learning_rate": 1e-3, **changes})
    if recipe in BOUNDED:
        return replace(TINY, **changes)
    return replace(TINY, **{"drop_path": 0.2, "cutout": 3, "auxiliary": 0.4, **changes})


def training(recipe="standard", settings=SETTINGS, processes=ALONE, **changes) -> Training:
    torch.manual_seed(0)
    plan = Plan(GENOTYPE, preset(recipe, **changes), recipe, settings, seed=1)
    return Training(plan, small_data(), processes=processes)

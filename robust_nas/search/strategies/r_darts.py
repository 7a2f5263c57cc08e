"""R-DARTS(L2) (Zela et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from robust_nas.genotype import Architecture
from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.base import Strategy
from robust_nas.search.trials import Trial, trial_at

WEIGHT_DECAYS = (3e-4, 9e-4, 27e-4, 81e-4)
"""Of the weights, one a search: DARTS' and three that are stronger."""


class RegularisedDarts(Strategy):
    """DARTS four times, each time on a fresh supernet with more weight decay; the best result after a short training.

    From memory of the paper: the four weight decays, and that a short training chooses. All four are trained alike, and
    judged on the half of the images that alpha was trained on.
    """

    orders = ("second", "first")

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        return tuple(replace(preset, weight_decay=decay) for decay in WEIGHT_DECAYS)

    def trial(self, preset: SearchPreset, dataset: str) -> Trial:
        return replace(trial_at(preset, "standard", dataset), count=len(WEIGHT_DECAYS))

    def candidates(
        self,
        ends: Sequence[Architecture],
        near: Callable[[torch.Generator], Architecture],
        preset: SearchPreset,
        count: int,
        generator: torch.Generator,
    ) -> list[Architecture]:
        return [*ends, *(near(generator) for _ in range(count - len(ends)))][:count]

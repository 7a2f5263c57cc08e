"""P-DARTS (Chen et al., ICCV 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor

from robust_nas.data import Examples
from robust_nas.genotype import Architecture
from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.base import Step, Strategy
from robust_nas.spaces.supernet import Operations, Supernet

DEPTHS = (5 / 8, 11 / 8, 17 / 8)
"""Cells of each stage: 5, 11 and 17 where DARTS has 8."""
EPOCHS = 25 / 50
WARM_UP = 10 / 50
"""Epochs of each stage, and those without a step of alpha: 25 and 10 where DARTS has 50."""
KEPT = (8, 5, 3)
SKIP_DROPOUT = (0.1, 0.4, 0.7)
DECAY = 0.2
"""Of skip-dropout, an epoch, once alpha takes steps (the official code's `scale_factor`)."""
SKIP_LIMIT = 2


class Progressive(Strategy):
    """Three stages: the supernet grows deeper, the weaker operations of every edge are pruned; few skip connections."""

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        epochs, warm_up = math.ceil(EPOCHS * preset.epochs), round(WARM_UP * preset.epochs)
        return tuple(
            replace(preset, cells=max(1, round(depth * preset.cells)), epochs=epochs, warm_up=min(warm_up, epochs - 1))
            for depth in DEPTHS
        )

    def next_operations(self, model: Supernet, stage: int) -> Operations:
        return model.strongest(KEPT[stage + 1])

    @contextmanager
    def around_weight_step(self, model: Supernet, step: Step, loss: Callable[[], Tensor]) -> Iterator[None]:
        with model.skip_dropout(skip_dropout(SKIP_DROPOUT[step.stage], step.epoch, step.preset)):
            yield

    def genotype(self, model: Supernet, held_out: Callable[[], Examples]) -> Architecture:
        return model.genotype(skip_limit=SKIP_LIMIT)


def skip_dropout(rate: float, epoch: int, preset: SearchPreset) -> float:
    """The rate in an epoch (from 0): falls linearly in the warm-up, then exponentially, from the start again."""
    if epoch < preset.warm_up:
        return rate * (preset.epochs - epoch - 1) / preset.epochs
    return rate * math.exp(-(epoch - preset.warm_up) * DECAY)

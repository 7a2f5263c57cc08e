"""Random search: the baseline that every search must beat (Li and Talwalkar, UAI 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from robust_nas.genotype import Architecture
from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.base import Strategy
from robust_nas.search.trials import Trial, trial_at
from robust_nas.spaces.sampling import depth, sample


class RandomSearch(Strategy):
    """Random architectures, each trained a short way; the best on held-out images. There is no supernet.

    In RobNet's spaces both training and choice are adversarial. The nodes of a cell are the preset's there too, where
    the authors have 4.
    """

    spaces: tuple[str, ...] = ("darts", "robnet", "robnet-free")
    orders = ("first",)
    metrics = False

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        return ()

    def trial(self, preset: SearchPreset, dataset: str) -> Trial:
        sizes = replace(preset, cells=depth(self.space, preset.cells))
        return trial_at(sizes, "standard" if self.space == "darts" else "adversarial", dataset)

    def candidates(
        self,
        ends: Sequence[Architecture],
        near: Callable[[torch.Generator], Architecture],
        preset: SearchPreset,
        count: int,
        generator: torch.Generator,
    ) -> list[Architecture]:
        cells = depth(self.space, preset.cells)
        return [sample(self.space, preset.nodes, cells, generator, preset.activation) for _ in range(count)]

"""Random shallow architectures, screened before any training and raced by what they certify."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from robust_nas.genotype import Architecture
from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.random_search import RandomSearch
from robust_nas.search.trials import Trial
from robust_nas.spaces.sampling import sample_genotype

DRAWN = 32
"""Architectures drawn for each that is trained."""


class RacedSearch(RandomSearch):
    """Random search for what certifies: many cells are drawn, few are trained, and those are raced.

    The gradient of bounds in a supernet leads to pools and skip connections, which are narrow and cannot learn
    (docs/evidence.md). Nodes read the two inputs of the cell and no other node: shallow and wide cells learn fast and
    smoothly (Shu et al., "Understanding architectures learnt by cell-based neural architecture search", ICLR 2020), and
    every layer that intervals pass makes them wider. What is drawn is screened (`search.screen`), and what short
    trainings by the recipe certify decides.
    """

    spaces: tuple[str, ...] = ("darts",)

    def candidates(
        self,
        ends: Sequence[Architecture],
        near: Callable[[torch.Generator], Architecture],
        preset: SearchPreset,
        count: int,
        generator: torch.Generator,
    ) -> list[Architecture]:
        draws = random.Random(int(torch.randint(2**62, (), generator=generator)))
        found = [sample_genotype(preset.nodes, draws, shallow=True) for _ in range(count)]
        return [replace(genotype, activation=preset.activation) for genotype in found]

    def trial(self, preset: SearchPreset, dataset: str) -> Trial:
        """As many trainings as random search has: six of 14 repeat, for the better four of eight, then two."""
        trial = super().trial(preset, dataset)
        return replace(trial, judge="radius", drawn=DRAWN, repeated=3 * trial.count // 7)

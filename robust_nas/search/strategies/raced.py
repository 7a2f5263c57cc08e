"""Random architectures, screened by the width of their intervals and raced by what they certify."""

from __future__ import annotations

from dataclasses import replace

from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.random_search import RandomSearch
from robust_nas.search.trials import Trial

DRAWN = 16
"""Architectures drawn for each that is trained."""


class RacedSearch(RandomSearch):
    """Random search for what certifies: many cells are drawn, few are trained, and those are raced.

    The gradient of bounds in a supernet leads to pools and skip connections, which are narrow and cannot learn
    (docs/evidence.md). What intervals at fresh weights say of a cell of some size, and what short trainings by the
    recipe certify, goes with what the final network certifies.
    """

    spaces: tuple[str, ...] = ("darts",)

    def trial(self, preset: SearchPreset, dataset: str) -> Trial:
        """As many trainings as random search has: six of 14 repeat, for the better four of eight, then two."""
        trial = super().trial(preset, dataset)
        return replace(trial, judge="radius", drawn=DRAWN, repeated=3 * trial.count // 7)

"""PC-DARTS (Xu et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.base import Strategy
from robust_nas.spaces.partial import PartialSupernet
from robust_nas.spaces.supernet import Operations, Supernet

WARM_UP = 15 / 50
"""Of the epochs: the weights alone, as alpha would prefer operations without weights while the others learn."""


class PartialChannels(Strategy):
    """A quarter of the channels goes through the mixed operations; edges have weights of their own."""

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        return (replace(preset, warm_up=max(preset.warm_up, round(WARM_UP * preset.epochs))),)

    def supernet(self, operations: Operations | None, settings: Mapping[str, Any]) -> Supernet:
        return PartialSupernet(**settings)

"""What a search strategy is, and the plain one: DARTS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from robust_nas.genotype import Genotype
from robust_nas.search.presets import SearchPreset
from robust_nas.spaces.supernet import Operations, Supernet


class Strategy:
    """How a search goes about it. This one is DARTS (Liu, Simonyan and Yang, ICLR 2019): one stage, nothing special.

    The engine does the bilevel steps, with any metric; a strategy says on which supernet, in which stages, what is
    around a step of the weights, and how the result is read. It holds no state: a checkpoint has none of it.
    """

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        """The stages of the search, each with its size and schedule; every stage begins with a fresh supernet."""
        return (preset,)

    def supernet(self, operations: Operations | None, settings: Mapping[str, Any]) -> Supernet:
        """A supernet with fresh weights; `operations` are those that the last stage left, None for all."""
        return Supernet(**settings, operations=operations)

    def next_operations(self, model: Supernet, stage: int) -> Operations | None:
        """The operations of the next stage, from the supernet at the end of stage `stage` (from 0)."""
        return None

    @contextmanager
    def around_weight_step(self, model: Supernet, stage: int, epoch: int, preset: SearchPreset) -> Iterator[None]:
        """What holds while the weights take a step in an epoch (from 0) of a stage with the schedule `preset`."""
        yield

    def genotype(self, model: Supernet) -> Genotype:
        """The architecture that the supernet stands for."""
        return model.genotype()

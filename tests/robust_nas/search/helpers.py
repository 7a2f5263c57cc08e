"""A search of two steps an epoch, on random images."""

from dataclasses import replace
from unittest import mock

import torch

from robust_nas.data import Data, Examples
from robust_nas.distributed import ALONE
from robust_nas.options import SearchOptions
from robust_nas.search.engine import Search
from robust_nas.search.planning import plan_of, settled
from robust_nas.search.presets import PRESETS
from robust_nas.search.stage import Plan
from robust_nas.search.strategies.base import Step

TINY = replace(
    PRESETS["quick"]["cb"], cells=2, channels=1, nodes=1, epochs=1, warm_up=0, batch_size=6, dtype="float64"
)


def small_data() -> Data:
    generator = torch.Generator().manual_seed(0)
    examples = Examples(torch.rand(24, 1, 6, 6, generator=generator), torch.arange(24) % 3)
    return Data("digits", examples, examples, classes=3, mean=(0.3,), std=(0.4,))


def planned(preset=TINY, **options) -> Plan:
    """The plan of a search with these options, its preset in place of `quick`."""
    with mock.patch.dict(PRESETS, quick=dict.fromkeys(PRESETS["quick"], preset)):
        return plan_of(settled(SearchOptions(**options)))


def tiny_search(preset=TINY, processes=ALONE, **options) -> Search:
    torch.manual_seed(0)
    return Search(Plan(preset, **options), small_data(), processes=processes)


def step_at(epoch=0, done=0.0, preset=TINY, seed=0) -> Step:
    return Step(0, epoch, done, preset, torch.Generator().manual_seed(seed))

"""Batch norm's statistics of one clean batch, kept for other passes of the same training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from robust_nas.distributed import batch_norms, normalise
from verify.operators.normalisation import Moments

Statistics = dict[nn.BatchNorm2d, tuple[Tensor, Tensor]]
"""Mean and biased variance a channel of each normalisation's input."""


@contextmanager
def recorded(model: nn.Module, moments: Moments) -> Iterator[Statistics]:
    """Keep the statistics of the pass that is made within the block, attached to its graph."""
    found: Statistics = {}

    def keep(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        found[norm] = moments(inputs[0])

    with ExitStack() as hooks:
        for norm in batch_norms(model):
            hooks.callback(norm.register_forward_pre_hook(keep).remove)
        yield found


@contextmanager
def fixed(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Batch norms use these statistics within the block, as constants of the pass, and update no running ones."""
    before = {norm: norm.__dict__.get("forward") for norm in batch_norms(model)}
    for norm in before:
        norm.forward = partial(_normalise, norm, *statistics[norm])  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm, forward in before.items():
            del norm.forward
            if forward is not None:
                norm.forward = forward  # type: ignore[method-assign]


def _normalise(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, x: Tensor) -> Tensor:
    return normalise(norm, x, mean, variance)

"""ASAP: Architecture Search, Anneal and Prune (Noy et al., AISTATS 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robust_nas.search.strategies.base import Step, Strategy
from robust_nas.spaces.supernet import Supernet

START = 1.3
"""The first temperature (from memory of the paper; public re-implementations start at 1.6)."""
FACTOR, EPOCHS = 0.95, 50
"""What the temperature is multiplied by in each of so many epochs."""
THRESHOLD = 0.4
"""Of the weight of an operation, over the number that the edge began with (public re-implementations)."""


class AnnealAndPrune(Strategy):
    """The softmax gets colder, and operations whose weight falls below a threshold are pruned for good.

    What is pruned takes no part from then on: neither in the supernet nor in bounds of it; its alpha stays what it was,
    and keeps its share of the softmax by which edges are compared. The strongest operation of an edge other than `none`
    stays. Nothing is pruned in the warm-up.
    """

    @contextmanager
    def around_step(self, model: Supernet, step: Step) -> Iterator[None]:
        with ExitStack() as stack:
            for kind in model.alphas:
                stack.enter_context(model.relaxation(kind).changed(temperature=temperature(step.done)))
            yield
            weights = {kind: model.relaxation(kind)(alpha).detach() for kind, alpha in model.alphas.items()}
        if step.epoch >= step.preset.warm_up:
            for kind, rows in weights.items():
                relaxation = model.relaxation(kind)
                relaxation.kept = left(rows, relaxation.kept, model.operations[kind])

    @contextmanager
    def around_alpha_step(self, model: Supernet, step: Step) -> Iterator[None]:
        before = {kind: alpha.detach().clone() for kind, alpha in model.alphas.items()}
        yield
        with torch.no_grad():  # without a gradient there is still Adam's momentum, and the weight decay
            for kind, alpha in model.alphas.items():
                alpha.copy_(torch.where(model.relaxation(kind).kept, alpha, before[kind]))


def temperature(done: float) -> float:
    """When this part of alpha's steps is done."""
    return START * FACTOR ** (EPOCHS * done)


def left(
    weights: Float[Tensor, "edges ops"], kept: Bool[Tensor, "edges ops"], operations: Sequence[Sequence[str]]
) -> Bool[Tensor, "edges ops"]:
    """Which operations remain of those that are kept, by their weights.

    Args:
        operations: their names.
    """
    real = torch.tensor([[name != "none" for name in names] for names in operations], device=kept.device)
    strongest = weights.masked_fill(~(real & kept), -1).argmax(1, keepdim=True)
    strong = weights >= THRESHOLD / weights.shape[1]
    return kept & strong.scatter(1, strongest, True)

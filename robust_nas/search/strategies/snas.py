"""SNAS (Xie et al., ICLR 2019): architectures sampled from a concrete distribution, and a price on their size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from robust_nas.search.bilevel import AlphaStep
from robust_nas.search.strategies.base import Step, Strategy
from robust_nas.spaces.cells import SearchCell
from robust_nas.spaces.size import multiply_adds
from robust_nas.spaces.supernet import Supernet

FIRST, LAST = 1.0, 0.03
"""Temperature at the search's start and end."""
PRICE = 1.5e-3
"""Weight of the resource penalty, by which Table 2 of DSRNA (CVPR 2021) has SNAS with the "moderate" constraint."""

Costs = Mapping[str, Float[Tensor, "edges ops"]]


class Stochastic(Strategy):
    """Weights of operations are sampled at every step: softmax((alpha + Gumbel noise) / temperature).

    One level: alpha, and then the weights, step on one training batch with one sample; no image is held out. The
    temperature falls linearly with alpha's steps, in the paper over 150 epochs.

    The expected cost of the operations under softmax(alpha) is another term of the objective. The paper's cost joins
    parameters, multiply-adds and memory access. Here it is multiply-adds alone, in units of the mean operation, so
    that `PRICE` does not depend on the size of the supernet.
    """

    orders = ("first",)
    one_level = True

    def alpha_step(self, plain: AlphaStep) -> AlphaStep:
        model, shape = plain.network.model, plain.network.example.shape[1:]
        assert isinstance(model, Supernet)
        return replace(plain, penalty=partial(expected_cost, model, operation_costs(model, shape)))

    @contextmanager
    def around_step(self, model: Supernet, step: Step) -> Iterator[None]:
        with ExitStack() as stack:
            for kind, alpha in model.alphas.items():
                change = model.relaxation(kind).changed(
                    noise=gumbel(alpha, step.generator), temperature=temperature(step.done)
                )
                stack.enter_context(change)
            yield


def temperature(done: float) -> float:
    """When this part of alpha's steps is done."""
    return FIRST + (LAST - FIRST) * done


def gumbel(like: Float[Tensor, "*shape"], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Independent samples of Gumbel(0, 1): -log of an exponential one's."""
    return -torch.empty(like.shape, dtype=like.dtype).exponential_(generator=generator).log().to(like)


def operation_costs(model: Supernet, shape: Sequence[int]) -> Costs:
    """Multiply-adds of every operation, over all cells of a kind, relative to the mean over operations and edges.

    Args:
        shape: of an image, "c h w".
    """
    costs = {kind: torch.zeros_like(alpha) for kind, alpha in model.alphas.items()}
    for name, count in multiply_adds(model, shape).items():
        match name.split("."):
            case ["cells", number, "edges", edge, "operations", operation, *_]:
                cell = model.cells[int(number)]
                assert isinstance(cell, SearchCell)
                costs["reduce" if cell.reduction else "normal"][int(edge), int(operation)] += count
    mean = torch.cat([cost.flatten() for cost in costs.values()]).mean()
    return {kind: cost / mean for kind, cost in costs.items()}


def expected_cost(model: Supernet, costs: Costs) -> Float[Tensor, ""]:
    """`PRICE` times the sum, over the edges of both kinds of cell, of the mean cost of a draw from softmax(alpha)."""
    terms = [(torch.softmax(alpha, dim=1) * costs[kind]).sum() for kind, alpha in model.alphas.items()]
    return PRICE * torch.stack(terms).sum()

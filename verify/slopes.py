"""alpha-CROWN: the free lower slopes of unstable neurons, chosen by gradient ascent (Xu et al., ICLR 2021).

Any slope in [0, 1] gives a sound lower line of a ReLU, so nothing here has to converge to be a proof. Every row of the
specification has slopes of its own; bounds of the neurons stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from verify.graph import BoundedGraph
from verify.operators.base import Activation

STEPS = 12
RATE = 0.25
"""Adam's learning rate at the first step; it falls to a fifth."""


def optimised_bound(
    graph: BoundedGraph, rows: Float[Tensor, "b s k"]
) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s n"]]:
    """Lower bounds of `rows` of the outputs, and the coefficients of the input they rest on.

    The graph holds bounds of its relaxed neurons (a CROWN pass was made). Stops early when all bounds are positive:
    for a certificate more is not needed.
    """
    activations = [node for node in graph.nodes if isinstance(node, Activation) and node.from_input]
    if not activations:
        return _bound(graph, rows)
    best, chosen = _bound(graph, rows)[0].detach(), [_start(node, rows) for node in activations]
    slopes = [slope.clone().requires_grad_() for slope in chosen]
    optimiser = torch.optim.Adam(slopes, lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.2, STEPS)
    for _ in range(STEPS):
        finite = torch.isfinite(best)
        if ((best > 0) | ~finite).all():
            break
        with torch.enable_grad(), _using(activations, slopes):
            lower, _ = _bound(graph, rows)
            gradients = torch.autograd.grad(-lower[finite].sum(), slopes)
        with torch.no_grad():
            better = lower > best
            best = torch.where(better, lower, best)
            for kept, slope, gradient in zip(chosen, slopes, gradients, strict=True):
                kept.copy_(torch.where(better.T.view(*better.T.shape, *[1] * (kept.dim() - 2)), slope, kept))
                slope.grad = gradient
            optimiser.step()
            schedule.step()
            for slope in slopes:
                slope.clamp_(0, 1)
    with _using(activations, chosen):
        return _bound(graph, rows)


def _bound(graph: BoundedGraph, rows: Tensor) -> tuple[Tensor, Tensor]:
    lower, _ = graph.backward_general(C=rows, node=graph.final_node(), bound_upper=False)
    assert lower is not None and graph.coefficients is not None
    return lower, graph.coefficients


def _start(node: Activation, rows: Tensor) -> Float[Tensor, "s b *shape"]:
    """CROWN's adaptive slopes, the same for every row."""
    with torch.no_grad():
        slope = node.lines(node.inputs[0].lower, node.inputs[0].upper).lower_slope
    return slope.expand(rows.shape[1], *slope.shape).clone()


@contextmanager
def _using(activations: list[Activation], slopes: list[Tensor]) -> Iterator[None]:
    for node, slope in zip(activations, slopes, strict=True):
        node.slopes = slope
    try:
        yield
    finally:
        for node in activations:
            node.slopes = None

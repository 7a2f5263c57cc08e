"""alpha-CROWN: the free lower slopes of unstable neurons, chosen by gradient ascent (Xu et al., ICLR 2021).

Any slope in [0, 1] gives a sound lower line of a ReLU, so nothing here has to converge to be a proof. Every row of the
specification has slopes of its own, which start from those of `worst_points`; bounds of the neurons stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from verify.graph.bounded import BoundedGraph
from verify.operators.base import Activation, Slopes
from verify.operators.layout import flat, listed
from verify.propagation.worst_points import SlopeChoice

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
    choice = graph.slopes_for(rows)
    best, starts = _bound(graph, rows, choice)[0].detach(), [_start(node, choice, rows) for node in activations]
    chosen = [start.below.clone() for start in starts]
    slopes = [slope.clone().requires_grad_() for slope in chosen]
    optimiser = torch.optim.Adam(slopes, lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.2, STEPS)

    def given(values: Iterable[Tensor]) -> SlopeChoice:
        pairs = zip(activations, starts, values, strict=True)
        return {node: start._replace(below=value, above=None) for node, start, value in pairs}.get

    for _ in range(STEPS):
        finite = torch.isfinite(best)
        if ((best > 0) | ~finite).all():
            break
        with torch.enable_grad():
            lower, _ = _bound(graph, rows, given(slopes))
            gradients = torch.autograd.grad(-lower[finite].sum(), slopes)
        with torch.no_grad():
            better = lower > best
            best = torch.where(better, lower, best)
            for kept, slope, gradient in zip(chosen, slopes, gradients, strict=True):
                kept.copy_(torch.where(better.T.unsqueeze(2), slope, kept))
                slope.grad = gradient
            optimiser.step()
            schedule.step()
            for slope in slopes:
                slope.clamp_(0, 1)
    return _bound(graph, rows, given(chosen))


def _bound(graph: BoundedGraph, rows: Tensor, slopes: SlopeChoice | None = None) -> tuple[Tensor, Tensor]:
    lower, _ = graph.backward_general(rows, graph.final_node(), bound_upper=False, slopes=slopes)
    assert lower is not None and graph.coefficients is not None
    return lower, graph.coefficients


def _start(node: Activation, choice: SlopeChoice, rows: Tensor) -> Slopes:
    """The slopes that CROWN goes by, a copy for every row."""
    slopes = choice(node)
    if slopes is not None:
        return slopes
    (x,) = node.inputs
    with torch.no_grad():
        neurons = listed(flat(node.free(x.lower, x.upper)))
        slope = flat(node.lines(x.lower, x.upper).lower_slope).gather(1, neurons)
    return Slopes(neurons, slope.expand(rows.shape[1], *slope.shape))

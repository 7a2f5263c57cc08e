"""alpha-CROWN: the free lower slopes of unstable neurons, chosen by gradient ascent (Xu et al., ICLR 2021).

Any slope that an operator allows gives a sound lower line, so nothing here has to converge to be a proof. Every row of
the specification has slopes of its own, which start from those of `worst_points`; bounds of neurons stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from verify.graph.graph import Graph
from verify.operators.layout import flat, listed
from verify.operators.operator import Interval
from verify.operators.relaxation import Elementwise, Slopes
from verify.propagation.crown import Backward, backward
from verify.propagation.neurons import Neurons
from verify.propagation.worst_points import SlopeChoice, adaptive

STEPS = 12
RATE = 0.25
"""Adam's learning rate at the first step; it falls to a fifth."""


def optimised(graph: Graph, neurons: Neurons, rows: Float[Tensor, "b s k"]) -> Backward:
    """Lower bounds of `rows` of the outputs, with slopes that raise them.

    Stops early when all bounds are positive: for a certificate more is not needed.
    """
    nodes = [node for node in graph.nodes if isinstance(node, Elementwise) and node.has_slopes and node.from_input]
    if not nodes:
        return _lower(graph, neurons, rows, adaptive)
    choice = neurons.slopes_for(graph.final_node(), rows)
    best, starts = _bound(_lower(graph, neurons, rows, choice)).detach(), [
        _start(node, neurons, choice, rows) for node in nodes
    ]
    ranges = [_range(node, neurons, start) for node, start in zip(nodes, starts, strict=True)]
    chosen = [start.below.clone() for start in starts]
    slopes = [slope.clone().requires_grad_() for slope in chosen]
    optimiser = torch.optim.Adam(slopes, lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.2, STEPS)

    def given(values: Iterable[Tensor]) -> SlopeChoice:
        pairs = zip(nodes, starts, values, strict=True)
        return {node: start._replace(below=value, above=None) for node, start, value in pairs}.get

    for _ in range(STEPS):
        finite = torch.isfinite(best)
        if ((best > 0) | ~finite).all():
            break
        with torch.enable_grad():
            lower = _bound(_lower(graph, neurons, rows, given(slopes)))
            gradients = torch.autograd.grad(-lower[finite].sum(), slopes)
        with torch.no_grad():
            better = lower > best
            best = torch.where(better, lower, best)
            for kept, slope, gradient in zip(chosen, slopes, gradients, strict=True):
                kept.copy_(torch.where(better.T.unsqueeze(2), slope, kept))
                slope.grad = gradient
            optimiser.step()
            schedule.step()
            for slope, (least, largest) in zip(slopes, ranges, strict=True):
                slope.clamp_(least, largest)
    return _lower(graph, neurons, rows, given(chosen))


def _lower(graph: Graph, neurons: Neurons, rows: Tensor, slopes: SlopeChoice) -> Backward:
    return backward(graph, neurons, graph.final_node(), rows, upper=False, slopes=slopes)


def _bound(found: Backward) -> Float[Tensor, "b s"]:
    assert found.lower is not None
    return found.lower


def _start(node: Elementwise, neurons: Neurons, choice: SlopeChoice, rows: Tensor) -> Slopes:
    """The slopes that CROWN goes by, a copy for every row."""
    slopes = choice(node)
    if slopes is not None:
        return slopes
    lower, upper = neurons.intervals[node.inputs[0].name]
    with torch.no_grad():
        numbers = listed(flat(node.free(lower, upper)))
        slope = flat(node.lines(lower, upper).lower_slope).gather(1, numbers)
    return Slopes(numbers, slope.expand(rows.shape[1], *slope.shape))


@torch.no_grad()
def _range(node: Elementwise, neurons: Neurons, start: Slopes) -> Interval:
    """Least and largest slopes of these neurons, "b k"."""
    least, largest = node.slope_range(*neurons.intervals[node.inputs[0].name])
    return flat(least).gather(1, start.neurons), flat(largest).gather(1, start.neurons)

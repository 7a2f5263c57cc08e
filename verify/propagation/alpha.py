"""Gradient ascent on what a lower bound is free to choose: alpha-CROWN (Xu et al., ICLR 2021), beta-CROWN (Wang et al.,
NeurIPS 2021).

Any slope that an operator allows gives a sound lower line, and any coefficients may be held at neurons
(`verify.propagation.crown.Held`), so nothing here has to converge to be a proof. Every row has slopes and coefficients
of its own. A row is one of the outputs or a neuron. As no two share a slope, the best bounds of the neurons, one node
after the other, are the best for whatever comes after them (full alpha-CROWN, `verify.propagation.prior`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from verify.graph.graph import Graph
from verify.graph.lirpa import Bound
from verify.operators.layout import flat, listed
from verify.operators.operator import Interval
from verify.operators.relaxation import Elementwise, Slopes
from verify.propagation.crown import Backward, Held, backward
from verify.propagation.neurons import Neurons
from verify.propagation.worst_points import SlopeChoice
from verify.rounding import IGNORED

RATE = 0.25
"""Adam's learning rate at the first step; it falls to a fifth."""


class Ascent(NamedTuple):
    """How far to go.

    Attributes:
        steps: of the gradient at most.
        deadline: by `time.perf_counter`, after which no step is begun.
    """

    steps: int = 12
    deadline: float = math.inf


ASCENT = Ascent()
ASCENT_OF_NEURONS = Ascent(8)
"""For the bounds of neurons: there are many, and a step costs a pass and its derivative for each end of each."""


class Choice(NamedTuple):
    """What a lower bound goes by.

    Attributes:
        slopes: by the name of the function.
        held: by the name of the node that functions read.
    """

    slopes: dict[str, Slopes]
    held: dict[str, Held]

    def lower(self, graph: Graph, neurons: Neurons, node: Bound, rows: Float[Tensor, "b s *out"]) -> Backward:
        """Lower bounds of rows of a node's values."""
        return backward(
            graph,
            neurons,
            node,
            rows,
            upper=False,
            slopes=lambda node: self.slopes.get(node.name),
            held=self.held,
        )

    def values(self) -> list[Tensor]:
        """What can be changed, slopes first: "s b k" each."""
        return [*(slope.below for slope in self.slopes.values()), *(held.weights for held in self.held.values())]

    def replaced(self, values: list[Tensor]) -> Choice:
        """The same with other values."""
        count = len(self.slopes)
        slopes = zip(self.slopes.items(), values[:count], strict=True)
        held = zip(self.held.items(), values[count:], strict=True)
        return Choice(
            {name: each._replace(below=value) for (name, each), value in slopes},
            {name: each._replace(weights=value) for (name, each), value in held},
        )


def has_slopes(graph: Graph) -> bool:
    """Whether a network has functions whose slopes can be chosen."""
    return any(isinstance(node, Elementwise) and node.has_slopes for node in graph.nodes)


def optimised(
    graph: Graph,
    neurons: Neurons,
    node: Bound,
    rows: Float[Tensor, "b s *out"],
    given: SlopeChoice,
    goal: float = 0.0,
    ascent: Ascent = ASCENT,
) -> Backward:
    """Lower bounds of rows of a node's values, with slopes that raise them.

    Args:
        given: slopes to start from.
        goal: when all bounds are above it, no better ones are needed.
    """
    functions = [graph[name] for name in graph.before(node)]
    free = [each for each in functions if isinstance(each, Elementwise) and each.has_slopes]
    start = Choice({each.name: _start(each, neurons, given, rows) for each in free}, {})
    loose = replace(neurons, rounding=IGNORED)  # rounding changes nothing about where to go
    return ascended(graph, loose, node, rows, start, {}, goal, ascent).lower(graph, neurons, node, rows)


def ascended(
    graph: Graph,
    neurons: Neurons,
    node: Bound,
    rows: Float[Tensor, "b s *out"],
    start: Choice,
    signs: Mapping[str, Interval],
    goal: Float[Tensor, "b s"] | float = 0.0,
    ascent: Ascent = ASCENT,
) -> Choice:
    """The best choice for each row that is met on the way up from `start`.

    Args:
        signs: for each node of `start.held` the least and the largest sign of its weights, "b k": -1, 0 or 1.
        goal: when all bounds are above it, no better ones are needed.
    """
    if not start.values():
        return start
    found = start.lower(graph, neurons, node, rows)
    best = _bound(found).detach()
    units, ranges = _units(start, found), _ranges(graph, neurons, start, signs)
    chosen = [value.clone() for value in start.values()]
    free = [(value / unit).requires_grad_() for value, unit in zip(chosen, units, strict=True)]
    optimiser = torch.optim.Adam(free, lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.2, ascent.steps)
    for _ in range(ascent.steps):
        finite = torch.isfinite(best)
        if ((best > goal) | ~finite).all() or time.perf_counter() > ascent.deadline:
            break
        with torch.enable_grad():
            values = [each * unit for each, unit in zip(free, units, strict=True)]
            lower = _bound(start.replaced(values).lower(graph, neurons, node, rows))
            gradients = torch.autograd.grad(-lower[finite].sum(), free)
        with torch.no_grad():
            better = lower > best
            best = torch.where(better, lower, best)
            for kept, value, each, gradient in zip(chosen, values, free, gradients, strict=True):
                kept.copy_(torch.where(better.T.unsqueeze(2), value, kept))
                each.grad = gradient
            optimiser.step()
            schedule.step()
            for each, (least, largest) in zip(free, ranges, strict=True):
                each.clamp_(least, largest)
    return start.replaced(chosen)


def _bound(found: Backward) -> Float[Tensor, "b s"]:
    assert found.lower is not None
    return found.lower


def _start(node: Elementwise, neurons: Neurons, choice: SlopeChoice, rows: Tensor) -> Slopes:
    """The slopes that CROWN goes by, a copy for every row."""
    slopes = choice(node)
    if slopes is not None:
        return slopes._replace(above=None)
    lower, upper = neurons.intervals[node.inputs[0].name]
    with torch.no_grad():
        numbers = listed(flat(node.free(lower, upper)))
        slope = flat(node.lines(lower, upper).lower_slope).gather(1, numbers)
    return Slopes(numbers, slope.expand(rows.shape[1], *slope.shape))


@torch.no_grad()
def _units(start: Choice, found: Backward) -> list[Tensor | float]:
    """What a step of 1 is: of weights, the mean coefficient of their node."""
    units: list[Tensor | float] = [1.0] * len(start.slopes)
    for name in start.held:
        size = flat(found.reached[name].abs(), 2).mean(2, keepdim=True)
        units.append(size.clamp(min=torch.finfo(size.dtype).tiny ** 0.5))
    return units


@torch.no_grad()
def _ranges(graph: Graph, neurons: Neurons, start: Choice, signs: Mapping[str, Interval]) -> list[Interval]:
    """Least and largest values, "b k"."""
    ranges: list[Interval] = []
    for name, slopes in start.slopes.items():
        node = graph[name]
        least, largest = node.slope_range(*neurons.intervals[node.inputs[0].name])
        ranges.append((flat(least).gather(1, slopes.neurons), flat(largest).gather(1, slopes.neurons)))
    for name in start.held:
        least, largest = (torch.where(sign == 0, 0.0, sign * torch.inf) for sign in signs[name])
        ranges.append((least, largest))
    return ranges

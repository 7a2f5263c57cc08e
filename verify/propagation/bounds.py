"""Bounds of linear functions of a graph's outputs over a region, by any of the methods."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from verify.graph.graph import Graph
from verify.propagation.alpha import ASCENT, ASCENT_OF_NEURONS, Choice, has_slopes, optimised
from verify.propagation.crown import Backward, backward
from verify.propagation.intervals import IntervalSweep
from verify.propagation.methods import Method
from verify.propagation.neurons import Intervals, Neurons
from verify.propagation.prior import bound_neurons
from verify.regions import Region
from verify.rounding import IGNORED, Rounding, plain_sums


class Line(NamedTuple):
    """<coefficients, x> + intercept, over the flattened input."""

    coefficients: Float[Tensor, "b s n"]
    intercept: Float[Tensor, "b s"]


@dataclass(frozen=True)
class Bounds:
    """lower <= specification(network(x)) <= upper over the region; NaN where the computation overflowed.

    Attributes:
        lower, upper: "b s", in logits.
        line: the linear function of the input that bounds from below, over the same region and every part of
            it, up to rounding; None for methods "ibp" and "block".
        intervals: bounds of the neurons that had to be relaxed; they too hold over every part of the region.
    """

    lower: Float[Tensor, "b s"]
    upper: Float[Tensor, "b s"]
    line: Line | None = None
    intervals: Intervals = field(default_factory=dict)


def bound(
    graph: Graph,
    region: Region,
    rows: Float[Tensor, "b s k"],
    method: Method,
    *,
    memory: float,
    rounding: Rounding = IGNORED,
    within: Intervals | None = None,
    keep: bool = False,
    deadline: float = math.inf,
) -> Bounds:
    """Bounds of rows of the outputs.

    Args:
        memory: MiB for affine forms.
        rounding: by how much bounds give way.
        within: bounds of neurons that hold over the region anyway.
        keep: give `intervals` with forward methods, too.
        deadline: by `time.perf_counter`, after which slopes are left as they are.
    """
    with plain_sums(rounding):
        if method.forward:
            bounds = _forward(graph, region, rows, method.relaxed, rounding, keep)
            finite = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        else:
            neurons = bound_neurons(graph, region, method, memory, rounding, within)
            bounds, finite = _backward(graph, neurons, rows, method.optimised, deadline), neurons.finite
            if method.optimised and method.refined and has_slopes(graph):
                bounds = _with_raised_neurons(graph, region, rows, method, memory, rounding, bounds, deadline)
    slack = _slack(bounds, region, rounding)
    lower, upper = bounds.lower - slack, bounds.upper + slack
    finite &= (torch.isfinite(lower) & torch.isfinite(upper)).all(1)
    lower, upper = (side.masked_fill(~finite.unsqueeze(1), torch.nan) for side in (lower, upper))
    return Bounds(lower, upper, bounds.line, bounds.intervals)


def lower_given(
    graph: Graph, region: Region, rows: Float[Tensor, "b s k"], intervals: Intervals
) -> Float[Tensor, "b s"]:
    """Lower bounds by one backward pass, from bounds of the neurons that are taken as they are."""
    values: dict[str, Tensor] = {}
    for node in graph.nodes:
        if not node.from_input:
            values[node.name] = node.forward(*(values[parent.name] for parent in node.inputs))
    found = backward(graph, Neurons(region, values, intervals), graph.final_node(), rows, upper=False).lower
    assert found is not None
    return found


def proven_lower(
    graph: Graph, neurons: Neurons, rows: Float[Tensor, "b s k"], choice: Choice
) -> tuple[Float[Tensor, "b s"], Backward]:
    """Lower bounds of rows of the outputs by one backward pass, less what rounding may do; -infinity if not finite.

    Args:
        neurons: with the account of rounding that is wanted.
    """
    with plain_sums(neurons.rounding):
        found = choice.lower(graph, neurons, graph.final_node(), rows)
    assert found.lower is not None and found.coefficients is not None
    line = Line(found.coefficients, found.lower - neurons.region.least(found.coefficients))
    slack = _slack(Bounds(found.lower, found.lower, line), neurons.region, neurons.rounding)
    return (found.lower - slack).nan_to_num(-torch.inf, -torch.inf, -torch.inf), found


def _forward(
    graph: Graph, region: Region, rows: Float[Tensor, "b s k"], relaxed: bool, rounding: Rounding, keep: bool
) -> Bounds:
    """By one sweep of intervals."""
    sweep = IntervalSweep(region, relaxed, rounding, keep=keep)
    centre, radius, _ = sweep.run(graph.nodes, rows)
    return Bounds(centre - radius, centre + radius, None, sweep.intervals)


def _backward(
    graph: Graph, neurons: Neurons, rows: Float[Tensor, "b s k"], optimise: bool, deadline: float
) -> Bounds:
    """By a backward pass from the rows, and by the intervals that the neurons have anyway."""
    assert neurons.sweep is not None
    node, region = graph.final_node(), neurons.region
    slopes = neurons.slopes_for(node, rows)
    best = found = backward(graph, neurons, node, rows, slopes=slopes)
    if optimise:
        best = optimised(graph, neurons, node, rows, slopes, ascent=ASCENT._replace(deadline=deadline))
    assert best.lower is not None and best.coefficients is not None and found.upper is not None
    line = Line(best.coefficients, best.lower - region.least(best.coefficients))
    # Neither is always the tighter one; both hold.
    centre, radius, _ = neurons.sweep.result(node, rows)
    lower, upper = torch.maximum(best.lower, centre - radius), torch.minimum(found.upper, centre + radius)
    return Bounds(lower, upper, line, neurons.intervals)


def _with_raised_neurons(
    graph: Graph,
    region: Region,
    rows: Float[Tensor, "b s k"],
    method: Method,
    memory: float,
    rounding: Rounding,
    bounds: Bounds,
    deadline: float,
) -> Bounds:
    """The same, for images with a bound that is not positive from neurons whose passes have slopes of their own."""
    finite = torch.isfinite(bounds.lower).all(1)
    (left,) = (finite & (bounds.lower <= 0).any(1)).nonzero(as_tuple=True)
    if not len(left) or time.perf_counter() > deadline:
        return bounds
    within = {name: (lower[left], upper[left]) for name, (lower, upper) in bounds.intervals.items()}
    ascent = ASCENT_OF_NEURONS._replace(deadline=deadline)
    neurons = bound_neurons(graph, region.take(left), method, memory, rounding, within, ascent)
    found = _backward(graph, neurons, rows[left], True, deadline)
    assert bounds.line is not None and found.line is not None
    new, higher = found.intervals, found.lower > bounds.lower[left]
    lower = torch.where(higher, found.lower, bounds.lower[left])
    line = Line(
        torch.where(higher.unsqueeze(2), found.line.coefficients, bounds.line.coefficients[left]),
        torch.where(higher, found.line.intercept, bounds.line.intercept[left]),
    )

    def put(old: Tensor, new: Tensor) -> Tensor:
        return old.index_copy(0, left, new)

    return Bounds(
        put(bounds.lower, lower),
        put(bounds.upper, torch.minimum(found.upper, bounds.upper[left])),
        Line(*map(put, bounds.line, line)),
        {name: (put(ends[0], new[name][0]), put(ends[1], new[name][1])) for name, ends in bounds.intervals.items()},
    )


def _slack(bounds: Bounds, region: Region, rounding: Rounding) -> Tensor:
    """What rounding may have done to the last sums, in a float64 confirmation: relative to their terms."""
    if not rounding.total:
        return torch.zeros_like(bounds.lower)
    terms = 1 + torch.maximum(bounds.lower.abs(), bounds.upper.abs())
    if bounds.line is not None:
        largest = torch.maximum(region.lower.abs(), region.upper.abs()).flatten(1)
        coefficients, intercept = bounds.line
        terms = terms + torch.einsum("bsn,bn->bs", coefficients.abs(), largest) + intercept.abs()
    return rounding.total * terms

"""Bounds of every neuron that is relaxed, in the order of the graph, so that each profits from those before."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.graph.graph import Graph
from verify.graph.lirpa import Bound
from verify.operators import Elementwise, Relaxation
from verify.operators.layout import flat, listed, picked
from verify.operators.operator import Interval
from verify.propagation.affine import AffineSweep
from verify.propagation.alpha import Ascent, optimised
from verify.propagation.crown import backward
from verify.propagation.intervals import IntervalSweep
from verify.propagation.methods import Method
from verify.propagation.neurons import Intervals, Neurons
from verify.propagation.worst_points import SlopeChoice, WorstPoints, adaptive
from verify.regions import Region
from verify.rounding import IGNORED, Rounding

ROWS_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""A backward pass for many neurons is split so that no coefficient tensor holds more elements than this: on a CPU as
many as its caches hold."""
KEPT_AT_ONCE = 2**24
"""The same of all the tensors that the derivative of such a pass needs."""


def bound_neurons(
    graph: Graph,
    region: Region,
    method: Method,
    memory: float,
    rounding: Rounding = IGNORED,
    within: Intervals | None = None,
    ascent: Ascent | None = None,
) -> Neurons:
    """Bounds of the relaxed neurons of a graph, of all methods in use, intersected.

    Args:
        method: whether a sweep of affine forms bounds them, or intervals alone, and whether those that the sweep leaves
            unstable get a backward pass of their own.
        memory: MiB for affine forms.
        rounding: by how much bounds give way.
        within: bounds that hold over the region anyway.
        ascent: raise the slopes of the neurons' backward passes, each its own, so far; None leaves them.
    """
    nodes = [node for node in graph.nodes if node.from_input]
    intervals = IntervalSweep(region, rounding=rounding, absolute=True)
    empty = torch.zeros(len(region.centre), dtype=torch.bool, device=region.centre.device)
    neurons = Neurons(region, intervals.values, {}, rounding, intervals, empty=empty)
    sweep = AffineSweep(nodes, region, memory, rounding) if method.forms else None
    relaxed = graph.relaxed
    left = len(relaxed)
    for node in graph.nodes:
        intervals.advance(node)
        if not node.from_input:
            continue
        if sweep is not None and (left or sweep.kept):
            # After the last relaxed node rows serve to choose slopes, which carry no gradient.
            with torch.set_grad_enabled(torch.is_grad_enabled() and left > 0):
                sweep.advance(node, neurons.read(node))
        if node.name in relaxed:
            interval = intervals.ends(node.name)
            if sweep is not None or method.refined:
                known = (within or {}).get(node.name)
                lower, upper = _tightened(graph, neurons, sweep, node, method.refined, known, ascent)
                empty |= flat(lower > upper).any(1)
                # Where an interval is a point, rounding can leave the ends of two methods crossed: a negative width,
                # which would grow from layer to layer, as widths do.
                interval = torch.minimum(lower, upper), torch.maximum(lower, upper)
                intervals.replace(node.name, interval)
            if sweep is not None:
                sweep.keep(node, interval, listed(_free(graph, node, interval)))
            neurons.intervals[node.name] = interval
            left -= 1
    if sweep is not None and graph.final_name in sweep.forms:
        neurons.outputs = sweep
    return neurons


def _tightened(
    graph: Graph,
    neurons: Neurons,
    sweep: AffineSweep | None,
    node: Bound,
    refine: bool,
    within: Interval | None,
    ascent: Ascent | None,
) -> Interval:
    """The bounds of a node by its affine form and, where they leave neurons unstable, by backward passes.

    Where a node is linear in the pixels the affine form is exact, as is what an earlier one gave, and a backward pass
    adds nothing.
    """
    assert neurons.sweep is not None
    lower, upper = neurons.sweep.ends(node.name)
    for known in (None if sweep is None else sweep.interval(node), within):
        if known is not None:
            lower, upper = torch.maximum(lower, known[0]), torch.minimum(upper, known[1])
    linear = not neurons.intervals and not (sweep is None and within is None)
    for slopes_by in (None, ascent) if ascent else (None,):
        needed = rows_needed(graph, node, (lower, upper))
        if refine and not linear and needed.any():
            lower, upper = _refined(graph, neurons, sweep, node, (lower, upper), needed, slopes_by)
    return neurons.rounding.outward(lower, upper)


def rows_needed(graph: Graph, node: Bound, interval: Interval) -> Bool[Tensor, "b n"]:
    """Which neurons have bounds worth tightening for what reads them."""
    lower, upper = (side.detach() for side in interval)
    users = [user for user in graph.users(node) if isinstance(user, Relaxation)]
    return flat(torch.stack([user.rows_needed(lower, upper) for user in users]).any(0))


def _free(graph: Graph, node: Bound, interval: Interval) -> Bool[Tensor, "b n"]:
    """Which neurons have a slope to choose."""
    lower, upper = (side.detach() for side in interval)
    free = torch.zeros_like(lower, dtype=torch.bool)
    for user in graph.users(node):
        if isinstance(user, Elementwise):
            free |= user.free(lower, upper)
    return flat(free)


def _refined(
    graph: Graph,
    neurons: Neurons,
    sweep: AffineSweep | None,
    node: Bound,
    interval: Interval,
    needed: Bool[Tensor, "b n"],
    ascent: Ascent | None,
) -> Interval:
    """Intersect with CROWN's bounds of the neurons that are needed, and of no other.

    Each image has its own list: one row of coefficients serves another neuron in every image. Images that need
    fewer rows than the neediest have rows to spare; used, they would make an image's bounds depend on the others
    in its batch.
    """
    lower, upper = (flat(side) for side in interval)
    index, shape = listed(needed), interval[0].shape
    ends = [
        _by_crown(graph, neurons, sweep, node, part, shape)
        if ascent is None
        else _by_ascent(graph, neurons, sweep, node, part, shape, ascent)
        for part in index.split(_at_once(graph, lower, ascent is not None), dim=1)
    ]
    found = [torch.cat(side, 1) for side in zip(*ends, strict=True)]
    used, (before_low, before_high) = needed.gather(1, index), (side.gather(1, index) for side in (lower, upper))
    low = torch.where(used, torch.maximum(before_low, found[0]), before_low)
    high = torch.where(used, torch.minimum(before_high, found[1]), before_high)
    return lower.scatter(1, index, low).view(shape), upper.scatter(1, index, high).view(shape)


def _by_crown(
    graph: Graph, neurons: Neurons, sweep: AffineSweep | None, node: Bound, index: Int[Tensor, "b k"], shape: torch.Size
) -> Interval:
    """Bounds "b k" of the neurons with these numbers, by one backward pass."""
    rows = _unit_rows(neurons.region.centre, index, shape)
    slopes = adaptive if sweep is None else WorstPoints(sweep, picked(sweep.forms[node.name].rows.detach(), index))
    found = backward(graph, neurons, node, rows, slopes=slopes)
    assert found.lower is not None and found.upper is not None
    return found.lower, found.upper


def _by_ascent(
    graph: Graph,
    neurons: Neurons,
    sweep: AffineSweep | None,
    node: Bound,
    index: Int[Tensor, "b k"],
    shape: torch.Size,
    ascent: Ascent,
) -> Interval:
    """The same by passes with slopes for each of the two ends of each neuron, raised by gradient."""
    rows = _unit_rows(neurons.region.centre, index, shape)
    slopes: SlopeChoice = adaptive
    if sweep is not None:
        forms = picked(sweep.forms[node.name].rows.detach(), index)
        slopes = WorstPoints(sweep, torch.cat([forms, -forms], 2))
    found = optimised(graph, neurons, node, torch.cat([rows, -rows], 1), slopes, math.inf, ascent)
    assert found.lower is not None
    low, negated = found.lower.chunk(2, 1)
    return low, -negated


def _at_once(graph: Graph, like: Float[Tensor, "b n"], ascends: bool) -> int:
    """How many neurons to bound together."""
    sizes = [node.output_shape[1:].numel() for node in graph.nodes if node.from_input]
    most = ROWS_AT_ONCE.get(like.device.type, 2**26) // max(sizes)
    if ascends:
        most = min(most, KEPT_AT_ONCE // sum(sizes)) // 2
    return max(1, most // len(like))


def _unit_rows(like: Tensor, index: Int[Tensor, "b k"], shape: torch.Size) -> Float[Tensor, "b k *out"]:
    """The neurons with these numbers, as rows; rows lie innermost."""
    batch, neurons = shape[0], shape[1:].numel()
    rows = like.new_zeros(neurons, batch, index.shape[1]).permute(1, 2, 0).scatter_(2, index.unsqueeze(2), 1)
    return rows.view(*rows.shape[:2], *shape[1:])

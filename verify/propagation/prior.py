"""Bounds of every neuron that is relaxed, in the order of the graph, so that each profits from those before."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.graph.graph import Graph
from verify.graph.lirpa import Bound
from verify.operators import Elementwise, Relaxation
from verify.operators.layout import flat, listed, picked
from verify.operators.operator import Interval
from verify.propagation.affine import AffineSweep
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


def bound_neurons(
    graph: Graph,
    region: Region,
    method: Method,
    memory: float,
    rounding: Rounding = IGNORED,
    within: Intervals | None = None,
) -> Neurons:
    """Bounds of the relaxed neurons of a graph, of all methods in use, intersected.

    Args:
        method: whether a sweep of affine forms bounds them, or intervals alone, and whether those that the sweep leaves
            unstable get a backward pass of their own.
        memory: MiB for affine forms.
        rounding: by how much bounds give way.
        within: bounds that hold over the region anyway.
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
                lower, upper = _tightened(graph, neurons, sweep, node, method.refined, (within or {}).get(node.name))
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
    graph: Graph, neurons: Neurons, sweep: AffineSweep | None, node: Bound, refine: bool, within: Interval | None
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
    needed = rows_needed(graph, node, (lower, upper))
    if refine and not linear and needed.any():
        lower, upper = _refined(graph, neurons, sweep, node, (lower, upper), needed)
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
) -> Interval:
    """Intersect with CROWN's bounds of the neurons that are needed, and of no other.

    Each image has its own list: one row of coefficients serves another neuron in every image. Images that need
    fewer rows than the neediest have rows to spare; used, they would make an image's bounds depend on the others
    in its batch.
    """
    lower, upper = (flat(side) for side in interval)
    index, shape = listed(needed), interval[0].shape
    parts = [
        backward(graph, neurons, node, _unit_rows(lower, part, shape), slopes=_slopes(sweep, node, part))
        for part in index.split(_at_once(graph, lower), dim=1)
    ]
    spare = ~needed.gather(1, index)
    ends = []
    for side, found, best in (
        (lower, [part.lower for part in parts], torch.maximum),
        (upper, [part.upper for part in parts], torch.minimum),
    ):
        before = side.gather(1, index)
        after = torch.where(spare, before, best(before, torch.cat([each for each in found if each is not None], 1)))
        ends.append(side.scatter(1, index, after).view(shape))
    return ends[0], ends[1]


def _at_once(graph: Graph, like: Float[Tensor, "b n"]) -> int:
    widest = max(node.output_shape[1:].numel() for node in graph.nodes if node.from_input)
    return max(1, ROWS_AT_ONCE.get(like.device.type, 2**26) // (len(like) * widest))


def _unit_rows(like: Float[Tensor, "b n"], index: Int[Tensor, "b k"], shape: torch.Size) -> Float[Tensor, "b k *out"]:
    """The neurons with these numbers, as rows; rows lie innermost."""
    batch, neurons = like.shape
    rows = like.new_zeros(neurons, batch, index.shape[1]).permute(1, 2, 0).scatter_(2, index.unsqueeze(2), 1)
    return rows.view(*rows.shape[:2], *shape[1:])


def _slopes(sweep: AffineSweep | None, node: Bound, index: Int[Tensor, "b k"]) -> SlopeChoice:
    return adaptive if sweep is None else WorstPoints(sweep, picked(sweep.forms[node.name].rows.detach(), index))

"""CROWN: bounds of linear functions of a node by one backward pass over the graph (Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.graph.building import INPUT
from verify.graph.graph import Graph
from verify.graph.lirpa import Bound
from verify.operators.arithmetic import absolute_inner
from verify.operators.layout import added_at, flat
from verify.operators.operator import Coefficients, Interval
from verify.operators.relaxation import Elementwise, Relaxation
from verify.propagation.neurons import Neurons
from verify.propagation.worst_points import SlopeChoice, adaptive

Sides: TypeAlias = tuple[Coefficients, Coefficients]
"""Coefficients of a node in a lower and in an upper bound."""


class Held(NamedTuple):
    """Coefficients that a lower bound leaves at some neurons of a node, and counts over the neurons' intervals there.

    For neurons x in [l, u], <a, x> = <a - w, x> + <w, x> >= <a - w, x> + min over the intervals of <w, x>, whatever
    the weights w are: nothing about them has to be proven. Where a constraint cuts an interval, w is what the field
    calls its Lagrange multiplier: w >= 0 is the beta of a split x >= 0, whose l is 0, and w <= 0 that of x <= 0 (Wang
    et al. 2021, eq. 8).

    Attributes:
        neurons: their numbers in the flattened node; no number twice.
        weights: of each row.
    """

    neurons: Int[Tensor, "b k"]
    weights: Float[Tensor, "s b k"]


NOTHING_HELD: Mapping[str, Held] = MappingProxyType({})


@dataclass
class Backward:
    """What a backward pass ends with.

    Attributes:
        lower, upper: bounds of the rows, of the sides that were asked for.
        coefficients: of the input, in the lower bound.
        reached: coefficients "s b *shape" in the lower bound, by the names of the nodes that are nonlinear or that hold
            some of theirs.
    """

    lower: Float[Tensor, "b s"] | None
    upper: Float[Tensor, "b s"] | None
    coefficients: Float[Tensor, "b s n"] | None
    reached: dict[str, Tensor] = field(default_factory=dict)


def backward(
    graph: Graph,
    neurons: Neurons,
    node: Bound,
    rows: Float[Tensor, "b s *out"],
    *,
    upper: bool = True,
    lower: bool = True,
    slopes: SlopeChoice = adaptive,
    held: Mapping[str, Held] = NOTHING_HELD,
) -> Backward:
    """Bounds of rows of a node's values, linear in each node before it and at last in the input.

    Both sides are the same function, and computed once, until a relaxation parts them.

    Args:
        neurons: bounds of all that is relaxed before the node.
        upper, lower: which sides to compute.
        slopes: the lower slopes of the rows.
        held: of nodes that are relaxed; of the lower side alone.
    """
    A = rows.transpose(0, 1)
    low = high = A.new_zeros(A.shape[:2])
    sides: dict[str, Sides] = {node.name: (A if lower else None, A if upper else None)}
    nodes, reached = graph.nodes, dict[str, Tensor]()
    for before in reversed(nodes[: nodes.index(node) + 1]):
        if before.name not in sides:
            continue
        if before.name in held:
            lA, uA = sides[before.name]
            assert lA is not None
            reached[before.name] = lA
            lA, below = _holding(lA, held[before.name], neurons.intervals[before.name], neurons.rounding.total)
            low, sides[before.name] = low + below, (lA, uA)
        if before.name == INPUT:
            continue
        options = {"slopes": slopes(before)} if isinstance(before, Elementwise) else {}
        mine = sides.pop(before.name)
        if isinstance(before, Relaxation) and mine[0] is not None:
            reached[before.name] = mine[0]
        parts, below, above = before.backward(*mine, neurons.read(before), **options)
        low, high = low + below, high + above
        if neurons.rounding.total and (before is node or before.name not in graph.linear_only):
            error = neurons.rounding.total * allowance(graph, neurons, before)
            low, high = _giving_way(low, high, error, mine)
        for position in before.varying:
            name = before.inputs[position].name
            sides[name] = _sum_of_sides(sides[name], parts[position]) if name in sides else parts[position]
    lA, uA = (None if A is None else A.transpose(0, 1).flatten(2) for A in sides[INPUT])
    return Backward(
        None if lA is None else low.T + neurons.region.least(lA),
        None if uA is None else high.T - neurons.region.least(-uA),
        lA,
        reached,
    )


def _holding(A: Tensor, held: Held, interval: Interval, total: float) -> tuple[Tensor, Float[Tensor, "s b"]]:
    """Coefficients less what is held, and the least value of that, less what rounding may do to it."""
    lower, upper = (flat(side).gather(1, held.neurons) for side in interval)
    weights = held.weights
    least = torch.where(weights >= 0, weights * lower, weights * upper).sum(2)
    if total:
        least = least - total * (weights.abs() * torch.maximum(lower.abs(), upper.abs())).sum(2)
    return added_at(A.clone(), held.neurons, -weights), least  # a copy: the two terms of a sum share A


def _giving_way(low: Tensor, high: Tensor, error: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
    """Bounds "s b" less what rounding may do to them by way of the coefficients of a node."""
    lA, uA = sides
    below = 0.0 if lA is None else absolute_inner(lA, error)
    above = below if uA is lA else 0.0 if uA is None else absolute_inner(uA, error)
    return low - below, high + above


def allowance(graph: Graph, neurons: Neurons, node: Bound) -> Float[Tensor, "b *shape"]:
    """What the rounding errors of a backward pass are relative to, where it reaches a node with coefficients A.

    However much cancels in A T, or between the constants that the bound adds up, the error is relative to |A| times
    the `terms` of the node. For the nodes before it that only linear ones read it is, as |A T| <= |A| |T|, relative
    to |A| times what |T| makes of their terms: so those are in here, and the pass need not account for them.
    """
    known = neurons.allowances
    for before in graph.nodes:
        if before.from_input and before.inputs and before.name not in known:
            largest = [
                value + known[parent.name] if parent.name in known and parent.name in graph.linear_only else value
                for parent, value in zip(before.inputs, neurons.largest(before), strict=True)
            ]
            terms = before.terms_over(neurons.read(before)) if isinstance(before, Relaxation) else before.terms(largest)
            known[before.name] = terms + (0.0 if before.exact else 1.0)
        if before is node:
            break
    return known[node.name]


def _sum_of_sides(first: Sides, second: Sides) -> Sides:
    """The coefficients of a node from two of its users."""
    lower = _sum(first[0], second[0])
    one = first[0] is first[1] and second[0] is second[1]
    return lower, lower if one else _sum(first[1], second[1])


def _sum(first: Coefficients, second: Coefficients) -> Coefficients:
    return None if first is None or second is None else first + second

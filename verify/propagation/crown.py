"""CROWN: bounds of linear functions of a node by one backward pass over the graph (Zhang et al. 2018)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor

from verify.graph.building import INPUT
from verify.graph.graph import Graph
from verify.graph.lirpa import Bound
from verify.operators.arithmetic import absolute_inner
from verify.operators.operator import Coefficients
from verify.operators.relaxation import Elementwise, Relaxation
from verify.propagation.neurons import Neurons
from verify.propagation.worst_points import SlopeChoice, adaptive

Sides: TypeAlias = tuple[Coefficients, Coefficients]
"""Coefficients of a node in a lower and in an upper bound."""


class Backward(NamedTuple):
    """What a backward pass ends with.

    Attributes:
        lower, upper: bounds of the rows, of the sides that were asked for.
        coefficients: of the input, in the lower bound.
    """

    lower: Float[Tensor, "b s"] | None
    upper: Float[Tensor, "b s"] | None
    coefficients: Float[Tensor, "b s n"] | None


def backward(
    graph: Graph,
    neurons: Neurons,
    node: Bound,
    rows: Float[Tensor, "b s *out"],
    *,
    upper: bool = True,
    lower: bool = True,
    slopes: SlopeChoice = adaptive,
) -> Backward:
    """Bounds of rows of a node's values, linear in each node before it and at last in the input.

    Both sides are the same function, and computed once, until a relaxation parts them.

    Args:
        neurons: bounds of all that is relaxed before the node.
        upper, lower: which sides to compute.
        slopes: the lower slopes of the rows.
    """
    A = rows.transpose(0, 1)
    low = high = A.new_zeros(A.shape[:2])
    sides: dict[str, Sides] = {node.name: (A if lower else None, A if upper else None)}
    nodes = graph.nodes
    for before in reversed(nodes[: nodes.index(node) + 1]):
        if before.name not in sides or before.name == INPUT:
            continue
        options = {"slopes": slopes(before)} if isinstance(before, Elementwise) else {}
        mine = sides.pop(before.name)
        parts, below, above = before.backward(*mine, neurons.read(before), **options)
        low, high = low + below, high + above
        if neurons.rounding.total and (before is node or before.name not in graph.linear_only):
            error = neurons.rounding.total * _allowance(graph, neurons, before)
            low, high = _giving_way(low, high, error, mine)
        for position in before.varying:
            name = before.inputs[position].name
            sides[name] = _sum_of_sides(sides[name], parts[position]) if name in sides else parts[position]
    lA, uA = (None if A is None else A.transpose(0, 1).flatten(2) for A in sides[INPUT])
    return Backward(
        None if lA is None else low.T + neurons.region.least(lA),
        None if uA is None else high.T - neurons.region.least(-uA),
        lA,
    )


def _giving_way(low: Tensor, high: Tensor, error: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
    """Bounds "s b" less what rounding may do to them by way of the coefficients of a node."""
    lA, uA = sides
    below = 0.0 if lA is None else absolute_inner(lA, error)
    above = below if uA is lA else 0.0 if uA is None else absolute_inner(uA, error)
    return low - below, high + above


def _allowance(graph: Graph, neurons: Neurons, node: Bound) -> Float[Tensor, "b *shape"]:
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

"""Interval bounds of a network in one forward sweep, as centre and radius.

Widths of intervals grow by orders of magnitude from layer to layer. Kept as lower and upper ends they overflow at the
end of a deep network, or, over a ball tiny enough that they do not, vanish at its beginning: both ends are the same
float. So each radius is a tensor of numbers near 1 times a power of two for each image, and the size of the ball is a
factor that the operators need only where they compare a radius with a centre. It may even be 0: the limit of a
vanishing ball, in which all neurons are stable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from verify.graph.building import INPUT
from verify.graph.lirpa import Bound
from verify.operators import LinearOperator, Relaxation
from verify.operators.arithmetic import absolute_inner, weighed
from verify.operators.convolution import Weighted
from verify.operators.operator import Interval, Radius
from verify.regions import DUAL_ORDERS, Ball, Region, per_image
from verify.rounding import IGNORED, Rounding

NEAR_ONE = (2.0**-20, 2.0**20)
"""Where the largest radius of an image may lie before it is scaled anew. (What is 2^126 times smaller than the largest
can vanish in float32, as it would in any sum with it.)"""


class Spread(NamedTuple):
    """The intervals of a node: centre -+ radius 2^exponent, in units of the region's size.

    Attributes:
        exponent: in float64, without gradient.
    """

    centre: Float[Tensor, "b *shape"]
    radius: Float[Tensor, "b *shape"]
    exponent: Float[Tensor, " b"]


class _Ellipsoid(NamedTuple):
    """centre + axes d + e for all d of a ball in l2 or l1 and all |e| <= error.

    Attributes:
        axes: in units of the region's size; in input units where intervals are widened.
        error: what rounding may have done; 0 where intervals are not widened.
    """

    centre: Float[Tensor, "b *shape"]
    axes: Float[Tensor, "b *shape"]
    error: Float[Tensor, "b *shape"]


class Result(NamedTuple):
    """Intervals of linear functions of the outputs.

    Attributes:
        centre: in logits.
        radius: in logits; 0 or infinite where it leaves the range of its type.
        log_slope: natural logarithm of the radius over the region's size.
    """

    centre: Float[Tensor, "b s"]
    radius: Float[Tensor, "b s"]
    log_slope: Float[Tensor, "b s"]


class IntervalSweep:
    """Intervals of the nodes of a graph over a region, one node after the other.

    A ball in l2 or l1 counts as a ball up to the first convolution or linear layer, whose intervals then have the dual
    norms of its rows as radii, where those are smaller than from the box around the ball.

    Args:
        region: the inputs.
        relaxed: nonlinear operators go by their two lines (see `Operator.centred`).
        rounding: by how much every node's interval grows, relative to 1 + the largest value in it, so that the result
            holds in real arithmetic: rounding errors of a sum are relative to its terms, and the terms' own widening
            passes through the sum, however much cancels.
        absolute: radii are in input units, and not in units of the region's size: intervals come from elsewhere, too.
        keep: whether `intervals` are kept.

    Attributes:
        values: of the nodes that do not vary, by their names.
        intervals: lower and upper ends of what nonlinear operators read.
    """

    def __init__(
        self,
        region: Region,
        relaxed: bool = False,
        rounding: Rounding = IGNORED,
        absolute: bool = False,
        keep: bool = False,
    ) -> None:
        centre, radius, size = region.box()
        # Where intervals give way none is small, and the region's size, which may be 0, no unit for it.
        absolute |= rounding.step > 0
        if absolute:
            radius, size = radius * _wide(size, radius), torch.ones_like(size)
        self.log_size, self.relaxed, self.rounding, self.keep = size.log2(), relaxed, rounding, keep
        self.start = self._widened(Spread(centre, radius, torch.zeros_like(size)))
        self.intervals: dict[str, Interval] = {}
        self.spreads: dict[str, Spread] = {}
        self.balls: dict[str, _Ellipsoid] = {}
        """What is still a ball, stretched along the axes."""
        self.order = DUAL_ORDERS[region.norm] if isinstance(region, Ball) else 1
        if isinstance(region, Ball) and region.norm != "linf":
            reach = _wide(region.epsilon if absolute else torch.ones_like(size), region.centre)
            exact = torch.zeros_like(region.centre)
            self.balls[INPUT] = self._rounded(region.centre, reach.to(exact).expand_as(exact), exact)
        self.values: dict[str, Tensor] = {}

    def run(self, nodes: Sequence[Bound], rows: Float[Tensor, "b s k"]) -> Result:
        """Intervals of these linear functions of the last node.

        Args:
            nodes: of a graph, inputs before their users.
        """
        *before, last = nodes
        waiting = Counter(parent.name for node in nodes for parent in node.inputs)
        for node in before:
            self.advance(node)
            for parent in node.inputs:
                waiting[parent.name] -= 1
                if not waiting[parent.name]:
                    self.spreads.pop(parent.name, None)
        return self.result(last, rows)

    def advance(self, node: Bound) -> None:
        """Bound a node; its inputs are bounded already."""
        if not node.from_input:
            self.values[node.name] = node.forward(*(self.values[parent.name] for parent in node.inputs))
        else:
            self.spreads[node.name] = self._spread(node) if node.inputs else self.start

    def ends(self, name: str) -> Interval:
        """Lower and upper end of a node's elements; twice the value of one that does not vary."""
        if name in self.values:
            return self.values[name], self.values[name]
        centre, radius, exponent = self.spreads[name]
        radius = radius * self._scale(exponent, radius)
        return centre - radius, centre + radius

    def replace(self, name: str, interval: Interval) -> None:
        """Go on with other bounds of a node, found in another way. (Where radii are absolute.)"""
        lower, upper = interval
        exponent = torch.zeros_like(self.log_size)
        self.spreads[name] = Spread((lower + upper) / 2, (upper - lower) / 2, exponent)

    def _spread(self, node: Bound) -> Spread:
        centres, radii, exponent = self._inputs(node)
        scale = self._scale(exponent, centres[node.varying[0]])
        self._keep_intervals(node, centres, radii, scale)
        centre, radius = node.centred(centres, radii, scale, self.relaxed)
        spread = self._widened(self._within_ball(node, Spread(centre, radius, exponent)), node.hidden(centres))
        return _near_one(spread) if isinstance(node, Weighted) else spread

    def _within_ball(self, node: Bound, spread: Spread) -> Spread:
        """The spread of a node, or where it is narrower, that by way of the ball."""
        if not all(parent.name in self.balls for parent in node.inputs if parent.from_input):
            return spread
        if not (isinstance(node, Weighted) or isinstance(node, LinearOperator) and node.pixelwise):
            return spread
        (ball,) = (self.balls[parent.name] for parent in node.inputs if parent.from_input)
        centres, axes, errors = (
            [part if parent.from_input else self.values[parent.name] for parent in node.inputs]
            for part in (ball.centre, ball.axes, ball.error)
        )
        centre, error = node.forward(*centres), node.magnitude(errors)
        if not isinstance(node, Weighted):
            self.balls[node.name] = self._rounded(centre, node.magnitude(axes), error, node.hidden(centres))
            return spread
        radius = node.row_norms(axes, self.order) + error
        narrower = radius < spread.radius
        centre = torch.where(narrower, centre, spread.centre)
        return Spread(centre, torch.minimum(radius, spread.radius), spread.exponent)

    def _rounded(
        self, centre: Tensor, axes: Tensor, error: Tensor, hidden: Tensor | float = 0.0
    ) -> _Ellipsoid:
        """With this node's own rounding added to the error that it inherits."""
        return _Ellipsoid(centre, axes, error + self.rounding.step * (1 + centre.abs() + axes + hidden))

    def _keep_intervals(self, node: Bound, centres: list[Tensor], radii: list[Radius], scale: Tensor) -> None:
        if not (self.keep and isinstance(node, Relaxation)):
            return
        for parent, centre, radius in zip(node.inputs, centres, radii, strict=True):
            if radius is not None and parent.name not in self.intervals:
                self.intervals[parent.name] = centre - radius * scale, centre + radius * scale

    def _inputs(self, node: Bound) -> tuple[list[Tensor], list[Radius], Float[Tensor, " b"]]:
        """Centres and radii of a node's inputs, and the exponent of all the radii."""
        spreads = [self.spreads.get(parent.name) for parent in node.inputs]
        exponents = [spread.exponent for spread in spreads if spread]
        most = exponents[0]
        if any(exponent is not most for exponent in exponents):
            most = torch.stack(exponents).amax(0)
        centres = [
            spread.centre if spread else self.values[parent.name]
            for spread, parent in zip(spreads, node.inputs, strict=True)
        ]
        return centres, [_at(spread, most) if spread else None for spread in spreads], most

    def result(self, node: Bound, specification: Float[Tensor, "b s k"]) -> Result:
        """Intervals of linear functions of a node, whose inputs are bounded; a last linear call is merged with them."""
        rows = specification.transpose(0, 1)
        if isinstance(node, LinearOperator):
            centres, radii, exponent = self._inputs(node)
            centre, radius = node.specified(rows, centres, radii)
            if self.rounding.total:
                radius = radius + self._merging_error(node, rows) / self._scale(exponent, radius)
        else:
            if node.name not in self.spreads:
                self.advance(node)
            centre, radius, exponent = self.spreads[node.name]
            centre, radius = weighed(rows, centre, radius)
        nothing = radius == 0
        log_radius = torch.where(nothing, 1.0, radius).log().masked_fill(nothing, -torch.inf)
        log_slope = log_radius + _wide(exponent * math.log(2), radius)
        return Result(centre, radius * self._scale(exponent, radius), log_slope)

    def _widened(self, spread: Spread, hidden: Tensor | float = 0.0) -> Spread:
        if not self.rounding.step:
            return spread
        slack = (1 + spread.centre.abs() + hidden) / self._scale(spread.exponent, spread.centre) + spread.radius
        return spread._replace(radius=spread.radius + self.rounding.step * slack)

    def _merging_error(self, node: LinearOperator, rows: Float[Tensor, "s b *out"]) -> Float[Tensor, "b s"]:
        """What rounding may do, in logits, where rows are merged with a call and terms of theirs cancel."""
        centres, radii, exponent = self._inputs(node)
        largest = [
            centre if radius is None else centre.abs() + radius * self._scale(exponent, radius)
            for centre, radius in zip(centres, radii, strict=True)
        ]
        return self.rounding.total * absolute_inner(rows, 1 + node.terms(largest)).T

    def _scale(self, exponent: Float[Tensor, " b"], like: Tensor) -> Tensor:
        """What radii are in units of, "b 1 ... 1"; 0 where it is too small for the type."""
        return _wide(torch.exp2(self.log_size + exponent), like)


def _at(spread: Spread, exponent: Float[Tensor, " b"]) -> Tensor:
    """The radius with another exponent."""
    if spread.exponent is exponent:
        return spread.radius
    return spread.radius * _wide(torch.exp2(spread.exponent - exponent), spread.radius)


def _near_one(spread: Spread) -> Spread:
    """The same intervals with radii near 1."""
    largest = spread.radius.detach().reshape(len(spread.radius), -1).amax(1)
    if all(value == 0 or NEAR_ONE[0] < value < NEAR_ONE[1] for value in largest.tolist()):
        return spread
    exponent = spread.exponent + torch.frexp(largest).exponent
    return Spread(spread.centre, _at(spread, exponent), exponent)


def _wide(values: Float[Tensor, " b"], like: Tensor) -> Tensor:
    """In the type of another tensor and with as many dimensions."""
    return per_image(values.to(like.dtype), like)

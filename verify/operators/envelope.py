"""The tightest lines above and below a polygon, which is what curves and piecewise linear functions lie between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from verify.operators.relaxation import Lines

ROUNDS = 12
"""In which a line is turned. Each touches one more corner; any line is sound when it ends."""
ULPS = 16
"""What a value of a function, or of a line, may be off by, in units of rounding: of their sums, more is never made."""


class Band(NamedTuple):
    """A function lies between two polygons with corners at the same places, in order from one end to the other."""

    x: Float[Tensor, "k *n"]
    lower: Float[Tensor, "k *n"]
    upper: Float[Tensor, "k *n"]

    def lines(self) -> Lines:
        """The lines of the least area between them: each is the lowest, or highest, in the middle of the interval."""
        below, above = -steepness(self.x, -self.lower), steepness(self.x, self.upper)
        return self.through(below, above)

    def parallel(self) -> Lines:
        """Of two lines with one slope, those nearest to each other, out of a few."""
        below, above = -steepness(self.x, -self.lower), steepness(self.x, self.upper)
        chord = _quotient(self.upper[-1] - self.upper[0], self.x[-1] - self.x[0], above)
        best = self.through(above, above)
        for slope in (below, chord):
            other = self.through(slope, slope)
            wider = best.upper_intercept - best.lower_intercept
            nearer = other.upper_intercept - other.lower_intercept < wider
            best = Lines(*(torch.where(nearer, new, old) for new, old in zip(other, best, strict=True)))
        return best

    def through(self, below: Float[Tensor, "*n"], above: Float[Tensor, "*n"]) -> Lines:
        """Lines with these slopes that touch the polygons, less what rounding may do."""
        low, high = (self.lower - below * self.x).amin(0), (self.upper - above * self.x).amax(0)
        return Lines(below, low - self._slack(below), above, high + self._slack(above))

    def _slack(self, slope: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        size = torch.maximum(self.lower.abs(), self.upper.abs()).amax(0) + slope.abs() * self.x.abs().amax(0)
        return ULPS * torch.finfo(size.dtype).eps * size


def steepness(x: Float[Tensor, "k *n"], y: Float[Tensor, "k *n"]) -> Float[Tensor, "*n"]:
    """The slope of the line over all corners that is lowest in the middle.

    It touches a corner on either side of the middle. Beginning with the ends, the corner that is highest above the line
    takes the place of the one on its side.
    """
    middle = x[0] / 2 + x[-1] / 2
    (x0, x1), (y0, y1) = (x[0], x[-1]), (y[0], y[-1])
    slope = _quotient(y1 - y0, x1 - x0, torch.zeros_like(middle))
    for _ in range(ROUNDS):
        with torch.no_grad():
            highest = (y - slope * x).argmax(0, keepdim=True)
        corner, height = (side.gather(0, highest).squeeze(0) for side in (x, y))
        left = corner <= middle
        x0, y0 = torch.where(left, corner, x0), torch.where(left, height, y0)
        x1, y1 = torch.where(left, x1, corner), torch.where(left, y1, height)
        slope = _quotient(y1 - y0, x1 - x0, slope)
    return slope


def _quotient(height: Tensor, width: Tensor, otherwise: Tensor) -> Tensor:
    """A slope; another where there is no width."""
    flat = width <= 0
    return torch.where(flat, otherwise, height / torch.where(flat, 1.0, width))


def nearest_to_middle(
    knots: Sequence[float], lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Of the knots inside an interval the one nearest to its middle; NaN where there is none."""
    middle, best = lower / 2 + upper / 2, torch.full_like(lower, torch.nan)
    for knot in knots:
        nearer = best.isnan() | ((knot - middle).abs() < (best - middle).abs())
        best = torch.where((lower < knot) & (knot < upper) & nearer, knot, best)
    return best

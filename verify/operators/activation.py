"""Activations: ReLU and LeakyReLU."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.operators.arithmetic import over
from verify.operators.call import Call
from verify.operators.operator import Interval, Operator, Radius, rule
from verify.operators.piecewise import PiecewiseLinear
from verify.operators.relaxation import Elementwise, Lines

STEEPNESS = 3.0
"""How fast a row's slope goes from 0 to 1 with the value at its worst point, over the interval's width. From 2 to 4 the
benchmark's margins are the same to a tenth of what this gains."""


class Hinge(Elementwise):
    """left x for x < 0 and x from there on, 0 <= left < 1: x and relu(x), weighed.

    Both rise together, so whatever holds of relu holds of the sum: its interval, and its lines. These are the chord
    from above, and from below the steeper or the flatter half, whichever leaves the smaller triangle. That is CROWN's
    adaptive choice (Zhang et al. 2018, section 3.2; CNN-Cert's `ada`).
    """

    has_slopes = True
    left = 0.0

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """With t the centre in units of the scale, clipped to -+ r, the radius of relu is (r + t) / 2: r where the
        neuron is active, 0 where it is inactive. (At scale 0 that is r / 2 for a centre of exactly 0.)

        Relaxed, an unstable neuron has what the lines allow: of relu [slope l, u] in place of [0, u].
        """
        (centre,), (radius,) = centres, radii
        assert radius is not None
        unstable = centre.abs() < radius * scale  # only these pass a gradient through the quotient
        t = torch.where(unstable, over(centre, scale), radius * centre.sign())
        half = (t + radius) / 2
        middle = torch.maximum(centre, half * scale)
        if relaxed:
            lines = _chords(t - radius, t + radius)  # relu scales: these are its lines in units of the scale
            low = lines.upper_slope * (t - radius) / 2  # where relu itself has 0
            middle, half = middle + low * scale, half - low
        return self._tilted(centre, middle), self._tilted(radius, half)

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        inactive = values[0] <= 0
        if not self.left:
            return [rows.masked_fill(inactive, 0)]  # an infinite row too, as torch has it
        return [torch.where(inactive, self.left * rows, rows)]

    def lines(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        lines = _chords(lower, upper)
        slopes = (self._tilted(torch.ones_like(lower), slope) for slope in (lines.lower_slope, lines.upper_slope))
        lower_slope, upper_slope = slopes
        return Lines(lower_slope, lines.lower_intercept, upper_slope, (1 - self.left) * lines.upper_intercept)

    def parallel(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        lines = self.lines(lower, upper)
        return lines._replace(lower_slope=lines.upper_slope)  # any slope from left to 1 through 0 lies below

    def slope_range(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Interval:
        """Any from left to 1 for an unstable neuron: the line goes through 0."""
        active = self._tilted(torch.ones_like(lower), (lower >= 0).to(lower.dtype))
        unstable = (lower < 0) & (upper > 0)
        return torch.where(unstable, self.left, active), torch.where(unstable, 1.0, active)

    def split_point(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return torch.where((lower < 0) & (upper > 0), 0.0, torch.nan).to(lower.dtype)

    def suited(
        self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"], value: Float[Tensor, "s *n"]
    ) -> Float[Tensor, "s *n"]:
        """The chord's slope, which the affine form has that the worst point is of, turned towards the function's at the
        value.

        Of all lines through 0 the best there is that half which the value is in; but the worst point moves with the
        lines, and the nearer the value is to 0, the less is certain.
        """
        chord = self.parallel(lower, upper).lower_slope
        width = torch.where(upper > lower, upper - lower, 1.0)
        return torch.addcdiv(chord, value, width, value=STEEPNESS * (1 - self.left)).clamp_(self.left, 1)

    def terms(self, largest: list[Tensor]) -> Tensor:
        """Of lines that meet the function or 0, with slopes of at most 1."""
        return 2 * largest[0]

    def rows_needed(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "b *shape"]:
        return self.free(lower, upper)

    def _tilted(self, x: Tensor, rectified: Tensor) -> Tensor:
        """The weighed sum, of what belongs to x and what belongs to relu(x)."""
        return rectified if not self.left else self.left * x + (1 - self.left) * rectified


def _chords(lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
    """The lines of relu."""
    active, inactive = lower >= 0, upper <= 0
    stable = active | inactive
    # A NaN bound is neither: it stays NaN through the chord and is reported as an overflow.
    width = torch.where(stable, torch.ones_like(upper), upper - lower)
    chord = upper / width
    slope = torch.where(stable, active.to(upper.dtype), chord)
    intercept = torch.where(stable, torch.zeros_like(upper), -lower * chord)
    lower_slope = torch.where(stable, active.to(upper.dtype), (upper > -lower).to(upper.dtype))
    return Lines(lower_slope, torch.zeros_like(upper), slope, intercept)


@rule("relu.default")
class ReLU(Hinge):
    """max(x, 0)."""


@rule("leaky_relu.default")
class LeakyReLU(Hinge):
    """x where it is positive, left x elsewhere."""

    @classmethod
    def rule_for(cls, call: Call, varying: Collection[int]) -> type[Operator]:
        return cls if 0 <= _left(call) < 1 else Bent

    def check(self) -> None:
        self.left = _left(self.call)


class Bent(PiecewiseLinear):
    """The same with any other slope."""

    knots = (0.0,)

    def check(self) -> None:
        self.slopes = (_left(self.call), 1.0)


def _left(call: Call) -> float:
    return float(call.argument(1, 0.01))

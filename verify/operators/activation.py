"""Activations: ReLU."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.operators.arithmetic import over
from verify.operators.operator import Interval, Radius, rule
from verify.operators.relaxation import Elementwise, Lines

STEEPNESS = 3.0
"""How fast a row's slope goes from 0 to 1 with the value at its worst point, over the interval's width. From 2 to 4 the
benchmark's margins are the same to a tenth of what this gains."""


@rule("relu.default")
class ReLU(Elementwise):
    """max(x, 0): the chord from above; from below x or 0, whichever leaves the smaller triangle.

    That is CROWN's adaptive choice (Zhang et al. 2018, section 3.2; CNN-Cert's `ada`).
    """

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """With t the centre in units of the scale, clipped to -+ r, the radius is (r + t) / 2: r where the neuron is
        active, 0 where it is inactive. (At scale 0 that is r / 2 for a centre of exactly 0.)

        Relaxed, an unstable neuron has [slope l, u] in place of [0, u].
        """
        (centre,), (radius,) = centres, radii
        assert radius is not None
        unstable = centre.abs() < radius * scale  # only these pass a gradient through the quotient
        t = torch.where(unstable, over(centre, scale), radius * centre.sign())
        half = (t + radius) / 2
        middle = torch.maximum(centre, half * scale)
        if not relaxed:
            return middle, half
        lines = self.parallel(t - radius, t + radius)  # relu scales: these are its lines in units of the scale
        low = (lines.lower_slope * (t - radius) + lines.lower_intercept) / 2  # where relu itself has 0
        return middle + low * scale, half - low

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        return [rows.masked_fill(values[0] <= 0, 0)]  # an infinite row too, as torch has it

    def lines(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        active, inactive = lower >= 0, upper <= 0
        stable = active | inactive
        # A NaN bound is neither: it stays NaN through the chord and is reported as an overflow.
        width = torch.where(stable, torch.ones_like(upper), upper - lower)
        chord = upper / width
        slope = torch.where(stable, active.to(upper.dtype), chord)
        intercept = torch.where(stable, torch.zeros_like(upper), -lower * chord)
        lower_slope = torch.where(stable, active.to(upper.dtype), (upper > -lower).to(upper.dtype))
        return Lines(lower_slope, torch.zeros_like(upper), slope, intercept)

    def parallel(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        lines = self.lines(lower, upper)
        return lines._replace(lower_slope=lines.upper_slope)  # any slope in [0, 1] through 0 lies below

    def slope_range(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Interval:
        """Any in [0, 1] for an unstable neuron: the line goes through 0."""
        active = (lower >= 0).to(lower.dtype)
        unstable = (lower < 0) & (upper > 0)
        return torch.where(unstable, 0.0, active), torch.where(unstable, 1.0, active)

    def terms(self, largest: list[Tensor]) -> Tensor:
        """Of lines that meet the function or 0, with slopes of at most 1."""
        return 2 * largest[0]

    def suited(
        self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"], value: Float[Tensor, "s *n"]
    ) -> Float[Tensor, "s *n"]:
        """The chord's slope, which the affine form has that the worst point is of, turned towards relu's at the value.

        Of all lines through 0 the best there is x where the value is positive and 0 where it is negative; but the worst
        point moves with the lines, and the nearer the value is to 0, the less is certain.
        """
        chord = self.parallel(lower, upper).lower_slope
        width = torch.where(upper > lower, upper - lower, 1.0)
        return torch.addcdiv(chord, value, width, value=STEEPNESS).clamp_(0, 1)

    def rows_needed(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "b *shape"]:
        return self.free(lower, upper)

"""Smooth functions of each element: each states itself, its derivative and where it bends the other way.

Between its knots a curve is convex or concave. On an interval that holds no knot its chord is one of the lines, and the
tangent in the middle the other. Elsewhere the interval is cut into cells that hold none: over a cell the curve lies
between its chord and its tangent, so over all of them between two polygons, and `Band` has the lines of those.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.operators.envelope import ULPS, Band, nearest_to_middle
from verify.operators.operator import Radius
from verify.operators.relaxation import Elementwise, Lines

CELLS = 40
"""Of every piece of an interval. Lines are looser than the tightest by a part of 1 / CELLS^2."""
AT_ONCE = 2**13
"""Intervals that are cut into cells at one time, for the memory it takes."""

NARROW = 1e-6
"""A width, relative to 1 or to the values, below which an interval is not split."""


class Curve(Elementwise):
    """A continuous function with a derivative but for some of its knots.

    Attributes:
        knots: in order; between two of them, before the first and after the last the function is convex or concave.
            There may be more than that takes: cells are narrower where there are many.
        turns: where it is least or largest, if not at the ends of an interval.
        jumps: whether it falls at its knots: a derivative does not tell how far.
    """

    knots: tuple[float, ...] = ()
    turns: tuple[float, ...] = ()
    jumps: ClassVar[bool] = False

    def value(self, x: Tensor) -> Tensor:
        """The function, to a few units of rounding relative to its value or to x."""
        return self.forward(x)

    def derivative(self, x: Tensor) -> Tensor:
        """Its derivative; at a kink that of one side, which is torch's."""
        raise self.refuse("a curve without a derivative")

    def domain(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The lower end; NaN, of which no bound comes, where the function is not defined on the whole interval and its
        values do not tell."""
        return lower

    def knots_in(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """The knots, moved into the interval where they are not in it; in order."""
        return [lower.clamp(min=knot).minimum(upper) for knot in self.knots]

    def turns_in(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return [lower.clamp(min=turn).minimum(upper) for turn in self.turns]

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest value on the interval."""
        values = torch.stack([self.value(x) for x in (lower, upper, *self.turns_in(lower, upper))])
        return values.amin(0), values.amax(0)

    def steepest(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The largest magnitude of the derivative, which is at an end or at a knot: at each side of it."""
        knots = self.knots_in(lower, upper)
        ends = [torch.nextafter(lower, lower - 1), torch.nextafter(upper, upper + 1)]
        return torch.stack([self.derivative(x).abs() for x in (*ends, lower, upper, *knots)]).amax(0)

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """By the values at the ends of an interval; of a narrow one, where they would cancel, by the derivative."""
        (centre,), (radius,) = centres, radii
        assert radius is not None
        half = radius * scale
        lower, upper = self.domain(centre - half, centre + half), centre + half
        narrow = half <= torch.finfo(half.dtype).eps ** 0.5 * (1 + centre.abs())
        if self.jumps:
            narrow &= ~self._bends(lower, upper)
        low, high = self.range(lower, upper)
        if relaxed:
            lines = self.lines(lower, upper)
            under, over = (
                torch.stack([slope * lower + intercept, slope * upper + intercept])
                for slope, intercept in (lines[:2], lines[2:])
            )
            low, high = torch.minimum(low, under.amin(0)), torch.maximum(high, over.amax(0))
        per_scale = 0.5 / scale.clamp(min=torch.finfo(scale.dtype).tiny)
        middle = torch.where(narrow, self.value(centre), low / 2 + high / 2)
        return middle, torch.where(narrow, radius * self.steepest(lower, upper), (high - low) * per_scale)

    def lines(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        return self._lines(lower, upper, parallel=False)

    def parallel(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        return self._lines(lower, upper, parallel=True)

    def _lines(self, lower: Tensor, upper: Tensor, parallel: bool) -> Lines:
        lower = self.domain(lower, upper)
        lines = self._simple(lower, upper, parallel)
        bent = self._bends(lower, upper)
        if bent.any():
            parts = zip(lower[bent].split(AT_ONCE), upper[bent].split(AT_ONCE), strict=True)
            bands = [self._band(*part) for part in parts]
            found = zip(*(band.parallel() if parallel else band.lines() for band in bands), strict=True)
            both = zip(lines, found, strict=True)
            lines = Lines(*(side.masked_scatter(bent, torch.cat(each)) for side, each in both))
        return self._finite(lines, lower, upper)

    def _bends(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "*n"]:
        """Whether there is a knot inside of the interval."""
        bends = torch.zeros_like(lower, dtype=torch.bool)
        for knot in self.knots_in(lower, upper):
            bends |= (lower < knot) & (knot < upper)
        return bends

    def _simple(self, lower: Tensor, upper: Tensor, parallel: bool) -> Lines:
        """Chord and tangent, on an interval in which the curve is convex or concave."""
        middle, width = lower / 2 + upper / 2, upper - lower
        band = self._cells(torch.stack([lower, upper]))
        tangent = self.derivative(middle)
        narrow = width <= torch.finfo(width.dtype).eps ** 0.5 * (1 + middle.abs())
        ends = self.value(upper) - self.value(lower)
        chord = torch.where(narrow, tangent, ends / torch.where(narrow, 1.0, width))
        if parallel:
            return band.through(chord, chord)
        concave = self.value(middle) - self.value(lower) > ends / 2
        return band.through(torch.where(concave, chord, tangent), torch.where(concave, tangent, chord))

    def _band(self, lower: Float[Tensor, " n"], upper: Float[Tensor, " n"]) -> Band:
        cuts = torch.stack([lower, *self.knots_in(lower, upper), upper])
        share = torch.linspace(0, 1, CELLS + 1, dtype=lower.dtype, device=lower.device)[:-1].view(1, -1, 1)
        inner = cuts[:-1, None] + share * (cuts[1:] - cuts[:-1])[:, None]
        inner = torch.minimum(inner, cuts[1:, None])
        return self._cells(torch.cat([inner.flatten(0, 1), cuts[-1:]]))

    def _cells(self, x: Float[Tensor, "k *n"]) -> Band:
        """Of neighbouring corners, between which the curve is convex or concave: its chords and its tangents there."""
        middle = x[:-1] / 2 + x[1:] / 2
        value, height, slope = self.value(x), self.value(middle), self.derivative(middle)
        ends = height + slope * (x[:-1] - middle), height + slope * (x[1:] - middle)
        lower, upper = (
            pick(value, pick(torch.cat([ends[0], value[-1:]]), torch.cat([value[:1], ends[1]])))
            for pick in (torch.minimum, torch.maximum)
        )
        return Band(x, lower, upper)

    def _finite(self, lines: Lines, lower: Tensor, upper: Tensor) -> Lines:
        """The lines, or those of slope 0 where numbers have left their range; NaN where an end is NaN or the function
        is not defined."""
        fine = torch.stack([torch.isfinite(side) for side in lines]).all(0)
        if fine.all():
            return lines
        low, high = self.range(lower, upper)
        slack = ULPS * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())
        flat = Lines(torch.zeros_like(low), low - slack, torch.zeros_like(low), high + slack)
        return Lines(*(torch.where(fine, line, other) for line, other in zip(lines, flat, strict=True)))

    def split_point(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """A knot, or the middle of an interval that has none; down to a width at which lines are as good as exact."""
        middle, width = lower / 2 + upper / 2, upper - lower
        middle = torch.where(width > NARROW * (1 + middle.abs()), middle, torch.nan)
        knot = nearest_to_middle(self.knots, lower, upper)
        return torch.where(knot.isnan(), middle, knot)

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        return [rows * self.derivative(values[0])]

    def terms(self, largest: list[Tensor]) -> Tensor:
        """Of lines that meet the function, none steeper than it."""
        (x,) = largest
        low, high = self.range(-x, x)
        return torch.maximum(low.abs(), high.abs()) + 2 * self.steepest(-x, x) * x

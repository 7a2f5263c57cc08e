"""Relaxations: operators that are bounded by linear functions over the intervals of what they read."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.operators.arithmetic import inner
from verify.operators.form import Form, Sweep
from verify.operators.layout import added_at, flat, in_layout_of, picked
from verify.operators.operator import Backward, Coefficients, Interval, Operator, Read


class Lines(NamedTuple):
    """Two lines a neuron: lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


class Slopes(NamedTuple):
    """Lower slopes that each row of a bound has of its own, for some neurons.

    Attributes:
        neurons: their numbers in the flattened input of an activation.
        below, above: slopes within `slope_range`, for lower and for upper bounds of the rows; None leaves the lines as
            they are. Neurons whose slope is not free keep theirs.
    """

    neurons: Int[Tensor, "b k"]
    below: Float[Tensor, "s b k"]
    above: Float[Tensor, "s b k"] | None = None


UNUSED = 1e-3
"""What counts of the line that a bound does not go by: it breaks ties between splits."""


class Relaxation(Operator):
    """An operator that is bounded by linear functions over the intervals of its inputs, mostly one.

    Subclasses need these intervals in `affine` and in `backward`.
    """

    def rows_needed(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "b *shape"]:
        """Which elements of the input have bounds worth tightening."""
        return torch.ones_like(lower, dtype=torch.bool)

    def terms_over(self, read: Read) -> Float[Tensor, "b *out"]:
        """`terms`, of lines over these intervals."""
        return self.terms([torch.maximum(*(side.abs() for side in ends)) for ends in read if ends is not None])

    def split(
        self, A: Float[Tensor, "b *out"], lower: Float[Tensor, "b *shape"], upper: Float[Tensor, "b *shape"]
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """What the relaxation costs by way of each element of the input, and where to split that; NaN where it is vain.

        Args:
            A: coefficients of the result in a lower bound.
        """
        return torch.zeros_like(lower), torch.full_like(lower, torch.nan)

    @staticmethod
    def of(read: Read) -> Interval:
        """The interval of the input, of operators with one."""
        (interval,) = read
        assert interval is not None
        return interval


class Elementwise(Relaxation):
    """A nonlinear function of each element, bounded by two lines over the element's interval."""

    has_slopes: ClassVar[bool] = False
    """Whether the lower line may have slopes to choose; else `slope_range` and `suited` are not asked for."""

    def lines(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        """The relaxation on [lower, upper]; every sweep consumes this one statement of it."""
        raise self.refuse("a function without a relaxation")

    def slope_range(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Interval:
        """Least and largest slope that the lower line may have with the intercept that it has."""
        raise self.refuse("a function without free slopes")

    def free(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether the lower line has a slope to choose."""
        if not self.has_slopes:
            return torch.zeros_like(lower, dtype=torch.bool)
        least, largest = self.slope_range(lower, upper)
        return least < largest

    def suited(
        self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"], value: Float[Tensor, "s *n"]
    ) -> Float[Tensor, "s *n"]:
        """Lower slopes, where they are free, for bounds whose worst point has these values as inputs."""
        raise self.refuse("a function without free slopes")

    def parallel(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        """The relaxation with both lines of one slope, which an affine form needs."""
        raise self.refuse("a function without a relaxation")

    def split_point(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Where an interval is best split; NaN where both lines are the function's already."""
        return torch.full_like(lower, torch.nan)

    def split(
        self, A: Float[Tensor, "b *n"], lower: Float[Tensor, "b *n"], upper: Float[Tensor, "b *n"]
    ) -> tuple[Float[Tensor, "b *n"], Float[Tensor, "b *n"]]:
        """By how far the line that A goes by is from the function at the point."""
        point, lines = self.split_point(lower, upper), self.lines(lower, upper)
        value = self.forward(point)
        below = value - lines.lower_slope * point - lines.lower_intercept
        above = lines.upper_slope * point + lines.upper_intercept - value
        positive, negative = A.clamp(min=0), -A.clamp(max=0)
        return (positive + UNUSED * negative) * below + (negative + UNUSED * positive) * above, point

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        (form,), (lower, upper) = forms, self.of(read)
        assert form is not None
        lines = self.parallel(lower, upper)
        slope = lines.upper_slope
        ends = form.lower * slope, form.upper * slope
        scaled = Form(torch.minimum(*ends), torch.maximum(*ends), form.rows * in_layout_of(form.rows, slope))
        low, high = lines.lower_intercept, lines.upper_intercept
        if sweep.rounding.step and scaled.box_counts((upper - lower) * slope.abs()):
            middle, half = (scaled.lower + scaled.upper) / 2, (scaled.upper - scaled.lower) / 2
            if flat(high - low + half != 0).sum(1).max() <= sweep.room:
                scaled, low, high = Form(middle, middle, scaled.rows), low - half, high + half
        return scaled.with_error(low, high, sweep)

    @property
    def summands(self) -> int:
        return 2

    def backward(
        self, last_lA: Coefficients, last_uA: Coefficients, read: Read, slopes: Slopes | None = None
    ) -> Backward:
        lower, upper = self.of(read)
        lines = self.lines(lower, upper)
        negated = None if last_uA is None else -last_uA  # <A, y> from above is -(<-A, y> from below)
        lA, lower_bias = _through_lines(last_lA, lines)
        uA, upper_bias = _through_lines(negated, lines)
        if slopes is not None:
            free = self.free(lower, upper)
            lA = _resloped(lA, last_lA, lines, free, slopes.neurons, slopes.below)
            uA = _resloped(uA, negated, lines, free, slopes.neurons, slopes.above)
        return [(lA, None if uA is None else -uA)], lower_bias, -upper_bias


def _through_lines(A: Coefficients, lines: Lines) -> tuple[Coefficients, Any]:
    """A lower bound of <A, f(x)> that is linear in x: the lower line where A >= 0, the upper one elsewhere."""
    if A is None:
        return None, 0
    lines = Lines(*(in_layout_of(A, line) for line in lines))
    # lower A + (upper - lower) min(A, 0): few passes over A, which is where the time goes.
    negative = A.clamp(max=0)
    bias = inner(negative, lines.upper_intercept - lines.lower_intercept)
    if lines.lower_intercept.any():
        bias = bias + inner(A, lines.lower_intercept)
    return torch.addcmul(A * lines.lower_slope, negative, lines.upper_slope - lines.lower_slope), bias


def _resloped(
    image: Coefficients, A: Coefficients, lines: Lines, free: Tensor, neurons: Tensor, slopes: Tensor | None
) -> Coefficients:
    """The image of A through the lines, mended where rows have lower slopes of their own; see `Slopes`."""
    if image is None or A is None or slopes is None:
        return image
    free, shared = (flat(each).gather(1, neurons) for each in (free, lines.lower_slope))
    change = torch.where(free, slopes, shared) - shared
    return added_at(image, neurons, picked(A, neurons).clamp_(min=0) * change)

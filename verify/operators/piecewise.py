"""Piecewise linear functions of each element: hardtanh, hardsigmoid, the absolute value and their like."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.operators.arithmetic import over
from verify.operators.envelope import Band, nearest_to_middle
from verify.operators.operator import Radius, rule
from verify.operators.relaxation import Elementwise, Lines


class PiecewiseLinear(Elementwise):
    """Continuous, with kinks at `knots` and between them the `slopes`, one more."""

    knots: tuple[float, ...]
    slopes: tuple[float, ...]

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Corners are told by how far from the centre they are, in units of the scale, and how much the function has
        changed up to there, so that nothing cancels."""
        (centre,), (radius,) = centres, radii
        assert radius is not None
        x = self._corners(-radius, radius, [over(knot - centre, scale) for knot in self.knots])
        y = self._change(x)
        lower, upper = y.amin(0), y.amax(0)
        if relaxed:
            lines = Band(x, y, y).lines()
            lower = torch.minimum(*(lines.lower_slope * end for end in (x[0], x[-1]))) + lines.lower_intercept
            upper = torch.maximum(*(lines.upper_slope * end for end in (x[0], x[-1]))) + lines.upper_intercept
        return self.forward(centre) + scale * (lower + upper) / 2, (upper - lower) / 2

    def _change(self, x: Float[Tensor, "k *n"]) -> Float[Tensor, "k *n"]:
        """By how much the function is more at each corner than at 0, which is between the first and the last."""
        slopes = x.new_tensor(self.slopes).view(-1, *[1] * (x.dim() - 1))
        rise = slopes * (x[1:] - x[:-1])
        from_first = torch.cat([torch.zeros_like(x[:1]), rise.cumsum(0)])
        before = x.clamp(max=0)
        return from_first - (slopes * (before[1:] - before[:-1])).sum(0)

    def lines(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        return self._band(lower, upper).lines()

    def parallel(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        return self._band(lower, upper).parallel()

    def _band(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Band:
        x = self._corners(lower, upper, [lower.new_tensor(knot) for knot in self.knots])
        y = self.forward(x)
        return Band(x, y, y)

    @staticmethod
    def _corners(lower: Tensor, upper: Tensor, knots: list[Tensor]) -> Float[Tensor, "k *n"]:
        return torch.stack([lower, *(torch.minimum(torch.maximum(knot, lower), upper) for knot in knots), upper])

    def rows_needed(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "b *shape"]:
        return torch.stack([(lower < knot) & (knot < upper) for knot in self.knots]).any(0)

    def split_point(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return nearest_to_middle(self.knots, lower, upper)

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        """By autograd, with J constant in the values, as it is almost everywhere."""
        x = values[0].detach().requires_grad_()
        with torch.enable_grad():
            image = self.forward(x)
        return list(torch.autograd.grad(image, x, rows, create_graph=torch.is_grad_enabled()))

    def terms(self, largest: list[Tensor]) -> Tensor:
        """Of lines that meet the function, none steeper than it."""
        (x,) = largest
        y = self.forward(self._corners(-x, x, [x.new_tensor(knot) for knot in self.knots]))
        return y.abs().amax(0) + 2 * max(map(abs, self.slopes)) * x


@rule(
    "hardtanh.default", "relu6.default", "clamp.default", "clip.default", "clamp_min.default", "clamp_max.default"
)
class Clamped(PiecewiseLinear):
    """x between two numbers, and the nearer of them elsewhere; in-place calls may have one only."""

    def check(self) -> None:
        name, kwargs = self.call.name.split(".")[1], self.call.kwargs
        ends = {"hardtanh": (-1.0, 1.0), "relu6": (0.0, 6.0)}.get(name, (None, None))
        low = self.call.argument(1, kwargs.get("min", kwargs.get("min_val", ends[0])))
        high = self.call.argument(2, kwargs.get("max", kwargs.get("max_val", ends[1])))
        if name == "clamp_max":
            low, high = None, low
        if low is not None and high is not None and low > high:
            raise self.refuse(f"a least value {low} above the largest, {high}")
        self.knots = tuple(float(end) for end in (low, high) if end is not None)
        self.slopes = tuple(slope for slope, end in ((0.0, low), (1.0, 0), (0.0, high)) if end is not None)


@rule("hardsigmoid.default")
class HardSigmoid(PiecewiseLinear):
    """0, then x / 6 + 1 / 2, then 1."""

    knots, slopes = (-3.0, 3.0), (0.0, 1 / 6, 0.0)


@rule("abs.default")
class Absolute(PiecewiseLinear):
    """|x|."""

    knots, slopes = (0.0,), (-1.0, 1.0)


@rule("softshrink.default")
class SoftShrink(PiecewiseLinear):
    """x, by so much nearer to 0."""

    slopes = (1.0, 0.0, 1.0)

    def check(self) -> None:
        threshold = float(self.call.argument(1, 0.5))
        self.knots = (-threshold, threshold)

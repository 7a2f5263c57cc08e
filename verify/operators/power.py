"""Powers of each element: squares, roots, reciprocals. See `Curve`."""

from __future__ import annotations

import torch
from torch import Tensor

from verify.operators.curve import Curve
from verify.operators.operator import Read, rule


@rule("pow.Tensor_Scalar")
class Power(Curve):
    """x to the power of a number.

    If that is not an integer there is no bound where x may be less than 0; if it is negative, none where x may be 0.
    """

    exponent: float

    def check(self) -> None:
        self.exponent = float(self.call.args[1])
        if not 0 < abs(self.exponent) <= 64:
            raise self.refuse(f"the exponent {self.call.args[1]}, which is 0 or beyond 64")
        if self.exponent > 0:
            self.knots = (0.0,) if self.exponent % 2 == 1 else ()
            self.turns = (0.0,) if self.exponent % 2 == 0 else ()

    def derivative(self, x: Tensor) -> Tensor:
        slope = self.exponent * x ** (self.exponent - 1)
        if self.exponent > 0:
            return slope
        # Far out it loses its digits, and times x it counts all the same: as good as unknown.
        return torch.where(slope.abs() < torch.finfo(slope.dtype).tiny, torch.nan, slope)

    def domain(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where((lower <= 0) & (upper >= 0), torch.nan, lower) if self.exponent < 0 else lower

    def terms_over(self, read: Read) -> Tensor:
        """A line meets the power, and its slope times x is at most 2 p |x|^p."""
        low, high = self.range(*self.of(read))
        return 5 * max(1.0, abs(self.exponent)) * torch.maximum(low.abs(), high.abs())


@rule("square.default")
class Square(Power):
    """x^2, or x x."""

    exponent: float = 2.0
    turns: tuple[float, ...] = (0.0,)

    def check(self) -> None:
        """Nothing is refused."""


@rule("sqrt.default")
class Sqrt(Square):
    """The square root of x >= 0."""

    exponent = 0.5
    turns = ()


@rule("rsqrt.default")
class ReciprocalRoot(Square):
    """1 / sqrt(x) for x > 0."""

    exponent = -0.5
    turns = ()


@rule("reciprocal.default")
class Reciprocal(Square):
    """1 / x, on either side of 0."""

    exponent = -1.0
    turns = ()

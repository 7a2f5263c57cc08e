"""What normalisations by an image's own statistics are made of, so that no bound of a variance is below 0.

Both are calls of our own: what they know of their arguments no composition of torch's tells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verify.operators.operator import Radius, rule
from verify.operators.power import Power
from verify.operators.product import ElementProduct

_CALLS = torch.library.Library("verify", "DEF")
_CALLS.define("power_of_variance(Tensor x, float eps, float exponent) -> Tensor")
_CALLS.define("standardised(Tensor deviation, Tensor reciprocal, int count) -> Tensor")


def _power_of_variance(x: Tensor, eps: float, exponent: float) -> Tensor:
    return torch.pow(x.clamp(min=0) + eps, exponent)


def _standardised(deviation: Tensor, reciprocal: Tensor, count: int) -> Tensor:
    return deviation * reciprocal


_CALLS.impl("power_of_variance", _power_of_variance, "CompositeImplicitAutograd")
_CALLS.impl("standardised", _standardised, "CompositeImplicitAutograd")


@rule("verify.power_of_variance.default")
class PowerOfVariance(Power):
    """(max(x, 0) + eps)^p for p = 1/2 or -1/2: of a mean of squares, which is at least 0 whatever its bounds are."""

    def check(self) -> None:
        self.eps, self.exponent = float(self.call.args[1]), float(self.call.args[2])
        self.knots = (0.0,)

    def domain(self, lower: Tensor, upper: Tensor) -> Tensor:
        return lower

    def derivative(self, x: Tensor) -> Tensor:
        """Of the right side where it bends: the steeper one."""
        return torch.where(x >= 0, self.exponent * (x.clamp(min=0) + self.eps) ** (self.exponent - 1), 0.0)


@rule("verify.standardised.default")
class Standardised(ElementProduct):
    """A deviation over the root of the mean square of all: of n, none is larger than the root of n."""

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        centre, radius = super().centred(centres, radii, scale, relaxed)
        most = math.sqrt(self.call.args[2]) * (1 + 4 * torch.finfo(centre.dtype).eps)
        low, high = centre - radius * scale, centre + radius * scale
        beyond = (low < -most) | (high > most)
        low, high = low.clamp(-most, most), high.clamp(-most, most)
        per_scale = 0.5 / scale.clamp(min=torch.finfo(scale.dtype).tiny)
        return torch.where(beyond, (low + high) / 2, centre), torch.where(beyond, (high - low) * per_scale, radius)

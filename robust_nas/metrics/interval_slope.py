"""`ibp-slope`: how fast interval bounds widen at a vanishing perturbation. No bound, and without an epsilon."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.base import Measurement, RobustnessMetric
from verify.bounds import BoundedNetwork
from verify.specification import margins

INTERVALS = 1.5
"""What an interval sweep keeps an image, see `RobustnessMetric.held`."""


class IntervalSlope(RobustnessMetric):
    """R = -mean over images and k != y of log d(radius of the interval of f_y - f_k)/d epsilon at epsilon -> 0.

    The logarithm, because the slope itself grows by about e^5 a cell: R is on a scale of its own, nats. Its gradient in
    alpha is what that of the certified bound by intervals comes to when its epsilon follows the gap.

    Args:
        norm: "linf" or "l2".
        domain: "unit" or "free".
        images: how many of the batch are measured: the first ones.
    """

    columns = ("interval_slope",)

    def __init__(self, norm: str = "linf", domain: str = "unit", images: int = 8) -> None:
        self.norm, self.domain, self.images = norm, domain, images

    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        own = self.processes.count(self.images)
        rows = margins(labels[:own], network.classes)
        slopes = network.width_slope(images[:own], self.norm, rows, self.domain)
        value = -self.processes.weight(len(rows)) * slopes.mean()
        return Measurement(value, {"interval_slope": self.processes.total([value.item()])[0]})

    def held(self, network: BoundedNetwork, images: int) -> float:
        return INTERVALS * min(images, self.images)

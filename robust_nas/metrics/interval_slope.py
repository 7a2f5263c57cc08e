"""`ibp-slope`: how fast interval bounds widen at a vanishing perturbation. No bound, and without an epsilon."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.base import ImageMetric, MetricSettings
from verify.bounds import BoundedNetwork
from verify.propagation.methods import METHODS
from verify.specification import margins

INTERVALS = 1.5
"""What an interval sweep keeps an image, see `RobustnessMetric.held`."""


class IntervalSlope(ImageMetric):
    """R = -mean over images and k != y of log d(radius of the interval of f_y - f_k)/d epsilon at epsilon -> 0.

    The logarithm, because the slope itself grows by about e^5 a cell: R is on a scale of its own, nats. Its gradient in
    alpha is what that of the certified bound by intervals comes to when its epsilon follows the gap.

    Args:
        norm: "linf" or "l2".
        domain: "unit" or "free".
        images: how many of the batch are measured: the first ones.
    """

    column = "interval_slope"

    def __init__(self, norm: str = "linf", domain: str = "unit", images: int = 8) -> None:
        super().__init__(norm, images)
        self.domain = domain

    @classmethod
    def of(cls, settings: MetricSettings) -> IntervalSlope:
        return cls(settings.norm, images=settings.bound_images or METHODS["ibp"].step_images)

    def scores(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        rows = margins(labels, network.classes)
        return -network.width_slope(images, self.norm, rows, self.domain).mean(1)

    def held(self, network: BoundedNetwork, images: int) -> float:
        return INTERVALS * min(images, self.images)

"""Robustness metrics that a search maximises, by name. To add one: a file here and a line in `METRICS`."""

from collections.abc import Callable

from robust_nas.metrics.base import Measurement, MetricSettings, RobustnessMetric
from robust_nas.metrics.certified_bound import CertifiedBound
from robust_nas.metrics.combined import Sum
from robust_nas.metrics.epsilon import EpsilonControl
from robust_nas.metrics.jacobian import JacobianNorm


def _certified_bound(settings: MetricSettings) -> RobustnessMetric:
    return CertifiedBound(
        settings.norm,
        method=settings.bound_method,
        target=settings.bound_target,
        images=settings.bound_images,
    )


def _jacobian(settings: MetricSettings) -> RobustnessMetric:
    return JacobianNorm(
        settings.norm,
        images=settings.jacobian_images,
        exact=settings.jacobian_exact,
        seed=settings.seed,
    )


METRICS: dict[str, Callable[[MetricSettings], RobustnessMetric]] = {
    "cb": _certified_bound,
    "jacobian": _jacobian,
    "combined": lambda settings: Sum(_certified_bound(settings), _jacobian(settings)),
}
"""A search without a metric has none: `none` is not in here."""

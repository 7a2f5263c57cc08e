"""Robustness metrics that a search maximises, by name. To add one: a file here and a line in `METRICS`.

A metric takes any network: `metric(BoundedNetwork(model.eval(), images), images, labels).value` scores it, and is
differentiable in its weights too, so that a training can have it as a term. Scores of networks compare where epsilon is
the same for all: see `CertifiedBound`.
"""

from collections.abc import Callable

from robust_nas.metrics.base import Measurement, MetricSettings, RobustnessMetric
from robust_nas.metrics.certified_bound import BOUND_METHODS, CertifiedBound
from robust_nas.metrics.combined import Sum
from robust_nas.metrics.epsilon import EpsilonControl
from robust_nas.metrics.interval_slope import IntervalSlope
from robust_nas.metrics.jacobian import ESTIMATES, JacobianNorm
from robust_nas.metrics.log_radius import LogRadius


def _certified_bound(settings: MetricSettings, kind: type[CertifiedBound] = CertifiedBound) -> RobustnessMetric:
    control = None if settings.epsilon is None else EpsilonControl(settings.epsilon, slope=0.0)
    return kind(settings.norm, method=settings.bound_method, images=settings.bound_images, control=control)


def _interval_slope(settings: MetricSettings) -> RobustnessMetric:
    return IntervalSlope(settings.norm, images=settings.bound_images)


def _jacobian(settings: MetricSettings) -> RobustnessMetric:
    return JacobianNorm(
        settings.norm,
        images=settings.jacobian_images,
        estimate=settings.jacobian,
        seed=settings.seed,
    )


BOUND_WEIGHT = 2.0
"""Of the certified bound in the combined metric, where the Jacobian's term has 1: chosen on 64 networks, and held on 32
others (docs/fidelity.md). The paper says that the two "can be summed", and gives no weights."""


METRICS: dict[str, Callable[[MetricSettings], RobustnessMetric]] = {
    "cb": _certified_bound,
    "log-radius": lambda settings: _certified_bound(settings, LogRadius),
    "ibp-slope": _interval_slope,
    "jacobian": _jacobian,
    "combined": lambda settings: Sum((BOUND_WEIGHT, _certified_bound(settings)), (1.0, _jacobian(settings))),
}
"""A search without a metric has none: `none` is not in here."""

"""Robustness metrics that a search maximises, one file each; `robust_nas.registry` has their names.

A metric takes any network: `metric(BoundedNetwork(model.eval(), images), images, labels).value` scores it, and is
differentiable in its weights too, so that a training can have it as a term. Scores of networks compare where epsilon is
the same for all: see `CertifiedBound`.
"""

from robust_nas.metrics.base import Measurement, MetricSettings, RobustnessMetric
from robust_nas.metrics.certified_bound import CertifiedBound
from robust_nas.metrics.combined import Sum
from robust_nas.metrics.epsilon import EpsilonControl
from robust_nas.metrics.interval_slope import IntervalSlope
from robust_nas.metrics.jacobian import JacobianNorm
from robust_nas.metrics.log_radius import LogRadius
from robust_nas.registry import METRICS


def certified_bound(settings: MetricSettings, kind: type[CertifiedBound] = CertifiedBound) -> RobustnessMetric:
    """`cb`."""
    control = None if settings.epsilon is None else EpsilonControl(settings.epsilon, slope=0.0)
    return kind(settings.norm, method=settings.bound_method, images=settings.bound_images, control=control)


def log_radius(settings: MetricSettings) -> RobustnessMetric:
    """`log-radius`."""
    return certified_bound(settings, LogRadius)


def interval_slope(settings: MetricSettings) -> RobustnessMetric:
    """`ibp-slope`."""
    return IntervalSlope(settings.norm, images=settings.bound_images)


def jacobian(settings: MetricSettings) -> RobustnessMetric:
    """`jacobian`."""
    return JacobianNorm(
        settings.norm,
        images=settings.jacobian_images,
        estimate=settings.jacobian,
        seed=settings.seed,
    )


BOUND_WEIGHT = 2.0
"""Of the certified bound in the combined metric, where the Jacobian's term has 1: chosen on 64 networks, and held on 32
others (docs/fidelity.md). The paper says that the two "can be summed", and gives no weights."""


def combined(settings: MetricSettings) -> RobustnessMetric:
    """`combined`."""
    return Sum((BOUND_WEIGHT, certified_bound(settings)), (1.0, jacobian(settings)))

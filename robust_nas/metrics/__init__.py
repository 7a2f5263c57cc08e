"""Robustness metrics that a search maximises, one file each; `robust_nas.registry` has their names.

A metric takes any network: `metric(BoundedNetwork(model.eval(), images), images, labels).value` scores it, and is
differentiable in its weights too, so that a training can have it as a term. Scores of networks compare where epsilon is
the same for all: see `CertifiedBound`.
"""

from robust_nas.metrics.base import ImageMetric, Measurement, MetricSettings, RobustnessMetric
from robust_nas.metrics.certified_bound import CertifiedBound
from robust_nas.metrics.combined import BOUND_WEIGHT, Sum
from robust_nas.metrics.epsilon import EpsilonControl
from robust_nas.metrics.interval_slope import IntervalSlope
from robust_nas.metrics.jacobian import JacobianNorm
from robust_nas.metrics.log_radius import LogRadius
from robust_nas.registry import METRICS

"""What every metric says of a network, without looking at its certified radius."""

from __future__ import annotations

import math
from typing import Any

import torch

from experiments.fidelity.networks import CERTIFIED, NORM
from robust_nas.data import Data, Examples
from robust_nas.metrics import CertifiedBound, EpsilonControl, IntervalSlope, JacobianNorm, RobustnessMetric, Sum
from verify import BoundedNetwork

IMAGES = 64
"""Held-out images (of the training set, beyond those trained on) that cheap metrics look at; dear ones at the first."""
FIRST = 20_000
BOUNDED = {"ibp": 64, "block": 64, "crown-ibp": 64, "affine": CERTIFIED, "crown": 2}
EPSILONS = {"ibp": 1e-5, "block": 1e-5, "crown-ibp": 1e-5, "affine": 0.003, "crown": 0.003}
"""One for all networks, or their bounds could not be compared. Chosen on the networks that choose."""
DELTA = 1.0


def metrics() -> dict[str, RobustnessMetric]:
    """Every variant, by the name of its column."""
    found: dict[str, RobustnessMetric] = {
        f"cb {method}": CertifiedBound(NORM, method=method, images=images, control=fixed(EPSILONS[method]))
        for method, images in BOUNDED.items()
    }
    found["ibp-slope"] = IntervalSlope(NORM, images=IMAGES)
    found["jacobian"] = JacobianNorm(NORM, delta=DELTA, images=IMAGES, estimate="exact")
    found["jacobian sampled"] = JacobianNorm(NORM, delta=DELTA, images=IMAGES)
    found["jacobian l2"] = JacobianNorm("l2", delta=DELTA, images=IMAGES, estimate="exact")
    return found


def fixed(epsilon: float) -> EpsilonControl:
    """An epsilon that stays."""
    return EpsilonControl(epsilon=epsilon, target=math.inf, slope=0.0, floor=epsilon)

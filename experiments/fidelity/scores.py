"""What every metric says of a network, without looking at its certified radius."""

from __future__ import annotations

from typing import Any

import torch

from experiments.fidelity.networks import NORM
from robust_nas.data import Data
from robust_nas.metrics import (
    BOUND_WEIGHT,
    CertifiedBound,
    EpsilonControl,
    IntervalSlope,
    JacobianNorm,
    RobustnessMetric,
)
from verify import BoundedNetwork

IMAGES = 64
FIRST = 20_000
"""Training images that no network was trained on."""
BOUNDED = {"ibp": 64, "block": 64, "crown-ibp": 64, "affine": 2}
"""Images, by method of the bound: the dear one looks at few."""
EPSILONS = {"ibp": 1e-6, "block": 1e-4, "crown-ibp": 1e-5, "affine": 3e-3}
"""One for all networks, or their bounds could not be compared; chosen on the networks that choose."""


def metrics() -> dict[str, RobustnessMetric]:
    """Every variant, by the name of its column."""
    found: dict[str, RobustnessMetric] = {
        f"cb {method}": CertifiedBound(NORM, method=method, images=images, control=_fixed(EPSILONS[method]))
        for method, images in BOUNDED.items()
    }
    found["ibp-slope"] = IntervalSlope(NORM, images=IMAGES)
    found["jacobian"] = JacobianNorm(NORM, images=IMAGES, estimate="exact")
    found["jacobian sampled"] = JacobianNorm(NORM, images=IMAGES)
    return found


def score(network: BoundedNetwork, data: Data, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The value of every metric (or of those named) on one batch; a network in training mode takes its statistics."""
    images, labels = data.train.take(torch.arange(FIRST, FIRST + IMAGES))
    if network.model.training:
        network.freeze(images)
    with torch.no_grad():
        found = {
            name: metric(network, images, labels).value.item()
            for name, metric in metrics().items()
            if names is None or name in names
        }
    return found | {"combined": combined(found)}


def combined(found: dict[str, float]) -> float:
    """What DSRNA-Combined climbs, as one number that networks can be compared by.

    In a search epsilon follows the gap, so that the certified bound moves by half the target (1 logit) times the change
    of the logarithm of the width: `ibp-slope` / 2. The Jacobian's term has weight 1.
    """
    return BOUND_WEIGHT / 2 * found["ibp-slope"] + found["jacobian"]


def _fixed(epsilon: float) -> EpsilonControl:
    """An epsilon that stays."""
    return EpsilonControl(epsilon=epsilon, slope=0.0)

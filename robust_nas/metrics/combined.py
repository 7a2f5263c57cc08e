"""DSRNA-Combined: "the two metrics can be summed together as a single metric" (section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.distributed import Processes
from robust_nas.metrics.base import Measurement, MetricSettings, RobustnessMetric
from robust_nas.metrics.certified_bound import CertifiedBound
from robust_nas.metrics.jacobian import JacobianNorm
from verify.bounds import BoundedNetwork

BOUND_WEIGHT = 2.0
"""Of the certified bound, where the Jacobian's term has 1: chosen on 64 networks, and held on 32 others
(docs/fidelity.md). The paper says that the two "can be summed", and gives no weights."""


class Sum(RobustnessMetric):
    """The weighted sum of metrics; the log has those of all. One that is not finite makes it so.

    Args:
        terms: the metrics, each with its weight.
    """

    def __init__(self, *terms: tuple[float, RobustnessMetric]) -> None:
        self.terms = terms
        self.images = min(term.images for _, term in terms)
        self.bounded = any(term.bounded for _, term in terms)

    def share(self, processes: Processes) -> None:
        for _, term in self.terms:
            term.share(processes)

    def restart(self) -> None:
        for _, term in self.terms:
            term.restart()

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for _, term in self.terms for name in term.columns)

    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        found = [(weight, term(network, images, labels)) for weight, term in self.terms]
        value = sum((weight * part.value for weight, part in found), start=images.new_zeros(()))
        return Measurement(value, {name: figure for _, part in found for name, figure in part.log.items()})

    def held(self, network: BoundedNetwork, images: int) -> float:
        return sum(term.held(network, images) for _, term in self.terms)

    def state_dict(self) -> dict[str, Any]:
        return {"terms": [term.state_dict() for _, term in self.terms]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for (_, term), part in zip(self.terms, state["terms"], strict=True):
            term.load_state_dict(part)


def combined(settings: MetricSettings) -> Sum:
    """The certified bound and the Jacobian norm, as a search wants them."""
    return Sum((BOUND_WEIGHT, CertifiedBound.of(settings)), (1.0, JacobianNorm.of(settings)))

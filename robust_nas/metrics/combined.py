"""DSRNA-Combined: "the two metrics can be summed together as a single metric" (section 3.2)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.base import Measurement, RobustnessMetric
from verify.bounds import BoundedNetwork


class Sum(RobustnessMetric):
    """The sum of metrics, each with weight 1; the log has those of all. One that is not finite makes it so."""

    def __init__(self, *terms: RobustnessMetric) -> None:
        self.terms = terms

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for term in self.terms for name in term.columns)

    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        found = [term(network, images, labels) for term in self.terms]
        value = sum((part.value for part in found[1:]), start=found[0].value)
        return Measurement(value, {name: figure for part in found for name, figure in part.log.items()})

"""What a robustness metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from verify.bounds import BoundedNetwork


class Measurement(NamedTuple):
    """What a metric found.

    Attributes:
        value: the larger the more robust; differentiable in the network's parameters where gradients are
            enabled. NaN or infinite when it could not be measured: such a value must not reach alpha.
        log: figures for the run's log, one for each of the metric's `columns`.
    """

    value: Float[Tensor, ""]
    log: dict[str, float]


@dataclass(frozen=True)
class MetricSettings:
    """The choices that the metrics share, and those of each.

    Attributes:
        norm: "linf" or "l2", of the perturbation.
        seed: of the metric's own random numbers.
        bound_method: "ibp", "crown-ibp" or "crown".
        bound_target: "margin" or "logits".
        bound_images: images of the batch that are bounded.
        jacobian_images: images of the batch whose Jacobian is taken.
        jacobian_exact: all rows of the Jacobian, or one drawn at random an image.
    """

    norm: str
    seed: int = 0
    bound_method: str = "crown-ibp"
    bound_target: str = "margin"
    bound_images: int = 8
    jacobian_images: int = 64
    jacobian_exact: bool = False


class RobustnessMetric(ABC):
    """A function of a network and a batch that a search maximises: R of eq. 16 (DSRNA, CVPR 2021).

    It measures with the batch statistics that `network.freeze(images)` fixed on the whole clean batch, so that
    no image's value depends on another image but through those; gradients pass through them. It changes nothing
    of the model (buffers, mode, `requires_grad`) and draws no number from a global generator, so that measuring
    without using the result leaves a search as it was.
    """

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names in every measurement's `log`."""

    @abstractmethod
    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        """Measure; images in [0, 1], the batch that the statistics were frozen on."""

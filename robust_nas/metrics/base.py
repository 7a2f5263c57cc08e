"""What a robustness metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.distributed import ALONE, Processes
from verify.bounds import BoundedNetwork


class Measurement(NamedTuple):
    """What a metric found.

    Attributes:
        value: the larger the more robust; differentiable in the network's parameters where gradients are
            enabled. NaN or infinite when it could not be measured: such a value must not reach alpha. Where several
            processes share a batch, this process' part: the parts add up to the value.
        log: figures for the run's log, one for each of the metric's `columns`; of all processes together.
    """

    value: Float[Tensor, ""]
    log: dict[str, float]


@dataclass(frozen=True)
class MetricSettings:
    """What a search says to its metric (`RobustnessMetric.of`), which takes what it needs.

    Attributes:
        norm: "linf" or "l2", of the perturbation.
        seed: of the metric's own random numbers.
        bound_method: of the certified bound, see `CertifiedBound`.
        bound_images: images of the batch that are bounded; None for as many as a step can wait for.
        epsilon: at which bounds are taken; None for one that follows their width.
        jacobian: "sampled", "exact" or "projection", see `JacobianNorm`.
        jacobian_images: images of the batch whose Jacobian is taken.
    """

    norm: str
    seed: int = 0
    bound_method: str = "ibp"
    bound_images: int | None = None
    epsilon: float | None = None
    jacobian: str = "sampled"
    jacobian_images: int = 64


class RobustnessMetric(ABC):
    """A function of a network and a batch that a search maximises: R of eq. 16 (DSRNA, CVPR 2021).

    It measures with the batch statistics that `network.freeze(images)` fixed on the whole clean batch, so that
    no image's value depends on another image but through those; gradients pass through them. It changes nothing
    of the model (buffers, mode, `requires_grad`) and draws no number from a global generator, so that measuring
    without using the result leaves a search as it was.

    Attributes:
        images: how many of a batch are measured: the first ones, of all processes.
        bounded: whether it takes a certified bound, so that `MetricSettings.bound_method` counts.
    """

    images: int
    bounded: bool = False

    @abstractmethod
    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        """Measure; images in [0, 1], the batch that the statistics were frozen on."""

    @abstractmethod
    def share(self, processes: Processes) -> None:
        """Measure with others from now on: each its share of the batch."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names in every measurement's `log`."""

    def restart(self) -> None:  # noqa: B027
        """Another network is measured from now on: forget what was fitted to the last one."""

    def held(self, network: BoundedNetwork, images: int) -> float:
        """About what measuring a batch of so many images keeps for its gradient, in units of the values of all
        operators of the network on one image; for an estimate of memory.
        """
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """What the next measurement depends on beside its arguments, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of another metric of the same settings."""
        assert not state, "a metric with a state has to take it"


class ImageMetric(RobustnessMetric):
    """R is the mean score of the images: a subclass scores each, and here they are shared out, added up and logged.

    Args:
        norm: of the perturbation.
        images: how many of a batch are measured.

    Attributes:
        column: the name of R in the log.
    """

    column: ClassVar[str]
    processes: Processes = ALONE

    def __init__(self, norm: str = "linf", images: int = 8) -> None:
        self.norm, self.images = norm, images

    @classmethod
    def of(cls, settings: MetricSettings) -> ImageMetric:
        """The metric as a search wants it."""
        return cls(settings.norm)

    @abstractmethod
    def scores(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " n"]:
        """One score an image that counts, the larger the more robust; NaN or infinite where it cannot be measured.

        Differentiable in the network's parameters where gradients are enabled.

        Args:
            images: in [0, 1]: this process' share of those that are measured.
        """

    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        own = self.processes.count(self.images)
        return self.mean(self.scores(network, images[:own], labels[:own]))

    def mean(self, scores: Float[Tensor, " n"]) -> Measurement:
        """What the scores of all processes come to; NaN where no image counts."""
        [count] = self.processes.total([float(len(scores))])
        value = scores.sum() / count
        return Measurement(value, {self.column: self.processes.total([value.item()])[0]})

    def share(self, processes: Processes) -> None:
        self.processes = processes

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

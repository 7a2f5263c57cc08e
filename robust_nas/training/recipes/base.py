"""What a training recipe is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.distributed import ALONE, Processes
from robust_nas.training.learner import Learner
from robust_nas.training.presets import TrainingPreset
from verify.bounds import BoundedNetwork
from verify.checks.errors import InputError

SMALLEST = 1e-3
"""An epsilon that grows starts at this fraction of its value: at 0 there is nothing to regularise."""


class Loss(NamedTuple):
    """What training minimises on a batch.

    Attributes:
        value: differentiable in the learner's parameters. Where several processes share a batch, this process' part:
            the parts add up to the value.
        log: figures for the run's log, one for each of the recipe's `columns`; of all processes together.
    """

    value: Float[Tensor, ""]
    log: dict[str, float]


@dataclass(frozen=True)
class RecipeSettings:
    """The choices of all recipes; each takes what it needs.

    Attributes:
        norm: of the perturbations that a recipe trains against, "linf" or "l2".
        epsilon: their size, in pixels of [0, 1].
        attack_steps: of PGD.
        jacobian_weight, projections: see `Jacobian`.
        bound: "ibp" or "crown-ibp", see `Certified`.
        seed: of the recipe's own random numbers.
    """

    norm: str = "linf"
    epsilon: float = 0.0
    attack_steps: int = 7
    jacobian_weight: float = 0.01
    projections: int = 1
    bound: str = "ibp"
    seed: int = 0


class Recipe(ABC):
    """A training loss.

    Args:
        settings: the choices.
        preset: how long the training is.
        device: where it computes; random numbers are drawn there.

    Attributes:
        columns: the names in every loss' `log`.
        perturbed: whether it trains against perturbations of a size, so that it has an epsilon.
        norms: of perturbations that it knows.
    """

    columns: tuple[str, ...] = ()
    perturbed: bool = True
    norms: tuple[str, ...] = ("linf", "l2")

    def __init__(self, settings: RecipeSettings, preset: TrainingPreset, device: torch.device) -> None:
        self.settings, self.preset = settings, preset
        self.processes: Processes = ALONE
        self.generator = torch.Generator(device).manual_seed(settings.seed)

    def share(self, processes: Processes) -> None:
        """Compute with others from now on: each its share of the batch."""
        self.processes = processes

    def begin(self, learner: Learner, example: Float[Tensor, "1 c h w"]) -> None:  # noqa: B027
        """Called once, before a state is loaded or the first step is taken; may set fresh weights."""

    @abstractmethod
    def __call__(
        self, learner: Learner, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], progress: float
    ) -> Loss:
        """The loss of a batch.

        Args:
            learner: in training mode.
            images: in [0, 1].
            progress: steps done, as a fraction of the training.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the next loss depends on beside its arguments, for a checkpoint."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of another recipe of the same settings."""
        self.generator.set_state(state["generator"])

    def grown(self, progress: float) -> float:
        """Epsilon, as a fraction of its value, when this fraction of the training is done (the preset's `ramp`)."""
        start, end = self.preset.ramp
        return min(1.0, max(SMALLEST, (progress - start) / (end - start)))

    def mean(self, values: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """This process' part of the mean over the images of all."""
        return self.processes.weight(len(values)) * values.mean()

    def figure(self, part: Tensor) -> float:
        """The value of which this is a process' part."""
        return self.processes.total([part.item()])[0]

    def drawn_for(self, images: Float[Tensor, "b c h w"]) -> int:
        """How many images of all processes random numbers are drawn for, so that each is the same however many share.

        `self.own` takes this process' share of what was drawn.
        """
        return int(self.processes.total([float(len(images))])[0])

    def own(self, drawn: Float[Tensor, "b *shape"]) -> Float[Tensor, "s *shape"]:
        """This process' share of what was drawn for a whole batch."""
        return drawn[self.processes.rank :: self.processes.size]


def bounded(learner: Learner, preset: TrainingPreset, example: Float[Tensor, "1 c h w"]) -> BoundedNetwork:
    """The network in training mode, for recipes that minimise bounds of it.

    Raises:
        InputError: a preset with drop-path or an auxiliary head, which no bound knows.
    """
    if preset.drop_path or learner.head is not None:
        raise InputError("recipes with bounds know no drop-path and no auxiliary head; take a preset without")
    return BoundedNetwork(learner.network.train(), example)

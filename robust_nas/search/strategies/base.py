"""What a search method is, and the plain one: DARTS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from robust_nas.data import Examples
from robust_nas.distributed import ALONE, Processes
from robust_nas.genotype import Architecture
from robust_nas.runs import Row
from robust_nas.search.bilevel import AlphaStep, ArchitectureStep
from robust_nas.search.presets import SearchPreset
from robust_nas.search.trials import Trial
from robust_nas.search.watch import composition
from robust_nas.spaces.backbone import OneShot
from robust_nas.spaces.network import Network
from robust_nas.spaces.supernet import Operations, Supernet
from verify.checks.errors import InputError

DRAWS = 20
"""Most draws for a candidate that is not there yet."""

Model = TypeVar("Model", bound=OneShot)
"""What a method searches on."""


@dataclass(frozen=True)
class Step:
    """A step of a search, as a strategy sees it.

    Attributes:
        stage: the number of the stage, from 0.
        epoch: that of the epoch in the stage, from 0.
        done: the part of alpha's steps in this stage that is done; 0 in the warm-up.
        progress: the part of the weights' steps in this stage that is done.
        preset: size and schedule of the stage.
        generator: on the CPU, for what a strategy draws; in the same state in all processes.
        processes: those that share each batch.
        dataset: the name of the data set.
        watched: whether the log is to have figures of this step that cost extra.
    """

    stage: int
    epoch: int
    done: float
    preset: SearchPreset
    generator: torch.Generator
    processes: Processes = ALONE
    dataset: str = ""
    watched: bool = True
    progress: float = 0.0


class Method(ABC, Generic[Model]):
    """How a search goes about it.

    The engine does the bilevel steps, with any metric; a method says on which supernet, in which stages, what is
    around the steps, and how the result is read. It holds no state: a checkpoint has none of it.

    Args:
        space: the search space, one of `spaces`; the first unless given.

    Attributes:
        spaces: those that the method can search.
        orders: of the bilevel step that make sense; the first is the default.
        metrics: whether alpha takes gradient steps, so that a robustness metric can be part of the objective.
        recipes: whether networks may be trained by any recipe, those of trials included; else the method has its own.
        one_level: whether alpha steps on the training batch, and no image is held out.
        stopping: the rule, a key of `STOPPING_RULES`, that belongs to the method.

    Raises:
        InputError: another space.
    """

    spaces: tuple[str, ...]
    orders: tuple[str, ...] = ("first", "second")
    metrics = True
    recipes = True
    one_level = False
    stopping: str | None = None

    def __init__(self, space: str | None = None) -> None:
        self.space = self.spaces[0] if space is None else space
        if self.space not in self.spaces:
            raise InputError(f"this method searches the space {' or '.join(self.spaces)}, not {space}")

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        """The stages of the search, each with its size and schedule; every stage begins with a fresh supernet."""
        return (preset,)

    @abstractmethod
    def supernet(self, operations: Operations | None, settings: Mapping[str, Any]) -> Model:
        """A supernet with fresh weights; `operations` are those that the last stage left, None for all."""

    def next_operations(self, model: Model, stage: int) -> Operations | None:
        """The operations of the next stage, from the supernet at the end of stage `stage` (from 0)."""
        return None

    def alpha_step(self, plain: AlphaStep) -> ArchitectureStep:
        """What moves the architecture parameters, from the step that DARTS would take."""
        return plain

    @contextmanager
    def around_step(self, model: Model, step: Step) -> Iterator[None]:
        """What holds for a step of alpha and the step of the weights that follows it."""
        yield

    @contextmanager
    def around_alpha_step(self, model: Model, step: Step) -> Iterator[None]:
        """What holds while alpha takes its step."""
        yield

    @contextmanager
    def around_weight_step(self, model: Model, step: Step, loss: Callable[[], Tensor]) -> Iterator[None]:
        """What holds while the weights take their step.

        Args:
            loss: the training loss on the step's batch, of the supernet as it stands at the call, in whatever mode;
                this process' part of it.
        """
        yield

    def training_examples(self, model: Model, step: Step, batch: Examples) -> Examples:
        """What the weights are trained on in place of a batch."""
        return batch

    def composition(self, model: Model) -> Row:
        """Figures of what the supernet prefers, for the log."""
        return {}

    def trial(self, preset: SearchPreset, dataset: str) -> Trial | None:
        """How the candidates are tried that the stages leave; None where they leave one result."""
        return None

    @abstractmethod
    def candidates(
        self,
        ends: Sequence[Architecture],
        near: Callable[[torch.Generator], Architecture],
        preset: SearchPreset,
        count: int,
        generator: torch.Generator,
    ) -> list[Architecture]:
        """The architectures to try, `count` of them.

        Args:
            ends: the result of every stage.
            near: draws one near the last of them.
            generator: to draw with.
        """

    def prepare(self, model: Model | None, architecture: Architecture, network: Network) -> None:
        """Give a candidate's network, whose weights are fresh, others to start from.

        Args:
            model: the supernet of the last stage.
        """

    @abstractmethod
    def genotype(self, model: Model, held_out: Callable[[], Examples]) -> Architecture:
        """The architecture that the supernet stands for.

        Args:
            held_out: gives some images that the weights were not trained on, always the same.
        """


class Strategy(Method[Supernet]):
    """DARTS (Liu, Simonyan and Yang, ICLR 2019): one stage, nothing special."""

    spaces: tuple[str, ...] = ("darts",)

    def supernet(self, operations: Operations | None, settings: Mapping[str, Any]) -> Supernet:
        return Supernet(**settings, operations=operations)

    def composition(self, model: Supernet) -> Row:
        return {**composition(model)}

    def candidates(
        self,
        ends: Sequence[Architecture],
        near: Callable[[torch.Generator], Architecture],
        preset: SearchPreset,
        count: int,
        generator: torch.Generator,
    ) -> list[Architecture]:
        """The result of the last stage, and others near it, each of them once unless few are to be had."""
        found = [ends[-1]]
        for _ in range(DRAWS * count):
            if len(found) == count:
                return found
            if (drawn := near(generator)) not in found:
                found.append(drawn)
        return found + [near(generator) for _ in range(count - len(found))]

    def genotype(self, model: Supernet, held_out: Callable[[], Examples]) -> Architecture:
        return model.genotype()

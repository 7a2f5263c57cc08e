"""The end of a search that has several answers: each is trained a short way, and held-out images choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from robust_nas.data import Data, Source, in_order
from robust_nas.distributed import Processes
from robust_nas.genotype import Architecture
from robust_nas.runs import Row, seed_everything
from robust_nas.search.presets import SearchPreset
from robust_nas.spaces.network import Network
from robust_nas.training.engine import EVALUATION_BATCH, Plan, Training, accuracy
from robust_nas.training.presets import PRESETS, TrainingPreset
from robust_nas.training.recipes import RecipeSettings, default_epsilon
from robust_nas.training.recipes.adversarial import Adversarial
from verify.regions import Ball

COLUMNS = ("candidate", "score")
"""What the rows of trials hold beside `train_loss`: the candidate's number, from 1, and at its end its score."""


@dataclass(frozen=True)
class Trial:
    """How a candidate is tried.

    It is judged by what it was trained for: after recipe "adversarial" by its accuracy on held-out images under that
    recipe's attack, otherwise by that on the images as they are.

    Attributes:
        count: candidates.
        preset: size and length of the training; it holds out no images, as the search does that.
        recipe, settings: of the training; the seed is the search's.
    """

    count: int
    preset: TrainingPreset
    recipe: str = "standard"
    settings: RecipeSettings = RecipeSettings()


def trial_at(preset: SearchPreset, recipe: str, dataset: str) -> Trial:
    """The trial of `preset.candidates` networks of a search's size, for `preset.trial_epochs` each.

    The rest of the schedule is that of the training preset "quick": SGD from a learning rate of .1 on a cosine.

    Raises:
        InputError: the recipe has no epsilon for the data set.
    """
    sizes = replace(
        PRESETS["quick"][recipe],
        cells=preset.cells,
        channels=preset.channels,
        stem_stride=preset.stem_stride,
        batch_size=preset.batch_size,
        epochs=preset.trial_epochs,
        held_out=0.0,
    )
    settings = RecipeSettings("linf", default_epsilon(recipe, dataset, "linf"))
    return Trial(preset.candidates, sizes, recipe, settings)


class Trials:
    """Trials of candidates, one after the other.

    Args:
        trial: how.
        candidates: `trial.count` architectures.
        prepare: gives a network with fresh weights others to start from, or leaves it as it is.
        data: of which nothing but `train` is read; fresh weights and order of the images go by `seed`.
        held_out: what judges.
        seed: of everything random; the same for all candidates.
        device: where.
        processes: those that share each batch.

    Attributes:
        candidates: as given.
        scores: of those that are done.
    """

    def __init__(
        self,
        trial: Trial,
        candidates: Sequence[Architecture],
        prepare: Callable[[Architecture, Network], None],
        data: Data,
        held_out: Source,
        seed: int,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.trial = replace(trial, settings=replace(trial.settings, seed=seed))
        self.candidates, self.scores = list(candidates), list[float]()
        self._prepare, self._held_out, self._seed = prepare, held_out, seed
        self._data, self._device, self._processes = data, device, processes
        self._begin()

    @property
    def step(self) -> int:
        """Steps done in the epoch under way."""
        return self._training.step

    @property
    def done(self) -> int:
        """Steps that are done."""
        return len(self.scores) * self._training.length + (0 if self.finished else self._training.done)

    @property
    def finished(self) -> bool:
        """Whether every candidate has its score."""
        return len(self.scores) == len(self.candidates)

    def best(self) -> Architecture:
        """The candidate of the highest score, the first among equals."""
        return self.candidates[self.scores.index(max(self.scores))]

    def steps(self) -> Iterator[Row]:
        """Go on to the end; yields `epoch` (of all trials), `step`, `train_loss` and the `COLUMNS` after every step.

        Raises:
            InputError: a training's loss is no longer finite.
        """
        while not self.finished:
            number, training = len(self.scores) + 1, self._training
            for figures in training.steps():
                row: Row = {
                    "epoch": (number - 1) * self.trial.preset.epochs + int(figures["epoch"] or 0),
                    "step": figures["step"],
                    "train_loss": figures["loss"],
                    "candidate": number,
                    "score": None,
                }
                if training.done == training.length:
                    self.scores.append(self._score(training.network))
                    row["score"] = self.scores[-1]
                    if not self.finished:
                        self._begin()
                yield row

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps."""
        return {
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "scores": self.scores,
            "training": self._training.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of other trials of the same candidates."""
        self.scores = list(state["scores"])
        if not self.finished:
            self._begin()
            self._training.load_state_dict(state["training"])

    def _begin(self) -> None:
        trial, candidate = self.trial, self.candidates[len(self.scores)]
        seed_everything(self._seed)
        plan = Plan(candidate, trial.preset, trial.recipe, trial.settings, self._seed)
        self._training = Training(plan, self._data, self._device, self._processes)
        self._prepare(candidate, self._training.network)

    def _score(self, network: Network) -> float:
        if self.trial.recipe == "adversarial":
            return adversarial_accuracy(network, self._held_out, self.trial.settings, self.trial.preset)
        return accuracy(network, self._held_out)


def adversarial_accuracy(
    network: Network, examples: Source, settings: RecipeSettings, preset: TrainingPreset
) -> float:
    """Fraction of the images that the network gets right, in evaluation mode, both before and after an attack.

    The attack is that of adversarial training. The network's mode stays as it was.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    attack = Adversarial(settings, preset, device).attack
    right = 0
    for images, labels in in_order(examples, EVALUATION_BATCH):
        images, labels = images.to(device), labels.to(device)
        attacked = attack(network, Ball(images, settings.epsilon, settings.norm), labels)
        with torch.no_grad():
            answers = (network(x).argmax(1) == labels for x in (images, attacked))
            right += int(torch.stack(list(answers)).all(0).sum())
    network.train(training)
    return right / len(examples.labels)

"""The end of a search that has several answers: each is trained a short way, and held-out images judge it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from robust_nas.data import Data, Source
from robust_nas.distributed import Processes
from robust_nas.genotype import Architecture
from robust_nas.runs import Row, seed_everything
from robust_nas.search.judges import Score, judged, mean
from robust_nas.search.presets import SearchPreset
from robust_nas.search.racing import again, winner
from robust_nas.spaces.network import Network
from robust_nas.training.engine import Plan, Training
from robust_nas.training.presets import PRESETS, TrainingPreset
from robust_nas.training.recipes import RecipeSettings, default_epsilon

COLUMNS = ("candidate", *(f"trial_{name}" for name in Score._fields))
"""What the rows of trials hold beside `train_loss`: the candidate's number, from 1, and at its end its `Score`."""


@dataclass(frozen=True)
class Trial:
    """How a candidate is tried.

    It is judged by what it was trained for, see `judged`.

    Attributes:
        count: trainings.
        preset: size and length of the training; it holds out no images, as the search does that.
        recipe, settings: of the training; the seed is the search's.
        judge: "accuracy" or "radius".
        drawn: architectures for each that is tried: the result of the stages, if there is one, and of the others those
            that promise most (`screen.promising`).
        repeated: how many trainings, the last ones, are of candidates that did well, with other fresh weights and
            another order of the images (`racing.again`); they are part of `count`.
    """

    count: int
    preset: TrainingPreset
    recipe: str = "standard"
    settings: RecipeSettings = RecipeSettings()
    judge: str = "accuracy"
    drawn: int = 1
    repeated: int = 0


def trial_at(preset: SearchPreset, recipe: str, dataset: str) -> Trial:
    """The trial of `preset.candidates` networks of a search's size, for `preset.trial_epochs` each.

    The rest of the schedule is that of the training preset "quick".

    Raises:
        InputError: the recipe has no epsilon for the data set.
    """
    settings = RecipeSettings("linf", default_epsilon(recipe, dataset, "linf"))
    return Trial(preset.candidates, training_preset(preset, recipe), recipe, settings)


def training_preset(preset: SearchPreset, recipe: str) -> TrainingPreset:
    """How a network of a search's size is trained by a recipe, with `preset.trial_epochs` and no image held out."""
    return replace(
        PRESETS["quick"][recipe],
        cells=preset.cells,
        channels=preset.channels,
        stem_stride=preset.stem_stride,
        batch_size=preset.batch_size,
        epochs=preset.trial_epochs,
        held_out=0.0,
    )


class Trials:
    """Trials of candidates, one after the other.

    Args:
        trial: how.
        candidates: architectures, as many as `trial` has trainings that repeat none.
        prepare: gives a network with fresh weights others to start from, or leaves it as it is.
        data: of which nothing but `train` is read; fresh weights and order of the images go by `seed`.
        held_out: what judges.
        seed: of everything random; the same for all candidates, and one more each time that one is tried again.
        device: where.
        processes: those that share each batch.

    Attributes:
        candidates: as given.
        tries: scores of each candidate, one a training that is done.
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
        self.candidates = list(candidates)
        self.tries: list[list[Score]] = [[] for _ in candidates]
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
        return self._trained * self._training.length + (0 if self.finished else self._training.done)

    @property
    def finished(self) -> bool:
        """Whether every training has its score."""
        return self._trained == self.trial.count

    @property
    def scores(self) -> list[Score]:
        """The mean score of each candidate that was tried."""
        return [mean(scores) for scores in self.tries if scores]

    def best(self) -> Architecture:
        """The candidate of the best score, of those tried most often; the first among equals."""
        return self.candidates[winner(self.tries)]

    @property
    def _trained(self) -> int:
        return sum(len(scores) for scores in self.tries)

    def steps(self) -> Iterator[Row]:
        """Go on to the end; yields `epoch` (of all trials), `step`, `train_loss` and the `COLUMNS` after every step.

        Raises:
            InputError: a training's loss is no longer finite.
        """
        while not self.finished:
            number, candidate, training = self._trained + 1, self._place + 1, self._training
            for figures in training.steps():
                row: Row = dict.fromkeys(COLUMNS) | {
                    "epoch": (number - 1) * self.trial.preset.epochs + int(figures["epoch"] or 0),
                    "step": figures["step"],
                    "train_loss": figures["loss"],
                    "candidate": candidate,
                }
                if training.done == training.length:
                    score = self._score(training.network)
                    self.tries[self._place].append(score)
                    row |= dict(zip(COLUMNS[1:], score, strict=True))
                    if not self.finished:
                        self._begin()
                yield row

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps."""
        return {
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "tries": [[list(score) for score in scores] for scores in self.tries],
            "training": self._training.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of other trials of the same candidates."""
        self.tries = [[Score(*score) for score in scores] for scores in state["tries"]]
        if not self.finished:
            self._begin()
            self._training.load_state_dict(state["training"])

    def _begin(self) -> None:
        trial = self.trial
        self._place = self._trained if self._trained < len(self.candidates) else again(self.tries)
        candidate = self.candidates[self._place]
        seed = self._seed + len(self.tries[self._place])
        seed_everything(seed)
        settings = replace(trial.settings, seed=seed)
        plan = Plan(candidate, trial.preset, trial.recipe, settings, seed)
        self._training = Training(plan, self._data, self._device, self._processes)
        self._prepare(candidate, self._training.network)

    def _score(self, network: Network) -> Score:
        trial = self.trial
        return judged(trial.judge, network, self._held_out, trial.recipe, trial.settings, trial.preset)

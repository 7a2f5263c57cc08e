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
from robust_nas.search.judges import Score, best, judged
from robust_nas.search.presets import SearchPreset
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
        count: candidates.
        preset: size and length of the training; it holds out no images, as the search does that.
        recipe, settings: of the training; the seed is the search's.
        judge: "accuracy" or "radius".
        drawn: architectures for each that is tried: the result of the stages, if there is one, and of the others those
            that have the narrowest intervals at fresh weights (`screen`).
        refined: how many of them, the last ones, are the best one so far with an edge changed.
    """

    count: int
    preset: TrainingPreset
    recipe: str = "standard"
    settings: RecipeSettings = RecipeSettings()
    judge: str = "accuracy"
    drawn: int = 1
    refined: int = 0


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
        candidates: `trial.count` architectures, without those that are refined.
        refine: gives an architecture near the best so far, which is none of those tried; from these two.
        prepare: gives a network with fresh weights others to start from, or leaves it as it is.
        data: of which nothing but `train` is read; fresh weights and order of the images go by `seed`.
        held_out: what judges.
        seed: of everything random; the same for all candidates.
        device: where.
        processes: those that share each batch.

    Attributes:
        candidates: as given, and those refined so far.
        scores: of those that are done.
    """

    def __init__(
        self,
        trial: Trial,
        candidates: Sequence[Architecture],
        refine: Callable[[Architecture, Sequence[Architecture]], Architecture],
        prepare: Callable[[Architecture, Network], None],
        data: Data,
        held_out: Source,
        seed: int,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.trial = replace(trial, settings=replace(trial.settings, seed=seed))
        self.candidates, self.scores = list(candidates), list[Score]()
        self._refine = refine
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
        return len(self.scores) == self.trial.count

    def best(self) -> Architecture:
        """The candidate of the best score, the first among equals."""
        return self.candidates[best(self.scores)]

    def steps(self) -> Iterator[Row]:
        """Go on to the end; yields `epoch` (of all trials), `step`, `train_loss` and the `COLUMNS` after every step.

        Raises:
            InputError: a training's loss is no longer finite.
        """
        while not self.finished:
            number, training = len(self.scores) + 1, self._training
            for figures in training.steps():
                row: Row = dict.fromkeys(COLUMNS) | {
                    "epoch": (number - 1) * self.trial.preset.epochs + int(figures["epoch"] or 0),
                    "step": figures["step"],
                    "train_loss": figures["loss"],
                    "candidate": number,
                }
                if training.done == training.length:
                    self.scores.append(self._score(training.network))
                    row |= dict(zip(COLUMNS[1:], self.scores[-1], strict=True))
                    if not self.finished:
                        self._begin()
                yield row

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps."""
        return {
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "scores": [list(score) for score in self.scores],
            "training": self._training.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of other trials of the same candidates."""
        self.scores = [Score(*score) for score in state["scores"]]
        if not self.finished:
            self._begin()
            self._training.load_state_dict(state["training"])

    def _begin(self) -> None:
        trial, number = self.trial, len(self.scores)
        if number == len(self.candidates):
            self.candidates.append(self._refine(self.best(), self.candidates))
        candidate = self.candidates[number]
        seed_everything(self._seed)
        plan = Plan(candidate, trial.preset, trial.recipe, trial.settings, self._seed)
        self._training = Training(plan, self._data, self._device, self._processes)
        self._prepare(candidate, self._training.network)

    def _score(self, network: Network) -> Score:
        trial = self.trial
        return judged(trial.judge, network, self._held_out, trial.recipe, trial.settings, trial.preset)

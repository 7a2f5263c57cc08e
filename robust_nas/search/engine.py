"""The search loop: weights on one half of the training images, alpha on the other; then, for some methods, trials."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from robust_nas.data import Data, Examples, batch_count, batches, search_split
from robust_nas.distributed import ALONE, Processes
from robust_nas.genotype import Architecture, Genotype
from robust_nas.runs import Row
from robust_nas.search.candidates import Candidates
from robust_nas.search.hessian import top_eigenvalue
from robust_nas.search.stage import Plan, Stage
from robust_nas.search.stopping import Epoch, Stop
from robust_nas.search.strategies.base import Step
from robust_nas.search.trials import COLUMNS, Trials
from robust_nas.spaces.backbone import OneShot
from robust_nas.spaces.supernet import Operations, Supernet
from verify.checks.errors import InputError

HESSIAN_EVERY = 2
"""Epochs from one eigenvalue to the next (Zela et al., ICLR 2020)."""


class Search:
    """A search in progress. `steps` carries it on, `state_dict` is all that decides how it goes on.

    A state taken between two steps and loaded into a new Search of the same plan continues bit for bit. Only the
    seed decides the split and the order of the images, and what a strategy draws; fresh weights and dropout draw from
    torch's global generators, whose states are part of the search's.

    Args:
        plan: what to do.
        data: on what.
        device: where.
        processes: those that share each batch.

    Raises:
        InputError: there are too few images for a step.

    Attributes:
        stage: the stage under way, or the last; None where a strategy has none.
        number: its number, from 0.
        trials: of the candidates, once the stages are done; None where a strategy has none.
        epoch: epochs of all stages that are done.
        stopped: why and where a rule ended the stages.
    """

    def __init__(
        self, plan: Plan, data: Data, device: torch.device | str = "cpu", processes: Processes = ALONE
    ) -> None:
        self.plan, self.data, self.device, self.processes = plan, data, torch.device(device), processes
        self.presets = plan.strategy.stages(plan.preset)
        self.trial = plan.trial or plan.strategy.trial(plan.preset, data.name)
        self.stage: Stage | None = None
        self.trials: Trials | None = None
        self.epoch = self._step = self.number = 0
        self.stopped: Stop | None = None
        self._halves = (data.train, data.train) if plan.strategy.one_level else search_split(data, plan.seed)
        self._orders = [torch.Generator().manual_seed(2 * plan.seed + half) for half in range(2)]
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._losses: list[float] = []  # of the epoch's steps of alpha
        self._ends: list[int] = []  # of the stages that are done: the epoch whose genotype is the result
        self._genotypes: list[Architecture] = []  # of the epochs that are done
        self._parameters: list[dict[str, Tensor]] = []
        self._begin_epoch()
        if not self.steps_an_epoch:
            images = min(len(half.labels) for half in self._halves)
            raise InputError(f"{data.name} has {images} images for alpha, and a step needs {self._fewest}")
        if plan.metric is not None:
            plan.metric.share(processes)
        if self.presets:
            self._begin_stage(0, None)
        else:
            self._begin_trials(self._candidates())

    @property
    def _current(self) -> Stage:
        assert self.stage is not None
        return self.stage

    @property
    def model(self) -> OneShot:
        """The supernet of the stage."""
        return self._current.model

    @property
    def length(self) -> int:
        """How many steps the search has, if no rule ends it."""
        trial, total = self.trial, self._epochs * self.steps_an_epoch
        if trial is not None:
            total += trial.count * trial.preset.epochs * self._batches(trial.preset.batch_size)
        return total

    @property
    def done(self) -> int:
        """Steps that are done."""
        return self.epoch * self.steps_an_epoch + self._step + (self.trials.done if self.trials else 0)

    @property
    def step(self) -> int:
        """Steps done in the epoch under way, that of a trial included."""
        return self.trials.step if self.trials else self._step

    @property
    def steps_an_epoch(self) -> int:
        """Batches of the smaller half, or the preset's steps; a last batch of too few images is skipped."""
        most, there_are = self.plan.preset.steps, self._batches(self.plan.preset.batch_size)
        return there_are if most is None else min(most, there_are)

    def _batches(self, size: int) -> int:
        return batch_count(min(len(half.labels) for half in self._halves), size, self._fewest)

    @property
    def _fewest(self) -> int:
        """Images in a batch: one a process, and two for batch norm to take a variance of."""
        return max(2, self.processes.size)

    @property
    def _epochs(self) -> int:
        return sum(preset.epochs for preset in self.presets)

    @property
    def _stages_done(self) -> bool:
        return self.stopped is not None or self.epoch == self._epochs

    @property
    def finished(self) -> bool:
        """Whether there is no step left."""
        return self.trials.finished if self.trials else self._stages_done and self.trial is None

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of every row, whatever step it is of."""
        names: tuple[str, ...] = ("epoch", "step", "train_loss")
        if self.stage is not None:
            names = (*names, *self.stage.columns, *self._composed)
        names = (*names, *(("eigenvalue",) if self.plan.hessian else ()), *(COLUMNS if self.trial else ()))
        return tuple(dict.fromkeys(names))

    def composition(self) -> Row:
        """Figures of what the supernet prefers, for the log."""
        return self.plan.strategy.composition(self.model)

    def genotype(self) -> Architecture:
        """The architecture found: that of the trials, of the epoch which a stopping rule chose, or of the supernet."""
        if self.trials is not None and self.trials.finished:
            return self.trials.best()
        if self.stopped is not None:
            return self._genotypes[self.stopped.epoch - 1]
        return self.plan.strategy.genotype(self.model, self._some_held_out)

    def parameters(self) -> dict[str, Tensor]:
        """The architecture parameters that the genotype comes from, before softmax, by name; empty where none do.

        A genotype that won trials comes from those of the stage that ended with it.
        """
        if self.trials is not None:
            best = self.trials.best() if self.trials.finished else None
            epochs = [epoch for epoch in self._ends if self._genotypes[epoch - 1] == best]
            return self._parameters[epochs[0] - 1] if epochs else {}
        if self.stopped is not None:
            return self._parameters[self.stopped.epoch - 1]
        return architecture_parameters(self.model)

    @property
    def course(self) -> Sequence[dict[str, Tensor]]:
        """The architecture parameters at the end of every epoch, before softmax, by name."""
        return tuple(self._parameters)

    def steps(self) -> Iterator[Row]:
        """Go on to the end; yields a row for the log after every step, when the state is one to save.

        Raises:
            InputError: the training loss is no longer finite.
        """
        while not self._stages_done:
            yield from self._rest_of_epoch()
        if self.trials is not None:
            for row in self.trials.steps():
                yield self._row(row)

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, for `load_state_dict` of a search of the same plan."""
        plan = self.plan
        return {
            "number": self.number,
            "stage": None if self.stage is None else self.stage.state_dict(),
            "trials": None if self.trials is None else self.trials.state_dict(),
            "epoch": self.epoch,
            "step": self._step,
            "orders": self._at_start,
            "generator": self._generator.get_state(),
            "losses": self._losses,
            "ends": self._ends,
            "genotypes": [genotype.to_dict() for genotype in self._genotypes],
            "parameters": self._parameters,
            "stopped": None if self.stopped is None else asdict(self.stopped),
            "metric": None if plan.metric is None else plan.metric.state_dict(),
            "stopping": None if plan.stopping is None else plan.stopping.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of another search of the same plan, which this one then continues."""
        plan = self.plan
        if state["stage"] is not None:
            self._begin_stage(state["number"], state["stage"]["operations"]).load_state_dict(state["stage"])
        self.epoch, self._step = state["epoch"], state["step"]
        for order, at_start in zip(self._orders, state["orders"], strict=True):
            order.set_state(at_start)
        self._generator.set_state(state["generator"])
        self._begin_epoch()
        self._losses = list(state["losses"])
        self._ends = list(state["ends"])
        self._genotypes = [Architecture.from_dict(data) for data in state["genotypes"]]
        self._parameters = list(state["parameters"])
        self.stopped = None if state["stopped"] is None else Stop(**state["stopped"])
        if plan.metric is not None:
            plan.metric.load_state_dict(state["metric"])
        if plan.stopping is not None:
            plan.stopping.load_state_dict(state["stopping"])
        if state["trials"] is not None:
            candidates = [Architecture.from_dict(data) for data in state["trials"]["candidates"]]
            self._begin_trials(candidates).load_state_dict(state["trials"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def _begin_stage(self, number: int, operations: Operations | None) -> Stage:
        self.number = number
        preset = self.presets[number]
        self.stage = Stage(self.plan, preset, operations, self.data, self.device, self.processes)
        self._composed = tuple(self.composition())
        if self.plan.metric is not None:
            self.plan.metric.restart()
        return self.stage

    def _candidates(self) -> list[Architecture]:
        ends = [self._genotypes[epoch - 1] for epoch in self._ends]
        model = None if self.stage is None else self.stage.model
        return self._source().first(ends, model, self._some_held_out, self._generator)

    def _source(self) -> Candidates:
        assert self.trial is not None
        return Candidates(self.plan, self.trial, replace(self.data, train=self._halves[0]), self.device)

    def _begin_trials(self, candidates: Sequence[Architecture]) -> Trials:
        assert self.trial is not None
        supernet = None if self.stage is None else self.stage.model
        prepare = partial(self.plan.strategy.prepare, supernet)
        train, held_out = self._halves
        data, seed = replace(self.data, train=train), self.plan.seed
        self.trials = Trials(self.trial, candidates, prepare, data, held_out, seed, self.device, self.processes)
        return self.trials

    def _begin_epoch(self) -> None:
        """Remember where the order of the images starts: a search resumed in the epoch draws it again."""
        self._at_start = [order.get_state() for order in self._orders]
        self._losses = []

    @property
    def _epoch_of_stage(self) -> int:
        return self.epoch - sum(preset.epochs for preset in self.presets[: self.number])

    def _rest_of_epoch(self) -> Iterator[Row]:
        stage, last = self._current, self.steps_an_epoch
        for number, (train, held_out) in enumerate(self._pairs(stage.preset.batch_size), 1):
            if number <= self._step:
                continue
            if number > last:
                return
            with self.processes.own_random_numbers(self.plan.seed, self.done, self.device):
                figures = stage.step(train, held_out, self._at(number))
            loss = figures["train_loss"]
            if loss is None or not math.isfinite(loss):
                raise InputError(
                    f"the search diverged in epoch {self.epoch + 1} (training loss {loss}); try another --seed"
                )
            if stage.alpha_steps(self._epoch_of_stage):
                val_loss = figures["val_loss"]
                self._losses.append(math.nan if val_loss is None else val_loss)
            row = self._row({"epoch": self.epoch + 1, "step": number, **figures, **self.composition()})
            self._step = number
            if number == last:
                eigenvalue = self._eigenvalue(stage)
                self._end_epoch(stage, eigenvalue)
                if self.plan.hessian:
                    row["eigenvalue"] = eigenvalue
            yield row

    def _row(self, figures: Row) -> Row:
        return dict.fromkeys(self.columns) | figures

    def _pairs(self, size: int) -> Iterator[tuple[Examples, Examples]]:
        """Batches for the weights and for alpha."""
        first, second = self._halves
        train = batches(first, size, self._orders[0], augment=self.data.augment, fewest=self._fewest)
        if self.plan.strategy.one_level:
            return ((batch, batch) for batch in train)
        held_out = batches(second, size, self._orders[1], fewest=self._fewest)
        # The halves differ by an image where their sum is odd, and so may their batches.
        return zip(train, held_out, strict=False)

    def _at(self, number: int) -> Step:
        """Where the step of this number in the epoch, from 1, stands."""
        preset, epoch = self._current.preset, self._epoch_of_stage
        done = (epoch - preset.warm_up) * self.steps_an_epoch + number - 1
        total = (preset.epochs - preset.warm_up) * self.steps_an_epoch
        part = max(0.0, done / total) if total else 0.0
        watched = (number - 1) % self.plan.watch_every == 0
        progress = (epoch * self.steps_an_epoch + number - 1) / (preset.epochs * self.steps_an_epoch)
        return Step(
            self.number, epoch, part, preset, self._generator, self.processes, self.data.name, watched, progress
        )

    def _end_epoch(self, stage: Stage, eigenvalue: float | None) -> None:
        plan = self.plan
        self._genotypes.append(plan.strategy.genotype(stage.model, self._some_held_out))
        self._parameters.append(architecture_parameters(stage.model))
        stage.end_epoch()
        self.epoch, self._step = self.epoch + 1, 0
        if plan.stopping is not None and self.number == len(self.presets) - 1:
            loss, genotype, model = mean(self._losses) if self._losses else None, self._genotypes[-1], stage.model
            assert isinstance(genotype, Genotype) and isinstance(model, Supernet)
            self.stopped = plan.stopping(Epoch(self.epoch, loss, genotype, ranking(model), eigenvalue))
        self._begin_epoch()
        if self._stages_done or self._epoch_of_stage == stage.preset.epochs:
            self._end_stage(stage)

    def _end_stage(self, stage: Stage) -> None:
        self._ends.append(self.stopped.epoch if self.stopped else self.epoch)
        if not self._stages_done:
            operations = self.plan.strategy.next_operations(stage.model, self.number)
            self._begin_stage(self.number + 1, operations)
        elif self.trial is not None:
            self._begin_trials(self._candidates())

    def _eigenvalue(self, stage: Stage) -> float | None:
        """On images that are always the same: a rule compares it with those of earlier epochs."""
        if not self.plan.hessian or (self.epoch + 1) % HESSIAN_EVERY:
            return None
        return top_eigenvalue(stage.val_loss(self._some_held_out()), stage.model.architecture_parameters())

    def _some_held_out(self) -> Examples:
        """A batch of the second half, always the same."""
        examples = self._halves[1]
        size = min(self.plan.preset.batch_size, len(examples.labels))
        return self._current.on_device(examples.take(torch.arange(size)))


def architecture_parameters(model: OneShot) -> dict[str, Tensor]:
    """Copies on the CPU: alphas as "normal" and "reduce", PC-DARTS' betas as "betas.normal" and "betas.reduce"."""
    return {
        name.removeprefix("alphas."): parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if name.startswith(("alphas.", "betas."))
    }


def ranking(model: Supernet) -> tuple[tuple[str, ...], ...]:
    """The operations of every edge of the normal cell, from strong to weak."""
    rows = model.probabilities()["normal"].argsort(dim=1, descending=True, stable=True).tolist()
    return tuple(tuple(names[i] for i in row) for names, row in zip(model.operations["normal"], rows, strict=True))

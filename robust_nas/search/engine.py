"""The search loop: weights on one half of the training images, alpha on the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_nas.data import Data, Examples, batches, search_split
from robust_nas.distributed import ALONE, Processes
from robust_nas.genotype import Genotype
from robust_nas.metrics import RobustnessMetric
from robust_nas.runs import Row
from robust_nas.search.bilevel import AlphaStep, Unrolled, weight_step
from robust_nas.search.hessian import top_eigenvalue
from robust_nas.search.presets import SearchPreset
from robust_nas.search.stopping import Epoch, Stop, StoppingRule
from robust_nas.search.strategies import Strategy
from robust_nas.search.watch import composition
from robust_nas.spaces.supernet import Operations, Supernet
from verify.bounds import BoundedNetwork
from verify.errors import InputError

HESSIAN_EVERY = 2
"""Epochs from one eigenvalue to the next (Zela et al., ICLR 2020)."""


@dataclass(frozen=True)
class Plan:
    """What decides a search, beside the data.

    Attributes:
        preset: sizes and schedules.
        strategy: how to go about it.
        metric: R of eq. 16, None for a search without.
        gamma: its weight.
        seed: of everything random.
        order: "first" or "second".
        stopping: a rule that may end the last stage early.
        hessian: whether to follow the top eigenvalue of the Hessian of the validation loss in alpha.
        amp: whether the weights' forward pass computes in bfloat16 where that is safe.
    """

    preset: SearchPreset
    strategy: Strategy = field(default_factory=Strategy)
    metric: RobustnessMetric | None = None
    gamma: float = 0.0
    seed: int = 0
    order: str = "first"
    stopping: StoppingRule | None = None
    hessian: bool = False
    amp: bool = False


class Search:
    """A search in progress. `steps` carries it on, `state_dict` is all that decides how it goes on.

    A state taken between two steps and loaded into a new Search of the same plan continues bit for bit. Only the
    seed decides the split and the order of the images; fresh weights and skip-dropout draw from torch's global
    generators, whose states are part of the search's.

    Args:
        plan: what to do.
        data: on what.
        device: where.
        processes: those that share each batch.

    Attributes:
        model: the supernet of the current stage.
        epoch: epochs that are done, of all stages.
        step: steps done in the epoch under way.
        stopped: why and where a rule ended the search.
    """

    def __init__(
        self, plan: Plan, data: Data, device: torch.device | str = "cpu", processes: Processes = ALONE
    ) -> None:
        self.plan, self.data, self.device, self.processes = plan, data, torch.device(device), processes
        self.stages = plan.strategy.stages(plan.preset)
        self.epoch = self.step = 0
        self.stopped: Stop | None = None
        self._halves = search_split(data, plan.seed)
        self._orders = [torch.Generator().manual_seed(2 * plan.seed + half) for half in range(2)]
        self._losses: list[float] = []  # of the epoch's steps of alpha
        self._genotypes: list[Genotype] = []  # of the epochs that are done
        self._parameters: list[dict[str, Tensor]] = []
        self._begin_epoch()
        if plan.metric is not None:
            plan.metric.share(processes)
        self._begin_stage(0, None)

    @property
    def length(self) -> int:
        """How many steps the search has, if no rule ends it."""
        return sum(stage.epochs for stage in self.stages) * self.steps_an_epoch

    @property
    def done(self) -> int:
        """Steps that are done."""
        return self.epoch * self.steps_an_epoch + self.step

    @property
    def steps_an_epoch(self) -> int:
        """Batches of the smaller half; a last one of too few images is skipped."""
        full, rest = divmod(min(len(half.labels) for half in self._halves), self.plan.preset.batch_size)
        return full + (rest >= self._fewest)

    @property
    def _fewest(self) -> int:
        """Images in a batch: one a process, and two for batch norm to take a variance of."""
        return max(2, self.processes.size)

    @property
    def finished(self) -> bool:
        """Whether there is no step left."""
        return self.stopped is not None or self.epoch == sum(stage.epochs for stage in self.stages)

    def genotype(self) -> Genotype:
        """The architecture found: that of the epoch which a stopping rule chose, else that of the supernet now."""
        if self.stopped is not None:
            return self._genotypes[self.stopped.epoch - 1]
        return self.plan.strategy.genotype(self.model)

    def parameters(self) -> dict[str, Tensor]:
        """The architecture parameters that the genotype comes from, before softmax, by name."""
        if self.stopped is not None:
            return self._parameters[self.stopped.epoch - 1]
        return architecture_parameters(self.model)

    def steps(self) -> Iterator[Row]:
        """Go on to the end; yields a row for the log after every step, when the state is one to save.

        Raises:
            InputError: the training loss is no longer finite.
        """
        while not self.finished:
            yield from self._rest_of_epoch()

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, for `load_state_dict` of a search of the same plan."""
        plan = self.plan
        return {
            "stage": self.stage,
            "operations": self._operations,
            "epoch": self.epoch,
            "step": self.step,
            "model": self.model.state_dict(),
            "weights": self._weights.state_dict(),
            "alpha": self._alpha.state_dict(),
            "schedule": self._schedule.state_dict(),
            "orders": self._at_start,
            "losses": self._losses,
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
        self._begin_stage(state["stage"], state["operations"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.model.load_state_dict(state["model"])
        self._weights.load_state_dict(state["weights"])
        self._alpha.load_state_dict(state["alpha"])
        self._schedule.load_state_dict(state["schedule"])
        for order, at_start in zip(self._orders, state["orders"], strict=True):
            order.set_state(at_start)
        self._begin_epoch()
        self._losses = list(state["losses"])
        self._genotypes = [Genotype.from_dict(data) for data in state["genotypes"]]
        self._parameters = list(state["parameters"])
        self.stopped = None if state["stopped"] is None else Stop(**state["stopped"])
        if plan.metric is not None:
            plan.metric.load_state_dict(state["metric"])
        if plan.stopping is not None:
            plan.stopping.load_state_dict(state["stopping"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def _begin_stage(self, stage: int, operations: Operations | None) -> None:
        """A fresh supernet and fresh optimisers."""
        plan, preset = self.plan, self.stages[stage]
        self.stage, self._operations = stage, operations
        self.model = build(self.data, preset, plan.strategy, operations).to(self.device)
        self._weights = torch.optim.SGD(
            self.model.weights(), lr=preset.learning_rate, momentum=preset.momentum, weight_decay=preset.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._weights, preset.epochs, preset.last_learning_rate
        )
        self._alpha = torch.optim.Adam(
            self.model.architecture_parameters(),
            lr=preset.alpha_learning_rate,
            betas=preset.alpha_betas,
            weight_decay=preset.alpha_weight_decay,
        )
        self._like = self.model.architecture_parameters()[0]
        self.network = BoundedNetwork(self.model, self.data.train.images[:1].to(self._like))
        unrolled = None
        if plan.order == "second":
            unrolled = Unrolled(self.network, self._weights, processes=self.processes)
        self._alpha_step = AlphaStep(self.network, self._alpha, plan.metric, plan.gamma, unrolled, self.processes)

    def _begin_epoch(self) -> None:
        """Remember where the order of the images starts: a search resumed in the epoch draws it again."""
        self._at_start = [order.get_state() for order in self._orders]
        self._losses = []

    @property
    def _epoch_of_stage(self) -> int:
        return self.epoch - sum(stage.epochs for stage in self.stages[: self.stage])

    def _rest_of_epoch(self) -> Iterator[Row]:
        plan, preset, epoch = self.plan, self.stages[self.stage], self._epoch_of_stage
        first, second = self._halves
        passes = zip(
            batches(first, preset.batch_size, self._orders[0], augment=self.data.augment, fewest=self._fewest),
            batches(second, preset.batch_size, self._orders[1], fewest=self._fewest),
            strict=False,  # the halves differ by an image where their sum is odd, and so may their batches
        )
        done, last = self.step, self.steps_an_epoch
        for number, pair in enumerate(passes, 1):
            if number <= done:
                continue
            train, held_out = (self._share(batch) for batch in pair)
            figures: Row = dict.fromkeys(self._alpha_step.columns)
            if epoch >= preset.warm_up:
                figures = self._alpha_step(held_out, train)
                self._losses.append(math.nan if figures["val_loss"] is None else figures["val_loss"])
            with plan.strategy.around_weight_step(self.model, self.stage, epoch, preset):
                loss = weight_step(self.model, train, self._weights, preset.clip, self.processes, plan.amp)
            if not math.isfinite(loss):
                raise InputError(
                    f"the search diverged in epoch {self.epoch + 1} (training loss {loss}); try another --seed"
                )
            row: Row = {"epoch": self.epoch + 1, "step": number, "train_loss": loss, **figures}
            row |= composition(self.model)
            self.step = number
            eigenvalue = None
            if number == last:
                eigenvalue = self._eigenvalue(held_out)
                self._end_epoch(eigenvalue)
            if plan.hessian:
                row["eigenvalue"] = eigenvalue
            yield row

    def _end_epoch(self, eigenvalue: float | None) -> None:
        plan = self.plan
        self._genotypes.append(plan.strategy.genotype(self.model))
        self._parameters.append(architecture_parameters(self.model))
        self._schedule.step()
        self.epoch, self.step = self.epoch + 1, 0
        if plan.stopping is not None and self.stage == len(self.stages) - 1:
            loss = mean(self._losses) if self._losses else None
            self.stopped = plan.stopping(
                Epoch(self.epoch, loss, self._genotypes[-1], ranking(self.model), eigenvalue)
            )
        self._begin_epoch()
        last = self._epoch_of_stage == self.stages[self.stage].epochs
        if last and not self.finished:
            self._begin_stage(self.stage + 1, plan.strategy.next_operations(self.model, self.stage))

    def _eigenvalue(self, held_out: Examples) -> float | None:
        if not self.plan.hessian or (self.epoch + 1) % HESSIAN_EVERY:
            return None
        loss = F.cross_entropy(self.network.freeze(held_out.images, self.processes.moments), held_out.labels)
        return top_eigenvalue(loss, self.model.architecture_parameters())

    def _share(self, batch: Examples) -> Examples:
        """This process' part of a batch on the device, its images in the supernet's precision."""
        images, labels = self.processes.share(batch)
        return Examples(images.to(self._like), labels.to(self.device))


def build(data: Data, preset: SearchPreset, strategy: Strategy, operations: Operations | None = None) -> Supernet:
    """A strategy's supernet at the size of the preset for the images of a data set, in training mode."""
    settings: dict[str, Any] = {
        "in_channels": data.train.images.shape[1],
        "classes": data.classes,
        "channels": preset.channels,
        "cells": preset.cells,
        "nodes": preset.nodes,
        "mean": data.mean,
        "std": data.std,
        "pad": data.pad,
        "stem_stride": preset.stem_stride,
    }
    return strategy.supernet(operations, settings).to(getattr(torch, preset.dtype)).train()


def architecture_parameters(model: Supernet) -> dict[str, Tensor]:
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

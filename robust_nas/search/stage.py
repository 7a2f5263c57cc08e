"""A stage of a search: a supernet, its optimisers, and the two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_nas.data import Data, Examples
from robust_nas.distributed import Processes
from robust_nas.metrics import RobustnessMetric
from robust_nas.runs import Row
from robust_nas.search.balance import Balance
from robust_nas.search.bilevel import AlphaStep, Unrolled, weight_step
from robust_nas.search.presets import SearchPreset
from robust_nas.search.stopping import StoppingRule
from robust_nas.search.strategies.base import Method, Model, Step, Strategy
from robust_nas.search.trials import Trial, training_preset
from robust_nas.spaces.backbone import OneShot
from robust_nas.spaces.supernet import Operations
from robust_nas.training.learner import Learner
from robust_nas.training.recipes import RECIPES, RecipeSettings
from verify.bounds import BoundedNetwork


@dataclass(frozen=True)
class Plan:
    """What decides a search, beside the data.

    Attributes:
        preset: sizes and schedules.
        strategy: how to go about it.
        metric: R of eq. 16, None for a search without.
        gamma: its weight.
        balance: how hard the metric pulls alpha, relative to the loss, in place of `gamma`; None for that.
        recipe, settings: what the weights learn by, and alpha on held-out images: a key of `RECIPES`.
        trial: how candidates are tried at the end; None for the method's way, which may be none.
        seed: of everything random.
        order: "first" or "second".
        stopping: a rule that may end the last stage early.
        hessian: whether to follow the top eigenvalue of the Hessian of the validation loss in alpha.
        amp: whether the weights' forward pass computes in bfloat16 where that is safe.
        watch_every: how many steps apart the log has the gradients of the loss and of R, from the first of an epoch on.
    """

    preset: SearchPreset
    strategy: Method[Any] = field(default_factory=Strategy)
    metric: RobustnessMetric | None = None
    gamma: float = 0.0
    balance: float | None = None
    recipe: str = "standard"
    settings: RecipeSettings = RecipeSettings()
    trial: Trial | None = None
    seed: int = 0
    order: str = "first"
    stopping: StoppingRule | None = None
    hessian: bool = False
    amp: bool = False
    watch_every: int = 5


class Stage:
    """A supernet in training, with fresh weights and optimisers.

    Args:
        plan: of the search.
        preset: size and schedule of this stage.
        operations: what the last stage left of the space, None for all.
        data: on what; only shapes and statistics are read.
        device: where.
        processes: those that share each batch.

    Attributes:
        model: the supernet.
        network: the same, wrapped.
        alpha_step: what moves the architecture parameters; None where there are none.
        columns: the keys of what `step` returns.
    """

    def __init__(
        self,
        plan: Plan,
        preset: SearchPreset,
        operations: Operations | None,
        data: Data,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.plan, self.preset, self.operations, self.processes = plan, preset, operations, processes
        self.model: OneShot = build(data, preset, plan.strategy, operations).to(device)
        self._weights = torch.optim.SGD(
            self.model.weights(), lr=preset.learning_rate, momentum=preset.momentum, weight_decay=preset.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._weights, preset.epochs, preset.last_learning_rate
        )
        self._like = self.model.weights()[0]
        example = data.train.images[:1].to(self._like)
        self._learner, self._progress = Learner(self.model), 0.0
        settings, sizes = replace(plan.settings, seed=plan.seed), training_preset(preset, plan.recipe)
        self._recipe = RECIPES[plan.recipe](settings, sizes, device)
        self._recipe.share(processes)
        self._recipe.begin(self._learner.train(), example)
        self.network = BoundedNetwork(self.model, example)
        self._alpha = self.alpha_step = None
        self._balance = None if plan.balance is None else Balance(plan.balance)
        if parameters := self.model.architecture_parameters():
            self._alpha = torch.optim.Adam(
                parameters,
                lr=preset.alpha_learning_rate,
                betas=preset.alpha_betas,
                weight_decay=preset.alpha_weight_decay,
            )
            unrolled = None
            if plan.order == "second":
                unrolled = Unrolled(self.network, self._weights, processes=processes)
            loss = None if plan.recipe == "standard" else self._loss_by_recipe
            plain = AlphaStep(
                self.network, self._alpha, plan.metric, plan.gamma, unrolled, processes, None, loss, self._balance
            )
            self.alpha_step = plan.strategy.alpha_step(plain)
        self.columns = ("train_loss", *(self.alpha_step.columns if self.alpha_step else ()))

    def step(self, train: Examples, held_out: Examples, step: Step) -> Row:
        """A step of alpha, unless it waits, then one of the weights; returns figures for the log.

        Args:
            train, held_out: the batches of all processes.
        """
        plan, strategy = self.plan, self.plan.strategy
        train, held_out = (self.on_device(self.processes.share(batch)) for batch in (train, held_out))
        figures: Row = dict.fromkeys(self.columns)
        self._progress = step.progress
        with strategy.around_step(self.model, step):
            if self.alpha_step and self.alpha_steps(step.epoch):
                with strategy.around_alpha_step(self.model, step):
                    figures |= self.alpha_step(held_out, train, step.watched)
            with strategy.around_weight_step(self.model, step, lambda: self._loss(train)):
                examples = strategy.training_examples(self.model, step, train)
                loss = partial(self._loss_by_recipe, examples)
                figures["train_loss"] = weight_step(
                    self.model, loss, self._weights, self.preset.clip, self.processes, plan.amp
                )
        return figures

    def end_epoch(self) -> None:
        """Go on in the schedule of the learning rate."""
        self._schedule.step()

    def alpha_steps(self, epoch: int) -> bool:
        """Whether the architecture parameters take steps in this epoch of the stage, from 0."""
        return self._alpha is not None and epoch >= self.preset.warm_up

    def val_loss(self, held_out: Examples) -> Tensor:
        """The validation loss of a batch on the device, with its graph."""
        images, labels = held_out
        return F.cross_entropy(self.network.freeze(images, self.processes.moments), labels)

    def on_device(self, batch: Examples) -> Examples:
        """A batch where the supernet is, its images in the supernet's precision."""
        images, labels = batch
        return Examples(images.to(self._like), labels.to(self._like.device))

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps."""
        return {
            "operations": self.operations,
            "model": self.model.state_dict(),
            "weights": self._weights.state_dict(),
            "alpha": None if self._alpha is None else self._alpha.state_dict(),
            "schedule": self._schedule.state_dict(),
            "recipe": self._recipe.state_dict(),
            "balance": None if self._balance is None else self._balance.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of another stage of the same preset and operations."""
        self.model.load_state_dict(state["model"])
        self._weights.load_state_dict(state["weights"])
        if self._alpha is not None:
            self._alpha.load_state_dict(state["alpha"])
        self._schedule.load_state_dict(state["schedule"])
        self._recipe.load_state_dict(state["recipe"])
        if self._balance is not None:
            self._balance.load_state_dict(state["balance"])

    def _loss_by_recipe(self, batch: Examples) -> Tensor:
        """What the weights learn by; like a forward pass in training mode it moves the running statistics."""
        return self._recipe(self._learner, *batch, self._progress).value

    def _loss(self, batch: Examples) -> Tensor:
        return self.processes.weight(len(batch.labels)) * F.cross_entropy(self.model(batch.images), batch.labels)


def build(data: Data, preset: SearchPreset, strategy: Method[Model], operations: Operations | None = None) -> Model:
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
        "activation": preset.activation,
    }
    return strategy.supernet(operations, settings).to(getattr(torch, preset.dtype)).train()

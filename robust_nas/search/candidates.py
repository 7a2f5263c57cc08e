"""Which architectures are tried at the end of a search: its result, and others near it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from robust_nas.data import Data, Examples
from robust_nas.genotype import Architecture
from robust_nas.search.screen import promising
from robust_nas.search.stage import Plan
from robust_nas.search.trials import Trial
from robust_nas.spaces.backbone import OneShot

NEAR = 1.0
"""Noise that leads from the architecture parameters to those of candidates nearby, in standard deviations of theirs."""


@dataclass
class Candidates:
    """The source of candidates for trials.

    Attributes:
        plan: of the search.
        trial: how they are tried.
        data: on what; its training images are those of the weights' half.
        device: where.
    """

    plan: Plan
    trial: Trial
    data: Data
    device: torch.device

    def first(
        self,
        ends: Sequence[Architecture],
        model: OneShot | None,
        held_out: Callable[[], Examples],
        generator: torch.Generator,
    ) -> list[Architecture]:
        """Those that are tried.

        Args:
            ends: the result of every stage.
            model: the supernet of the last stage; None where there is none.
            held_out: gives some images that the weights were not trained on, always the same.
            generator: to draw with.
        """
        trial, plan = self.trial, self.plan
        count = trial.count - trial.repeated
        near = partial(self._near, model, held_out)
        found = plan.strategy.candidates(ends, near, plan.preset, count * trial.drawn, generator)
        if trial.drawn == 1:
            return found
        sure = found[: 1 if ends else 0]
        return [*sure, *self._promising(found[len(sure) :], count - len(sure))]

    def _promising(self, architectures: Sequence[Architecture], count: int) -> list[Architecture]:
        return promising(architectures, count, self.trial, self.data, self.plan.seed, self.device)

    @torch.no_grad()
    def _near(
        self, model: OneShot | None, held_out: Callable[[], Examples], generator: torch.Generator
    ) -> Architecture:
        """The architecture of the supernet's parameters with noise, `NEAR` of their own spread."""
        assert model is not None
        parameters = model.architecture_parameters()
        before = [parameter.clone() for parameter in parameters]
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(NEAR * parameter.std() * noise)
        found = self.plan.strategy.genotype(model, held_out)
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
        return found

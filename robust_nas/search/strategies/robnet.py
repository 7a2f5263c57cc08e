"""RobNet (Guo et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robust_nas.data import Examples
from robust_nas.genotype import Architecture, RobNetGenotype
from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.base import Method, Step
from robust_nas.search.trials import Trial, trial_at
from robust_nas.spaces.network import Network
from robust_nas.spaces.robnet import RobNetSupernet
from robust_nas.spaces.sampling import depth, sample
from robust_nas.spaces.supernet import Operations
from robust_nas.training.recipes.adversarial import Adversarial
from verify.checks.errors import InputError
from verify.regions import Ball

FINE_TUNING = 3 / 100
"""Epochs of a candidate, where random search trains it from scratch for one: the authors fine-tune for 3."""


class RobNet(Method[RobNetSupernet]):
    """One-shot search: a supernet is trained adversarially, random architectures of it are fine-tuned and compared.

    Every step of the weights is that of another random architecture, on images that PGD has attacked against it.
    Candidates start from the supernet's weights; training, fine-tuning and choice are by recipe "adversarial", at its
    epsilon for the data set.

    Nodes of a cell, where the authors have 4, and the number of candidates are the preset's; the supernet's schedule is
    that of DARTS. PGD has the 7 steps that the authors train final networks with.
    """

    spaces = ("robnet", "robnet-free")
    orders = ("first",)
    metrics = False
    recipes = False

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        return (replace(preset, cells=depth(self.space, preset.cells)),)

    def supernet(self, operations: Operations | None, settings: Mapping[str, Any]) -> RobNetSupernet:
        return RobNetSupernet(**{name: value for name, value in settings.items() if name not in ("mean", "std")})

    @contextmanager
    def around_weight_step(self, model: RobNetSupernet, step: Step, loss: Callable[[], Tensor]) -> Iterator[None]:
        with model.at(self._sample(step.preset, step.generator)):
            yield

    def training_examples(self, model: RobNetSupernet, step: Step, batch: Examples) -> Examples:
        images, labels = batch
        trial = trial_at(step.preset, "adversarial", step.dataset)
        seed = int(torch.randint(2**62, (), generator=step.generator))
        recipe = Adversarial(replace(trial.settings, seed=seed), trial.preset, images.device)
        recipe.share(step.processes)
        model.eval()
        attacked = recipe.attack(model, Ball(images, recipe.settings.epsilon, recipe.settings.norm), labels)
        model.train()
        return Examples(attacked, labels)

    def trial(self, preset: SearchPreset, dataset: str) -> Trial:
        if dataset == "imagefolder":
            raise InputError("robnet fine-tunes with the supernet's stem, that of small images; take imagefolder64")
        (stage,) = self.stages(preset)
        epochs = max(1, round(FINE_TUNING * preset.trial_epochs))
        return trial_at(replace(stage, trial_epochs=epochs), "adversarial", dataset)

    def candidates(
        self,
        ends: Sequence[Architecture],
        near: Callable[[torch.Generator], Architecture],
        preset: SearchPreset,
        count: int,
        generator: torch.Generator,
    ) -> list[Architecture]:
        (stage,) = self.stages(preset)
        return [self._sample(stage, generator) for _ in range(count)]

    def prepare(self, model: RobNetSupernet | None, architecture: Architecture, network: Network) -> None:
        assert model is not None
        model.give(network)

    def genotype(self, model: RobNetSupernet, held_out: Callable[[], Examples]) -> RobNetGenotype:
        return model.genotype()

    def _sample(self, stage: SearchPreset, generator: torch.Generator) -> RobNetGenotype:
        architecture = sample(self.space, stage.nodes, stage.cells, generator, stage.activation)
        assert isinstance(architecture, RobNetGenotype)
        return architecture

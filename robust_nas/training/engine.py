"""The training loop of a final network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robust_nas.data import Data, Examples, Source, batch_count, batches, cutout, in_order, split
from robust_nas.distributed import ALONE, Processes
from robust_nas.genotype import Architecture
from robust_nas.spaces.network import Network
from robust_nas.training.diagnosis import largest_layer
from robust_nas.training.learner import Learner
from robust_nas.training.presets import LARGE, TrainingPreset
from robust_nas.training.recipes import RECIPES, RecipeSettings
from verify.checks.errors import InputError

EVALUATION_BATCH = 256

Row = dict[str, int | float | None]


@dataclass(frozen=True)
class Plan:
    """What decides a training, beside the data.

    Attributes:
        genotype: the network's cells.
        preset: sizes and schedule.
        recipe: a key of `RECIPES`.
        settings: of the recipe.
        seed: of weights, order of the images, augmentation and drop-path.
    """

    genotype: Architecture
    preset: TrainingPreset
    recipe: str = "standard"
    settings: RecipeSettings = RecipeSettings()
    seed: int = 0


class Training:
    """A training in progress. `steps` carries it on, `state_dict` is all that decides how it goes on.

    A state taken between two steps and loaded into a new Training of the same plan continues bit for bit.

    Args:
        plan: what to do. Fresh weights come from torch's global generator, which the caller seeds.
        data: on what.
        device: where.
        processes: those that share each batch.

    Attributes:
        learner: the network, and its auxiliary head.
        epoch: epochs that are done.
        step: steps done in the epoch under way.
    """

    def __init__(
        self, plan: Plan, data: Data, device: torch.device | str = "cpu", processes: Processes = ALONE
    ) -> None:
        self.plan, self.data, self.device, self.processes = plan, data, torch.device(device), processes
        self.held_out, self._train = split(data.train, plan.preset.held_out, plan.seed)
        if not self.steps_an_epoch:
            images = len(self._train.labels)
            raise InputError(f"{data.name} has {images} images to train on, and a step needs {self._fewest}")
        self.learner = Learner(build(plan.genotype, data, plan.preset), plan.preset.auxiliary).to(self.device)
        self.recipe = RECIPES[plan.recipe](plan.settings, plan.preset, self.device)
        self.recipe.share(processes)
        self.recipe.begin(self.learner.train(), data.train.images[:1].to(self.device))
        self._optimiser = optimiser(self.learner, plan.preset)
        self._order = torch.Generator().manual_seed(plan.seed)
        self.epoch = self.step = 0
        self._begin_epoch()

    @property
    def network(self) -> Network:
        """The network that is trained."""
        network = self.learner.network
        assert isinstance(network, Network)
        return network

    @property
    def steps_an_epoch(self) -> int:
        """Batches of an epoch; a last one of too few images is skipped."""
        return batch_count(len(self._train.labels), self.plan.preset.batch_size, self._fewest)

    @property
    def length(self) -> int:
        """How many steps the training has."""
        return self.plan.preset.epochs * self.steps_an_epoch

    @property
    def done(self) -> int:
        """Steps that are done."""
        return self.epoch * self.steps_an_epoch + self.step

    @property
    def _fewest(self) -> int:
        """Images in a batch: one a process, and two for batch norm to take a variance of."""
        return max(2, self.processes.size)

    def steps(self) -> Iterator[Row]:
        """Go on to the end; yields a row for the log after every step, when the state is one to save.

        Raises:
            InputError: the loss or its gradient is no longer finite; the weights are still those of the step before.
        """
        while self.epoch < self.plan.preset.epochs:
            yield from self._rest_of_epoch()
        self.network.set_drop_path(0.0)

    def state_dict(self) -> dict[str, Any]:
        """The state between two steps, for `load_state_dict` of a training of the same plan."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "learner": self.learner.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "order": self._at_start,
            "recipe": self.recipe.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of another training of the same plan, which this one then continues."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.learner.load_state_dict(state["learner"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._order.set_state(state["order"])
        self._begin_epoch()
        self.recipe.load_state_dict(state["recipe"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def _begin_epoch(self) -> None:
        """Remember where the order of the images starts: a training resumed in the epoch draws it again."""
        self._at_start = self._order.get_state()

    def _rest_of_epoch(self) -> Iterator[Row]:
        preset = self.plan.preset
        self.network.set_drop_path(preset.drop_path * self.epoch / preset.epochs)
        passes = batches(
            self._train, preset.batch_size, self._order, augment=self.data.augment, fewest=self._fewest
        )
        done, last = self.step, self.steps_an_epoch
        for number, (images, labels) in enumerate(passes, 1):
            if preset.cutout:
                images = cutout(images, preset.cutout, self._order)
            if number <= done:
                continue
            with self.processes.own_random_numbers(self.plan.seed, self.done, self.device):
                figures = self._step(Examples(images, labels))
            row: Row = {"epoch": self.epoch + 1, "step": number, **figures}
            self.step = number
            if number == last:
                self.epoch, self.step = self.epoch + 1, 0
                self._begin_epoch()
                if len(self.held_out.labels):
                    row["held_out_accuracy"] = accuracy(self.network, self.held_out)
            yield row

    def _step(self, batch: Examples) -> Row:
        """One step of the weights."""
        images, labels = (part.to(self.device) for part in self.processes.share(batch))
        weights = list(self.learner.parameters())
        rate = self._set_learning_rate()
        self.learner.train()
        with self.processes.synchronised(self.learner):
            loss = self.recipe(self.learner, images, labels, self.done / self.length)
        gradients = self.processes.add_up(torch.autograd.grad(loss.value, weights, materialize_grads=True))
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        norm = float(nn.utils.clip_grad_norm_(weights, self.plan.preset.clip))
        value = self.recipe.figure(loss.value)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise InputError(self._diverged(value, norm, images))
        self._optimiser.step()
        self._optimiser.zero_grad()
        return {"loss": value, **loss.log, "gradient": norm, "learning_rate": rate, "held_out_accuracy": None}

    def _set_learning_rate(self) -> float:
        """Up to its largest value on a line, then down to 0 on a cosine; changed every epoch."""
        preset = self.plan.preset
        rate = preset.learning_rate
        if self.epoch < preset.warm_up:
            rate *= (self.epoch + 1) / (preset.warm_up + 1)
        else:
            rate *= (1 + math.cos(math.pi * (self.epoch - preset.warm_up) / (preset.epochs - preset.warm_up))) / 2
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        return rate

    def _diverged(self, loss: float, norm: float, images: torch.Tensor) -> str:
        return (
            f"training diverged in step {self.step + 1} of epoch {self.epoch + 1} (loss {loss:g}, gradient {norm:g}; "
            f"{largest_layer(self.learner, images)}); the checkpoint is that of the last good epoch; "
            "try another --seed, or a smaller --epsilon"
        )


def build(genotype: Architecture, data: Data, preset: TrainingPreset) -> Network:
    """The network of an architecture at the preset's size, for the images of a data set."""
    _, channels, _, width = data.train.images.shape
    return Network(
        genotype,
        in_channels=channels,
        classes=data.classes,
        channels=preset.channels,
        cells=preset.cells,
        mean=data.mean if genotype.normalised else [0.0] * channels,
        std=data.std if genotype.normalised else [1.0] * channels,
        pad=data.pad,
        stem_stride=preset.stem_stride,
        stem="imagenet" if width > LARGE else "cifar",
    )


def optimiser(learner: Learner, preset: TrainingPreset) -> torch.optim.Optimizer:
    """The preset's optimiser; its learning rate is set at every step."""
    vectors = [weight for weight in learner.parameters() if weight.dim() <= 1]  # scales, shifts and biases
    others = [weight for weight in learner.parameters() if weight.dim() > 1]
    groups = [
        {"params": others, "weight_decay": preset.weight_decay},
        {"params": vectors, "weight_decay": preset.weight_decay if preset.decay_norms else 0.0},
    ]
    if preset.optimiser == "adam":
        return torch.optim.Adam(groups, lr=preset.learning_rate)
    return torch.optim.SGD(groups, lr=preset.learning_rate, momentum=preset.momentum)


@torch.no_grad()
def accuracy(network: nn.Module, examples: Source) -> float:
    """Fraction that the network gets right in evaluation mode; NaN of no examples. Its mode stays as it was."""
    training, device = network.training, next(network.parameters()).device
    network.eval()
    right = 0
    for images, labels in in_order(examples, EVALUATION_BATCH):
        right += int((network(images.to(device)).argmax(1).cpu() == labels).sum())
    network.train(training)
    return right / len(examples.labels) if len(examples.labels) else math.nan

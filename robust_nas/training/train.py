"""The training of a final network, from a genotype file to weights on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from robust_nas.data import Data, Examples, Source, batches, in_order, load, split
from robust_nas.genotype import Genotype
from robust_nas.runs import Run, choose_device, progress, seed_everything, versions
from robust_nas.spaces.network import Network
from robust_nas.training.presets import PRESETS, TrainingPreset
from robust_nas.training.recipes import RECIPES, Recipe
from robust_nas.training.weights import save_weights
from verify.errors import InputError

EVALUATION_BATCH = 256

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class TrainingResult:
    """What a training gave.

    Attributes:
        weights_path: the safetensors file; its sidecar lies beside it.
        summary: (name, value) pairs for people.
        network: with the weights of the last epoch, in evaluation mode, on the device that trained it.
        test_accuracy: fraction of the test images that the network gets right.
    """

    weights_path: Path
    summary: list[tuple[str, str]]
    network: Network
    test_accuracy: float


def run_training(
    *,
    arch: str | Path,
    dataset: str,
    data: str | Path | None,
    download: bool,
    preset: str,
    recipe: str,
    seed: int,
    device: str,
    out: str | Path,
) -> TrainingResult:
    """Train the network of a genotype file.

    Writes model.safetensors, model.json, train.csv and config.json. The weights are those of the last epoch:
    none are picked by an accuracy. On the CPU one seed gives one result, bit for bit.

    Args:
        arch: genotype file.
        dataset, data, download: as `robust_nas.data.load` takes them.
        preset: size and schedule, a key of `PRESETS`.
        recipe: the loss, a key of `RECIPES`.
        seed: for weights, order of the images, augmentation and drop-path.
        device: auto, cpu or cuda.
        out: the run's folder.

    Raises:
        InputError: an argument is wrong, the data are not there, or the loss is no longer finite.
    """
    genotype = Genotype.load(arch)
    sizes = _named("preset", preset, PRESETS)
    loss = _named("recipe", recipe, RECIPES)
    place = choose_device(device)
    images = load(dataset, data, download)
    choices = {"dataset": dataset, "preset": preset, "recipe": recipe, "seed": seed}
    run = Run.start(out, "train", {"arch": arch, **choices, "sizes": asdict(sizes)}, place)

    seed_everything(seed)
    network = build(genotype, images, sizes).to(place)
    log = run.csv("train.csv")
    started = time.monotonic()
    with progress("train", sizes.epochs) as step:
        for row in fit(network, images, sizes, loss, seed):
            log.append(row)
            step(f"loss {row['loss']:.3f}")
    seconds = time.monotonic() - started

    network.eval()
    test_accuracy = accuracy(network, images.test)
    path = run.folder / "model.safetensors"
    save_weights(network, path, {**choices, "versions": versions(), "test_accuracy": test_accuracy})
    parameters = sum(parameter.numel() for parameter in network.parameters())
    summary = [
        ("network", f"{sizes.cells} cells, {sizes.channels} channels, {parameters:,} parameters"),
        ("training", f"{recipe}, {sizes.epochs} epochs on {dataset} in {seconds:.0f} s"),
        ("test accuracy", f"{test_accuracy:.1%} of {len(images.test.labels)} images"),
    ]
    return TrainingResult(path, summary, network, test_accuracy)


def build(genotype: Genotype, data: Data, preset: TrainingPreset) -> Network:
    """The network of a genotype at the preset's size, for the images of a data set."""
    return Network(
        genotype,
        in_channels=data.train.images.shape[1],
        classes=data.classes,
        channels=preset.channels,
        cells=preset.cells,
        mean=data.mean,
        std=data.std,
        pad=data.pad,
        stem_stride=preset.stem_stride,
    )


def fit(
    network: Network, data: Data, preset: TrainingPreset, recipe: Recipe, seed: int
) -> Iterator[dict[str, float]]:
    """Train in place on the device that holds the network; yields a row for the log after every epoch.

    Raises:
        InputError: the loss is no longer finite.
    """
    held_out, train = split(data.train, preset.held_out, seed)
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=preset.learning_rate,
        momentum=preset.momentum,
        weight_decay=preset.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, preset.epochs)
    for epoch in range(preset.epochs):
        started = time.monotonic()
        learning_rate = float(schedule.get_last_lr()[0])
        network.set_drop_path(preset.drop_path * epoch / preset.epochs)
        passes = batches(train, preset.batch_size, generator, device, augment=data.augment)
        loss = train_epoch(network, passes, recipe, optimiser, preset.clip)
        if not math.isfinite(loss):
            raise InputError(f"training diverged in epoch {epoch + 1} (loss {loss}); try another --seed")
        schedule.step()
        yield {
            "epoch": epoch + 1,
            "loss": loss,
            "held_out_accuracy": accuracy(network, held_out),
            "learning_rate": learning_rate,
            "seconds": time.monotonic() - started,
        }
    network.set_drop_path(0.0)


def train_epoch(
    network: nn.Module,
    passes: Iterator[Examples],
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    clip: float,
) -> float:
    """One pass over the batches; the mean over images of the loss, not finite if that of one batch is not."""
    network.train()
    summed, count = torch.zeros(()), 0
    for images, labels in passes:
        optimiser.zero_grad()
        loss = recipe(network, images, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()
        summed = summed.to(loss.device) + loss.detach() * len(labels)
        count += len(labels)
    return summed.item() / count


@torch.no_grad()
def accuracy(network: nn.Module, examples: Source) -> float:
    """Fraction that the network gets right in evaluation mode; NaN of no examples. Its mode stays as it
    was.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    right = 0
    for images, labels in in_order(examples, EVALUATION_BATCH):
        right += int((network(images.to(device)).argmax(1).cpu() == labels).sum())
    network.train(training)
    return right / len(examples.labels) if len(examples.labels) else math.nan


def _named(kind: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    if name not in registry:
        raise InputError(f"unknown {kind} {name!r}; known: {', '.join(registry)}")
    return registry[name]

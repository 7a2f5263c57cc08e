"""The training of a final network, from an architecture to weights on disk."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from robust_nas import resumable
from robust_nas.data import Data, load
from robust_nas.distributed import processes
from robust_nas.genotype import Architecture
from robust_nas.options.training import TrainOptions
from robust_nas.registry import named
from robust_nas.runs import Row, choose_device, seed_everything, versions
from robust_nas.spaces.network import Network
from robust_nas.tensorboard import check_installed
from robust_nas.training.engine import Plan, Training, accuracy
from robust_nas.training.presets import PRESETS, TrainingPreset, preset_for
from robust_nas.training.recipes import RECIPES, RecipeSettings, default_epsilon
from robust_nas.training.weights import save_weights
from robust_nas.zoo import find
from verify.checks.errors import InputError, known_names

RESULTS = ("model.safetensors", "model.json")


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


def run_training(options: TrainOptions) -> TrainingResult:
    """Train the network of an architecture.

    Writes model.safetensors, model.json, train.csv (a row a step), timing.csv, config.json, and after every epoch a
    checkpoint. The weights are those of the last epoch: none are picked by an accuracy. On the CPU one seed gives one
    result, bit for bit, stopped and resumed as often as one likes.

    Under torchrun the processes share every batch, and the first one writes.

    Raises:
        InputError: an option is wrong, the data are not there, there is nothing to resume, or the loss is no longer
            finite.
    """
    if options.tensorboard:
        check_installed()
    genotype = find(options.arch)
    named("preset", options.preset, PRESETS)
    settings = _settings(options)
    place, recipe = choose_device(options.device), options.recipe
    choices = {"dataset": options.dataset, "preset": options.preset, "recipe": recipe, "seed": options.seed}
    with processes(place) as team:
        images = team.leader_first(lambda: load(options.dataset, options.data, options.download))
        sizes = _sizes(options, genotype, images)
        if team.size > sizes.batch_size:
            raise InputError(f"{team.size} processes have only {sizes.batch_size} images a step to share")
        seed_everything(options.seed)
        training = Training(Plan(genotype, sizes, recipe, settings, options.seed), images, place, team)
        record = {
            "arch": genotype.to_dict(), **choices, "device": place.type, "data": options.data, "processes": team.size,
            "sizes": asdict(sizes), "settings": asdict(settings),
        }
        run = resumable.begin("train", training, options.out, record, RESULTS, options.resume)
        seconds = resumable.follow("train", training, run, _note, options.tensorboard)
        training.network.eval()
        test_accuracy = accuracy(training.network, images.test)
        path = run.folder / "model.safetensors"
        notes = {**choices, "settings": asdict(settings), "sizes": asdict(sizes)}
        if team.leads:
            save_weights(training.network, path, {**notes, "versions": versions(), "test_accuracy": test_accuracy})
    parameters = sum(parameter.numel() for parameter in training.network.parameters())
    summary = [
        ("network", f"{sizes.cells} cells, {sizes.channels} channels, {parameters:,} parameters"),
        ("training", f"{_in_words(recipe, settings)}, {sizes.epochs} epochs on {options.dataset} in {seconds:.0f} s"),
        ("test accuracy", f"{test_accuracy:.1%} of {len(images.test.labels)} images"),
    ]
    return TrainingResult(path, summary, training.network, test_accuracy)


def _sizes(options: TrainOptions, genotype: Architecture, images: Data) -> TrainingPreset:
    """The preset's sizes, but for those that are given or that the architecture has."""
    sizes = preset_for(options.preset, options.recipe, images.train.images.shape[-1])
    changes: dict[str, Any] = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "channels": options.channels,
        "cells": genotype.depth,
    }
    return replace(sizes, **{name: value for name, value in changes.items() if value is not None})


def _settings(options: TrainOptions) -> RecipeSettings:
    """Of the recipe. What a recipe does not take must not be given: it would count for nothing."""
    recipe, epsilon = options.recipe, options.epsilon
    kind = named("recipe", recipe, RECIPES)
    if not kind.perturbed and (options.norm or epsilon is not None):
        raise InputError(f"recipe {recipe} trains against no perturbations; leave out --norm and --epsilon")
    if recipe != "certified" and options.bound:
        raise InputError(f"recipe {recipe} has no bound to begin with; leave out --bound")
    norm = options.norm or kind.norms[0]
    if norm not in kind.norms:
        raise InputError(f"unknown norm {norm!r} for recipe {recipe}; {known_names(norm, kind.norms)}")
    size = default_epsilon(recipe, options.dataset, norm) if epsilon is None else epsilon
    if not 0 <= size < math.inf:
        raise InputError(f"epsilon must be a finite number >= 0, not {size}")
    return RecipeSettings(norm, size, bound=options.bound or "ibp", seed=options.seed)


def _note(row: Row) -> str:
    figures = ("loss", "clean_loss", "epsilon", "verified", "held_out_accuracy")
    return f"epoch {row['epoch']}  {resumable.in_words(row, figures)}"


def _in_words(recipe: str, settings: RecipeSettings) -> str:
    return f"{recipe} ({settings.norm}, epsilon {settings.epsilon:.3g})" if settings.epsilon else recipe

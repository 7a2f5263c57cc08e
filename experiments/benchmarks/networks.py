"""The networks of the benchmark, trained in a plain way on MNIST; their weights are committed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from experiments.common import plain_training
from robust_nas.data import Data
from robust_nas.genotype import Edge, Genotype
from robust_nas.runs import Run, progress, seed_everything, versions
from robust_nas.spaces.network import Network
from robust_nas.training.engine import accuracy
from verify import InputError

WEIGHTS = Path(__file__).parent / "weights"
SEED = 0
EPOCHS = 4
TRAINING_IMAGES = 20_000
BATCH_SIZE = 64
LEARNING_RATE = 3e-3

SEP, DIL, SKIP = "sep_conv_3x3", "dil_conv_3x3", "skip_connect"


def darts(pool: str) -> Callable[[Data], nn.Module]:
    """A DARTS network of 3 cells and 4 channels, with the operations that trouble verifiers in both cells.

    At stride 2 as well: separable convolution, pool and skip connection (factorised reduction). 6,474 parameters,
    about 21,000 distinct ReLU inputs.
    """
    normal: tuple[Edge, ...] = ((SEP, 0), (SEP, 1), (pool, 0), (DIL, 1), (SEP, 1), (SKIP, 2))
    reduce: tuple[Edge, ...] = ((SEP, 0), (pool, 1), (SEP, 1), (SKIP, 0), (DIL, 2), (SEP, 1))
    genotype = Genotype(normal, (2, 3, 4), reduce, (2, 3, 4), nodes=3)

    def build(data: Data) -> nn.Module:
        shape: dict[str, Any] = {"channels": 4, "cells": 3, "pad": data.pad, "stem_stride": 2}
        channels = data.test.images.shape[1]
        return Network(genotype, channels, data.classes, mean=data.mean, std=data.std, **shape)

    return build


def cnn(data: Data) -> nn.Module:
    """CNN-Cert's MNIST network of 4 layers and 5 filters, 8,680 neurons (its `mnist_cnn_4layer_5_3`).

    Three 3x3 convolutions without padding, each with a ReLU, then a dense layer: train_cnn.py of
    github.com/IBM/CNN-Cert (Boopathy et al., AAAI 2019). Pixels are in [0, 1] here, in [-.5, .5] there.
    """
    filters, kernel = 5, 3
    channels, side = data.test.images.shape[1], data.test.images.shape[2]
    layers: list[nn.Module] = []
    for inputs in (channels, filters, filters):
        layers += [nn.Conv2d(inputs, filters, kernel), nn.ReLU()]
        side -= kernel - 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(filters * side * side, data.classes))


PARTS: dict[str, Callable[[Data], nn.Module]] = {
    "darts": darts("avg_pool_3x3"),
    "pools": darts("max_pool_3x3"),
    "cnn": cnn,
}
"""The parts of the benchmark: what builds the network of each, with fresh weights."""


@dataclass(frozen=True)
class Reference:
    """A trained network, in evaluation mode, and the sidecar of its weights."""

    model: nn.Module
    notes: dict[str, Any]


def train(part: str, data: Data) -> None:
    """Train the network of a part and write its weights."""
    seed_everything(SEED)
    model = PARTS[part](data)
    examples = data.train.take(torch.arange(TRAINING_IMAGES))
    with progress(f"train {part}", EPOCHS) as step:
        for loss in plain_training(model, examples, EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED):
            step(f"loss {loss:.3f}")
    folder = Run(WEIGHTS)
    folder.save_tensors(f"{part}.safetensors", model.state_dict())
    notes = {
        "dataset": data.name,
        "seed": SEED,
        "epochs": EPOCHS,
        "training_images": TRAINING_IMAGES,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "test_accuracy": accuracy(model, data.test),
        "torch": versions()["torch"],
    }
    folder.write_json(f"{part}.json", notes)


def load_reference(part: str, data: Data) -> Reference:
    """The network of a part with its committed weights.

    Raises:
        InputError: the weights are missing, unreadable, or of another network.
    """
    path = WEIGHTS / f"{part}.safetensors"
    model = PARTS[part](data)
    try:
        model.load_state_dict(load_file(path))
        notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path.name}: no weights of the network {part!r} ({reason}); --train makes them") from error
    return Reference(model.eval(), notes)

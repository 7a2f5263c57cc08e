"""Random architectures, trained alike, and how robust each came out: what the metrics are held against."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from experiments.common import first_correct, plain_training
from robust_nas.data import Data, Examples
from robust_nas.genotype import Genotype
from robust_nas.runs import Run, seed_everything
from robust_nas.spaces.network import Network
from robust_nas.spaces.sampling import sample_genotype
from robust_nas.training.engine import accuracy
from verify import Ball, BoundedNetwork, attack_radius, certified_radius
from verify.certify.attack import pgd, worst_margin

NODES = 3
SHAPE: dict[str, Any] = {"channels": 4, "cells": 3, "stem_stride": 2}
TRAINING_IMAGES = 10_000
EPOCHS = 3
BATCH_SIZE = 64
LEARNING_RATE = 3e-3

METHOD, NORM, DOMAIN, TOLERANCE = "affine", "linf", "unit", 0.1
CERTIFIED, LOOKED_AT, ATTACKED = 8, 1000, 200
"""Correct test images certified a network, of how many, and test images attacked."""
EPSILON = 0.03
"""Of the PGD attack: where networks of this kind lose about half of their images."""
PGD_STEPS = 20


def sample(index: int) -> Genotype:
    """The architecture of that number."""
    return sample_genotype(NODES, random.Random(index))


def build(genotype: Genotype, data: Data) -> Network:
    """Its network, with fresh weights."""
    channels = data.test.images.shape[1]
    return Network(genotype, channels, data.classes, mean=data.mean, std=data.std, pad=data.pad, **SHAPE)


def trained(index: int, data: Data, folder: Path) -> Network:
    """The network of that number, trained a short way (Adam, cross-entropy), or read from an earlier call."""
    path = folder / f"{index}.safetensors"
    seed_everything(index)
    network = build(sample(index), data)
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    examples = data.train.take(torch.arange(TRAINING_IMAGES))
    for _ in plain_training(network, examples, EPOCHS, BATCH_SIZE, LEARNING_RATE, index):
        pass
    Run(folder).save_tensors(path.name, network.state_dict())
    return network.eval()


def robustness(index: int, data: Data, folder: Path) -> dict[str, int | float | str]:
    """A row: accuracy, tight certified radii of some images that the network gets right, accuracy under PGD."""
    network = trained(index, data, folder)
    _, correct = first_correct(network, data.test, CERTIFIED, LOOKED_AT)
    bounded = BoundedNetwork(network, correct.images[:1])
    ceiling = attack_radius(bounded, *correct, NORM, DOMAIN)
    certificates = certified_radius(
        bounded, *correct, NORM, DOMAIN, METHOD, ceiling=ceiling, tolerance=TOLERANCE, batch_size=1
    )
    radius: Tensor = certificates.radius
    if (radius > ceiling.double()).any():
        raise AssertionError(f"network {index}: an attack breaks a certificate")
    genotype = sample(index)
    return {
        "index": index,
        "normal": json.dumps(genotype.normal),
        "reduce": json.dumps(genotype.reduce),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "accuracy": accuracy(network, data.test),
        "radius": radius.mean().item(),
        "attack_radius": ceiling.mean().item(),
        "pgd_accuracy": pgd_accuracy(bounded, data.test.take(torch.arange(ATTACKED))),
        "seconds": certificates.seconds.sum().item(),
    }


def pgd_accuracy(network: BoundedNetwork, examples: Examples) -> float:
    """Fraction that stays right under PGD at `EPSILON`, from the image."""
    ball = Ball(examples.images, EPSILON, NORM, DOMAIN)
    adversarial = pgd(network, ball, examples.labels, steps=PGD_STEPS, start=examples.images)
    with torch.no_grad():
        return (worst_margin(network(adversarial), examples.labels) > 0).double().mean().item()

"""What an architecture is worth: trained from scratch by a recipe, certified, and looked at from every side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from experiments.common import first_correct, plain_training
from experiments.evidence.rows import settings
from experiments.fidelity.networks import (
    BATCH_SIZE,
    CERTIFIED,
    EPOCHS,
    LEARNING_RATE,
    LOOKED_AT,
    METHOD,
    SHAPE,
    TOLERANCE,
    build,
)
from robust_nas.data import Data, Examples
from robust_nas.genotype import Genotype
from robust_nas.runs import seed_everything
from robust_nas.spaces.network import Network
from robust_nas.training.engine import Plan, Training, accuracy
from robust_nas.training.presets import PRESETS
from verify import BoundedNetwork, attack_radius, certified_radius
from verify.certify.radius import verified

VERIFIED = {"verified_05": 0.05, "verified_10": 0.1}
"""Epsilons of verified accuracy, after the certified recipe."""
VERIFIED_IMAGES, WIDE_IMAGES = 1000, 24
"""Test images verified, and those whose radius intervals look for."""


def judged(
    genotype: Genotype, recipe: str, data: Data, seed: int, norms: Sequence[str] = ("linf", "l2")
) -> dict[str, float]:
    """Figures of one final training; radii are means over test images.

    As in the fidelity study, in domain `unit`; but recipe "certified" is that of `dsrna train --preset small --epochs 3
    --channels 4 --epsilon 0.05` on the same images, and intervals certify it, in domain `free`.

    Args:
        data: with as many training images as the study has.
        seed: of fresh weights and of the order of the images.
        norms: of tight radii.
    """
    began = time.process_time()
    network = trained(genotype, recipe, data, seed).eval()
    found = {"accuracy": accuracy(network, data.test), "training_seconds": time.process_time() - began}
    if recipe != "certified":
        return found | _tight(network, data, norms)
    test = data.test.take(torch.arange(VERIFIED_IMAGES))
    bounded = BoundedNetwork(network, test.images[:1])
    for name, epsilon in VERIFIED.items():
        found[name] = _verified(bounded, test, epsilon)
    images = data.test.take(torch.arange(WIDE_IMAGES))
    radii = certified_radius(bounded, *images, "linf", "free", "ibp", tolerance=TOLERANCE).radius
    return found | {"radius_linf": radii.mean().item()}


def trained(genotype: Genotype, recipe: str, data: Data, seed: int) -> Network:
    """The final network."""
    seed_everything(seed)
    if recipe == "standard":
        network = build(genotype, data)
        for _ in plain_training(network, data.train, EPOCHS, BATCH_SIZE, LEARNING_RATE, seed):
            pass
        return network
    sizes = replace(PRESETS["small"][recipe], **SHAPE, epochs=EPOCHS)
    run = Training(Plan(genotype, sizes, recipe, replace(settings(recipe), seed=seed), seed), data)
    for _ in run.steps():
        pass
    return run.network


def _tight(network: Network, data: Data, norms: Sequence[str]) -> dict[str, float]:
    """Certified and attack radii of the first test images that the network gets right."""
    _, correct = first_correct(network, data.test, CERTIFIED, LOOKED_AT)
    bounded = BoundedNetwork(network, correct.images[:1])
    found: dict[str, float] = {}
    for norm in norms:
        ceiling = attack_radius(bounded, *correct, norm, "unit")
        radii: Any = certified_radius(
            bounded, *correct, norm, "unit", METHOD, ceiling=ceiling, tolerance=TOLERANCE, batch_size=1
        ).radius
        if (radii > ceiling.double()).any():
            raise AssertionError("an attack breaks a certificate")
        found |= {f"radius_{norm}": radii.mean().item(), f"attack_{norm}": ceiling.mean().item()}
    return found


def _verified(network: BoundedNetwork, examples: Examples, epsilon: float) -> float:
    """Fraction of the images that are right in the whole ball, in float64 with rounding accounted for."""
    certain, images = network.double(), examples.images.double()
    parts = zip(images.split(100), examples.labels.split(100), strict=True)
    right = sum(int(verified(certain, *part, epsilon, "linf", "free", "ibp").sum()) for part in parts)
    return right / len(examples.labels)

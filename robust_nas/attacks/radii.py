"""The smallest perturbation found for each image: a ceiling for its certified radius."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robust_nas.attacks.base import foolbox_model, load_foolbox
from robust_nas.attacks.evaluate import Target
from robust_nas.attacks.threats import Threat
from robust_nas.runs import progress
from verify import attack_radius

DDN_STEPS = 200


@dataclass(frozen=True)
class Radius:
    """A row of radii.csv; its fields are the columns. Sizes are in [0,1] pixels.

    Attributes:
        index: the image's place among the test images.
        label, predicted, correct: its class, the network's answer, and whether they agree.
        norm: of the perturbation.
        pgd: size found by bisected PGD on the margin, see `verify.attack_radius`.
        ddn: size found by DDN, an l2 attack; inf in l-infinity, where it does not run.
        radius: the smaller one. All are 0 for images that are misclassified, inf where nothing succeeded.
        seconds: of a batch, divided evenly over its images.
    """

    index: int
    label: int
    predicted: int
    correct: bool
    norm: str
    pgd: float
    ddn: float
    radius: float
    seconds: float


def smallest_perturbations(target: Target, norm: str, seed: int) -> list[Radius]:
    """Attack every image for the smallest perturbation in [0,1] that changes the answer.

    l2 has a second attack, DDN (Rony et al., CVPR 2019). foolbox's FMN would be another; its projection onto the l2
    ball does nothing (3.3.4), and on a linear network what it finds is many times as large.
    """
    everything = torch.ones(len(target.predicted), dtype=torch.bool)
    found: list[Radius] = []
    batches = -(-len(everything) // target.batch_size)
    with torch.random.fork_rng(), progress(f"radius {norm}", batches) as step:
        torch.manual_seed(seed)
        for index, images, labels in target.batches(everything):
            started = time.monotonic()
            pgd = attack_radius(target.exact, images.double(), labels, norm, "unit", seed=seed).cpu()
            ddn = _ddn(target, images, labels) if norm == "l2" else torch.full_like(pgd, torch.inf)
            sizes = torch.stack([pgd, torch.where(pgd > 0, ddn, 0.0)])
            found += _rows(target, norm, index, sizes, (time.monotonic() - started) / len(index))
            step(f"median {median_radius(found):.3g} so far")
    return found


def _ddn(target: Target, images: Tensor, labels: Tensor) -> Float[Tensor, " b"]:
    foolbox = load_foolbox()
    attack = foolbox.attacks.DDNAttack(steps=DDN_STEPS)
    model = foolbox_model(target.network, images)
    perturbed = attack.run(model, images, foolbox.Misclassification(labels)).clamp(0, 1)
    return target.distance(images, labels, perturbed, Threat("l2", math.inf))


def _rows(
    target: Target, norm: str, index: Tensor, sizes: Float[Tensor, "2 b"], seconds: float
) -> Iterator[Radius]:
    labels, predicted = target.examples.labels[index].tolist(), target.predicted[index].tolist()
    for place, label, answer, pgd, ddn in zip(index.tolist(), labels, predicted, *sizes.tolist(), strict=True):
        yield Radius(place, label, answer, label == answer, norm, pgd, ddn, min(pgd, ddn), seconds)


def median_radius(radii: Sequence[Radius]) -> float:
    """Median over the images that are right without attack; NaN where there are none."""
    correct = [radius.radius for radius in radii if radius.correct]
    return statistics.median(correct) if correct else math.nan

"""What a candidate is worth: how accurate its trained network is, and how large a radius it certifies."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch

from robust_nas.data import Source, in_order
from robust_nas.spaces.network import Network
from robust_nas.training.engine import EVALUATION_BATCH, accuracy
from robust_nas.training.presets import TrainingPreset
from robust_nas.training.recipes import RecipeSettings
from robust_nas.training.recipes.adversarial import Adversarial
from verify.bounds import BoundedNetwork
from verify.certify.radius import certified_radius, verified
from verify.regions import Ball

BOUNDED, LOOKED_AT = 8, 1000
"""Held-out images whose radius tight bounds look for, seconds each; and most that are looked at in all."""
TOLERANCE = 0.2
SLACK = 0.01
"""Accuracy that a larger radius may cost: the more accurate of two networks mostly has the smaller radius."""


class Score(NamedTuple):
    """Of a candidate.

    Attributes:
        accuracy: the fraction of held-out images that it gets right, as its training wants them right.
        radius: mean certified radius of a few that it gets right; None where it was not asked for.
        verified: the fraction that is verified at the recipe's epsilon; None where it was not asked for.
    """

    accuracy: float
    radius: float | None = None
    verified: float | None = None


def judged(
    judge: str, network: Network, held_out: Source, recipe: str, settings: RecipeSettings, preset: TrainingPreset
) -> Score:
    """The score of a network that a recipe has trained.

    After recipe "certified" judge "radius" asks for verified accuracy at the recipe's epsilon, a matter of both. After
    the others intervals prove nothing at any epsilon that means something: tight bounds look for the radius of a
    few images. The accuracy of recipe "adversarial" is that under its attack.

    Args:
        judge: one of `registry.JUDGES`.
    """
    if judge == "radius" and recipe == "certified":
        return Score(accuracy(network, held_out), verified=verified_accuracy(network, held_out, settings))
    if recipe == "adversarial":
        right = adversarial_accuracy(network, held_out, settings, preset)
    else:
        right = accuracy(network, held_out)
    return Score(right, tight_radius(network, held_out, settings) if judge == "radius" else None)


def mean(scores: Sequence[Score]) -> Score:
    """Of several trainings of one candidate, judged alike."""
    accuracy, *others = ([value for value in values if value is not None] for values in zip(*scores, strict=True))
    return Score(fmean(accuracy), *(fmean(values) if values else None for values in others))


def best(scores: Sequence[Score]) -> int:
    """The place of the best, the first among equals.

    That is the largest verified accuracy where it was asked for; else the largest radius within `SLACK` of the best
    accuracy; else the best accuracy.
    """
    if all(score.verified is not None for score in scores):
        return max(range(len(scores)), key=lambda place: scores[place].verified or 0.0)
    most = max(score.accuracy for score in scores)
    if all(score.radius is None for score in scores):
        return [score.accuracy for score in scores].index(most)
    near = [place for place, score in enumerate(scores) if score.accuracy >= most - SLACK]
    return max(near, key=lambda place: scores[place].radius or 0.0)


@torch.no_grad()
def verified_accuracy(network: Network, examples: Source, settings: RecipeSettings) -> float:
    """Fraction of the first `LOOKED_AT` images whose class intervals prove in the recipe's ball, in the free domain.

    A score, not a certificate: rounding is not accounted for. The network's mode stays as it was.
    """
    training, like = network.training, next(network.parameters())
    examples = examples.take(torch.arange(min(LOOKED_AT, len(examples.labels))))
    bounded = BoundedNetwork(network.eval(), examples.images[:1].to(like))
    right = 0
    for images, labels in in_order(examples, EVALUATION_BATCH):
        batch = images.to(like), labels.to(like.device)
        right += int(verified(bounded, *batch, settings.epsilon, settings.norm, "free", "ibp").sum())
    network.train(training)
    return right / len(examples.labels)


def tight_radius(network: Network, examples: Source, settings: RecipeSettings) -> float:
    """Mean radius, in the unit domain, of the first `BOUNDED` images that the network gets right; 0 where none is.

    The network's mode stays as it was.
    """
    training, like = network.training, next(network.parameters())
    network.eval()
    images, labels = examples.take(torch.arange(min(LOOKED_AT, len(examples.labels))))
    images, labels = images.to(like), labels.to(like.device)
    with torch.no_grad():
        right = (network(images).argmax(1) == labels).nonzero().squeeze(1)[:BOUNDED]
    radius = 0.0
    if len(right):
        bounded = BoundedNetwork(network, images[:1])
        found = certified_radius(
            bounded, images[right], labels[right], settings.norm, method="affine", tolerance=TOLERANCE, batch_size=1
        )
        radius = found.radius.mean().item()
    network.train(training)
    return radius


def adversarial_accuracy(network: Network, examples: Source, settings: RecipeSettings, preset: TrainingPreset) -> float:
    """Fraction of the images that the network gets right, in evaluation mode, both before and after an attack.

    The attack is that of adversarial training. The network's mode stays as it was.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    attack = Adversarial(settings, preset, device).attack
    right = 0
    for images, labels in in_order(examples, EVALUATION_BATCH):
        images, labels = images.to(device), labels.to(device)
        attacked = attack(network, Ball(images, settings.epsilon, settings.norm), labels)
        with torch.no_grad():
            answers = (network(x).argmax(1) == labels for x in (images, attacked))
            right += int(torch.stack(list(answers)).all(0).sum())
    network.train(training)
    return right / len(examples.labels)

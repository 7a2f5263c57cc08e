"""Before any training: which of many architectures are likely to certify."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from robust_nas.data import Data
from robust_nas.genotype import Architecture
from robust_nas.metrics import IntervalSlope
from robust_nas.runs import seed_everything
from robust_nas.search.trials import Trial
from robust_nas.spaces.network import Network
from robust_nas.training.engine import build
from robust_nas.training.learner import Learner
from robust_nas.training.recipes import RECIPES
from verify.bounds import BoundedNetwork

BATCH, IMAGES = 64, 16
"""Images that give batch norm its statistics, and how many of them are bounded."""


def promising(
    architectures: Sequence[Architecture], count: int, trial: Trial, data: Data, seed: int, device: torch.device
) -> list[Architecture]:
    """The first `count` of the most weights, or of the most weights and the narrowest intervals; best first.

    After recipe "certified", which trains what intervals certify, the number of weights decides how much a network can
    learn in them. After the others it is log(number of weights) - log(width of the intervals at fresh weights), both in
    standard deviations of those given. How fast intervals widen with epsilon (`IntervalSlope`) differs by factors of
    thousands between architectures, and is mostly a matter of the architecture: what can be certified after training
    goes with it, at the price of a forward pass. The narrowest of all are pools and skip connections, which cannot
    learn; the number of weights goes with the accuracy.
    """
    scores = _standardised([math.log(weights(each, trial, data)) for each in architectures])
    if trial.recipe != "certified":
        scores -= _standardised([fresh_width(each, trial, data, seed, device) for each in architectures])
    order = scores.argsort(descending=True, stable=True)
    return [architectures[place] for place in order[:count].tolist()]


def _standardised(values: Sequence[float]) -> Float[Tensor, " n"]:
    given = torch.tensor(values, dtype=torch.float64)
    spread = given.std(correction=0)
    return (given - given.mean()) / (spread if spread > 0 else 1.0)


def weights(architecture: Architecture, trial: Trial, data: Data) -> int:
    """The number of weights of the network that a trial trains."""
    with torch.device("meta"):
        network = build(architecture, data, trial.preset)
    return sum(weight.numel() for weight in network.parameters())


@torch.no_grad()
def fresh_width(architecture: Architecture, trial: Trial, data: Data, seed: int, device: torch.device) -> float:
    """Mean logarithm of d(width of the margins' intervals) / d(epsilon) at fresh weights, as the recipe begins with."""
    seed_everything(seed)
    network: Network = build(architecture, data, trial.preset).to(device).train()
    images, labels = data.train.take(torch.arange(min(BATCH, len(data.train.labels))))
    images, labels = images.to(device), labels.to(device)
    RECIPES[trial.recipe](trial.settings, trial.preset, device).begin(Learner(network), images[:1])
    bounded = BoundedNetwork(network, images[:1])
    bounded.freeze(images)
    return -IntervalSlope(trial.settings.norm, "free", IMAGES)(bounded, images, labels).value.item()

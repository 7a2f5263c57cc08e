"""An attack on the test images: which fall, at what distance, and what it took."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robust_nas.attacks.base import Attack, Counted
from robust_nas.attacks.outcomes import Outcome
from robust_nas.attacks.threats import Threat
from robust_nas.data import Examples
from robust_nas.runs import progress
from verify.certify.attack import length

ROUNDING = 1e-5
"""How far, in [0,1] pixels, a float32 projection may leave the ball of radius epsilon."""


@dataclass(frozen=True)
class Target:
    """A network under attack and the images.

    Attributes:
        network: in evaluation mode, float32, on the device that is to compute.
        exact: the same in float64.
        examples: on the CPU.
        predicted: the network's answers without attack, on the CPU.
        classes: number of logits.
        batch_size: images attacked at once.
    """

    network: nn.Module
    exact: nn.Module
    examples: Examples
    predicted: Int[Tensor, " n"]
    classes: int
    device: torch.device
    batch_size: int

    @classmethod
    @torch.no_grad()
    def of(cls, network: nn.Module, examples: Examples, device: torch.device, batch_size: int) -> Target:
        """The target that these images are for this network."""
        logits = torch.cat([network(images.to(device)).cpu() for images in examples.images.split(batch_size)])
        exact = copy.deepcopy(network).double()
        return cls(network, exact, examples, logits.argmax(1), logits.shape[1], device, batch_size)

    @property
    def correct(self) -> Bool[Tensor, " n"]:
        """Images that are right without attack."""
        return self.predicted == self.examples.labels

    def batches(self, of: Bool[Tensor, " n"]) -> Iterator[tuple[Int[Tensor, " b"], Tensor, Tensor]]:
        """Places, images and labels of a selection, batch by batch; the last two on the device."""
        for index in of.nonzero().squeeze(1).split(self.batch_size) if of.any() else ():
            images, labels = self.examples.take(index)
            yield index, images.to(self.device), labels.to(self.device)

    @torch.no_grad()
    def distance(
        self, images: Float[Tensor, "b *shape"], labels: Int[Tensor, " b"], found: Tensor, threat: Threat
    ) -> Float[Tensor, " b"]:
        """How far from the images the perturbed ones lie, on the CPU; infinity where they are no success.

        A success changes the answer in float32 and in float64, so that none is made by rounding alone, and lies within
        epsilon. Perturbed images must be in [0,1].
        """
        wrong = (self.network(found).argmax(1) != labels) & (self.exact(found.double()).argmax(1) != labels)
        distance = length(found.double() - images.double(), threat.norm)
        success = wrong & (distance <= threat.epsilon + ROUNDING)
        return torch.where(success, distance, torch.inf).cpu()


class _Tally:
    """What is known of every image while an attack runs."""

    def __init__(self, correct: Bool[Tensor, " n"]) -> None:
        self.distance = torch.where(correct, torch.inf, 0.0).double()
        self.queries = torch.zeros_like(self.distance)
        self.seconds = torch.zeros_like(self.distance)
        self.by = [""] * len(correct)

    @property
    def standing(self) -> Bool[Tensor, " n"]:
        return self.distance.isinf()

    def add(self, index: Int[Tensor, " b"], stage: str, distance: Tensor, queries: int, seconds: float) -> None:
        """Note what a stage found on a batch, all of which stood before it, and what it took."""
        self.distance[index] = distance
        self.queries[index] += queries / len(index)
        self.seconds[index] += seconds / len(index)
        for place in index[~distance.isinf()].tolist():
            self.by[place] = stage

    def outcomes(self, target: Target, attack: Attack, threat: Threat) -> list[Outcome]:
        columns = (target.examples.labels, target.predicted, self.distance, self.queries, self.seconds)
        rows = zip(*(column.tolist() for column in columns), self.by, strict=True)
        return [
            Outcome(
                index=index,
                label=label,
                predicted=predicted,
                correct=label == predicted,
                attack=attack.name,
                norm=threat.norm,
                epsilon=threat.epsilon,
                success=math.isfinite(distance),
                distance=distance,
                queries=queries,
                seconds=seconds,
                by=part,
            )
            for index, (label, predicted, distance, queries, seconds, part) in enumerate(rows)
        ]


def evaluate(target: Target, attack: Attack, threat: Threat, seed: int) -> list[Outcome]:
    """Run an attack on every image that is right without it; one outcome an image, in their order.

    The attack is seeded anew, so its results do not depend on what ran before. The same seed goes to every attack: PGD
    with more steps goes on where PGD with fewer stops.
    """
    tally = _Tally(target.correct)
    counted = Counted(target.network)
    stages = attack.stages(counted, threat, target.classes, seed)
    batches = math.ceil(len(tally.by) / target.batch_size)
    with torch.random.fork_rng(), progress(f"{attack.name} {threat.norm}", batches * len(stages)) as step:
        torch.manual_seed(seed)
        for stage, perturb in stages.items():
            skipped = batches  # of the stage's batches: what fell before leaves fewer
            for index, images, labels in target.batches(tally.standing):
                counted.images, started = 0, time.monotonic()
                found = perturb(images, labels).detach().clamp(0, 1)
                seconds = time.monotonic() - started
                tally.add(index, stage, target.distance(images, labels, found, threat), counted.images, seconds)
                skipped -= 1
                step(_note(stage, tally))
            for _ in range(skipped):
                step(_note(stage, tally))
    return tally.outcomes(target, attack, threat)


def _note(stage: str, tally: _Tally) -> str:
    return f"{stage}: {int(tally.standing.sum())} of {len(tally.by)} images stand"

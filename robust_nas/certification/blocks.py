"""What one process does at a time: attacks, radii and verified accuracy of a block of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robust_nas.certification.records import Certificate, Claim, random_targets
from robust_nas.data import Examples
from verify import Ball, BoundedNetwork, InputError, attack_radius, certified_radius, verified
from verify.certify.radius import FINEST, proven_margin

Found: TypeAlias = tuple[list[Certificate], dict[float, int]]
"""Of a block: its certificates, and how many images keep their label in balls of each size that was asked for."""


class Block(NamedTuple):
    """Images that are attacked and bounded at once.

    Attributes:
        places: among the test images.
        examples: on the CPU.
        kept: their certificates, where an earlier run has found them.
    """

    places: Int[Tensor, " b"]
    examples: Examples
    kept: list[Certificate]


@dataclass(frozen=True)
class Effort:
    """How long to look for a radius: see `verify.certified_radius`.

    Raises:
        InputError: the tolerance is finer than bounds are.
    """

    tolerance: float
    time_limit: float | None

    def __post_init__(self) -> None:
        if not self.tolerance >= FINEST:
            raise InputError(f"tolerance must be at least {FINEST:g}, not {self.tolerance}")


@dataclass(frozen=True)
class Portable:
    """A network that can go to other processes: its model goes, and is traced anew there.

    Attributes:
        network: in float64, as `exact_network` makes it.
    """

    network: BoundedNetwork

    def __reduce__(self) -> tuple[Callable[..., Portable], tuple[nn.Module, Tensor, float]]:
        return _anew, (self.network.model, self.network.example, self.network.memory)


def _anew(model: nn.Module, example: Float[Tensor, "b *shape"], memory: float) -> Portable:
    return Portable(BoundedNetwork(model, example, memory, confirms=True))


@dataclass(frozen=True)
class Work:
    """What is to be found of each image of a block.

    Attributes:
        portable: the network.
        claim, effort: of its certificate.
        seed: of the attacks and of the target classes.
        targeted: prove that one random class does not overtake the label, in place of all classes.
        epsilons: radii at which the verified accuracy is asked for.
    """

    portable: Portable
    claim: Claim
    effort: Effort
    seed: int
    targeted: bool
    epsilons: tuple[float, ...]

    def __call__(self, block: Block) -> Found:
        """Do a block."""
        network = self.portable.network
        batch = exact(block.examples, network.example.device)
        found = block.kept or self._certify(batch, block.places)
        return found, {each: _count_verified(network, batch, found, each, self.claim) for each in self.epsilons}

    @torch.no_grad()
    def _certify(self, batch: Examples, places: Int[Tensor, " b"]) -> list[Certificate]:
        (images, labels), network, claim = batch, self.portable.network, self.claim
        targets = random_targets(places, labels, network.classes, self.seed) if self.targeted else None
        predicted = network(images).argmax(1)
        attacked = attack_radius(
            network.model, images, labels, claim.norm, claim.domain, seed=self.seed, targets=targets
        )
        proof = certified_radius(
            network,
            images,
            labels,
            **asdict(claim),
            ceiling=attacked,
            tolerance=self.effort.tolerance,
            time_limit=self.effort.time_limit,
            targets=targets,
        )
        _check(network, batch, proof.radius, attacked, targets, claim, self.effort)
        columns = (places, labels, predicted, proof.radius, attacked, proof.evaluations, proof.seconds)
        return [
            Certificate(
                index=place,
                label=label,
                predicted=answer,
                correct=label == answer,
                norm=claim.norm,
                radius=radius,
                attack_radius=ceiling,
                method=claim.method,
                evaluations=evaluations,
                seconds=seconds,
                status=status,
            )
            for place, label, answer, radius, ceiling, evaluations, seconds, status in zip(
                *(column.tolist() for column in columns), proof.status, strict=True
            )
        ]


def exact(examples: Examples, device: torch.device) -> Examples:
    """The examples on the device, the images in float64."""
    return Examples(examples.images.double().to(device), examples.labels.to(device))


def _check(
    network: BoundedNetwork,
    batch: Examples,
    radius: Float[Tensor, " b"],
    attacked: Float[Tensor, " b"],
    targets: Int[Tensor, " b"] | None,
    claim: Claim,
    effort: Effort,
) -> None:
    """No ball may be proven that holds a perturbation which succeeded.

    The search stops short of attacks, so a radius never says so itself. But wrong bounds would take it as near to them
    as the tolerance lets it, and where it came so near, the attack's own ball must not be proven.
    """
    if (radius > attacked).any():
        raise RuntimeError(f"certified {radius.tolist()} beyond attacks of size {attacked.tolist()}")
    near = ((attacked > 0) & (radius * (1 + effort.tolerance) >= attacked)).nonzero().squeeze(1)
    if len(near):
        ball = Ball(batch.images[near], attacked[near], claim.norm, claim.domain)
        aim = None if targets is None else targets[near]
        if (proven_margin(network, ball, batch.labels[near], claim.method, aim) > 0).any():
            raise RuntimeError(f"the bounds prove balls that hold successful attacks, of size {attacked.tolist()}")


def _count_verified(
    network: BoundedNetwork, batch: Examples, found: list[Certificate], epsilon: float, claim: Claim
) -> int:
    """How many images keep their label in the whole ball; bounds are needed where the radii leave it open."""
    proven = sum(certificate.radius >= epsilon and certificate.correct for certificate in found)
    undecided = [
        place
        for place, certificate in enumerate(found)
        if certificate.correct and certificate.radius < epsilon < certificate.attack_radius
    ]
    if not undecided:
        return proven
    images, labels = batch.take(torch.tensor(undecided, device=batch.labels.device))
    return proven + int(verified(network, images, labels, epsilon, **asdict(claim)).sum())

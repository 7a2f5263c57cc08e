"""The pictures of a certification: its curves, and the images at both ends."""

from __future__ import annotations

from pathlib import Path

import torch

from robust_nas.certification.records import Certificate, Claim
from robust_nas.data import Examples
from robust_nas.pictures.certificates import Attacked, Radii, plot_extremes
from verify import Ball, BoundedNetwork
from verify.certify.attack import pgd
from verify.regions import ORDERS

CURVES, EXTREMES = "certify.png", "extremes.png"
SHOWN = 3
"""Images at either end."""
STEPS = 50
STARTS = 4
BEYOND = 1.02
"""An attack is looked for in a ball a little larger than that of the smallest one that was found."""


def radii_of(certificates: list[Certificate]) -> Radii:
    """The radii of certificates, as pictures take them."""
    return Radii.of(
        [certificate.radius for certificate in certificates],
        [certificate.attack_radius for certificate in certificates],
        [certificate.correct for certificate in certificates],
    )


def ends(certificates: list[Certificate]) -> tuple[list[Certificate], list[Certificate]]:
    """Certificates of correct images: those with the smallest radii and those with the largest, none twice."""
    ordered = sorted((one for one in certificates if one.correct), key=lambda one: one.radius)
    smallest = ordered[: min(SHOWN, (len(ordered) + 1) // 2)]
    return smallest, ordered[len(smallest) :][-SHOWN:]


def draw_extremes(
    network: BoundedNetwork, examples: Examples, claim: Claim, certificates: list[Certificate], path: Path
) -> Path:
    """Attack the images of these certificates once more, and draw what the attack makes of them.

    Args:
        network: in float64.
        examples: the images of `ends`, in its order.
        certificates: all of the run.
        path: of the PNG.
    """
    smallest, largest = ends(certificates)
    chosen = [*smallest, *largest]
    size = torch.tensor([one.attack_radius for one in chosen], dtype=torch.float64, device=examples.images.device)
    ball = Ball(examples.images, torch.where(size.isfinite(), size * BEYOND, 0.0), claim.norm, claim.domain)
    generator = torch.Generator().manual_seed(0)
    perturbed, answers = examples
    for start in (ball.centre, *(ball.sample(generator) for _ in range(STARTS - 1))):
        found = pgd(network, ball, examples.labels, steps=STEPS, start=start)
        answer = network(found).argmax(1)
        won = (answers == examples.labels) & (answer != examples.labels)
        perturbed = torch.where(won[:, None, None, None], found, perturbed)
        answers = torch.where(won, answer, answers)
        if (answers != examples.labels).all():
            break  # mostly the first start: it is how the smallest attack was found
    sizes = torch.linalg.vector_norm((perturbed - examples.images).flatten(1), ORDERS[claim.norm], dim=1)
    drawn = [
        Attacked(image, changed, one.label, int(answer), one.radius, float(size))
        for one, image, changed, answer, size in zip(chosen, examples.images, perturbed, answers, sizes, strict=True)
    ]
    return plot_extremes(drawn[: len(smallest)], drawn[len(smallest) :], path)

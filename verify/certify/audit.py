"""Tries to break certificates: random points, gradient attacks from many starts, and the proof done again.

Everything runs in float64, on points that lie in the ball in float64, so that a finding is a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from verify.bounds import BoundedNetwork, wrapped
from verify.certify.attack import pgd, worst_margin
from verify.certify.frame import frame
from verify.certify.radius import images_at_once, proven_margin
from verify.checks import inputs as checks
from verify.checks.inputs import Array
from verify.checks.modes import in_own_modes
from verify.regions import Ball

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Audit:
    """What `audit` found, one entry an image.

    Attributes:
        margin: smallest margin met inside the ball, in logits, float64; an attack succeeded where it is <= 0.
        bound: certified lower bound of the margin, recomputed in float64 with widened relaxations.
        checked: images with a positive radius; the others promise nothing.
    """

    margin: Float[Tensor, " b"]
    bound: Float[Tensor, " b"]
    checked: Bool[Tensor, " b"]

    @property
    def failures(self) -> Bool[Tensor, " b"]:
        """Certificates that an attack broke, whose proof does not repeat, or whose bound an attack passed."""
        holds = (self.margin > 0) & (self.bound > 0) & (self.bound <= self.margin)
        return self.checked & ~holds

    @property
    def broken(self) -> int:
        """How many certificates failed."""
        return int(self.failures.sum())

    def __repr__(self) -> str:
        """What was found, in one line."""
        checked = int(self.checked.sum())
        without = len(self.checked) - checked
        return f"Audit({self.broken} of {checked} certificates broken; {without} images without one)"

    def to_frame(self) -> pandas.DataFrame:
        """One row for each image: margin, bound, checked, and whether the certificate failed."""
        return frame(self, failed=self.failures)


@in_own_modes
def audit(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"] | Array,
    labels: Integer[Tensor, " b"] | Array,
    radius: float | Float[Tensor, " b"] | Array,
    norm: str = "linf",
    domain: str = "unit",
    method: str = "crown",
    *,
    samples: int = 100,
    starts: int = 10,
    steps: int = 50,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
    targets: Integer[Tensor, " b"] | Array | None = None,
) -> Audit:
    """Attack every certified ball and repeat its proof.

    Args:
        network, images, labels, norm, domain, method: as given to `certified_radius`.
        radius: certified radius an image; 0 is skipped.
        samples: random points a ball.
        starts: PGD runs a ball: from the image, then from random points.
        steps: of each run.
        progress: called with the number of images done after each batch.
        targets: as given to `certified_radius`; then attacks count towards these classes only.

    Raises:
        InputError: a radius is negative or not finite, a count is no such number, what `BoundedNetwork.check` refuses,
            or anything `proven_margin` does.
    """
    images, labels, targets = wrapped(network).check(images, labels, targets)
    balls = Ball(images.double(), checks.radii("certified radii", radius, images), norm, domain)
    samples, starts, steps = (
        checks.whole(name, count, least)
        for name, count, least in (("samples", samples, 0), ("starts", starts, 1), ("steps", steps, 0))
    )
    progress = checks.function("progress", progress)
    generator = torch.Generator().manual_seed(checks.whole("seed", seed, 0))
    exact = network.double()
    at_once = min(checks.whole("batch_size", batch_size), images_at_once(exact, method))
    checked = balls.epsilon > 0
    margin = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
    bound = margin.clone()
    done = 0
    for part in checked.nonzero().squeeze(1).split(at_once) if checked.any() else ():
        ball = balls.take(part)
        aim = None if targets is None else targets[part]
        margin[part] = _attacked(exact, ball, labels[part], aim, samples, starts, steps, generator)
        bound[part] = proven_margin(exact, ball, labels[part], method, aim)
        done += len(part)
        progress(done)
    return Audit(margin, bound, checked)


def _attacked(
    network: BoundedNetwork,
    ball: Ball,
    labels: Tensor,
    targets: Tensor | None,
    samples: int,
    starts: int,
    steps: int,
    generator: torch.Generator,
) -> Float[Tensor, " b"]:
    """The smallest margin met."""
    begins = torch.cat([ball.centre, *(ball.sample(generator) for _ in range(starts - 1))])
    aims = [None if targets is None else targets.repeat(times) for times in (starts, starts + samples)]
    found = pgd(network, ball.repeat(starts), labels.repeat(starts), steps=steps, start=begins, targets=aims[0])
    points = torch.cat([found, *(ball.sample(generator) for _ in range(samples))])
    with torch.no_grad():
        margin = worst_margin(network(points), labels.repeat(starts + samples), aims[1])
    return margin.view(-1, len(labels)).amin(0)

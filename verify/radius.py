"""The largest radius around each image within which the prediction is proven not to change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.attack import worst_margin
from verify.bounds import BoundedNetwork, Line, margins
from verify.errors import InputError
from verify.graph import Intervals
from verify.regions import Ball, largest_epsilon

SMALLEST = 1e-7
"""Below this fraction of the largest radius of a norm the search gives up: radius 0."""
FIRST_TRIAL = 0.25
"""The first trial, as a fraction of the smallest radius known to be unsafe."""
BISECTIONS = 20


@dataclass(frozen=True)
class Certificates:
    """Results of `certified_radius`, one entry an image.

    Attributes:
        radius: certified radius in input units; 0 where nothing is proven.
        status: "certified", "misclassified" (radius 0) or "overflow" (bounds were never finite: radius 0).
        evaluations: bounds computed for the image.
        seconds: time spent on it (a batch's time is shared by the images in it).
        norm, domain, method: what the radius means and how it was obtained.
    """

    radius: Float[Tensor, " b"]
    status: list[str]
    evaluations: Int[Tensor, " b"]
    seconds: Float[Tensor, " b"]
    norm: str
    domain: str
    method: str


@torch.no_grad()
def verified(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    epsilon: float | Float[Tensor, " b"],
    norm: str = "linf",
    domain: str = "unit",
    method: str = "crown",
) -> Bool[Tensor, " b"]:
    """Whether each image keeps its label in the whole ball. Bounds that are not finite prove nothing.

    For a certificate give it `network.double()` and float64 images: rounding is then accounted for.
    """
    specification = margins(labels, network.classes)
    bounds = network.bounds(images, epsilon, norm, specification, method, domain)
    return (bounds.lower > 0).all(1)


def certified_radius(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"],
    labels: Int[Tensor, " b"],
    norm: str = "linf",
    domain: str = "unit",
    method: str = "crown",
    *,
    ceiling: Float[Tensor, " b"] | None = None,
    tolerance: float = 0.05,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> Certificates:
    """The largest certified radius of each image, up to `tolerance`.

    Each image is tried at a radius of its own. A failure still proves something: bounds computed for a ball hold
    in every smaller one, so the linear function CROWN ends with gives a smaller radius in closed form. The next
    trial lies between what is proven and what failed (geometric mean). Success is not assumed to be monotone:
    the result is a radius at which a proof was seen to succeed.

    Everything is computed in float64 with relaxations widened outward, whatever the network's precision, because
    the statement is about the network in real arithmetic.

    Args:
        network: in evaluation mode, or with statistics frozen.
        images: in [0, 1] for the unit domain.
        labels: true classes; a misclassified image has radius 0.
        norm, domain, method: see `BoundedNetwork.bounds`.
        ceiling: a radius an image known to be unsafe (`attack_radius`); saves bounds that must fail.
        tolerance: stop when the unproven radius is within this fraction of the proven one.
        batch_size: images bounded at once.
        progress: called with the number of images done after each batch.

    Raises:
        InputError: tolerance not positive, or anything `BoundedNetwork.bounds` refuses.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance must be positive, not {tolerance}")
    exact = network.double()
    radius = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    evaluations = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    seconds = torch.zeros(len(images), dtype=torch.float64)
    status: list[str] = []
    for part in torch.arange(len(images), device=images.device).split(batch_size):
        begin = time.perf_counter()
        limit = None if ceiling is None else ceiling[part]
        search = _Search(exact, images[part], labels[part], norm, domain, method, tolerance, limit)
        search.run()
        radius[part], evaluations[part] = search.proven, search.evaluations
        status += search.status()
        seconds[part.cpu()] = (time.perf_counter() - begin) / len(part)
        progress(len(status))
    return Certificates(radius, status, evaluations, seconds, norm, domain, method)


class _Search:
    """The search for one batch; an image drops out when it is done."""

    def __init__(
        self,
        network: BoundedNetwork,
        images: Tensor,
        labels: Tensor,
        norm: str,
        domain: str,
        method: str,
        tolerance: float,
        ceiling: Tensor | None,
    ) -> None:
        self.network, self.method, self.tolerance = network, method, tolerance
        self.balls, self.labels = Ball(images.double(), 0.0, norm, domain), labels
        with torch.no_grad():
            self.correct = worst_margin(network(self.balls.centre), labels) > 0
        self.largest = largest_epsilon(norm, images[0].shape)
        unsafe = torch.full((len(images),), self.largest, dtype=torch.float64, device=images.device)
        self.unsafe = unsafe if ceiling is None else torch.minimum(unsafe, ceiling.double())
        self.proven = torch.zeros_like(self.unsafe)
        self.overflowed = torch.zeros_like(self.correct)
        self.evaluations = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.failed: Intervals = {}

    def run(self) -> None:
        """Narrow the gap between proven and unsafe until it is within the tolerance."""
        active = self.correct & (self.unsafe > 0)
        trial = self.unsafe * FIRST_TRIAL
        while active.any():
            index = active.nonzero().squeeze(1)
            proven = self._try(index, trial[index])
            self.proven[index] = torch.maximum(self.proven[index], proven)
            failed = proven < trial[index]
            self.unsafe[index] = torch.where(failed, trial[index], self.unsafe[index])
            between = (self.proven * self.unsafe).sqrt()
            trial = torch.where(self.proven > 0, between, self.unsafe / 16)
            close = self.unsafe <= self.proven * (1 + self.tolerance)
            active &= ~close & (trial > SMALLEST * self.largest)

    def _try(self, index: Tensor, trial: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The radius, at most `trial`, that bounds for the ball of radius `trial` prove."""
        ball = self.balls.take(index).with_epsilon(trial)
        specification = margins(self.labels[index], self.network.classes)
        within = {name: (lower[index], upper[index]) for name, (lower, upper) in self.failed.items()}
        with torch.no_grad():
            bounds = self.network.bounds(ball, specification=specification, method=self.method, within=within)
        self.evaluations[index] += 1
        overflowed = ~torch.isfinite(bounds.lower).all(1)
        self.overflowed[index] = overflowed
        success = (bounds.lower > 0).all(1)
        self._remember(index[~success & ~overflowed], bounds.intervals, ~success & ~overflowed)
        smaller = torch.zeros_like(trial) if bounds.line is None else _closed_form(ball, bounds.line)
        return torch.where(success, trial, torch.where(overflowed, 0.0, smaller))

    def _remember(self, index: Tensor, intervals: Intervals, which: Tensor) -> None:
        """Every later trial lies in a ball that failed: what held there of the neurons holds from now on."""
        for name, new in intervals.items():
            if name not in self.failed:
                shape = (len(self.labels), *new[0].shape[1:])
                infinite = torch.full(shape, torch.inf, dtype=new[0].dtype, device=new[0].device)
                self.failed[name] = (-infinite, infinite)
            for known, side in zip(self.failed[name], new, strict=True):
                known[index] = side[which]

    def status(self) -> list[str]:
        overflow = self.overflowed & (self.proven == 0)
        return [
            "overflow" if bad else "certified" if correct else "misclassified"
            for correct, bad in zip(self.correct.tolist(), overflow.tolist(), strict=True)
        ]


def _closed_form(ball: Ball, line: Line) -> Float[Tensor, " b"]:
    """The largest radius, at most the ball's, at which the line is positive in the whole ball.

    The least value of a line over a ball only falls as the radius grows, so bisection finds where it meets 0,
    in both domains; the lower end is returned, at which it was seen to be positive.
    """
    low, high = torch.zeros_like(ball.epsilon), ball.epsilon
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        least = ball.with_epsilon(middle).least(line.coefficients) + line.intercept
        holds = (least > 0).all(1)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low

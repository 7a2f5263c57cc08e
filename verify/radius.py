"""The largest radius around each image within which the prediction is proven not to change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.attack import worst_margin
from verify.bounds import BoundedNetwork, margins
from verify.errors import InputError
from verify.regions import Ball, largest_epsilon

SMALLEST = 1e-7
"""Below this fraction of the largest radius of a norm the search gives up: radius 0."""
_SHRINK = (1.0, 0.999, 0.99, 0.9, 0.5)
"""What the float64 confirmation tries, as fractions of the radius found."""


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

    Bisection on the logarithm of the radius, each image at its own; success is not assumed to be monotone, so
    the result is a radius at which the proof was seen to succeed. It is confirmed in float64 with relaxations
    widened outward, and only what is confirmed counts: the statement is about the network in real arithmetic.

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
        search = _Search(network, exact, images[part], labels[part], norm, domain, method, tolerance, limit)
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
        exact: BoundedNetwork,
        images: Tensor,
        labels: Tensor,
        norm: str,
        domain: str,
        method: str,
        tolerance: float,
        ceiling: Tensor | None,
    ) -> None:
        self.network, self.exact, self.images, self.labels = network, exact, images, labels
        self.norm, self.domain, self.method, self.tolerance = norm, domain, method, tolerance
        self.largest = largest_epsilon(norm, images[0].shape)
        Ball(images, 0.0, norm, domain)  # refuses bad input before any work
        with torch.no_grad():
            self.correct = worst_margin(exact(images.double()), labels) > 0
        unsafe = torch.full((len(images),), self.largest, dtype=torch.float64, device=images.device)
        self.unsafe = unsafe if ceiling is None else torch.minimum(unsafe, ceiling.double())
        self.proven = torch.zeros_like(self.unsafe)
        self.overflowed = torch.zeros_like(self.correct)
        self.evaluations = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def run(self) -> None:
        active = self.correct & (self.unsafe > 0)
        trial = self.unsafe / 2
        while active.any():
            index = active.nonzero().squeeze(1)
            success = self._try(self.network, index, trial[index])
            self.proven[index] = torch.where(success, trial[index], self.proven[index])
            self.unsafe[index] = torch.where(success, self.unsafe[index], trial[index])
            trial = torch.where(self.proven > 0, (self.proven * self.unsafe).sqrt(), self.unsafe / 4)
            close = self.unsafe <= self.proven * (1 + self.tolerance)
            active &= ~close & (trial > SMALLEST * self.largest)
        self._confirm()

    def _confirm(self) -> None:
        """Keep of each radius what float64 proves."""
        found, waiting = self.proven, self.proven > 0
        self.proven = torch.zeros_like(found)
        for fraction in _SHRINK:
            index = waiting.nonzero().squeeze(1)
            if not len(index):
                break
            trial = found[index] * fraction
            success = self._try(self.exact, index, trial)
            self.proven[index] = torch.where(success, trial, self.proven[index])
            waiting[index] = ~success

    def _try(self, network: BoundedNetwork, index: Tensor, trial: Tensor) -> Tensor:
        images = self.images[index].to(network.example.dtype)
        specification = margins(self.labels[index], network.classes)
        with torch.no_grad():
            lower = network.bounds(
                images, trial.to(images.dtype), self.norm, specification, self.method, self.domain
            ).lower
        self.evaluations[index] += 1
        self.overflowed[index] = ~torch.isfinite(lower).all(1)
        return (lower > 0).all(1)

    def status(self) -> list[str]:
        overflow = self.overflowed & (self.proven == 0)
        return [
            "misclassified" if not correct else "overflow" if bad else "certified"
            for correct, bad in zip(self.correct.tolist(), overflow.tolist(), strict=True)
        ]

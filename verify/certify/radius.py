"""The largest radius around each image within which the prediction is proven not to change."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from verify.bounds import BoundedNetwork, wrapped
from verify.certify.frame import frame
from verify.certify.search import search
from verify.certify.trials import Goal, task_of
from verify.checks import inputs as checks
from verify.checks.inputs import Array
from verify.checks.modes import in_own_modes
from verify.propagation.batches import images_at_once as fitting
from verify.propagation.methods import METHODS, radius_methods
from verify.propagation.methods import phases as _phases
from verify.regions import Ball
from verify.specification import margins

if TYPE_CHECKING:
    import pandas

AUTO_SECONDS = 10.0
"""What method "auto" spends on an image at most, if no other limit is given."""
FINEST = 1e-6
"""The smallest tolerance: the search runs in float32, which tells no finer ones apart."""


@dataclass(frozen=True)
class Certificates:
    """Results of `certified_radius`, one entry an image.

    Attributes:
        radius: certified radius in input units; 0 where nothing is proven.
        status: "certified", "misclassified" (radius 0), "overflow" (bounds were never finite: radius 0) or "timeout"
            (the radius is the best that was proven when the time was up, maybe 0).
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

    def __repr__(self) -> str:
        """What was certified, in one line."""
        counts = ", ".join(f"{count} {status}" for status, count in Counter(self.status).items())
        least, most, mean = (float(value) for value in (self.radius.min(), self.radius.max(), self.radius.mean()))
        radii = f"{least:.3g} to {most:.3g}, mean {mean:.3g}"
        return f"Certificates({self.norm}, {self.domain}, {self.method}: {counts}; radius {radii})"

    def to_frame(self) -> pandas.DataFrame:
        """One row for each image, one column for each attribute."""
        return frame(self)


@in_own_modes
@torch.no_grad()
def verified(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"] | Array,
    labels: Integer[Tensor, " b"] | Array,
    epsilon: float | Float[Tensor, " b"] | Array,
    norm: str = "linf",
    domain: str = "unit",
    method: str = "crown",
) -> Bool[Tensor, " b"]:
    """Whether each image keeps its label in the whole ball. Bounds that are not finite prove nothing.

    For a certificate give it `network.double()` and float64 images: rounding is then accounted for.

    Raises:
        InputError: what `Ball` refuses, or `proven_margin`.
    """
    images, labels, _ = wrapped(network).check(images, labels)
    return proven_margin(network, Ball(images, epsilon, norm, domain), labels, method) > 0


@in_own_modes
@torch.no_grad()
def proven_margin(
    network: BoundedNetwork,
    ball: Ball,
    labels: Integer[Tensor, " b"] | Array,
    method: str = "crown",
    targets: Integer[Tensor, " b"] | Array | None = None,
) -> Float[Tensor, " b"]:
    """A lower bound of the smallest margin in each ball, in logits; -infinity where bounds are not finite.

    Cheap bounds come first, and the method itself only where they prove nothing (`phases`). With targets the margin is
    f_y - f_target alone.

    Raises:
        InputError: unknown method, or what `BoundedNetwork.check` refuses.
    """
    ball = checks.instance("ball", ball, Ball, "make one of images and a radius")
    _, labels, targets = wrapped(network).check(ball.centre, labels, targets)
    best = torch.full_like(ball.epsilon, -torch.inf)
    at_once = images_at_once(network, method)
    for phase in phases(method):
        unproven = (best <= 0).nonzero().squeeze(1)
        for index in unproven.split(at_once) if len(unproven) else ():
            rows = margins(labels[index], network.classes, None if targets is None else targets[index])
            lower = network.bounds(ball.take(index), specification=rows, method=phase).lower.amin(1)
            best[index] = torch.maximum(best[index], lower.nan_to_num(nan=-torch.inf))
    return best


def images_at_once(network: BoundedNetwork, method: str) -> int:
    """How many images to bound together by one of the methods of `certified_radius`."""
    return fitting(network.graph, network.memory, forms=any(METHODS[phase].forms for phase in phases(method)))


def phases(method: str) -> Sequence[str]:
    """The methods of `BoundedNetwork.bounds` that one of `certified_radius` goes through.

    Raises:
        InputError: unknown method.
    """
    return _phases(checks.choice("method", method, radius_methods()))


@in_own_modes
def certified_radius(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"] | Array,
    labels: Integer[Tensor, " b"] | Array,
    norm: str = "linf",
    domain: str = "unit",
    method: str = "crown",
    *,
    ceiling: float | Float[Tensor, " b"] | Array | None = None,
    tolerance: float = 0.05,
    time_limit: float | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
    targets: Integer[Tensor, " b"] | Array | None = None,
    largest: float | None = None,
) -> Certificates:
    """The largest certified radius of each image, up to `tolerance`.

    Each image is tried at a radius of its own, with cheap bounds first (`phases`). A failure still proves something:
    bounds computed for a ball hold in every smaller one, so the linear function CROWN ends with gives a smaller
    radius in closed form. The next trial is where the bounds are expected to meet 0. Success is
    not assumed to be monotone: the result is a radius at which a proof was seen to succeed, in one evaluation
    that stands for itself.

    The search runs in float32, and what it finds is proven in float64 with relaxations widened outward, whatever the
    network's precision, because the statement is about the network in real arithmetic. Where float32 finds nothing
    that can be proven (it loses tiny radii), the search is repeated in float64.

    Args:
        network: in evaluation mode, or with statistics frozen.
        images: in [0, 1] for the unit domain.
        labels: true classes; a misclassified image has radius 0.
        norm, domain, method: see `BoundedNetwork.bounds`. Method "auto" climbs from "affine" to "alpha-crown" as far
            as the time allows, and as the next method is expected to gain more than the tolerance.
        ceiling: a radius an image known to be unsafe (`attack_radius`); saves bounds that must fail.
        tolerance: stop when the unproven radius, or the one at which the bounds are expected to fail, is within this
            fraction of the proven one.
        time_limit: seconds an image (those of a batch share theirs) after which no evaluation is begun that is not
            expected to end in time; none for no limit ("auto": 10). The first is always made, and while nothing is
            proven the limit itself counts.
        batch_size: images bounded at once, or fewer where the network's memory asks for it, or where fewer are faster.
        progress: called with the number of images done after each batch.
        targets: one class an image, not its label; then the radius proves f_y > f_target alone, as in CNN-Cert
            (Boopathy et al., AAAI 2019), and not that the answer stays. An image that is misclassified has radius 0.
        largest: the largest radius tried, if not that of `verify.regions.span`: where the ball holds the unit box in
            the unit domain, many radii of the linearised network or sizes of the image in the free one.

    Raises:
        InputError: unknown method, a tolerance below `FINEST`, time limit or batch size not positive, a ceiling that is
            no radius, what `BoundedNetwork.check` refuses, or anything `Ball` and `BoundedNetwork.bounds` do.
    """
    phases(method)
    images, labels, targets = wrapped(network).check(images, labels, targets)
    balls = Ball(images.double(), 0.0, norm, domain)
    ceilings = checks.radii("ceiling", math.inf if ceiling is None else ceiling, images, endless=True)
    tolerance, batch_size = checks.number("tolerance", tolerance, FINEST), checks.whole("batch_size", batch_size)
    if time_limit is None:
        time_limit = AUTO_SECONDS if method == "auto" else math.inf
    limit = checks.number("time_limit", time_limit, endless=True)
    progress = checks.function("progress", progress)
    rough, exact = network.single(), network.double()
    radius = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    evaluations = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    seconds = torch.zeros(len(images), dtype=torch.float64)
    status: list[str] = []
    at_once = min(batch_size, images_at_once(exact, method))
    for part in torch.arange(len(images), device=images.device).split(at_once):
        begin = time.perf_counter()
        rows = margins(labels[part], exact.classes, None if targets is None else targets[part])
        goal = Goal(method, tolerance, begin + limit * len(part), ceilings[part], largest)
        found = search(rough, exact, task_of(exact, balls.take(part), labels[part], rows, goal))
        radius[part], evaluations[part] = found.radius, found.evaluations
        status += found.status
        seconds[part.cpu()] = (time.perf_counter() - begin) / len(part)
        progress(len(status))
    return Certificates(radius, status, evaluations, seconds, norm, domain, method)

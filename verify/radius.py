"""The largest radius around each image within which the prediction is proven not to change."""

from __future__ import annotations

import itertools
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
FIRST_TRIAL = 1 / 8
"""The first trial, and what follows a failure that proved nothing, as a fraction of the unsafe radius."""
PHASES = {"ibp": ["ibp"], "crown-ibp": ["crown-ibp"], "affine": ["affine"], "crown": ["affine", "crown"]}
"""Cheap bounds find where the expensive ones start."""
GROWTH = {"ibp": 8.0, "crown-ibp": 8.0, "affine": 2.0, "crown": 1.25}
"""How far a trial goes at most beyond what is proven: far beyond it, every neuron is unstable and bounds are slow."""
ROUGH = 0.1
"""Tolerance of the phases before the last."""
HALVE_EACH = 4
"""Every so many trials the gap is halved, lest a wrong expectation takes many."""
USUAL_POWER, POWERS = 3.0, (1.0, 8.0)
"""How fast bounds are expected to lose against the radius, see `_Secant`."""
BISECTIONS = 20
CONFIRMED = (1.0, 0.999, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.25)
"""Fractions of the radius found that are confirmed, the first that can be: CROWN may be looser in a smaller ball, and
the search takes from larger ones what holds in all of their parts."""


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

    Each image is tried at a radius of its own, with cheap bounds first (`PHASES`). A failure still proves something:
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
        norm, domain, method: see `BoundedNetwork.bounds`.
        ceiling: a radius an image known to be unsafe (`attack_radius`); saves bounds that must fail.
        tolerance: stop when the unproven radius, or the one at which the bounds are expected to fail, is within this
            fraction of the proven one.
        batch_size: images bounded at once.
        progress: called with the number of images done after each batch.

    Raises:
        InputError: tolerance not positive, or anything `BoundedNetwork.bounds` refuses.
    """
    if method not in PHASES:
        raise InputError(f"method {method!r} is not one of {', '.join(PHASES)}")
    if not tolerance > 0:
        raise InputError(f"tolerance must be positive, not {tolerance}")
    rough, exact = network.single(), network.double()
    radius = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    evaluations = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    seconds = torch.zeros(len(images), dtype=torch.float64)
    status: list[str] = []
    for part in torch.arange(len(images), device=images.device).split(batch_size):
        begin = time.perf_counter()
        limit = None if ceiling is None else ceiling[part]
        search = _Search(rough, exact, images[part], labels[part], norm, domain, method, tolerance, limit)
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
        rough: BoundedNetwork,
        exact: BoundedNetwork,
        images: Tensor,
        labels: Tensor,
        norm: str,
        domain: str,
        method: str,
        tolerance: float,
        ceiling: Tensor | None,
    ) -> None:
        self.rough, self.exact, self.method, self.tolerance = rough, exact, method, tolerance
        self.balls, self.labels = Ball(images.double(), 0.0, norm, domain), labels
        with torch.no_grad():
            logits = exact(self.balls.centre)
        self.clean = torch.einsum("bsk,bk->bs", margins(labels, exact.classes).to(logits), logits)
        margin = worst_margin(logits, labels)
        self.correct = margin > 0
        self.largest = largest_epsilon(norm, images[0].shape)
        unsafe = torch.full((len(images),), self.largest, dtype=torch.float64, device=images.device)
        self.unsafe = unsafe if ceiling is None else torch.minimum(unsafe, ceiling.double())
        self.proven = torch.zeros_like(self.unsafe)
        self.overflowed = ~torch.isfinite(margin)
        self.evaluations = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.known: Intervals = {}
        self.known_within = torch.zeros_like(self.unsafe)

    def run(self) -> None:
        """Climb from the cheapest method to the one asked for, each from what the last one proved."""
        for network in (self.rough, self.exact):
            active = self.correct & (self.proven == 0)
            self.known, found = {}, self.proven
            for method in PHASES[self.method]:
                found = self._narrow(network, method, found, active)
            self._confirm(torch.where(active, found, 0.0))

    def _narrow(self, network: BoundedNetwork, method: str, proven: Tensor, active: Tensor) -> Tensor:
        """Narrow the gap between proven and unsafe radius until it is within the tolerance; the proven one."""
        tolerance = self.tolerance if method == self.method else max(self.tolerance, ROUGH)
        secant, unsafe = _Secant(self.clean), self.unsafe.clone()
        active = active & (unsafe > 0)
        for number in itertools.count():
            limit = torch.where(secant.trials > 1, torch.minimum(unsafe, secant.root), unsafe)
            active &= limit > proven * (1 + tolerance)
            halve = number % HALVE_EACH == HALVE_EACH - 1
            goal = (proven * unsafe).sqrt() if halve else secant.root / (1 + tolerance / 4)
            least = torch.where(proven > 0, proven * (1 + tolerance / 2), unsafe * FIRST_TRIAL)
            most = torch.minimum(proven * GROWTH[method], unsafe / (1 + tolerance / 2))
            most = torch.where(proven > 0, most, unsafe / 2)
            trial = torch.where(secant.trials > 0, torch.minimum(torch.maximum(goal, least), most), least)
            active &= trial > SMALLEST * self.largest
            index = active.nonzero().squeeze(1)
            if not len(index):
                break
            lower, result = self._try(network, index, trial[index], method)
            secant.update(index, trial[index], lower)
            unsafe[index] = torch.where(result < trial[index], trial[index], unsafe[index])
            proven = proven.index_copy(0, index, torch.maximum(proven[index], result))
        return proven

    def _confirm(self, found: Tensor) -> None:
        """Keep of each radius what bounds for that very ball prove, so that anyone can repeat the proof."""
        for fraction in CONFIRMED:
            index = ((found > 0) & (self.proven == 0)).nonzero().squeeze(1)
            if not len(index):
                return
            self.known = {}
            trial = found[index] * fraction
            success = self._try(self.exact, index, trial, self.method)[1] >= trial
            self.proven[index] = torch.where(success, trial, 0.0)

    def _try(
        self, network: BoundedNetwork, index: Tensor, trial: Float[Tensor, " b"], method: str
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, " b"]]:
        """Lower bounds of the margins in the ball of radius `trial`, and the radius, at most `trial`, they prove."""
        ball = self.balls.take(index).with_epsilon(trial).to(network.example.dtype)
        specification = margins(self.labels[index], network.classes)
        with torch.no_grad():
            bounds = network.bounds(
                ball, specification=specification, method=method, within=self._within(index, trial)
            )
        self.evaluations[index] += 1
        overflowed = ~torch.isfinite(bounds.lower).all(1)
        self.overflowed[index] = overflowed
        success = (bounds.lower > 0).all(1)
        self._remember(index, trial, bounds.intervals, ~success & ~overflowed)
        smaller = torch.zeros_like(trial) if bounds.line is None else _closed_form(ball, bounds.line)
        return bounds.lower.to(trial), torch.where(success, trial, torch.where(overflowed, 0.0, smaller.to(trial)))

    def _remember(self, index: Tensor, trial: Tensor, intervals: Intervals, which: Tensor) -> None:
        """Keep what held of the neurons in a ball that failed: later trials mostly lie within it."""
        for name, new in intervals.items():
            if name not in self.known:
                empty = new[0].new_zeros(len(self.labels), *new[0].shape[1:])
                self.known[name] = (empty, empty.clone())
            for known, side in zip(self.known[name], new, strict=True):
                known[index[which]] = side[which]
        self.known_within[index[which]] = trial[which]

    def _within(self, index: Tensor, trial: Tensor) -> Intervals:
        """What is known of the neurons at these radii: nothing where the ball is larger than the one kept."""
        inside = trial <= self.known_within[index]
        within = {}
        for name, sides in self.known.items():
            mask = inside.view(-1, *[1] * (sides[0].dim() - 1))
            lower, upper = (
                torch.where(mask, side[index], torch.full_like(side[index], end))
                for side, end in zip(sides, (-torch.inf, torch.inf), strict=True)
            )
            within[name] = (lower, upper)
        return within

    def status(self) -> list[str]:
        overflow = self.overflowed & (self.proven == 0)
        return [
            "overflow" if bad else "certified" if correct else "misclassified"
            for correct, bad in zip(self.correct.tolist(), overflow.tolist(), strict=True)
        ]


class _Secant:
    """Where the lower bounds of the margins are expected to meet 0, judged by the last two radii tried.

    What a bound loses against the clean margin grows like a power of the radius: the first for a linear network,
    about the third near the certified radius of a DARTS network. Nothing is proven by this; it saves evaluations.

    Args:
        clean: margins of the unperturbed images.

    Attributes:
        root: the expected radius; infinity before the first trial.
        trials: how many radii were tried; from two on, the power is measured and `root` more than a guess.
    """

    def __init__(self, clean: Float[Tensor, "b s"]) -> None:
        self.clean = clean.clamp(min=torch.finfo(clean.dtype).tiny)
        self.radius = clean.new_zeros(len(clean))
        self.loss = torch.zeros_like(clean)
        self.root = torch.full_like(self.radius, torch.inf)
        self.trials = torch.zeros_like(self.radius, dtype=torch.int64)

    def update(self, index: Int[Tensor, " m"], radius: Float[Tensor, " m"], lower: Float[Tensor, "m s"]) -> None:
        """Take note of bounds at a radius; where they overflowed nothing is expected of any radius."""
        clean, before, loss = self.clean[index], self.radius[index], self.loss[index]
        new = torch.where(torch.isfinite(lower), clean - lower, torch.inf).clamp(min=torch.finfo(clean.dtype).tiny)
        power = (new / loss).log() / (radius / before).log().unsqueeze(1)
        power = torch.where(torch.isfinite(power), power, USUAL_POWER).clamp(*POWERS)
        self.root[index] = (radius.unsqueeze(1) * (clean / new) ** (1 / power)).amin(1)
        self.radius[index], self.loss[index] = radius, new
        self.trials[index] += 1


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

"""The largest radius around each image within which the prediction is proven not to change."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from verify import checks
from verify.bounds import BoundedNetwork, wrapped
from verify.certify.attack import linearised_radius, worst_margin
from verify.certify.secant import Secant, closed_form
from verify.modes import in_own_modes
from verify.propagation.batches import images_at_once as fitting
from verify.propagation.methods import METHODS, PHASES
from verify.propagation.neurons import Intervals
from verify.regions import SMALLEST, Ball, per_image, span
from verify.specification import margins

FIRST_TRIAL = {"linf": 1 / 8, "l2": 1 / 24, "l1": 1 / 24}
"""The first trial as a fraction of the linearised network's radius or of an unsafe one, whichever is smaller."""
AUTO_SECONDS = 10.0
"""What method "auto" spends on an image at most, if no other limit is given."""


PROOF = 2.5
"""About how much longer the proof in float64 takes than an evaluation in float32."""
ROUGH = 0.1
"""Tolerance of the phases before the last."""
FINEST = 1e-6
"""The smallest tolerance: the search runs in float32, which tells no finer ones apart."""
HALVE_EACH = 4
"""Every so many trials the gap is halved, lest a wrong expectation takes many."""
NEAR = 2.5
"""How many tolerances a radius may be away from the last one tried to be left to the proof: what is expected so near
is mostly right, and a trial in float32 would only be repeated in float64."""
PROOFS = (1.0, 0.999, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.25)
"""The most that each trial of a proof may be, in radii expected: CROWN may be looser in a smaller ball, and the search
takes from larger ones what holds in all of their parts."""


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


@in_own_modes
@torch.no_grad()
def verified(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"],
    labels: Integer[Tensor, " b"],
    epsilon: float | Float[Tensor, " b"],
    norm: str = "linf",
    domain: str = "unit",
    method: str = "crown",
) -> Bool[Tensor, " b"]:
    """Whether each image keeps its label in the whole ball. Bounds that are not finite prove nothing.

    For a certificate give it `network.double()` and float64 images: rounding is then accounted for.

    Raises:
        InputError: what `Ball` refuses, or `proven_margin`.
    """
    return proven_margin(network, Ball(images, epsilon, norm, domain), labels, method) > 0


@in_own_modes
@torch.no_grad()
def proven_margin(
    network: BoundedNetwork,
    ball: Ball,
    labels: Integer[Tensor, " b"],
    method: str = "crown",
    targets: Integer[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """A lower bound of the smallest margin in each ball, in logits; -infinity where bounds are not finite.

    Cheap bounds come first, and the method itself only where they prove nothing (`PHASES`). With targets the margin is
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
    return PHASES[checks.choice("method", method, PHASES)]


@in_own_modes
def certified_radius(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"],
    labels: Integer[Tensor, " b"],
    norm: str = "linf",
    domain: str = "unit",
    method: str = "crown",
    *,
    ceiling: Float[Tensor, " b"] | None = None,
    tolerance: float = 0.05,
    time_limit: float | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
    targets: Integer[Tensor, " b"] | None = None,
    largest: float | None = None,
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
        aim = None if targets is None else targets[part]
        deadline = begin + limit * len(part)
        search = _Search(rough, exact, balls.take(part), labels[part], aim, method, tolerance, deadline, largest)
        search.unsafe = torch.minimum(search.unsafe, ceilings[part])
        search.run()
        radius[part], evaluations[part] = search.proven, search.evaluations
        status += search.status()
        seconds[part.cpu()] = (time.perf_counter() - begin) / len(part)
        progress(len(status))
    return Certificates(radius, status, evaluations, seconds, norm, domain, method)


class _Expectation(NamedTuple):
    """What a search leaves to the proof.

    Attributes:
        method: to prove it by.
        aim: the radius that is expected to be proven; 0 for none.
        seen: the radius at which a proof was seen to succeed without regard to rounding.
        secant: where bounds by the method are expected to fail.
    """

    method: str
    aim: Float[Tensor, " b"]
    seen: Float[Tensor, " b"]
    secant: Secant


class _Search:
    """The search for one batch; an image drops out when it is done."""

    def __init__(
        self,
        rough: BoundedNetwork,
        exact: BoundedNetwork,
        balls: Ball,
        labels: Tensor,
        targets: Tensor | None,
        method: str,
        tolerance: float,
        deadline: float,
        largest: float | None,
    ) -> None:
        self.rough, self.exact, self.balls, self.labels = rough, exact, balls, labels
        self.rows = margins(labels, exact.classes, targets)
        self.method, self.tolerance, self.deadline = method, tolerance, deadline
        with torch.no_grad():
            logits = exact(balls.centre)
        self.clean = torch.einsum("bsk,bk->bs", self.rows.to(logits), logits)
        margin = worst_margin(logits, labels)
        self.correct = margin > 0
        linear = linearised_radius(exact, balls.centre, self.rows, balls.norm)
        self.scale, self.unsafe = span(balls, linear, largest)
        self.start = torch.minimum(linear, self.scale)
        self.proven = torch.zeros_like(margin)
        self.overflowed = ~torch.isfinite(margin)
        self.late = torch.zeros_like(self.overflowed)
        self.evaluations = torch.zeros_like(labels)
        self.duration = 0.0
        self._forget()

    def run(self) -> None:
        """Look for radii in float32 and prove them; where nothing can be proven, look again in float64."""
        for network in (self.rough, self.exact):
            active = self.correct & (self.proven == 0) & ~self.late
            self._forget()
            for expectation in self._climb(network, active):
                self._prove(expectation)

    def _climb(self, network: BoundedNetwork, active: Tensor) -> list[_Expectation]:
        """From the cheapest method to the one asked for, each from what the last one proved.

        Returns what there is to prove by each method: every image's radius by the one that it is due to, 0 elsewhere.
        """
        found = aim = torch.zeros_like(self.proven)
        by = torch.zeros_like(self.evaluations)
        *below, top = self._worthwhile()
        steps = [(method, max(self.tolerance, ROUGH)) for method in below] + [(top, self.tolerance)]
        secant, last = None, steps[0][0]
        secants: dict[int, Secant] = {}
        for number, (method, tolerance) in enumerate(steps):
            no_time = number > 0 and self._too_late(METHODS[method].cost / METHODS[last].cost)
            if no_time:
                # What time is left goes into a finer search with the method below.
                method, tolerance, number = below[number - 1], self.tolerance, number - 1
                self.late |= active & (self.method != "auto")
            secants[number] = secant = Secant(self.clean, secant, METHODS[method].gain / METHODS[last].gain)
            found, better = self._narrow(network, method, found, active, tolerance, secant)
            by, aim, last = torch.where(better > aim, number, by), torch.maximum(better, aim), method
            if no_time:
                break
        return [
            _Expectation(steps[number][0], torch.where(by == number, aim, 0.0), found, secant)
            for number, secant in secants.items()
        ]

    def _worthwhile(self) -> Sequence[str]:
        """The phases; method "auto" ends before one that gains less than what is left unproven anyway."""
        methods = PHASES[self.method]
        if self.method == "auto":
            for number, (before, method) in enumerate(itertools.pairwise(methods)):
                if METHODS[method].gain <= METHODS[before].gain * (1 + self.tolerance):
                    return methods[: number + 1]
        return methods

    def _is_over(self) -> bool:
        """Whether the time is up. (Smaller radii are cheaper: what follows a failure may be in time all the same.)"""
        return time.perf_counter() > self.deadline

    def _too_late(self, times: float = 1.0) -> bool:
        """Whether an evaluation that lasts so many times as long as the last one, and its proof, would end too late."""
        return time.perf_counter() + self.duration * times * (1 + PROOF) > self.deadline

    def _narrow(
        self,
        network: BoundedNetwork,
        method: str,
        proven: Tensor,
        active: Tensor,
        tolerance: float,
        secant: Secant,
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Narrow the gap between proven and unsafe radius, until it is within the tolerance or its end expected nearby.

        Returns the proven radius, and the one to prove in float64, which is no smaller.
        """
        unsafe, aim = self.unsafe.clone(), proven
        active = active & (unsafe > 0)
        for number in itertools.count():
            told = secant.measured & (secant.trials > 0)
            limit = torch.where(told, torch.minimum(unsafe, secant.root), unsafe)
            near = active & told & secant.is_near(limit, 1 + NEAR * tolerance)
            aim = torch.where(near, _within_reach(secant.root, unsafe, tolerance), aim)
            active &= ~near & (limit > proven * (1 + tolerance))
            halve = number % HALVE_EACH == HALVE_EACH - 1
            goal = (proven * unsafe).sqrt() if halve else secant.root / (1 + tolerance / 4)
            goal = torch.where(secant.trials > 0, goal, secant.first)
            start = torch.minimum(unsafe, self.start) * FIRST_TRIAL[self.balls.norm]
            least = torch.where(proven > 0, proven * (1 + tolerance / 2), start)
            most = torch.minimum(proven * METHODS[method].growth, unsafe / (1 + tolerance / 2))
            most = torch.where(proven > 0, most, unsafe / 2)
            trial = torch.minimum(torch.maximum(goal, least), most)
            active &= trial > SMALLEST * self.scale
            index = active.nonzero().squeeze(1)
            if not len(index):
                break
            if self.duration and (self._too_late() if (proven[index] > 0).any() else self._is_over()):
                self.late |= active
                break
            lower, result = self._try(network, index, trial[index], method)
            secant.update(index, trial[index], lower)
            unsafe[index] = torch.where(result < trial[index], trial[index], unsafe[index])
            proven = proven.index_copy(0, index, torch.maximum(proven[index], result))
        return proven, torch.maximum(proven, aim)

    def _prove(self, expected: _Expectation) -> None:
        """Keep of each radius what bounds for that very ball prove in float64, so that anyone can repeat the proof.

        A failure shows where to try next, and so does a proof that turns out to be far from the largest one.
        """
        method, aim, seen, secant = expected
        unsafe, trial = self.unsafe.clone(), aim
        for most in PROOFS:
            trial = torch.minimum(trial, torch.where(self.proven > 0, unsafe, aim * most))
            index = (trial > self.proven * (1 + self.tolerance / 2)).nonzero().squeeze(1)
            if not len(index):
                return
            self._forget()
            tried = trial[index]
            lower, result = self._try(self.exact, index, tried, method)
            success = result >= tried
            self.proven[index] = torch.where(success, tried, self.proven[index])
            unsafe[index] = torch.where(success, unsafe[index], tried)
            secant.update(index, tried, lower)
            goal = _within_reach(secant.root, unsafe, self.tolerance)
            left = secant.root > self.proven * (1 + self.tolerance)
            more = torch.zeros_like(goal) if self._too_late() else torch.where(left, goal, 0.0)
            trial = torch.where(self.proven > 0, more, torch.maximum(goal, seen)).where(aim > 0, 0.0)

    def _try(
        self, network: BoundedNetwork, index: Tensor, trial: Float[Tensor, " b"], method: str
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, " b"]]:
        """Lower bounds of the margins in the ball of radius `trial`, and the radius, at most `trial`, they prove."""
        begin = time.perf_counter()
        ball = self.balls.take(index).with_epsilon(trial).to(network.example.dtype)
        with torch.no_grad():
            bounds = network.bounds(
                ball, specification=self.rows[index], method=method, within=self._within(index, trial)
            )
        self.evaluations[index] += 1
        overflowed = ~torch.isfinite(bounds.lower).all(1)
        self.overflowed[index] = overflowed
        success = (bounds.lower > 0).all(1)
        self._remember(index, trial, bounds.intervals, ~success & ~overflowed)
        smaller = torch.zeros_like(trial) if bounds.line is None else closed_form(ball, bounds.line)
        self.duration = time.perf_counter() - begin
        return bounds.lower.to(trial), torch.where(success, trial, torch.where(overflowed, 0.0, smaller.to(trial)))

    def _forget(self) -> None:
        """Start anew with what is known of the neurons, and of the balls it holds in."""
        self.known: Intervals = {}
        self.known_within = torch.zeros_like(self.proven)

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
            mask = per_image(inside, sides[0])
            lower, upper = (
                torch.where(mask, side[index], torch.full_like(side[index], end))
                for side, end in zip(sides, (-torch.inf, torch.inf), strict=True)
            )
            within[name] = (lower, upper)
        return within

    def status(self) -> list[str]:
        """A word an image, see `Certificates`."""
        overflow = self.overflowed & (self.proven == 0)
        late = self.late & self.correct
        words = [("misclassified", ~self.correct), ("timeout", late), ("overflow", overflow)]
        status = ["certified"] * len(self.labels)
        for word, which in words:
            status = [word if it else before for before, it in zip(status, which.tolist(), strict=True)]
        return status


def _within_reach(root: Tensor, unsafe: Tensor, tolerance: float) -> Float[Tensor, " b"]:
    """A little below where bounds are expected to fail, and where they did."""
    return torch.minimum(root / (1 + tolerance / 4), unsafe / (1 + tolerance / 2))

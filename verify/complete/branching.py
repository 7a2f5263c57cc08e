"""Complete verification of a label in a ball, and of the radius up to which it wins.

Where bounds are too loose, neurons are split and both parts are bounded again (Katz et al. 2017; Bunel et al. 2020;
Wang et al. 2021): `verify.complete.neuron_splitting`. Complete for networks that are linear but for piecewise
linear functions of each element. How far that goes in practice is a matter of unstable neurons: some dozens take
seconds, a hundred can take many minutes, and then the verdict is "unknown".
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from verify.bounds import BoundedNetwork, wrapped
from verify.certify.attack import length, linearised_radius, pgd, worst_margin
from verify.checks import inputs as checks
from verify.checks.errors import InputError
from verify.checks.inputs import Array
from verify.checks.modes import in_own_modes
from verify.complete.neuron_splitting import split_neurons
from verify.complete.property import Property
from verify.regions import SMALLEST, Ball, Span, span
from verify.specification import margins

Outcome: TypeAlias = Literal["proven", "broken", "unknown"]

STARTS, STEPS, STEPS_LATER = 8, 30, 5
"""Starting points and steps of the attack before anything is split, and its steps from where bounds are least."""


@dataclass(frozen=True)
class Verdict:
    """What `prove` found.

    Attributes:
        verdict: "proven" (the label wins in the whole ball), "broken" or "unknown" (a limit was hit, bounds were not
            finite, or the margin is 0 up to rounding).
        lower: a proven lower bound of the margin in the ball, in logits; positive for "proven".
        counterexample: "1 *shape" in float64, in the ball and with a margin <= 0 in a float64 forward pass.
        nodes, programs: parts of the ball that were bounded, and linear programs solved.
        unstable: ReLUs that can be on either side of 0 in the ball.
        seconds: spent.
    """

    verdict: Outcome
    lower: float
    counterexample: Float[Tensor, "1 *shape"] | None
    nodes: int
    programs: int
    unstable: int
    seconds: float


@in_own_modes
@torch.no_grad()
def prove(
    network: BoundedNetwork, ball: Ball, label: int, *, max_nodes: int = 100_000, time_limit: float = 60.0
) -> Verdict:
    """Whether one image keeps its label in the whole ball: yes, no, or out of time.

    Bounds are float64's with relaxations widened outward, and linear programs count by their dual values
    (:mod:`verify.complete.linear_program`): "proven" is a proof about the network in real arithmetic.

    Args:
        network: any that has bounds; with relaxed operators other than ReLU there may be parts that no split decides.
        ball: of one image, on the CPU.
        label: its class.
        max_nodes: parts of the ball that are bounded at most.
        time_limit: seconds; looked at between batches of nodes.

    Raises:
        InputError: no ball, several images, a limit that is no number, another device, or what `BoundedNetwork.check`
            refuses.
    """
    ball = checks.instance("ball", ball, Ball, "make one of an image and a radius")
    if len(ball.centre) != 1:
        raise InputError(f"branch and bound takes one image at a time, not {len(ball.centre)}")
    label = checks.whole("label", label, 0)
    wrapped(network).check(ball.centre, torch.tensor([label]))
    if ball.centre.device.type != "cpu":
        raise InputError("branch and bound runs on the CPU; move the network and the ball there")
    max_nodes = checks.whole("max_nodes", max_nodes)
    time_limit = checks.number("time_limit", time_limit, least=0.0, endless=True)
    ball, begin = ball.to(torch.float64), time.perf_counter()
    exact, labels = network.double(), torch.tensor([label])

    def search(start: Float[Tensor, "n *shape"], steps: int = STEPS_LATER) -> Float[Tensor, "1 *shape"] | None:
        """A point of the ball where the label does not win, from these starting points."""
        x = pgd(exact, ball.repeat(len(start)), labels.repeat(len(start)), steps=steps, start=start)
        margin = worst_margin(exact(x), labels.repeat(len(start)))
        worst = int(margin.argmin())
        return x[[worst]] if margin[worst] <= 0 else None

    samples = ball.repeat(STARTS - 1).sample(torch.Generator().manual_seed(0))
    broken = search(torch.cat([ball.centre, samples]), STEPS)
    if broken is not None:
        return Verdict("broken", -math.inf, broken, 0, 0, 0, time.perf_counter() - begin)
    (case,) = Property.robust(ball, label, exact.classes).cases
    found = split_neurons(exact, case, search, begin + time_limit, float(max_nodes))
    verdict: Outcome = "broken" if found.counterexample is not None else "proven" if found.lower > 0 else "unknown"
    counts, seconds = (found.parts, found.programs, found.unstable), time.perf_counter() - begin
    return Verdict(verdict, found.lower, found.counterexample, *counts, seconds)


@dataclass(frozen=True)
class Brackets:
    """What `complete_radius` found, one entry an image.

    Attributes:
        lower: certified radius, in input units.
        upper: size of the smallest perturbation known to succeed.
        nodes: parts of balls that were bounded.
        seconds: spent.
    """

    lower: Float[Tensor, " b"]
    upper: Float[Tensor, " b"]
    nodes: Int[Tensor, " b"]
    seconds: Float[Tensor, " b"]


@in_own_modes
def complete_radius(
    network: BoundedNetwork,
    images: Float[Tensor, "b *shape"] | Array,
    labels: Integer[Tensor, " b"] | Array,
    norm: str = "linf",
    domain: str = "unit",
    *,
    lower: float | Float[Tensor, " b"] | Array,
    upper: float | Float[Tensor, " b"] | Array,
    tolerance: float = 0.01,
    time_limit: float = 60.0,
    largest: float | None = None,
) -> Brackets:
    """The exact radius of each image up to `tolerance`, between a certificate and an attack.

    The first trial is just below the attack, where a proof ends the search; after that the geometric mean of what is
    proven and what is not. Counterexamples lower the upper end. A trial that runs out of time (half of what is left)
    is not tried again; the bracket is then wider than the tolerance.

    Args:
        network, images, labels, norm, domain: as in `certified_radius`.
        lower: certified radii, from `certified_radius`.
        upper: radii of successful attacks, from `attack_radius`; may be infinite.
        tolerance: stop when the upper end is within this fraction of the lower one.
        time_limit: seconds an image.
        largest: the largest radius tried, as in `certified_radius`.

    Raises:
        InputError: tolerance or time limit not positive; ends that are no radii, or a lower one above the upper one; or
            anything `prove` raises.
    """
    images, labels, _ = wrapped(network).check(images, labels)
    balls = Ball(images.double(), 0.0, norm, domain)
    lower, upper = checks.radii("lower", lower, images), checks.radii("upper", upper, images, endless=True)
    tolerance, time_limit = checks.number("tolerance", tolerance), checks.number("time_limit", time_limit, endless=True)
    if (broken := (lower > upper).nonzero().flatten().tolist()):
        raise InputError(f"images {broken}: an attack succeeds within the certified radius; one of the two is wrong")
    exact, found = network.double(), []
    for number, label in enumerate(labels.tolist()):
        ball = balls.take(torch.tensor([number]))
        rows = margins(torch.tensor([label]), exact.classes)
        radii = span(ball, linearised_radius(exact, ball.centre, rows, norm), largest)
        ends = float(lower[number]), float(upper[number])
        found.append(_bracket(exact, ball, label, *ends, radii, tolerance, time_limit))
    table = torch.tensor(found, dtype=torch.float64).view(-1, 4)
    return Brackets(table[:, 0], table[:, 1], table[:, 2].long(), table[:, 3])


def _bracket(
    network: BoundedNetwork,
    ball: Ball,
    label: int,
    low: float,
    high: float,
    radii: Span,
    tolerance: float,
    time_limit: float,
) -> tuple[float, float, int, float]:
    """Lower and upper end for one image, nodes and seconds."""
    begin, nodes = time.perf_counter(), 0
    scale, largest = float(radii.scale), float(radii.largest)
    ceiling = min(high, largest)
    trial = ceiling / (1 + tolerance)
    while ceiling > low * (1 + tolerance) * (1 + 1e-9) and trial > SMALLEST * scale:
        left = begin + time_limit - time.perf_counter()
        if left <= 0:
            break
        region = ball.with_epsilon(torch.tensor([trial], dtype=torch.float64))
        found = prove(network, region, label, time_limit=left / 2)
        nodes += found.nodes
        if found.verdict == "proven":
            low = trial
        else:
            if found.counterexample is not None:
                high = min(high, float(length(found.counterexample - ball.centre, ball.norm)))
            ceiling = min(trial, high)
        trial = math.sqrt(low * ceiling) if low > 0 else ceiling / 4
    return low, high, nodes, time.perf_counter() - begin

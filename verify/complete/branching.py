"""Complete verification of small networks: branch and bound over ReLU splits.

Where bounds are too loose, an unstable ReLU is split into its two linear halves, and each half is bounded again
(Katz et al. 2017; Bunel et al. 2020). A split enters twice: it clips the neuron's interval, which tightens the neurons
behind it, and it is a constraint of a linear program, whose multipliers do what the beta of Wang et al. 2021 does.
Complete for networks of ReLUs and linear operators. How far that goes in practice is a matter of unstable neurons: some
dozens take seconds, a hundred can take many minutes, and then the verdict is "unknown".
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from verify.bounds import BoundedNetwork, wrapped
from verify.certify.attack import length, linearised_radius, pgd, worst_margin
from verify.certify.radius import images_at_once
from verify.checks import inputs as checks
from verify.checks.errors import InputError
from verify.checks.modes import in_own_modes
from verify.complete.linear_program import Neuron, Program, RoundBall, Solution, Splits, check, ends_of, unstable
from verify.propagation.neurons import Intervals
from verify.regions import SMALLEST, Ball, Span, span
from verify.specification import margins

Outcome: TypeAlias = Literal["proven", "broken", "unknown"]

AT_ONCE = 8
"""Nodes of the tree that are split together: their halves are bounded as one batch, where memory has room for it."""
STARTS, STEPS, STEPS_LATER = 8, 30, 5
"""Starting points and steps of the attack before anything is split, and its steps from solutions of programs."""


@dataclass(frozen=True)
class Verdict:
    """What `prove` found.

    Attributes:
        verdict: "proven" (the label wins in the whole ball), "broken" or "unknown" (a limit was hit, bounds were not
            finite, or the margin is 0 up to rounding).
        lower: a proven lower bound of the margin in the ball, in logits; for "proven" positive, and no more than that.
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

    Everything is computed in float64 with relaxations widened outward, and linear programs count by their dual values
    (:mod:`verify.complete.linear_program`): "proven" is a proof about the network in real arithmetic.

    Args:
        network: with no relaxed operator but ReLU.
        ball: of one image, on the CPU.
        label: its class.
        max_nodes: parts of the ball that are bounded at most.
        time_limit: seconds; looked at between batches of nodes.

    Raises:
        InputError: no ball, several images, a limit that is no number, another device, or what `BoundedNetwork.check`
            refuses.
        UnsupportedOperator: a max pool, for example.
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
    check(network)
    return _Tree(network.double(), ball.to(torch.float64), label, max_nodes, time_limit).run()


@dataclass(order=True)
class _Node:
    """A part of the ball in which one wrong class (`row` of the margins) is not excluded yet.

    Attributes:
        lower: proven lower bound of its margin.
        number: breaks ties.
        branch: the neuron to split next, None where there is none left.
    """

    lower: float
    number: int
    row: int = field(compare=False)
    intervals: Intervals = field(compare=False)
    splits: Splits = field(compare=False)
    branch: Neuron | None = field(compare=False, default=None)


class _Tree:
    """One run of `prove`: a queue of nodes, the worst bound first."""

    def __init__(self, network: BoundedNetwork, ball: Ball, label: int, max_nodes: int, time_limit: float) -> None:
        self.network, self.ball, self.max_nodes = network, ball, max_nodes
        self.labels = torch.tensor([label])
        self.rows = margins(self.labels, network.classes).to(ball.centre)[0]
        self.round_ball = None if ball.norm == "linf" else RoundBall(ball.norm, ball.centre.numel())
        self.begin = time.perf_counter()
        self.deadline = self.begin + time_limit
        self.at_once = max(1, min(AT_ONCE, images_at_once(network, "crown") // 2))
        self.queue: list[_Node] = []
        self.nodes = self.programs = self.unstable = 0

    def run(self) -> Verdict:
        """Attack, bound, and split what is left until nothing is, or a counterexample or a limit is met."""
        samples = self.ball.repeat(STARTS - 1).sample(torch.Generator().manual_seed(0))
        broken = self._attacked(torch.cat([self.ball.centre, samples]), STEPS)
        if broken is None:
            roots = self._roots()
            if not _is_finite(roots[0].intervals):
                return self._verdict("unknown", -math.inf)
            broken = self._open(roots)
        while broken is None and self.queue:
            if self.queue[0].branch is None or self.nodes >= self.max_nodes or self._seconds_left() <= 0:
                return self._verdict("unknown", self.queue[0].lower)
            worst: list[_Node] = []
            while len(worst) < self.at_once and self.queue and self.queue[0].branch is not None:
                worst.append(heapq.heappop(self.queue))
            broken = self._open(self._halves(worst))
        if broken is not None:
            return self._verdict("broken", -math.inf, broken)
        return self._verdict("proven", 0.0)

    def _roots(self) -> list[_Node]:
        """The whole ball, once for each wrong class."""
        bounds = self.network.bounds(self.ball, specification=self.rows, method="crown")
        self.unstable = len(unstable(bounds.intervals))
        lowers = bounds.lower[0].nan_to_num(-math.inf).tolist()
        return [self._node(lower, row, bounds.intervals, {}) for row, lower in enumerate(lowers)]

    def _halves(self, parents: Sequence[_Node]) -> list[_Node]:
        """Both sides of each node's split, with CROWN's bounds from clipped intervals."""
        pairs = [(node, sign) for node in parents for sign in (1, -1)]
        clipped = [_clipped(node, sign) for node, sign in pairs]
        within = _stacked(clipped)
        rows = self.rows[[node.row for node, _ in pairs]].unsqueeze(1)
        bounds = self.network.bounds(self.ball.repeat(len(pairs)), specification=rows, method="crown", within=within)
        # NaN bounds count for nothing: fmax and fmin pass them over.
        intervals = {
            name: (torch.fmax(low, bounds.intervals[name][0]), torch.fmin(high, bounds.intervals[name][1]))
            for name, (low, high) in within.items()
        }
        halves = []
        for number, (node, sign) in enumerate(pairs):
            assert node.branch is not None
            lower = max(node.lower, bounds.lower[number, 0].nan_to_num(-math.inf).item())
            own = {name: (low[[number]], high[[number]]) for name, (low, high) in intervals.items()}
            halves.append(self._node(lower, node.row, own, {**node.splits, node.branch: sign}))
        return halves

    def _node(self, lower: float, row: int, intervals: Intervals, splits: Splits) -> _Node:
        self.nodes += 1
        return _Node(lower, self.nodes, row, intervals, splits)

    def _open(self, nodes: Sequence[_Node]) -> Tensor | None:
        """Queue the nodes that neither bounds nor a linear program close; a counterexample if one is met."""
        points = []
        for node in nodes:
            if node.lower > 0 or _is_empty(node.intervals):
                continue
            solution = self._solve(node)
            if solution.bound > 0:
                continue
            node.lower = max(node.lower, solution.bound)
            node.branch = _choose(node.intervals, solution)
            heapq.heappush(self.queue, node)
            if solution.point is not None:
                points.append(solution.point)
        return self._attacked(torch.cat(points), STEPS_LATER) if points else None

    def _solve(self, node: _Node) -> Solution:
        self.programs += 1
        program = Program(self.network, self.ball, node.intervals, node.splits, self.round_ball)
        return program.minimise(self.rows[node.row], self._seconds_left())

    def _attacked(self, start: Float[Tensor, "n *shape"], steps: int) -> Float[Tensor, "1 *shape"] | None:
        """A point of the ball where the label does not win, from these starting points."""
        labels = self.labels.repeat(len(start))
        x = pgd(self.network, self.ball.repeat(len(start)), labels, steps=steps, start=start)
        margin = worst_margin(self.network(x), labels)
        worst = int(margin.argmin())
        return x[[worst]] if margin[worst] <= 0 else None

    def _seconds_left(self) -> float:
        return self.deadline - time.perf_counter()

    def _verdict(self, verdict: Outcome, lower: float, counterexample: Tensor | None = None) -> Verdict:
        seconds = time.perf_counter() - self.begin
        return Verdict(verdict, lower, counterexample, self.nodes, self.programs, self.unstable, seconds)


def _clipped(node: _Node, sign: int) -> Intervals:
    """The node's intervals on one side of its split."""
    assert node.branch is not None
    name, index = node.branch
    lower, upper = (side.clone(memory_format=torch.contiguous_format) for side in node.intervals[name])
    (lower if sign > 0 else upper).view(-1)[index] = 0
    return {**node.intervals, name: (lower, upper)}


def _stacked(parts: Sequence[Intervals]) -> Intervals:
    """The intervals of several nodes as those of a batch."""
    return {
        name: (torch.cat([part[name][0] for part in parts]), torch.cat([part[name][1] for part in parts]))
        for name in parts[0]
    }


def _is_empty(intervals: Intervals) -> bool:
    """Whether no input meets the splits: the intervals are widened outward, so crossed ones prove it."""
    return any(bool((lower > upper).any()) for lower, upper in intervals.values())


def _is_finite(intervals: Intervals) -> bool:
    return all(bool(torch.isfinite(side).all()) for sides in intervals.values() for side in sides)


def _choose(intervals: Intervals, solution: Solution) -> Neuron | None:
    """The unstable neuron whose relaxation costs the bound most; without such costs the one of the largest triangle."""
    neurons = unstable(intervals)
    if not neurons:
        return None
    lower, upper = ends_of(neurons, intervals)
    scores = solution.scores if solution.scores.any() else -lower * upper
    return neurons[int(scores.argmax())]


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
    images: Float[Tensor, "b *shape"],
    labels: Integer[Tensor, " b"],
    norm: str = "linf",
    domain: str = "unit",
    *,
    lower: Float[Tensor, " b"],
    upper: Float[Tensor, " b"],
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

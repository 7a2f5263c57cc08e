"""Branch and bound over the neurons, by bounds that are raised by gradient (beta-CROWN, Wang et al. 2021).

What bounds leave open is split at a neuron, and both parts are bounded again: first the neurons, by backward passes
within the intervals of the part, then the rows of the unsafe sets, with slopes and multipliers that start from those of
the part's parent. The ascent is no part of the proof. What counts is one backward pass at its end, in float64, that
gives way for rounding; it is a bound whatever the slopes and multipliers are (`verify.propagation.crown.Held`). Where
few neurons are left to split in a network of functions of each element, linear programs decide more
(`verify.complete.linear_program`); of an unsafe set of several rows they bound the largest.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounds import BoundedNetwork
from verify.certify.radius import images_at_once
from verify.complete.domains import Domains, Frame, joined
from verify.complete.input_splitting import Search
from verify.complete.linear_program import Program, represents
from verify.complete.property import Case
from verify.complete.round_ball import RoundBall
from verify.complete.splits import Splits, best_splits, halves
from verify.operators.layout import listed
from verify.propagation.alpha import ASCENT_OF_NEURONS, Ascent, ascended, has_slopes
from verify.propagation.bounds import proven_lower
from verify.propagation.crown import Backward, allowance
from verify.propagation.methods import METHODS, Method
from verify.propagation.neurons import Intervals, Neurons
from verify.propagation.prior import bound_neurons
from verify.regions import Ball
from verify.rounding import IGNORED, plain_sums

AT_ONCE = 64
"""Parts that are split together, where memory has room for their halves."""
STEPS_FIRST, STEPS = 40, 12
"""Of the ascent for the whole region, and for a part of it."""
SHARE_FIRST = 0.25
"""Of the time, for the slopes of the neurons over the whole region."""
POINTS = 8
"""At which bounds of a batch are least, that a search for counterexamples begins from."""
FEW = 12
"""Neurons left to split, from which down linear programs are solved."""
AGAIN = Method((), refined=True)
"""How the neurons of a part are bounded: by backward passes for those that are not settled."""


@dataclass(frozen=True)
class Opened:
    """Parts that bounds leave open.

    Attributes:
        domains: the parts.
        splits: where to split each.
        points: inputs at which the bounds are least, "b *shape".
    """

    domains: Domains
    splits: Splits
    points: Tensor

    def __len__(self) -> int:
        return len(self.domains)

    def take(self, index: Int[Tensor, " m"]) -> Opened:
        return Opened(self.domains.take(index), self.splits.take(index), self.points[index])

    def plus(self, other: Opened) -> Opened:
        domains, points = joined(self.domains, other.domains), torch.cat([self.points, other.points])
        return Opened(domains, self.splits.plus(other.splits), points)


class Branching(NamedTuple):
    """What splitting neurons found.

    Attributes:
        lower: of the margin in the whole region, proven; positive where all is.
        counterexample: one that `Search` gave.
        parts, programs: how many parts were bounded, and linear programs solved.
        unstable: neurons that bounds over the whole region leave to split.
    """

    lower: float
    counterexample: Tensor | None
    parts: int
    programs: int
    unstable: int


@torch.no_grad()
def split_neurons(
    exact: BoundedNetwork, case: Case, search: Search, deadline: float, most: float = math.inf
) -> Branching:
    """Split the neurons of a network until every part of a case's region is proven, or one holds a counterexample.

    Args:
        exact: from `BoundedNetwork.double`.
        search: looks for counterexamples from points of the region or next to it.
        deadline: by `time.perf_counter`; looked at between batches.
        most: parts that are bounded at most.
    """
    return _Tree(exact, case, search, deadline, most).run()


class _Tree:
    """One run of `split_neurons`: a stack of parts, of which the last are split first, so that it stays small."""

    def __init__(self, exact: BoundedNetwork, case: Case, search: Search, deadline: float, most: float) -> None:
        self.graph, self.exact, self.case = exact.graph, exact, case
        self.search, self.deadline, self.most = search, deadline, most
        self.rows = torch.cat([part.rows for part in case.unsafe])
        self.limits = torch.cat([part.limits for part in case.unsafe])
        self.sizes = [len(part.limits) for part in case.unsafe]
        self.at_once = max(1, min(AT_ONCE, images_at_once(exact, "crown") // 2))
        self.programmed, region = represents(exact), case.region
        self.round_ball = None
        if isinstance(region, Ball) and region.norm != "linf":
            self.round_ball = RoundBall(region.norm, region.centre.numel())
        self.parts = self.programs = 0
        self.proven = math.inf
        """The least margin of what is settled: parts that are proven, and those that nothing more can be done for."""

    def run(self) -> Branching:
        """Bound, and split what is left until nothing is, or a counterexample or a limit is met."""
        stack = self._whole()
        if stack is None:
            return self._found(-math.inf)
        counterexample = None
        while stack and counterexample is None:
            now = self._next(stack)
            if time.perf_counter() > self.deadline or self.parts >= self.most:
                stack.append(now)
                break
            counterexample = self.search(now.points[:POINTS])
            if counterexample is None:
                now, counterexample = self._by_programs(now)
            splittable = (~now.splits.point.isnan()).nonzero().flatten()
            self._settle(now.domains.bound[now.splits.point.isnan()])
            if counterexample is None and len(splittable):
                now = now.take(splittable)
                stack += self._opened(halves(now.domains, self.frame, now.splits))
        if counterexample is not None:
            return self._found(-math.inf, counterexample)
        for each in stack:
            self._settle(each.domains.bound)
        return self._found(self.proven)

    def _whole(self) -> list[Opened] | None:
        """What bounds over the whole region leave open: neurons by CROWN, then by slopes of their own as well.

        None where bounds are not finite.
        """
        begin, within, count = time.perf_counter(), None, len(self.rows)
        ascent = ASCENT_OF_NEURONS._replace(deadline=begin + SHARE_FIRST * (self.deadline - begin))
        stack: list[Opened] = []
        for by in (None, ascent) if has_slopes(self.graph) else (None,):
            neurons = self._neurons(METHODS["crown"], 1, within, by)
            self.frame, within = Frame(self.graph, neurons.intervals), neurons.intervals
            if not bool(neurons.finite):
                return None
            whole = self.frame.whole(self.rows.new_full((1, count), -math.inf), self.frame.first_choice(count))
            stack = self._bounded(whole, neurons, STEPS_FIRST)
            if any(bool(each.domains.bound.isinf().any()) for each in stack):
                return None
            if not stack:
                break
        return stack

    def _next(self, stack: list[Opened]) -> Opened:
        """The last parts, as many as are split together."""
        now = stack.pop()
        while stack and len(now) < self.at_once:
            now = stack.pop().plus(now)
        if len(now) > self.at_once:
            order = torch.arange(len(now))
            stack.append(now.take(order[: -self.at_once]))
            now = now.take(order[-self.at_once :])
        return now

    def _opened(self, domains: Domains) -> list[Opened]:
        """What is left of parts once their neurons and then their rows are bounded."""
        neurons = self._neurons(AGAIN, len(domains), self.frame.intervals_of(domains))
        assert neurons.empty is not None
        (left,) = (~neurons.empty).nonzero(as_tuple=True)
        self.parts += len(domains) - len(left)
        if not len(left):
            return []
        domains = self.frame.narrowed(domains, neurons.intervals)
        return self._bounded(domains.take(left), neurons.take(left), STEPS)

    def _neurons(
        self, method: Method, count: int, within: Intervals | None, ascent: Ascent | None = None
    ) -> Neurons:
        """Bounds of the neurons, and all that backward passes need to know of rounding."""
        region = self.case.region.repeat(count)
        with plain_sums(self.exact.rounding):
            neurons = bound_neurons(self.graph, region, method, self.exact.memory, self.exact.rounding, within, ascent)
        if within is not None:
            neurons.intervals = {
                name: (torch.maximum(lower, within[name][0]), torch.minimum(upper, within[name][1]))
                for name, (lower, upper) in neurons.intervals.items()
            }
        allowance(self.graph, neurons, self.graph.final_node())
        return neurons

    def _bounded(self, domains: Domains, neurons: Neurons, steps: int) -> list[Opened]:
        """Bounds of the rows that are open, as they come, and then raised one after the other until one stays open."""
        self.parts += len(domains)
        domains, _ = self._raised(domains, neurons, listed(self._open_rows(domains.bound)), 0)
        left: list[Opened] = []
        while len(alive := self._alive(domains.bound)):
            domains, neurons = domains.take(alive), neurons.take(alive)
            worst = self._worst(domains.bound)
            domains, found = self._raised(domains, neurons, worst, steps)
            stays = domains.bound.gather(1, worst).squeeze(1) <= 0
            if stays.any():
                reached = {name: A[0] for name, A in found.reached.items()}
                splits = best_splits(self.frame, neurons.intervals, reached, len(domains))
                opened = Opened(domains, splits, self._lowest(neurons, found))
                left.append(opened.take(stays.nonzero().flatten()))
            again = (~stays).nonzero().flatten()
            domains, neurons = domains.take(again), neurons.take(again)
        return left

    def _raised(
        self, domains: Domains, neurons: Neurons, index: Int[Tensor, "b m"], steps: int
    ) -> tuple[Domains, Backward]:
        """The parts with bounds of these rows, raised in so many steps."""
        rows, limits = self.rows[index], self.limits[index]
        choice = self.frame.choice_of(domains, index)
        if steps:
            loose, signs = replace(neurons, rounding=IGNORED), self.frame.signs(domains)
            node, ascent = self.graph.final_node(), Ascent(steps, self.deadline)
            choice = ascended(self.graph, loose, node, rows, choice, signs, limits, ascent)
        lower, found = proven_lower(self.graph, neurons, rows, choice)
        bound = domains.bound.scatter_reduce(1, index, lower - limits, "amax")
        return self.frame.with_choice(replace(domains, bound=bound), index, choice), found

    @staticmethod
    def _lowest(neurons: Neurons, found: Backward) -> Tensor:
        """Inputs at which the bound is least, of the one row that was bounded of each part."""
        assert found.coefficients is not None
        middle, half = neurons.region.extremes(found.coefficients)
        return (middle - half).view(neurons.region.centre.shape)

    def _by_programs(self, opened: Opened) -> tuple[Opened, Tensor | None]:
        """What linear programs leave open, with their bounds, and a counterexample if one is met."""
        few = (opened.splits.choices <= FEW).tolist()
        if not self.programmed or not any(few):
            return opened, None
        bound, points = opened.domains.bound.clone(), []
        for number in (number for number, is_so in enumerate(few) if is_so):
            bound[number], point = self._program(opened.domains.take(torch.tensor([number])))
            if point is not None:
                points.append(point)
        alive = self._alive(bound)
        opened = replace(opened, domains=replace(opened.domains, bound=bound)).take(alive)
        return opened, self.search(torch.cat(points)) if points and len(alive) else None

    def _program(self, part: Domains) -> tuple[Float[Tensor, " s"], Tensor | None]:
        """Bounds of the sets of one part, each at its first row, and a point where an open one is least."""
        bound, point = part.bound[0].clone(), None
        intervals, cuts = self.frame.intervals_of(part), self.frame.cuts_of(part)
        program = Program(self.exact, self.case.region, intervals, cuts, self.round_ball)
        (excluded,) = self._margins(part.bound) > 0
        firsts = [0, *torch.tensor(self.sizes).cumsum(0).tolist()]
        for unsafe, first, known in zip(self.case.unsafe, firsts[:-1], excluded.tolist(), strict=True):
            if known:
                continue
            self.programs += 1
            row, limit, worst = unsafe.rows[0], unsafe.limits[0], None
            if len(unsafe.limits) > 1:
                left = self.deadline - time.perf_counter()
                weights, worst = program.worst_mixture(unsafe.rows, unsafe.limits, left)
                row, limit = weights @ unsafe.rows, weights @ unsafe.limits
            solution = program.minimise(row, self.deadline - time.perf_counter(), float(limit))
            bound[first] = max(float(bound[first]), solution.bound)
            if solution.bound <= 0 and solution.point is not None:
                point = solution.point if worst is None else worst
        return bound, point

    def _margins(self, bound: Float[Tensor, "b s"]) -> Float[Tensor, "b d"]:
        """The best bound of each unsafe set."""
        return torch.stack([part.amax(1) for part in bound.split(self.sizes, 1)], 1)

    def _open_rows(self, bound: Float[Tensor, "b s"]) -> Bool[Tensor, "b s"]:
        """The rows of the sets that no row excludes."""
        return torch.repeat_interleave(self._margins(bound) <= 0, torch.tensor(self.sizes), 1)

    def _worst(self, bound: Float[Tensor, "b s"]) -> Int[Tensor, "b 1"]:
        """Of the set that is furthest from a proof the row that is nearest to one."""
        best = torch.repeat_interleave(self._margins(bound), torch.tensor(self.sizes), 1)
        return best.masked_fill(bound < best, math.inf).argmin(1, keepdim=True)

    def _alive(self, bound: Float[Tensor, "b s"]) -> Int[Tensor, " m"]:
        """Parts with a set that is open. The others are settled."""
        is_open = (self._margins(bound) <= 0).any(1)
        self._settle(bound[~is_open])
        return is_open.nonzero().flatten()

    def _settle(self, bound: Float[Tensor, "b s"]) -> None:
        if len(bound):
            self.proven = min(self.proven, float(self._margins(bound).amin()))

    def _found(self, lower: float, counterexample: Tensor | None = None) -> Branching:
        unstable = sum(numbers.shape[1] for numbers in self.frame.neurons.values())
        return Branching(lower, counterexample, self.parts, self.programs, unstable)

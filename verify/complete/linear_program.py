"""Linear programs over the relaxation of a network, with proofs from their dual values.

The program of a network, a ball and the cuts of a part has the pixels and the outputs of relaxed neurons as its
variables (Ehlers 2017; Bunel et al. 2020). Such an output lies between the lines of its function, of a ReLU with input
x in [l, u] y >= 0, y >= x, y <= u (x - l) / (u - l). Where the lines are one, as on a piece of a piecewise linear
function, it is the function itself. Each cut adds x >= or x <= a number. It is solved by HiGHS in floating point, so
neither its optimal value nor its verdict "infeasible" is believed. Only the multipliers are taken from it: any
nonnegative multipliers give a lower bound by weak duality, which :meth:`Program.dual_bound` evaluates itself, in
float64 and less a slack for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.optimize import OptimizeResult, linprog
from torch import Tensor

from verify.bounds import BoundedNetwork
from verify.complete.round_ball import RoundBall
from verify.graph.building import INPUT
from verify.operators import LinearOperator
from verify.operators.activation import ReLU
from verify.operators.layout import flat
from verify.operators.operator import Interval
from verify.operators.relaxation import Elementwise, Lines
from verify.propagation.neurons import Intervals
from verify.regions import Ball, Region

Array = np.ndarray
Neuron = tuple[str, int]
"""The node that a function reads, and the position in it, flattened."""
Cuts = dict[Neuron, tuple[float, float]]
"""What the input of a function is to lie between; an end may be infinite."""

Line = tuple[Float[Tensor, " m"], Float[Tensor, " m"]]
"""Slope and intercept of each neuron."""

CLOSE = 1e-9
"""Two lines of one slope this near to each other, relative to their values, are one; their distance counts as error."""
SLACK = 1e-10
"""Relative to the terms of a dual bound: far above their rounding errors, far below what decides a proof."""
WIDER = 1 + 2.0**-50
"""A factor that makes up for the rounding of a reach and of the sum that it enters."""
ROUNDS, GAIN = 12, 0.02
"""An l2 ball is refined until the solution hardly sticks out of it or the bound gains less than the fraction GAIN of
itself, at most ROUNDS times."""
FLOAT = 2.0**-46
"""More than rounding does to a sum of a few terms, relative to them."""


class Solution(NamedTuple):
    """What a linear program says.

    Attributes:
        bound: of the objective from below, proven; infinity where no input meets the cuts.
        point: the input at which the relaxation is least, "1 *shape"; it can stick out of an l2 ball a little.
    """

    bound: float
    point: Float[Tensor, "1 *shape"] | None


class Form(NamedTuple):
    """The value at a node, sum_i v_i rows_i + offset -+ error, for the variables v of the program, within -+ 1.

    The error is what rounding may have done, however much has cancelled on the way.
    """

    rows: Float[Tensor, "v *shape"]
    offset: Float[Tensor, "1 *shape"]
    error: Float[Tensor, "1 *shape"]

    @property
    def largest(self) -> Float[Tensor, "1 *shape"]:
        """The sum of the magnitudes of what each element is a sum of."""
        return self.rows.abs().sum(0, keepdim=True) + self.offset.abs() + self.error


class Pieces(NamedTuple):
    """A function over the intervals of what it reads.

    Attributes:
        lines: over these intervals.
        is_open: "1 n": which neurons have two lines; of the others the middle of both is the function, or nearly so.
    """

    lines: Lines
    is_open: Bool[Tensor, "1 n"]


def pieces(node: Elementwise, interval: Interval) -> Pieces:
    """The lines of a function of one image."""
    lines = Lines(*(flat(part) for part in node.lines(*interval)))
    gap = lines.upper_intercept - lines.lower_intercept
    size = 1 + lines.upper_intercept.abs() + lines.lower_intercept.abs()
    return Pieces(lines, (lines.upper_slope != lines.lower_slope) | (gap > CLOSE * size))


def represents(network: BoundedNetwork) -> bool:
    """Whether these programs can say what a network is: one that is linear but for functions of each element."""
    nodes = (node for node in network.graph.nodes if node.from_input and node.inputs)
    return all(isinstance(node, (LinearOperator, Elementwise)) for node in nodes)


def _key(node: Elementwise) -> str:
    """What names a function: all ReLUs of one node are one."""
    name: str = node.inputs[0].name if type(node) is ReLU else node.name
    return name


def _scaled(region: Region) -> tuple[Float[Tensor, "1 *shape"], Float[Tensor, "1 *shape"]]:
    """The point that pixels are told from, and how far they reach; of a box a little further, as both are rounded."""
    if isinstance(region, Ball):
        return region.centre, region.epsilon.view_as(region.centre.flatten(1)[:, :1]) * torch.ones_like(region.centre)
    centre = region.lower + (region.upper - region.lower) / 2
    reach = torch.maximum(region.upper - centre, centre - region.lower)
    return centre, torch.where(reach > 0, reach * WIDER + centre.abs() * (WIDER - 1), 0.0)


def _lower_lines(node: Elementwise, lines: Lines, ends: Sequence[Float[Tensor, " m"]]) -> list[Line]:
    """All that a relaxation has: of a ReLU 0 and x, between which it may choose."""
    if not node.has_slopes:
        return [(lines.lower_slope, lines.lower_intercept)]
    return [(slope, lines.lower_intercept) for slope in node.slope_range(*ends)]


def _closed(form: Form, lines: Lines, is_open: Bool[Tensor, "1 n"]) -> Form:
    """What functions of one line make of a form, and nothing of the neurons that have two."""
    shape = form.offset.shape
    slope = lines.upper_slope.masked_fill(is_open, 0.0).view(shape)
    low, high = (part.masked_fill(is_open, 0.0).view(shape) for part in (lines.lower_intercept, lines.upper_intercept))
    middle, half = low + (high - low) / 2, (high - low) / 2
    exact = (low == 0) & (high == 0) & ((slope == 0) | (slope == 1))
    error = slope.abs() * form.error + half
    error = error + torch.where(exact, 0.0, SLACK * (1 + slope.abs() * form.largest + middle.abs()))
    rows = (form.rows * slope).contiguous()
    return Form(rows, (form.offset * slope + middle).contiguous(), error.masked_fill(is_open.view(shape), 0.0))


class Program:
    """The relaxation of a network over the part of a region that meets some cuts: A v <= b, low <= v <= high.

    Variables are scaled: pixel i is centre_i + reach_i v_i, with the radius of a ball or half the width of a box as its
    reach; the output of a relaxed neuron in [l, u] is l + (u - l) v_j with v_j in [0, 1].

    Args:
        network: from `BoundedNetwork.double`; one that is represented (`represents`).
        region: of one image, in float64.
        intervals: of what all functions read, one image, valid where the cuts are met; not crossed.
        cuts: constraints on what functions read.
        round_ball: for l1 and l2 balls; shared by the programs of a ball.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: BoundedNetwork,
        region: Region,
        intervals: Intervals,
        cuts: Cuts,
        round_ball: RoundBall | None,
    ) -> None:
        self.intervals, self.cuts, self.round_ball = intervals, cuts, round_ball
        self.centre, self.reach = _scaled(region)
        self.pixels, self.relaxed = self.centre.numel(), 0
        self.places: dict[str, int] = {}
        for node in network.graph.nodes:
            if isinstance(node, Elementwise) and node.from_input and _key(node) not in self.places:
                self.places[_key(node)] = self.relaxed
                self.relaxed += int(pieces(node, intervals[node.inputs[0].name]).is_open.sum())
        variables = self.pixels + self.relaxed
        self.A, self.b = np.zeros((0, variables)), np.zeros(0)
        self._read: set[str] = set()
        self.output = self._walk(network)
        self.low, self.high = np.zeros(variables), np.ones(variables)
        self.low[: self.pixels] = -1
        if isinstance(region, Ball) and region.domain == "unit":
            centre, reach = self.centre.flatten().numpy(), self.reach.flatten().clamp(min=1e-300).numpy()
            self.low[: self.pixels] = np.maximum(-1, -centre / reach)
            self.high[: self.pixels] = np.minimum(1, (1 - centre) / reach)

    # From the network to rows.

    def _walk(self, network: BoundedNetwork) -> Form:
        """The form of the network's output; every function on the way adds its rows."""
        forms: dict[str, Form] = {}
        fixed: dict[str, Tensor] = {}
        for node in network.graph.nodes:
            parents = [parent.name for parent in node.inputs]
            if node.name == INPUT:
                forms[node.name] = self._input()
            elif not node.from_input:
                fixed[node.name] = node.forward(*(fixed[name] for name in parents))
            elif isinstance(node, Elementwise):
                forms[node.name] = self._function(node, forms[parents[0]])
            else:
                rows = node.linear_part([fixed[name] if name in fixed else forms[name].rows for name in parents])
                offset = node.forward(*(fixed[name] if name in fixed else forms[name].offset for name in parents))
                error = node.magnitude([fixed[name] if name in fixed else forms[name].error for name in parents])
                if not node.exact:
                    largest = [fixed[name] if name in fixed else forms[name].largest for name in parents]
                    error = error + SLACK * (1 + node.terms(largest))
                forms[node.name] = Form(rows, offset, error)
        return forms[network.graph.final_name]

    def _input(self) -> Form:
        rows = self.centre.new_zeros(self.A.shape[1], self.pixels)
        rows[: self.pixels].diagonal().copy_(self.reach.flatten())
        return Form(rows.view(-1, *self.centre.shape[1:]), self.centre, torch.zeros_like(self.centre))

    def _function(self, node: Elementwise, form: Form) -> Form:
        """The one line of closed neurons, a variable for each of the others."""
        name, key = node.inputs[0].name, _key(node)
        lines, is_open = pieces(node, self.intervals[name])
        index = is_open[0].nonzero().flatten()
        first = self.pixels + self.places[key]
        ends = tuple(flat(side)[0, index] for side in self.intervals[name])
        below = _lower_lines(node, Lines(*(part[0, index] for part in lines)), ends)
        slope, intercept = lines.upper_slope[0, index], lines.upper_intercept[0, index]
        low = torch.stack([torch.minimum(*(a * end + b for end in ends)) for a, b in below]).amax(0)
        high = torch.maximum(low, torch.maximum(*(slope * end + intercept for end in ends)))
        low, high = low - FLOAT * (1 + low.abs()), high + FLOAT * (1 + high.abs())
        if key not in self._read:
            self._read.add(key)
            self._add_cuts(name, form)
            read = Form(*(flat(part)[:, index] for part in form))
            self._add_lines(first, read, low, high, ends, below, (slope, intercept))
        rows, offset, error = _closed(form, lines, is_open)
        flat(rows)[first + torch.arange(len(index)), index] = high - low
        flat(offset)[0, index] = low
        return Form(rows, offset, error)

    def _add_lines(
        self,
        first: int,
        read: Form,
        low: Float[Tensor, " m"],
        high: Float[Tensor, " m"],
        ends: Sequence[Float[Tensor, " m"]],
        below: Sequence[Line],
        above: Line,
    ) -> None:
        """a x + b <= low + (high - low) v for each line below, and the other way round above; over the width of x."""
        width = (ends[1] - ends[0]).where(ends[1] > ends[0], 1.0)
        y = torch.zeros_like(read.rows)
        y[first + torch.arange(len(low)), torch.arange(len(low))] = high - low
        for sign, slope, intercept in [(1.0, *line) for line in below] + [(-1.0, *above)]:
            shift = slope * read.offset[0]
            slack = slope.abs() * read.error[0] + FLOAT * (low.abs() + intercept.abs() + shift.abs())
            right = sign * (low - intercept - shift) + slack
            self._add_rows(sign * (slope * read.rows - y) / width, right / width)

    def _add_cuts(self, name: str, form: Form) -> None:
        mine = {index: ends for (node, index), ends in self.cuts.items() if node == name}
        for side, sign in ((0, 1.0), (1, -1.0)):
            ends = {index: pair[side] for index, pair in mine.items() if np.isfinite(pair[side])}
            if ends:
                x, offset, error = (flat(part)[:, list(ends)] for part in form)
                size = x.abs().amax(0).clamp(min=1e-12)
                right = sign * (offset[0] - offset.new_tensor(list(ends.values()))) + error[0]
                self._add_rows(-sign * x / size, right / size)

    def _add_rows(self, A: Float[Tensor, "v m"], b: Float[Tensor, " m"]) -> None:
        self.A, self.b = np.vstack([self.A, A.T.numpy()]), np.append(self.b, b.numpy())

    # From rows to bounds.

    def minimise(self, row: Float[Tensor, " k"], time_limit: float = 60.0, limit: float = 0.0) -> Solution:
        """The least value of <row, outputs> - limit, in logits.

        Args:
            time_limit: seconds; past it the bound is worth little, but holds.
        """
        cost = (self.output.rows @ row).numpy()
        constant = float(self.output.offset @ row - self.output.error @ row.abs()) - limit
        best = Solution(-np.inf, None)
        for _ in range(ROUNDS):
            result = self._solve(cost, time_limit)
            if result.x is None:
                return best if result.status != 2 else best._replace(bound=self._emptiness(time_limit))
            multipliers, on_ball = self._multipliers(result)
            bound, d = self.dual_bound(cost, constant, multipliers, on_ball), result.x[: self.pixels]
            little = bound - best.bound < GAIN * abs(bound)
            if bound > best.bound:
                point = self.centre + self.reach * torch.from_numpy(d).view_as(self.centre)
                best = Solution(bound, point)
            if bound > 0 or little or self.round_ball is None or self.round_ball.contains(d):
                break
            self.round_ball.touch(d)
        return best

    def worst_mixture(
        self, rows: Float[Tensor, "m k"], limits: Float[Tensor, " m"], time_limit: float = 60.0
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "1 *shape"]]:
        """Weights of a mean of rows y - limits whose least value is, but for the solver's tolerance, that of their
        largest: the multipliers of t >= row_i y - limit_i where t is least. Any weights of sum 1 bound the largest.
        And the input where the largest is least, which that of the mean need not be. Of an l1 or l2 ball the box
        around it is looked at.
        """
        costs = (self.output.rows @ rows.T).T.numpy()
        constants = (self.output.offset @ rows.T - self.output.error @ rows.T.abs())[0].numpy() - limits.numpy()
        even = torch.full_like(limits, 1 / len(limits))
        size = np.abs(costs).max(1, initial=0).max(initial=0) or 1.0
        A = np.block([[self.A, np.zeros((len(self.A), 1))], [costs / size, -np.ones((len(costs), 1))]])
        bounds = np.vstack([np.stack([self.low, self.high], 1), [-np.inf, np.inf]])
        cost = np.append(np.zeros_like(self.low), 1.0)
        options = {"time_limit": max(time_limit, 1e-3), "presolve": False}
        right = np.append(self.b, -constants / size)
        result = linprog(cost, sparse.csr_array(A), right, bounds=bounds, method="highs-ds", options=options)
        if result.x is None:
            return even, self.centre
        point = self.centre + self.reach * torch.from_numpy(result.x[: self.pixels]).view_as(self.centre)
        weights = torch.from_numpy(-result.ineqlin.marginals[len(self.b) :]).clamp(min=0)
        return weights / weights.sum() if weights.sum() > 0 else even, point

    def dual_bound(
        self,
        cost: Float[Array, " v"],
        constant: float,
        multipliers: Float[Array, " m"],
        on_ball: Float[Array, " n"] | None = None,
    ) -> float:
        """A lower bound of <cost, v> + constant, whatever the multipliers are.

        For y >= 0 and A v <= b it is at least constant - <y, b> + min <cost + A^T y, v> over box and ball. Of the
        pixels' coefficients g any part may be minimised over the ball and the rest over the box:
        <g, d> >= -||g_ball||_q + min over the box of <g - g_ball, d>.

        Args:
            cost, constant: of the objective.
            multipliers: of the rows; negative ones count as 0.
            on_ball: g_ball, for l1 and l2.
        """
        y = np.maximum(multipliers, 0)
        reduced = cost + y @ self.A
        terms = 1 + abs(constant) + y @ np.abs(self.b) + (np.abs(cost) + y @ np.abs(self.A)).sum()
        value = constant - y @ self.b
        if on_ball is not None:
            reduced[: self.pixels] -= on_ball
            terms += np.abs(on_ball).sum()
            assert self.round_ball is not None
            value -= np.linalg.norm(on_ball, 2 if self.round_ball.norm == "l2" else np.inf)
        value += np.minimum(reduced * self.low, reduced * self.high).sum()
        bound = float(value - SLACK * terms)
        return bound if np.isfinite(bound) else -np.inf

    def _solve(self, cost: Float[Array, " v"], time_limit: float, elastic: bool = False) -> OptimizeResult:
        """HiGHS' dual simplex, without the presolve, which costs more than it saves in so small a program.

        Args:
            elastic: look for the least e for which A v <= b + e has a solution; the cost is that of the others.
        """
        A, bounds, b = sparse.csr_array(self.A), np.stack([self.low, self.high], 1), self.b
        if self.round_ball is not None:
            n, (rows, limits) = self.pixels, self.round_ball.rows()
            between = sparse.csr_array((len(limits), self.relaxed))
            rows = sparse.hstack([rows[:, :n], between, rows[:, n:]])
            A, b = sparse.vstack([sparse.hstack([A, sparse.csr_array((len(b), n))]), rows]), np.append(b, limits)
            cost = np.append(cost, np.zeros(self.pixels))
            bounds = np.vstack([bounds, np.tile([0.0, 1.0], (self.pixels, 1))])
        if elastic:
            column = -(np.arange(len(b)) < len(self.b)).astype(float)
            A, cost = sparse.hstack([A, column[:, None]]), np.append(cost, 1.0)
            bounds = np.vstack([bounds, [0.0, np.inf]])
        size = np.abs(cost).max(initial=0) or 1.0
        options = {"time_limit": max(time_limit, 1e-3), "presolve": False}
        result = linprog(cost / size, A.tocsr(), b, bounds=bounds, method="highs-ds", options=options)
        result["size"] = size
        return result

    def _multipliers(self, result: OptimizeResult) -> tuple[Float[Array, " m"], Float[Array, " n"] | None]:
        """Those of the network's rows, and the pixels' coefficients that the rows of the ball stand for."""
        y = -result.size * result.ineqlin.marginals
        own, others = y[: len(self.b)], y[len(self.b) :]
        return own, None if self.round_ball is None else self.round_ball.share(others)

    def _emptiness(self, time_limit: float) -> float:
        """Infinity if multipliers prove that no input meets the cuts (Farkas), else minus infinity."""
        nothing = np.zeros_like(self.low)
        result = self._solve(nothing, time_limit, elastic=True)
        if result.x is None:
            return -np.inf
        return np.inf if self.dual_bound(nothing, 0.0, *self._multipliers(result)) > 0 else -np.inf

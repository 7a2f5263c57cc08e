"""Linear programs over the triangle relaxation of a ReLU network, with proofs from their dual values.

The program of a network, a ball and a set of ReLU splits has the pixels and the outputs of unstable ReLUs as its
variables (Ehlers 2017; Bunel et al. 2020): y >= 0, y >= x, y <= u (x - l) / (u - l) for a ReLU with input x in [l, u],
exact for a stable or split one, and x >= 0 or x <= 0 for each split. It is solved by HiGHS in floating point, so
neither its optimal value nor its verdict "infeasible" is believed. Only the multipliers are taken from it: any
nonnegative multipliers give a lower bound by weak duality, which :meth:`Program.dual_bound` evaluates itself, in
float64 and less a slack for rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from scipy.optimize import OptimizeResult, linprog
from torch import Tensor

from verify.bounds import BoundedNetwork
from verify.graph.building import INPUT
from verify.operators import LinearOperator
from verify.operators.activation import ReLU
from verify.operators.layout import flat
from verify.propagation.neurons import Intervals
from verify.regions import Ball, Region

Array = np.ndarray
Neuron = tuple[str, int]
"""The node that a ReLU reads, and the position in it, flattened."""
Splits = dict[Neuron, int]
"""1 where the input of a ReLU is to be >= 0, -1 where it is to be <= 0."""

SLACK = 1e-10
"""Relative to the terms of a dual bound: far above their rounding errors, far below what decides a proof."""
WIDER = 1 + 2.0**-50
"""A factor that makes up for the rounding of a reach and of the sum that it enters."""
ROUNDS, ROUND, GAIN, TANGENTS = 12, 1e-4, 0.02, 12
"""An l2 ball is refined until the solution sticks out of it by no more than ROUND radii or the bound gains less than
the fraction GAIN of itself, at most ROUNDS times; TANGENTS a pixel are kept."""


class Solution(NamedTuple):
    """What a linear program says.

    Attributes:
        bound: of the objective from below, proven; infinity where no input meets the splits.
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


def unstable(intervals: Intervals) -> list[Neuron]:
    """The neurons of one image that can be on either side of 0."""
    return [
        (name, index)
        for name, (lower, upper) in intervals.items()
        for index in ((lower < 0) & (upper > 0)).flatten().nonzero().flatten().tolist()
    ]


def ends_of(neurons: list[Neuron], intervals: Intervals) -> Float[Array, "2 u"]:
    """Lower and upper bounds of these neurons."""
    ends = {name: torch.stack(sides).flatten(1).numpy() for name, sides in intervals.items()}
    return np.array([ends[name][:, index] for name, index in neurons]).reshape(-1, 2).T


def represents(network: BoundedNetwork) -> bool:
    """Whether these programs can say what a network is: one whose every relaxed operator is ReLU."""
    nodes = (node for node in network.graph.nodes if node.from_input and node.inputs)
    return all(isinstance(node, (LinearOperator, ReLU)) for node in nodes)


def _scaled(region: Region) -> tuple[Float[Tensor, "1 *shape"], Float[Tensor, "1 *shape"]]:
    """The point that pixels are told from, and how far they reach; of a box a little further, as both are rounded."""
    if isinstance(region, Ball):
        return region.centre, region.epsilon.view_as(region.centre.flatten(1)[:, :1]) * torch.ones_like(region.centre)
    centre = region.lower + (region.upper - region.lower) / 2
    reach = torch.maximum(region.upper - centre, centre - region.lower)
    return centre, torch.where(reach > 0, reach * WIDER + centre.abs() * (WIDER - 1), 0.0)


class RoundBall:
    """The l1 or l2 unit ball in linear rows: a variable t_i >= phi(d_i) for each pixel, with sum_i t_i <= 1.

    phi is |d| or d^2, bounded by its tangents (Vielma et al. 2017 on such extended formulations). Tangents of d^2 are
    added where solutions stick out, and stay for all programs of the ball. No proof rests on these rows.
    """

    def __init__(self, norm: str, pixels: int) -> None:
        self.norm, self.pixels = norm, pixels
        self.pixel, self.slope, self.intercept = np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
        for point in (-1, 1) if norm == "l1" else (-2, -1, 1, 2):
            self._add(np.arange(pixels), np.full(pixels, point / pixels**0.5))

    def touch(self, d: Float[Array, " n"]) -> None:
        """Add the tangents of d^2 at the coordinates of d where those there are are too low; forget the oldest."""
        present = np.zeros(self.pixels)
        np.maximum.at(present, self.pixel, self.slope * d[self.pixel] - self.intercept)
        self._add((d**2 - present > ROUND / self.pixels).nonzero()[0], d)

    def _add(self, pixel: Int[Array, " m"], d: Float[Array, " n"]) -> None:
        d = d[pixel]
        slope, intercept = (np.sign(d), 0 * d) if self.norm == "l1" else (2 * d, d**2)
        most = TANGENTS * self.pixels
        self.pixel = np.append(self.pixel, pixel)[-most:]
        self.slope, self.intercept = np.append(self.slope, slope)[-most:], np.append(self.intercept, intercept)[-most:]

    def rows(self) -> tuple[sparse.csr_array, Float[Array, " m"]]:
        """Rows over d and t, and their right sides: slope d_i - t_i <= intercept, and at last sum_i t_i <= 1."""
        count, n = len(self.pixel), self.pixels
        values = np.concatenate([self.slope, np.full(count, -1.0), np.ones(n)])
        rows = np.concatenate([np.tile(np.arange(count), 2), np.full(n, count)])
        columns = np.concatenate([self.pixel, n + self.pixel, n + np.arange(n)])
        return sparse.csr_array((values, (rows, columns)), (count + 1, 2 * n)), np.append(self.intercept, 1.0)

    def share(self, multipliers: Float[Array, " m"]) -> Float[Array, " n"]:
        """The coefficients of d that its rows take over, from their multipliers."""
        return -np.bincount(self.pixel, self.slope * multipliers[:-1], self.pixels)

    def contains(self, d: Float[Array, " n"]) -> bool:
        return self.norm == "l1" or bool(np.linalg.norm(d) <= 1 + ROUND)


class Program:
    """The relaxation of a network over the part of a region that meets some splits: A v <= b, low <= v <= high.

    Variables are scaled: pixel i is centre_i + reach_i v_i, with the radius of a ball or half the width of a box as its
    reach; the output of an unstable ReLU is u v_j with v_j in [0, 1].

    Args:
        network: from `BoundedNetwork.double`; one that is represented (`represents`).
        region: of one image, in float64.
        intervals: of all ReLU inputs, one image, valid where the splits are met; not crossed.
        splits: constraints on ReLU inputs.
        round_ball: for l1 and l2 balls; shared by the programs of a ball.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: BoundedNetwork,
        region: Region,
        intervals: Intervals,
        splits: Splits,
        round_ball: RoundBall | None,
    ) -> None:
        self.intervals, self.splits, self.round_ball = intervals, splits, round_ball
        self.centre, self.reach = _scaled(region)
        self.neurons = unstable(intervals)
        self.ends = ends_of(self.neurons, intervals)
        self.pixels = self.centre.numel()
        variables = self.pixels + len(self.neurons)
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
        """The form of the network's output; every ReLU on the way adds its rows."""
        forms: dict[str, Form] = {}
        fixed: dict[str, Tensor] = {}
        for node in network.graph.nodes:
            parents = [parent.name for parent in node.inputs]
            if node.name == INPUT:
                forms[node.name] = self._input()
            elif not node.from_input:
                fixed[node.name] = node.forward(*(fixed[name] for name in parents))
            elif isinstance(node, ReLU):
                forms[node.name] = self._relu(parents[0], forms[parents[0]])
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

    def _relu(self, name: str, form: Form) -> Form:
        """0 or the input itself for stable and split neurons, a variable of their own for the others."""
        lower, upper = self.intervals[name]
        mine = torch.tensor([number for number, neuron in enumerate(self.neurons) if neuron[0] == name]).long()
        index = torch.tensor([index for node, index in self.neurons if node == name]).long()
        if name not in self._read:
            self._read.add(name)
            self._add_splits(name, form)
            self._add_triangles(mine, Form(*(flat(part)[:, index] for part in form)))
        rows = torch.where(lower >= 0, form.rows, 0.0).contiguous()
        rows.view(len(rows), -1)[self.pixels + mine, index] = upper.flatten()[index]
        offset, error = (torch.where(lower >= 0, part, 0.0) for part in (form.offset, form.error))
        return Form(rows, offset, error)

    def _add_triangles(self, mine: Int[Tensor, " m"], read: Form) -> None:
        """x <= y and y <= u (x - l) / (u - l), both over u - l; y >= 0 is the box's. `read` has the x alone."""
        lower, upper = torch.from_numpy(self.ends[:, mine.numpy()])
        width, slope = upper - lower, upper / (upper - lower)
        x, offset, error = read.rows / width, read.offset[0] / width, read.error[0] / width
        y = torch.zeros_like(x)
        y[self.pixels + mine, torch.arange(len(mine))] = slope
        self._add_rows(x - y, error - offset)
        self._add_rows(y - slope * x, slope * (offset + error - lower / width))

    def _add_splits(self, name: str, form: Form) -> None:
        mine = {index: sign for (node, index), sign in self.splits.items() if node == name}
        if mine:
            sign = form.rows.new_tensor(list(mine.values()))
            x, offset, error = (flat(part)[:, list(mine)] for part in form)
            size = x.abs().amax(0).clamp(min=1e-12)
            self._add_rows(-sign * x / size, (sign * offset[0] + error[0]) / size)

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
            between = sparse.csr_array((len(limits), len(self.neurons)))
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
        """Infinity if multipliers prove that no input meets the splits (Farkas), else minus infinity."""
        nothing = np.zeros_like(self.low)
        result = self._solve(nothing, time_limit, elastic=True)
        if result.x is None:
            return -np.inf
        return np.inf if self.dual_bound(nothing, 0.0, *self._multipliers(result)) > 0 else -np.inf

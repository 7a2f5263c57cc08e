"""Linear programs over the triangle relaxation of a ReLU network, with proofs from their dual values.

The program of a network, a ball and a set of ReLU splits has the pixels and the outputs of unstable ReLUs as its
variables (Ehlers 2017; Bunel et al. 2020): y >= 0, y >= x, y <= u (x - l) / (u - l) for a ReLU with input x in [l, u],
exact for a stable or split one, and x >= 0 or x <= 0 for each split. It is solved by HiGHS in floating point, so
neither its optimal value nor its verdict "infeasible" is believed. Only the multipliers are taken from it: any
nonnegative multipliers give a lower bound by weak duality, which :meth:`Program.dual_bound` evaluates itself, in
float64 and with a slack for rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import OptimizeResult, linprog
from torch import Tensor

from verify.bounds import BoundedNetwork
from verify.graph import INPUT, Intervals
from verify.lirpa import Bound
from verify.operators import LinearOperator
from verify.operators.activation import ReLU
from verify.operators.base import UnsupportedOperator
from verify.regions import Ball

Array = np.ndarray
Neuron = tuple[str, int]
"""The node a ReLU reads, and the position in it, flattened."""
Splits = dict[Neuron, int]
"""1 where the input of the ReLU is to be >= 0, -1 where it is to be <= 0."""

SLACK = 1e-10
"""Relative to the terms of a dual bound: far above their rounding errors, far below what decides a proof."""
ROUNDS = 12
ROUND = 1e-4
"""An l2 ball is refined until the solution sticks out of it by no more than this, in radii, or ROUNDS times."""


class Solution(NamedTuple):
    """What a linear program says.

    Attributes:
        bound: of the margin from below, in logits, proven; infinity where no input meets the splits.
        point: the input at which the relaxation is least, "1 *shape" (not always in an l2 ball); None without one.
        scores: an unstable neuron of the program each, in their order: how much its relaxation lowers the bound.
    """

    bound: float
    point: Float[Tensor, "1 *shape"] | None
    scores: Float[Array, " u"]


class Form(NamedTuple):
    """The value at a node, sum_i v_i rows_i + offset, for the variables v of the program."""

    rows: Float[Tensor, "v *shape"]
    offset: Float[Tensor, "1 *shape"]


class RoundBall:
    """The l1 or l2 unit ball in linear rows: a variable t_i >= phi(d_i) a pixel, with sum t <= 1.

    phi is |d| or d^2, bounded by its tangents (Vielma et al. 2017 on such extended formulations). Tangents of d^2 are
    added where solutions stick out, and stay for the programs that follow. No proof rests on these rows.
    """

    def __init__(self, norm: str, pixels: int) -> None:
        self.norm, self.pixels = norm, pixels
        points = np.array([-1.0, 1.0]) if norm == "l1" else np.array([1.0, -1.0, 2.0, -2.0]) / pixels**0.5
        self.slopes, self.intercepts = np.zeros((0, pixels)), np.zeros((0, pixels))
        for point in points:
            self.touch(np.full(pixels, point))

    def touch(self, d: Float[Array, " n"]) -> None:
        """Add the tangents of phi at the coordinates of d."""
        slope, intercept = (np.sign(d), 0 * d) if self.norm == "l1" else (2 * d, d**2)
        self.slopes, self.intercepts = np.vstack([self.slopes, slope]), np.vstack([self.intercepts, intercept])

    def rows(self) -> tuple[sparse.csr_array, sparse.csr_array, Float[Array, " m"]]:
        """P d + Q t <= r."""
        count, identity = len(self.slopes), sparse.eye_array(self.pixels)
        P = sparse.vstack([*(sparse.diags_array(slope) for slope in self.slopes), sparse.csr_array((1, self.pixels))])
        Q = sparse.vstack([*[-identity] * count, np.ones((1, self.pixels))])
        return P.tocsr(), Q.tocsr(), np.append(self.intercepts.ravel(), 1.0)

    def sticks_out(self, d: Float[Array, " n"]) -> bool:
        return self.norm == "l2" and bool(np.linalg.norm(d) > 1 + ROUND)


class Program:
    """The relaxation of a network over the part of a ball where some ReLUs are split.

    Variables are scaled: pixel i is centre_i + epsilon d_i, the output of an unstable ReLU u y with y in [0, 1].

    Args:
        network: from `BoundedNetwork.double`.
        ball: one image, in float64.
        intervals: of all ReLU inputs, one image, valid where the splits are met; not crossed.
        splits: constraints on ReLU inputs.
        round_ball: for l1 and l2; one for all programs of a ball.

    Raises:
        UnsupportedOperator: the network holds a relaxed operator other than ReLU.
    """

    def __init__(
        self,
        network: BoundedNetwork,
        ball: Ball,
        intervals: Intervals,
        splits: Splits,
        round_ball: RoundBall | None = None,
    ) -> None:
        self.ball, self.intervals, self.splits, self.round_ball = ball, intervals, splits, round_ball
        self.neurons = unstable(intervals)
        self.pixels = ball.centre[0].numel()
        self.rows: list[Array] = []
        self.limits: list[Array] = []
        self.output = self._walk(network)
        variables = self.pixels + len(self.neurons)
        order = np.argsort([number for number, _ in self._sources], kind="stable")
        self.A = np.concatenate([np.zeros((0, variables)), *self.rows])[order]
        self.b = np.concatenate([np.zeros(0), *self.limits])[order]
        self.low, self.high = self._box()

    def _walk(self, network: BoundedNetwork) -> Form:
        raise NotImplementedError

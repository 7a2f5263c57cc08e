"""The l1 or l2 ball in linear rows, for the programs of `verify.complete.linear_program`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

Array = np.ndarray

ROUND, TANGENTS = 1e-4, 12
"""How far a solution may stick out of an l2 ball, in radii, and how many tangents a pixel are kept."""


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

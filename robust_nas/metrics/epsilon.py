"""The radius at which the certified bound is taken, steered by how wide the bounds are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

START = 0.03
VANISHING = 1e-300
"""A floor for methods that lose nothing at any epsilon: what a float64 can hold."""
RETREAT = 1e-3
"""What is left of epsilon where bounds are not finite, before the first step."""
TRIALS = 30
"""Bounds computed before the first step, at the most."""


@dataclass
class EpsilonControl:
    """Epsilon of DSRNA-CB: "initialized as 0.03, and then linearly increased or decreased based on the global
    difference between the certified upper bound and lower bound" (section 4.2.2).

    The paper gives neither slope nor target. Ours, after every step:

        epsilon <- max(floor, epsilon * (1 + slope * clip((target - gap) / target, -1, 1)))

    A gap that is not finite counts as too wide. Epsilon is a constant of each step: no gradient enters here.

    The gap grows as epsilon does, so the control ends where bounds of the supernet are about the target wide, whatever
    the method: R stays on the scale of the logits, and its gradient is that of a relative width, at any depth. For
    intervals that is a tiny epsilon (they are 1e9 logits wide at .01 in 3 cells, and every further cell widens them by
    about e^5): no threat model, but where the bound tells architectures apart. Methods that keep lower and upper ends
    lose balls under 1e-7 of a pixel in float32, and have a floor; those that keep centre and radius need none.

    Attributes:
        epsilon: radius for the next step, in input units.
        target: the gap aimed at, in logits.
        slope: largest relative change a step; at 0 epsilon stays where it is.
        floor: smallest epsilon; the default leaves four digits of a pixel's float64 to the ball.
    """

    epsilon: float = START
    target: float = 1.0
    slope: float = 0.5
    floor: float = 1e-12

    def update(self, gap: float) -> None:
        """Choose the next epsilon, given the gap at this one in logits."""
        error = (self.target - gap) / self.target if math.isfinite(gap) else -1.0
        self.epsilon = max(self.floor, self.epsilon * (1 + self.slope * min(1.0, max(-1.0, error))))

    def settle(self, gap_at: Callable[[float], float]) -> None:
        """Go to an epsilon whose gap is between half and twice the target, for before the first step.

        Bounds widen at least in proportion to epsilon: a step in proportion from above ends below the target and one
        from below above it. Between the two, the gap is taken for a power of epsilon.

        Args:
            gap_at: the gap in logits at an epsilon.
        """
        if not self.slope:
            return
        below = above = None
        for _ in range(TRIALS):
            gap = gap_at(self.epsilon)
            if not math.isfinite(gap):
                self.epsilon *= RETREAT
            elif self.target / 2 <= gap <= 2 * self.target or gap <= 0:
                return
            else:
                point = (math.log(self.epsilon), math.log(gap / self.target))
                below, above = (point, above) if point[1] < 0 else (below, point)
                self.epsilon = math.exp(_crossing(below, above))
            if self.epsilon <= self.floor:
                self.epsilon = self.floor
                return


def _crossing(below: tuple[float, float] | None, above: tuple[float, float] | None) -> float:
    """Where a line meets 0: through both points, or of slope 1 through the one that there is."""
    if below is None or above is None:
        x, y = below or above or (0.0, 0.0)
        return x - y
    return below[0] - below[1] * (above[0] - below[0]) / (above[1] - below[1])

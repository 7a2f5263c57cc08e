"""The radius at which the certified bound is taken, steered by how wide the bounds are."""

from __future__ import annotations

import math
from dataclasses import dataclass

START = 0.03
VANISHING = 1e-300
"""A floor for methods that lose nothing at any epsilon: what a float64 can hold."""
APPROACH = 0.9
"""Slope of the rule before the first step: a tenth of epsilon is left each time."""


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
        slope: largest relative change a step.
        floor: smallest epsilon; the default leaves four digits of a pixel's float64 to the ball.
    """

    epsilon: float = START
    target: float = 1.0
    slope: float = 0.5
    floor: float = 1e-12

    def update(self, gap: float) -> None:
        """Choose the next epsilon, given the gap at this one in logits."""
        self._move(gap, self.slope)

    def approach(self, gap: float) -> bool:
        """The same rule with a steeper slope, while the gap is twice the target or more: for before the first step.

        Returns:
            Whether epsilon moved, so that the gap at the new one is wanted.
        """
        if gap < 2 * self.target or self.epsilon == self.floor:
            return False
        self._move(gap, APPROACH)
        return True

    def _move(self, gap: float, slope: float) -> None:
        error = (self.target - gap) / self.target if math.isfinite(gap) else -1.0
        self.epsilon = max(self.floor, self.epsilon * (1 + slope * min(1.0, max(-1.0, error))))

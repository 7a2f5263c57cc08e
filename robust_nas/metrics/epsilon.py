"""The radius at which the certified bound is taken, steered by how wide the bounds are."""

from __future__ import annotations

import math
from dataclasses import dataclass

START = 0.03


@dataclass
class EpsilonControl:
    """Epsilon of DSRNA-CB: "initialized as 0.03, and then linearly increased or decreased based on the global
    difference between the certified upper bound and lower bound" (section 4.2.2).

    The paper gives neither slope nor target. Ours, after every step:

        epsilon <- max(floor, epsilon * (1 + slope * clip((target - gap) / target, -1, 1)))

    A gap that is not finite counts as too wide. Epsilon is a constant of each step: no gradient enters here.

    Interval bounds of a supernet of 3 cells are 1e9 logits wide at epsilon .01, and every further cell widens
    them by about e^5. So the control brings epsilon down to 1e-9 or less there, where the gap is near the
    target; in pixels that is no threat model, but it is where the bound still tells architectures apart. Such
    balls are lost in float32 (1e-7 of a pixel): bound in float64.

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
        error = (self.target - gap) / self.target if math.isfinite(gap) else -1.0
        self.epsilon = max(self.floor, self.epsilon * (1 + self.slope * min(1.0, max(-1.0, error))))

    def is_far(self, gap: float) -> bool:
        """Whether epsilon is still on its way down at full speed: the gap is beyond twice the target."""
        return self.epsilon > self.floor and not gap <= 2 * self.target

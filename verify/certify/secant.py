"""The two ways in which bounds that fail still tell about the radius: what they prove, and what to try next."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.propagation.bounds import Line
from verify.regions import Ball

USUAL_POWER, POWERS = 3.0, (1.0, 8.0)
"""How fast bounds are expected to lose against the radius, see `Secant`: at first, and at least and at most."""
BISECTIONS = 20


class Secant:
    """Where the lower bounds of the margins are expected to meet 0, judged by the last two radii tried.

    What a bound loses against the clean margin grows like a power of the radius: the first for a linear network,
    about the third near the certified radius of a DARTS network. Nothing is proven by this; it saves evaluations.

    Args:
        clean: margins of the unperturbed images.
        before: of looser bounds, which lose at about the same power.
        gain: how much larger the radius will be than with those.

    Attributes:
        first: the radius to try first; 0 where there is no expectation.
        root: the expected radius; infinity before the first trial.
        trials: how many radii were tried.
        measured: whether the power was, by two trials or before; then `root` is more than a guess.
    """

    def __init__(self, clean: Float[Tensor, "b s"], before: Secant | None = None, gain: float = 1.0) -> None:
        self.clean = clean.clamp(min=torch.finfo(clean.dtype).tiny)
        self.radius = clean.new_zeros(len(clean))
        self.loss = torch.zeros_like(clean)
        self.power: Tensor = torch.full_like(clean, USUAL_POWER) if before is None else before.power.clone()
        self.root = torch.full_like(self.radius, torch.inf)
        self.first = torch.zeros_like(self.radius) if before is None else before.root.nan_to_num(posinf=0.0) * gain
        self.trials = torch.zeros_like(self.radius, dtype=torch.int64)
        self.measured: Tensor = self.trials > 0 if before is None else before.measured.clone()

    def update(self, index: Int[Tensor, " m"], radius: Float[Tensor, " m"], lower: Float[Tensor, "m s"]) -> None:
        """Take note of bounds at a radius; where they overflowed nothing is expected of any radius."""
        clean, before, loss = self.clean[index], self.radius[index], self.loss[index]
        new = torch.where(torch.isfinite(lower), clean - lower, torch.inf).clamp(min=torch.finfo(clean.dtype).tiny)
        power = (new / loss).log() / (radius / before).log().unsqueeze(1)
        power = torch.where(torch.isfinite(power), power, self.power[index]).clamp(*POWERS)
        self.power[index] = power
        self.measured[index] |= self.trials[index] > 0
        self.root[index] = (radius.unsqueeze(1) * (clean / new) ** (1 / power)).amin(1)
        self.radius[index], self.loss[index] = radius, new
        self.trials[index] += 1

    def is_near(self, radius: Float[Tensor, " b"], ratio: float) -> Bool[Tensor, " b"]:
        """Whether the last radius tried is within this ratio of another one."""
        return (radius <= self.radius * ratio) & (self.radius <= radius * ratio)


def closed_form(ball: Ball, line: Line) -> Float[Tensor, " b"]:
    """The largest radius, at most the ball's, at which the line is positive in the whole ball.

    The least value of a line over a ball only falls as the radius grows, so bisection finds where it meets 0,
    in both domains; the lower end is returned, at which it was seen to be positive.
    """
    low, high = torch.zeros_like(ball.epsilon), ball.epsilon
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        least = ball.with_epsilon(middle).least(line.coefficients) + line.intercept
        holds = (least > 0).all(1)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low

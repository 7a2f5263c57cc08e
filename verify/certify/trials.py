"""Trials of radii: what bounds over a ball prove, and what of them holds in later balls."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounds import BoundedNetwork
from verify.certify.attack import linearised_radius, worst_margin
from verify.certify.secant import closed_form
from verify.propagation.neurons import Intervals
from verify.regions import Ball, per_image, span

log = logging.getLogger(__name__)

PROOF = 2.5
"""About how much longer the proof in float64 takes than an evaluation in float32."""


class Goal(NamedTuple):
    """How radii are to be searched.

    Attributes:
        method: one of `radius_methods`.
        tolerance: as a fraction of the proven radius.
        deadline: by `time.perf_counter`.
        ceiling: radii known to be unsafe; infinite for none.
        largest: where to end, see `verify.regions.span`.
    """

    method: str
    tolerance: float
    deadline: float
    ceiling: Float[Tensor, " b"]
    largest: float | None


@dataclass(frozen=True)
class Task:
    """A batch whose radii are searched.

    Attributes:
        balls: the images, in float64; the radii do not matter.
        rows: the margins that have to be positive.
        clean: those margins at the images.
        correct: whether the label wins at the image.
        start: an order of magnitude of the radius.
        scale: what is small against it is not worth a trial.
        unsafe: the radius from which on nothing is tried.
        goal: what is asked.
    """

    balls: Ball
    rows: Float[Tensor, "b s k"]
    clean: Float[Tensor, "b s"]
    correct: Bool[Tensor, " b"]
    start: Float[Tensor, " b"]
    scale: Float[Tensor, " b"]
    unsafe: Float[Tensor, " b"]
    goal: Goal


@torch.no_grad()
def task_of(
    network: BoundedNetwork, balls: Ball, labels: Int[Tensor, " b"], rows: Float[Tensor, "b s k"], goal: Goal
) -> Task:
    """The search for these images, with what a forward pass and a gradient of the float64 network tell."""
    logits = network(balls.centre)
    rows = rows.to(logits)
    linear = linearised_radius(network, balls.centre, rows, balls.norm)
    scale, largest = span(balls, linear, goal.largest)
    return Task(
        balls,
        rows,
        torch.einsum("bsk,bk->bs", rows, logits),
        worst_margin(logits, labels) > 0,
        torch.minimum(linear, scale),
        scale,
        torch.minimum(largest, goal.ceiling),
        goal,
    )


class Attempt(NamedTuple):
    """What bounds over balls of some radii showed.

    Attributes:
        lower: bounds of the margins.
        proven: the radius that they prove, at most the one tried.
    """

    lower: Float[Tensor, "b s"]
    proven: Float[Tensor, " b"]


class Trials:
    """The trials of one task, and what they leave for those that follow.

    Attributes:
        evaluations: bounds computed for each image.
        overflowed: whether the last ones were not finite.
        duration: seconds of the last trial; 0 before the first.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.evaluations = torch.zeros(len(task.rows), dtype=torch.int64, device=task.rows.device)
        self.overflowed = ~torch.isfinite(task.clean).all(1)
        self.duration = 0.0
        self.forget()

    def attempt(
        self, network: BoundedNetwork, index: Int[Tensor, " m"], radius: Float[Tensor, " m"], method: str
    ) -> Attempt:
        """Bounds by a method in the balls of these images and radii."""
        begin, task = time.perf_counter(), self.task
        ball = task.balls.take(index).with_epsilon(radius).to(network.example.dtype)
        within = self.within(index, radius)
        rows, left = task.rows[index].to(ball.centre), max(0.0, task.goal.deadline - begin)
        share = left if network.rounding.step else left / (1 + PROOF)
        with torch.no_grad():
            bounds = network.bounds(ball, specification=rows, method=method, within=within, time_limit=share)
        self.evaluations[index] += 1
        overflowed = ~torch.isfinite(bounds.lower).all(1)
        self.overflowed[index] = overflowed
        success = (bounds.lower > 0).all(1)
        self._remember(index, radius, bounds.intervals, ~success & ~overflowed)
        smaller = torch.zeros_like(radius) if bounds.line is None else closed_form(ball, bounds.line)
        self.duration = time.perf_counter() - begin
        if log.isEnabledFor(logging.DEBUG):  # to say it waits for a GPU
            sizes = f"{float(radius.min()):.4g} to {float(radius.max()):.4g}, {ball.centre.dtype}"
            counts = f"{int(success.sum())} of {len(index)} proven, {self.duration:.2f} s"
            log.debug("%s at radii %s: %s", method, sizes, counts)
        proven = torch.where(success, radius, torch.where(overflowed, 0.0, smaller.to(radius)))
        return Attempt(bounds.lower.to(radius), proven)

    def is_over(self) -> bool:
        """Whether the time is up. (Smaller radii are cheaper: what follows a failure may be in time all the same.)"""
        return time.perf_counter() > self.task.goal.deadline

    def too_late(self, times: float = 1.0) -> bool:
        """Whether an evaluation that lasts so many times as long as the last one, and its proof, would end too late."""
        return time.perf_counter() + self.duration * times * (1 + PROOF) > self.task.goal.deadline

    def forget(self) -> None:
        """Start anew with what is known of the neurons, and of the balls it holds in."""
        self._known: Intervals = {}
        self._known_within = torch.zeros_like(self.task.unsafe)

    def within(self, index: Int[Tensor, " m"], radius: Float[Tensor, " m"]) -> Intervals:
        """What is known of the neurons at these radii: nothing where the ball is larger than the one kept."""
        inside = radius <= self._known_within[index]
        within = {}
        for name, sides in self._known.items():
            mask = per_image(inside, sides[0])
            lower, upper = (
                torch.where(mask, side[index], torch.full_like(side[index], end))
                for side, end in zip(sides, (-torch.inf, torch.inf), strict=True)
            )
            within[name] = (lower, upper)
        return within

    def _remember(self, index: Tensor, radius: Tensor, intervals: Intervals, which: Tensor) -> None:
        """Keep what held of the neurons in a ball that failed: later trials mostly lie within it."""
        for name, new in intervals.items():
            if name not in self._known:
                empty = new[0].new_zeros(len(self.task.rows), *new[0].shape[1:])
                self._known[name] = (empty, empty.clone())
            for known, side in zip(self._known[name], new, strict=True):
                known[index[which]] = side[which]
        self._known_within[index[which]] = radius[which]

"""Searches for the radius with stock bounds: the bisection its users run, and one that knows our closed form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

STEPS = 15
"""The most evaluations a radius takes: CNN-Cert's number, and that of the issue."""
FIRST_TRIAL = 1 / 8
"""Where the secant search starts, as a fraction of the attack radius; ours starts there too."""
GROWTH = 2.0
"""How far it goes at most beyond what is proven: where everything is unstable, CROWN is slow and proves nothing."""


class Evaluation(NamedTuple):
    """One evaluation of bounds at a radius."""

    margin: float
    """The least lower bound of a margin; NaN where it overflowed."""
    radius: float
    """The largest radius, at most that of the evaluation, at which CROWN's linear function is positive."""


Evaluate = Callable[[float], Evaluation]


class Found(NamedTuple):
    """What a search ends with."""

    radius: float
    evaluations: int


def bisection(evaluate: Evaluate, unsafe: float, tolerance: float) -> Found:
    """Halve the interval from 0 to the attack radius, 15 times or until its ends are within the tolerance."""
    low, high, done = 0.0, unsafe, 0
    while done < STEPS and high > low * (1 + tolerance):
        middle = (low + high) / 2
        low, high = (middle, high) if evaluate(middle).margin > 0 else (low, middle)
        done += 1
    return Found(low, done)


def secant(evaluate: Evaluate, clean: float, unsafe: float, tolerance: float) -> Found:
    """Search where the margin meets 0, on parabolas through the last three evaluations (Muller's method).

    A failing evaluation proves what its closed form says. Margins are concave in the radius, mostly: a straight
    secant takes twice as many evaluations.

    Args:
        evaluate: bounds at a radius, with the closed form. clean: the margin at radius 0.
        unsafe: the attack radius. tolerance: of the radius, relative.
    """
    low, high, trial, done = 0.0, unsafe, unsafe * FIRST_TRIAL, 0
    points = [(0.0, clean)]
    while done < STEPS and high > low * (1 + tolerance):
        found = evaluate(trial)
        done += 1
        if found.margin > 0 or found.radius >= trial:
            low = max(low, trial)
        else:
            low, high = max(low, found.radius), min(high, trial)
        if math.isfinite(found.margin):
            points = [*points[-2:], (trial, found.margin)]
        trial = _next_trial(points, low, high, 1 + 0.9 * tolerance)
    return Found(low, done)


def _next_trial(points: list[tuple[float, float]], low: float, high: float, step: float) -> float:
    """The root of the parabola, moved to where success or failure ends the search if it is close to an end.

    The geometric mean of the ends where there is no root between them. While they are far apart, a trial goes well
    beyond the lower one: where margins fall steeply, roots would creep up.
    """
    inside = [root for root in _roots(points) if low < root < high]
    if low == 0:
        return max(min(inside, default=0.0), high * FIRST_TRIAL)
    if not inside or high < low * step**2:
        return min(math.sqrt(low * high), low * GROWTH)
    least = low * ((high / low) ** 0.15 if high > 2 * low else step)
    return min(max(min(inside), least), high / step, low * GROWTH)


def _roots(points: list[tuple[float, float]]) -> list[float]:
    """Where the parabola through three points, or the straight line through two, is 0."""
    if len(points) < 2:
        return []
    x, y = np.array(points).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three points of a straight line make a poor parabola
        roots = np.roots(np.polyfit(x / x.max(), y, len(points) - 1)) * x.max()
    return [float(root.real) for root in roots if root.imag == 0]

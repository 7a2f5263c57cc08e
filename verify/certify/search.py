"""The search for radii: from the cheapest method to the one asked for in float32, then the proof in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.bounds import BoundedNetwork
from verify.certify.secant import Secant
from verify.certify.trials import Task, Trials
from verify.propagation.methods import AUTO, METHODS, phases
from verify.regions import SMALLEST

FIRST_TRIAL = {"linf": 1 / 8, "l2": 1 / 24, "l1": 1 / 24}
"""The first trial as a fraction of the linearised network's radius or of an unsafe one, whichever is smaller."""
ROUGH = 0.1
"""Tolerance of the phases before the last."""
HALVE_EACH = 4
"""Every so many trials the gap is halved, lest a wrong expectation takes many."""
NEAR = 2.5
"""How many tolerances a radius may be away from the last one tried to be left to the proof: what is expected so near
is mostly right, and a trial in float32 would only be repeated in float64."""
PROOFS = (1.0, 0.999, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.25)
"""The most that each trial of a proof may be, in radii expected: CROWN may be looser in a smaller ball, and the search
takes from larger ones what holds in all of their parts."""


class Found(NamedTuple):
    """What a search ends with.

    Attributes:
        radius: the largest one proven; 0 where none is.
        evaluations: bounds computed for each image.
        status: a word an image, see `Certificates`.
    """

    radius: Float[Tensor, " b"]
    evaluations: Int[Tensor, " b"]
    status: list[str]


class Expectation(NamedTuple):
    """What a search leaves to the proof.

    Attributes:
        method: to prove it by.
        aim: the radius that is expected to be proven; 0 for none.
        seen: the radius at which a proof was seen to succeed without regard to rounding.
        secant: where bounds by the method are expected to fail.
    """

    method: str
    aim: Float[Tensor, " b"]
    seen: Float[Tensor, " b"]
    secant: Secant


class Narrowed(NamedTuple):
    """How far one method came.

    Attributes:
        proven: radii, without regard to rounding.
        aim: the radius to prove in float64, which is no smaller.
        late: images for which the time was up.
    """

    proven: Float[Tensor, " b"]
    aim: Float[Tensor, " b"]
    late: Bool[Tensor, " b"]


def search(rough: BoundedNetwork, exact: BoundedNetwork, task: Task) -> Found:
    """Look for radii in float32 and prove them; where nothing can be proven, look again in float64."""
    trials, proven = Trials(task), torch.zeros_like(task.unsafe)
    late = torch.zeros_like(task.correct)
    for network in (rough, exact):
        trials.forget()
        expectations, missed = _climb(network, trials, task.correct & (proven == 0) & ~late)
        late |= missed
        for expectation in expectations:
            proven = _prove(exact, trials, expectation, proven)
    overflow = trials.overflowed & (proven == 0)
    words = {"misclassified": ~task.correct, "timeout": late & task.correct, "overflow": overflow}
    return Found(proven, trials.evaluations, _status(words, len(proven)))


def _climb(
    network: BoundedNetwork, trials: Trials, active: Bool[Tensor, " b"]
) -> tuple[list[Expectation], Bool[Tensor, " b"]]:
    """From the cheapest method to the one asked for, each from what the last one proved.

    Returns what there is to prove by each method, every image's radius by the one that it is due to and 0 elsewhere;
    and the images for which the time was up.
    """
    goal = trials.task.goal
    found = aim = torch.zeros_like(trials.task.unsafe)
    by, late = torch.zeros_like(trials.evaluations), torch.zeros_like(active)
    *below, top = worthwhile(goal.method, goal.tolerance)
    steps = [(method, max(goal.tolerance, ROUGH)) for method in below] + [(top, goal.tolerance)]
    secant, last = None, steps[0][0]
    secants: dict[int, Secant] = {}
    for number, (method, tolerance) in enumerate(steps):
        no_time = number > 0 and trials.too_late(METHODS[method].cost / METHODS[last].cost)
        if no_time:
            # What time is left goes into a finer search with the method below.
            method, tolerance, number = below[number - 1], goal.tolerance, number - 1
            late = late | (active if goal.method != "auto" else False)
        secants[number] = secant = Secant(trials.task.clean, secant, METHODS[method].gain / METHODS[last].gain)
        found, better, missed = narrow(network, trials, method, found, active, tolerance, secant)
        late = late | missed
        by, aim, last = torch.where(better > aim, number, by), torch.maximum(better, aim), method
        if no_time:
            break
    expectations = [
        Expectation(steps[number][0], torch.where(by == number, aim, 0.0), found, secant)
        for number, secant in secants.items()
    ]
    return expectations, late


def worthwhile(method: str, tolerance: float) -> Sequence[str]:
    """The phases of a method; "auto" ends before one that gains less than what is left unproven anyway."""
    methods = phases(method)
    if method == AUTO:
        for number, (before, after) in enumerate(itertools.pairwise(methods)):
            if METHODS[after].gain <= METHODS[before].gain * (1 + tolerance):
                return methods[: number + 1]
    return methods


def narrow(
    network: BoundedNetwork,
    trials: Trials,
    method: str,
    proven: Float[Tensor, " b"],
    active: Bool[Tensor, " b"],
    tolerance: float,
    secant: Secant,
) -> Narrowed:
    """Narrow the gap between proven and unsafe radius, until it is within the tolerance or its end expected nearby."""
    task = trials.task
    unsafe, aim, late = task.unsafe.clone(), proven, torch.zeros_like(active)
    active = active & (unsafe > 0)
    for number in itertools.count():
        told = secant.measured & (secant.trials > 0)
        limit = torch.where(told, torch.minimum(unsafe, secant.root), unsafe)
        near = active & told & secant.is_near(limit, 1 + NEAR * tolerance)
        aim = torch.where(near, _within_reach(secant.root, unsafe, tolerance), aim)
        active = active & ~near & (limit > proven * (1 + tolerance))
        trial = next_trial(task, method, proven, unsafe, secant, tolerance, halve=number % HALVE_EACH == HALVE_EACH - 1)
        active = active & (trial > SMALLEST * task.scale)
        index = active.nonzero().squeeze(1)
        if not len(index):
            break
        if trials.duration and (trials.too_late() if (proven[index] > 0).any() else trials.is_over()):
            late = active
            break
        lower, result = trials.attempt(network, index, trial[index], method)
        secant.update(index, trial[index], lower)
        unsafe[index] = torch.where(result < trial[index], trial[index], unsafe[index])
        proven = proven.index_copy(0, index, torch.maximum(proven[index], result))
    return Narrowed(proven, torch.maximum(proven, aim), late)


def next_trial(
    task: Task,
    method: str,
    proven: Float[Tensor, " b"],
    unsafe: Float[Tensor, " b"],
    secant: Secant,
    tolerance: float,
    halve: bool,
) -> Float[Tensor, " b"]:
    """The radius to try next: a little below where bounds are expected to fail, or the middle of the gap.

    It is more than what is proven, less than what is unsafe, and no farther beyond the former than suits the method.
    """
    goal = (proven * unsafe).sqrt() if halve else secant.root / (1 + tolerance / 4)
    goal = torch.where(secant.trials > 0, goal, secant.first)
    start = torch.minimum(unsafe, task.start) * FIRST_TRIAL[task.balls.norm]
    least = torch.where(proven > 0, proven * (1 + tolerance / 2), start)
    most = torch.minimum(proven * METHODS[method].growth, unsafe / (1 + tolerance / 2))
    most = torch.where(proven > 0, most, unsafe / 2)
    return torch.minimum(torch.maximum(goal, least), most)


def _prove(
    exact: BoundedNetwork, trials: Trials, expected: Expectation, proven: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Keep of each radius what bounds for that very ball prove in float64, so that anyone can repeat the proof.

    A failure shows where to try next, and so does a proof that turns out to be far from the largest one.
    """
    method, aim, seen, secant = expected
    tolerance = trials.task.goal.tolerance
    unsafe, trial, proven = trials.task.unsafe.clone(), aim, proven.clone()
    for most in PROOFS:
        trial = torch.minimum(trial, torch.where(proven > 0, unsafe, aim * most))
        index = (trial > proven * (1 + tolerance / 2)).nonzero().squeeze(1)
        if not len(index):
            break
        trials.forget()
        tried = trial[index]
        lower, result = trials.attempt(exact, index, tried, method)
        success = result >= tried
        proven[index] = torch.where(success, tried, proven[index])
        unsafe[index] = torch.where(success, unsafe[index], tried)
        secant.update(index, tried, lower)
        goal = _within_reach(secant.root, unsafe, tolerance)
        left = secant.root > proven * (1 + tolerance)
        more = torch.zeros_like(goal) if trials.too_late() else torch.where(left, goal, 0.0)
        trial = torch.where(proven > 0, more, torch.maximum(goal, seen)).where(aim > 0, 0.0)
    return proven


def _within_reach(root: Tensor, unsafe: Tensor, tolerance: float) -> Float[Tensor, " b"]:
    """A little below where bounds are expected to fail, and where they did."""
    return torch.minimum(root / (1 + tolerance / 4), unsafe / (1 + tolerance / 2))


def _status(words: dict[str, Bool[Tensor, " b"]], images: int) -> list[str]:
    """The last of these words that is true of an image, or "certified"."""
    status = ["certified"] * images
    for word, which in words.items():
        status = [word if it else before for before, it in zip(status, which.tolist(), strict=True)]
    return status

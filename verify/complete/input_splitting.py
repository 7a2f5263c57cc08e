"""Branch and bound over the inputs: complete where a few of them vary.

A box that bounds do not decide is halved along one input; halves are bounded in batches (as in Wang et al. 2018,
ReluVal). All bounds are float64's, which give way for rounding, and the halves of a box share their border: together
they are the box. It works for every operator that has bounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.bounds import BoundedNetwork
from verify.complete.property import Case
from verify.regions import Box, Region

AT_ONCE = 256
"""Boxes bounded as one batch."""
MOST_INPUTS = 20
"""That vary: beyond so many, halving one says little."""

Search = Callable[[Tensor], "Tensor | None"]
"""From points of the region to one among them or near them that is a counterexample."""


class Margins(NamedTuple):
    """What bounds say of the unsafe sets of a case, over boxes.

    Attributes:
        lower: "b d": the largest proven lower bound of rows y - limits in each of d unsafe sets; positive where the set
            is never met. Minus infinity where bounds are not finite.
        coefficients: "b n": how strongly the bounds of the sets that are still open depend on each input.
    """

    lower: Float[Tensor, "b d"]
    coefficients: Float[Tensor, "b n"]

    @property
    def open(self) -> Bool[Tensor, " b"]:
        return (self.lower <= 0).any(1)


class Splitting(NamedTuple):
    """What halving boxes found.

    Attributes:
        lower: of the margin in the whole box, proven; positive where all is.
        counterexample: one that `Search` gave.
        stuck: boxes are left that float64 cannot halve.
        boxes: how many were bounded.
    """

    lower: float
    counterexample: Tensor | None
    stuck: bool
    boxes: int


def case_margins(exact: BoundedNetwork, case: Case, region: Region) -> Margins:
    """Bounds of the unsafe sets of a case, over parts of its region.

    Args:
        exact: from `BoundedNetwork.double`.
    """
    rows = torch.cat([part.rows for part in case.unsafe])
    limits = torch.cat([part.limits for part in case.unsafe])
    bounds = exact.bounds(region, specification=rows, method="crown")
    margins = (bounds.lower - limits).nan_to_num(-math.inf, math.inf, -math.inf)
    sizes = [len(part.rows) for part in case.unsafe]
    lower = torch.stack([part.amax(1) for part in margins.split(sizes, 1)], 1)
    assert bounds.line is not None
    open_rows = torch.cat(
        [lower[:, [number]].expand(-1, size) <= 0 for number, size in enumerate(sizes)], 1
    )
    coefficients = bounds.line.coefficients.abs().nan_to_num(0.0, 0.0)
    return Margins(lower, torch.einsum("bsn,bs->bn", coefficients, open_rows.to(coefficients)))


@torch.no_grad()
def split_inputs(exact: BoundedNetwork, case: Case, search: Search, deadline: float) -> Splitting:
    """Halve the box around a case's region until every part is proven, or one holds a counterexample.

    Args:
        exact: from `BoundedNetwork.double`.
        search: looks for counterexamples from points in boxes that are open.
        deadline: by `time.perf_counter`; looked at between batches.
    """
    lower, upper = case.region.lower, case.region.upper
    known = torch.full((1,), -math.inf, dtype=torch.float64)
    proven, boxes = math.inf, 0
    while len(lower) and time.perf_counter() < deadline:
        box = Box(lower[-AT_ONCE:], upper[-AT_ONCE:])
        lower, upper, known = lower[:-AT_ONCE], upper[:-AT_ONCE], known[:-AT_ONCE]
        found = case_margins(exact, case, box)
        boxes += len(box.centre)
        least, left = found.lower.amin(1), found.open
        proven = min(proven, float(least[~left].amin())) if not left.all() else proven
        if not left.any():
            continue
        part = Box(box.lower[left], box.upper[left])
        counterexample = search(part.centre)
        if counterexample is not None:
            return Splitting(-math.inf, counterexample, False, boxes)
        halves = _halves(part, found.coefficients[left])
        if halves is None:
            return Splitting(min(proven, float(least.amin())), None, True, boxes)
        lower, upper = torch.cat([lower, halves.lower]), torch.cat([upper, halves.upper])
        known = torch.cat([known, least[left].repeat(2)])
    left_over = float(known.amin()) if len(known) else math.inf
    return Splitting(min(proven, left_over), None, False, boxes)


def _halves(box: Box, coefficients: Float[Tensor, "b n"]) -> Box | None:
    """Both halves of each box, along the input that moves the bounds most; None where one of them cannot be halved."""
    low, high = box.lower.flatten(1), box.upper.flatten(1)
    middle = low + (high - low) / 2
    splits = (low < middle) & (middle < high)
    if not splits.any(1).all():
        return None
    width = (high - low).masked_fill(~splits, -1.0)
    # Where bounds do not depend on an input, or are not finite, its width still counts a little.
    scale = coefficients.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    score = (width * (coefficients / scale + 1e-3)).masked_fill(~splits, -1.0)
    along = torch.zeros_like(splits).scatter(1, score.argmax(1, keepdim=True), True)
    lower = torch.cat([low, torch.where(along, middle, low)])
    upper = torch.cat([torch.where(along, middle, high), high])
    shape = box.lower.shape[1:]
    return Box(lower.view(-1, *shape), upper.view(-1, *shape))

"""Lower slopes for each row of a backward pass, from the point where the row's affine form is least.

Any slope in [0, 1] through 0 lies below a relu. CROWN takes one for a neuron, alpha-CROWN looks for one for each row by
gradient ascent, whose gradient is the neuron's value where the row's bound is attained. Affine forms tell that point
beforehand: a pixel or an error that raises the row is at its lower end. So one product of matrices gives all rows
slopes of their own, and most of what the ascent finds. They need not be the best to be sound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from verify.operators.relaxation import Elementwise, Slopes
from verify.propagation.affine import AffineSweep

SlopeChoice: TypeAlias = Callable[[Elementwise], Slopes | None]
"""The slopes that rows have at a nonlinear function."""


def adaptive(_: Elementwise) -> Slopes | None:
    """The function's own lines, for all rows."""
    return None


class WorstPoints:
    """Where rows of affine forms are least and largest, and the slopes that suit them there.

    Args:
        sweep: it has kept the neurons that slopes are for.
        rows: of affine forms, "r b s".
    """

    def __init__(self, sweep: AffineSweep, rows: Float[Tensor, "r b s"]) -> None:
        self.sweep, self.chosen = sweep, dict[str, Slopes]()
        with torch.no_grad():
            middle, half = sweep.region.extremes(rows[: sweep.pixels].permute(1, 2, 0))
            self.middle = middle.transpose(1, 2)
            self.half = torch.cat([half.transpose(1, 2), rows[sweep.pixels :].transpose(0, 1).sign()], 1)

    @torch.no_grad()
    def __call__(self, node: Elementwise) -> Slopes | None:
        """None where the neurons were not kept, or have no slopes to choose."""
        name = node.inputs[0].name
        if name not in self.sweep.kept or not node.has_slopes:
            return None
        if node.name not in self.chosen:  # of the function, and not of what it reads: others may read it, too
            numbers, lower, upper, _, _ = self.sweep.kept[name]
            self.chosen[node.name] = Slopes(numbers, *(node.suited(lower, upper, z) for z in self.values(name)))
        return self.chosen[node.name]

    def values(self, name: str) -> tuple[Float[Tensor, "s b k"], Float[Tensor, "s b k"]]:
        """What the kept neurons are where the rows are least, and where they are largest."""
        kept = self.sweep.kept[name]
        count = min(kept.rows.shape[2], self.half.shape[1])
        middle = kept.middle.unsqueeze(2) + kept.rows[:, :, : self.sweep.pixels] @ self.middle
        half = kept.rows[:, :, :count] @ self.half[:, :count]
        return (middle - half).permute(2, 0, 1), (middle + half).permute(2, 0, 1)

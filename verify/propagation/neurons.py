"""What is known of a network's nodes over a region: what CROWN's rules read, and what one computation leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.graph.lirpa import Bound
from verify.operators.layout import flat
from verify.operators.operator import Interval, Read
from verify.propagation.affine import AffineSweep
from verify.propagation.intervals import IntervalSweep
from verify.propagation.worst_points import SlopeChoice, WorstPoints, adaptive
from verify.regions import Region
from verify.rounding import IGNORED, Rounding

Intervals: TypeAlias = dict[str, Interval]
"""Lower and upper bounds of relaxed neurons, "b *shape" each, by the name of their node."""


@dataclass
class Neurons:
    """The environment of a backward walk.

    Attributes:
        region: the inputs.
        values: of the nodes that do not vary, by their names.
        intervals: of the nodes that are relaxed.
        rounding: by how much bounds give way.
        sweep: intervals of all nodes, whose magnitudes rounding errors are relative to; None where none give way.
        outputs: affine forms of the outputs, and the neurons that slopes are chosen for; None where there is no sweep.
        allowances: see `verify.propagation.crown`.
        empty: images for which bounds of a neuron have crossed, by more than rounding where that is accounted for: no
            input of their region meets the bounds that were given.
    """

    region: Region
    values: dict[str, Tensor]
    intervals: Intervals
    rounding: Rounding = IGNORED
    sweep: IntervalSweep | None = None
    outputs: AffineSweep | None = None
    allowances: dict[str, Tensor] = field(default_factory=dict)
    empty: Bool[Tensor, " b"] | None = None

    def read(self, node: Bound) -> Read:
        """What is known of a node's inputs."""
        return [
            (self.values[parent.name],) * 2 if parent.name in self.values else self.intervals.get(parent.name)
            for parent in node.inputs
        ]

    def largest(self, node: Bound) -> list[Tensor]:
        """Magnitudes of a node's inputs over their intervals; the values of those that do not vary."""
        assert self.sweep is not None
        return [
            self.values[parent.name] if parent.name in self.values else _magnitude(self.sweep.ends(parent.name))
            for parent in node.inputs
        ]

    def slopes_for(self, node: Bound, rows: Float[Tensor, "b s k"]) -> SlopeChoice:
        """Lower slopes of rows of the output node; those of `adaptive` without a sweep of affine forms."""
        if self.outputs is None:
            return adaptive
        forms = self.outputs.forms[node.name].rows
        return WorstPoints(self.outputs, torch.einsum("rbk,bsk->rbs", forms.detach(), rows.detach()))

    def take(self, index: Int[Tensor, " m"]) -> Neurons:
        """Of these images alone: for backward passes with slopes of their own, whose `allowances` are known."""
        return Neurons(
            self.region.take(index),
            self.values,
            {name: (lower[index], upper[index]) for name, (lower, upper) in self.intervals.items()},
            self.rounding,
            allowances={name: value[index] for name, value in self.allowances.items()},
        )

    @property
    def finite(self) -> Bool[Tensor, " b"]:
        """Whether all intervals of an image are."""
        parts = [flat(torch.isfinite(lower) & torch.isfinite(upper)).all(1) for lower, upper in self.intervals.values()]
        return torch.stack([torch.ones_like(self.region.centre.flatten(1)[:, 0], dtype=torch.bool), *parts]).all(0)


def _magnitude(interval: Interval) -> Tensor:
    return torch.maximum(interval[0].abs(), interval[1].abs())

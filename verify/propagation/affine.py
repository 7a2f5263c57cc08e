"""A forward sweep of affine forms: tight bounds of every neuron in one pass over the network.

The form of a node is an affine function of the input pixels and of the errors that relaxations before it made
(zonotopes; Singh et al. 2018, DeepZ; as tight as Fast-Lin). A backward method needs a pass for every neuron,
this one a single pass with a row for every pixel and every unstable neuron. A row stays the same object on all
ways through the graph, so what a cell computes twice from one state cancels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.checks.errors import InputError
from verify.graph.lirpa import Bound
from verify.operators.form import Form
from verify.operators.layout import flat, in_parts, outermost, picked, total_magnitude
from verify.operators.operator import Interval, Read
from verify.regions import Region
from verify.rounding import IGNORED, Rounding

MEMORY = 4096.0
"""MiB that affine forms may take, if nothing else is said."""
TEMPORARY = 2
"""A form and what is computed from it are in memory together."""


class Kept(NamedTuple):
    """Some neurons of a node, for slopes.

    Attributes:
        numbers: in the flattened node.
        lower, upper: their bounds.
        middle, rows: of their affine forms.
    """

    numbers: Int[Tensor, "b k"]
    lower: Float[Tensor, "b k"]
    upper: Float[Tensor, "b k"]
    middle: Float[Tensor, "b k"]
    rows: Float[Tensor, "b k r"]


class AffineSweep:
    """Forms of the nodes of a graph over a region, one node after the other.

    Rows of errors are kept as long as they fit; then those of the least weight are merged into boxes (order reduction),
    which is sound. Rows of pixels are never merged: all of the network's linear behaviour rests on them.

    Args:
        nodes: of the graph, inputs before their users.
        region: the inputs; its pixels are the first rows of every form.
        memory: MiB for the forms.
        rounding: by how much the ends of a form give way.

    Attributes:
        kept: neurons that `keep` was called for, by the names of their nodes, while forms leave memory for them.

    Raises:
        InputError: the rows of the pixels alone do not fit.
    """

    def __init__(
        self, nodes: Sequence[Bound], region: Region, memory: float, rounding: Rounding = IGNORED
    ) -> None:
        self.region, self.rounding = region, rounding
        self.pixels = region.centre[0].numel()
        self.forms: dict[str, Form] = {}
        self.kept: dict[str, Kept] = {}
        self.used_rows = self.pixels
        self.waiting = Counter(parent.name for node in nodes for parent in node.inputs)
        self.memory, self.row = memory, len(region.centre) * row_size(nodes, region.centre.element_size())
        self.most_rows = int(memory / self.row)
        if self.most_rows < self.pixels:
            raise InputError(
                f"affine forms of {len(region.centre)} images need at least {math.ceil(self.row * self.pixels)} MiB, "
                f"not {memory:g}; allow more memory, bound fewer images at once, or take method crown-ibp"
            )

    def advance(self, node: Bound, read: Read) -> None:
        """Compute the form of a node from those of its inputs and from their intervals, see `Operator.affine`."""
        if not node.inputs:
            self.forms[node.name] = self._input()
            return
        forms = [self.forms.get(parent.name) for parent in node.inputs]
        self.forms[node.name] = node.affine(forms, read, self)
        for parent in node.inputs:
            self.waiting[parent.name] -= 1
            if not self.waiting[parent.name]:
                self.forms.pop(parent.name, None)

    @property
    def room(self) -> int:
        return self.most_rows - self.used_rows

    def make_room(self, form: Form, errors: Float[Tensor, "b n"]) -> tuple[Form, int]:
        """See `Sweep`. What has no room is merged: of the old rows and the new errors, those of the least weight."""
        wanted = int((errors != 0).sum(1).max())  # NaN counts: it has to stay visible
        if wanted * self.row > self._spare_memory():
            self.kept = {}  # before rows are merged, or they would have other numbers there
        if wanted <= self.room:
            return form, wanted
        old = self._weights([*self.forms.values(), form])
        new = errors.detach().topk(wanted, dim=1).values.sum(0)
        kept = torch.cat([old, new]).topk(self.most_rows - self.pixels).indices
        merged = torch.ones(self.used_rows, dtype=torch.bool, device=errors.device)
        merged[: self.pixels] = False
        merged[self.pixels + kept[kept < len(old)]] = False
        self.forms = {name: alive.without(merged) for name, alive in self.forms.items()}
        self.used_rows -= int(merged.sum())
        return form.without(merged), int((kept >= len(old)).sum())

    def keep(self, node: Bound, interval: Interval, numbers: Int[Tensor, "b k"]) -> None:
        """Remember neurons of a node that has been bounded: `WorstPoints` chooses slopes for them."""
        form = self.forms[node.name]
        if numbers.numel() * len(form.rows) * form.rows.element_size() / 2**20 > self._spare_memory():
            return
        with torch.no_grad():
            middle = (form.lower + form.upper) / 2
            lower, upper, middle = (flat(side).gather(1, numbers) for side in (*interval, middle))
            rows = picked(form.rows, numbers).permute(1, 2, 0).contiguous()
            self.kept[node.name] = Kept(numbers, lower, upper, middle, rows)

    def _spare_memory(self) -> float:
        """MiB that neither forms nor kept neurons need."""
        kept = sum(neurons.rows.nbytes for neurons in self.kept.values()) / 2**20
        return self.memory - self.used_rows * self.row - kept

    def _weights(self, forms: Sequence[Form]) -> Float[Tensor, " r"]:
        """Of each row of an error the sum of its magnitudes, in the form where that is largest."""
        weights = forms[0].rows.new_zeros(self.used_rows - self.pixels)
        for form in forms:
            own = flat(form.rows.detach()[self.pixels :]).abs().sum(1)
            weights[: len(own)] = torch.maximum(weights[: len(own)], own)
        return weights

    def interval(self, node: Bound) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """Bounds of the node's elements over the region."""
        return self.bounds(self.forms[node.name])

    def bounds(self, form: Form) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """Least and largest value of each element of a form over the region."""
        lower, upper = [], []
        for part in in_parts(form.rows):
            pixels, errors = part[: self.pixels].permute(1, 2, 0), part[self.pixels :].abs().sum(0)
            least, largest = self.region.ends(pixels)
            lower.append(least - errors)
            upper.append(largest + errors)
        low, high = (torch.cat(ends, dim=1).view_as(form.lower) for ends in (lower, upper))
        slack = self.rounding.total * self.terms(form) if self.rounding.total else 0.0
        return low + form.lower - slack, high + form.upper + slack

    def terms(self, form: Form) -> Float[Tensor, "b *shape"]:
        """See `Sweep`."""
        pixels = torch.maximum(self.region.lower.abs(), self.region.upper.abs()).flatten(1).amax(1).clamp(min=1)
        rows = total_magnitude(form.rows)
        return rows * pixels.view(-1, *[1] * (rows.dim() - 1)) + torch.maximum(form.lower.abs(), form.upper.abs())

    def _input(self) -> Form:
        """x itself: each pixel is its own row."""
        centre = self.region.centre
        eye = torch.eye(self.pixels, dtype=centre.dtype, device=centre.device)
        rows = outermost(eye.view(*centre.shape[1:], self.pixels)).unsqueeze(1)
        rows = rows.expand(-1, len(centre), *centre.shape[1:])
        zero = torch.zeros_like(centre)
        return Form(zero, zero, rows)


def row_size(nodes: Sequence[Bound], element_size: int) -> float:
    """MiB that a row of all forms takes, an image, where most of them are needed at one time."""
    return _most_alive(nodes) * element_size * TEMPORARY / 2**20


def _most_alive(nodes: Sequence[Bound]) -> int:
    """The largest number of elements, an image, of all forms that are needed at one time."""
    waiting = Counter(parent.name for node in nodes for parent in node.inputs)
    sizes = {node.name: node.output_shape[1:].numel() for node in nodes if node.from_input}
    alive = most = 0
    for node in nodes:
        alive += sizes.get(node.name, 0)
        most = max(most, alive)
        for parent in node.inputs:
            waiting[parent.name] -= 1
            if not waiting[parent.name]:
                alive -= sizes.get(parent.name, 0)
    return most

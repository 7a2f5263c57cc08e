"""A forward sweep of affine forms: tight bounds of every neuron in one pass over the network.

The form of a node is an affine function of the input pixels and of the errors that relaxations before it made
(zonotopes; Singh et al. 2018, DeepZ; as tight as Fast-Lin). A backward method needs a pass for every neuron,
this one a single pass with a row for every pixel and every unstable neuron. A row stays the same object on all
ways through the graph, so what a cell computes twice from one state cancels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from verify.lirpa import Bound
from verify.operators.form import Form
from verify.regions import Region

FORM_ELEMENTS = 2**25
"""Errors get rows of their own until the widest node's form holds this many numbers; after that they only widen
boxes. (A few forms are alive at a time.)"""


class AffineSweep:
    """Forms of the nodes of a graph over a region, one node after the other.

    Args:
        nodes: of the graph, inputs before their users.
        region: the inputs; its pixels are the first rows of every form.
    """

    def __init__(self, nodes: Sequence[Bound], region: Region) -> None:
        self.region = region
        self.pixels = region.centre[0].numel()
        self.forms: dict[str, Form] = {}
        self.used_rows = self.pixels
        self.waiting = Counter(parent.name for node in nodes for parent in node.inputs)
        batch = len(region.centre)
        widest = max(node.output_shape[1:].numel() for node in nodes if node.from_input)
        self.most_rows = max(self.pixels, FORM_ELEMENTS // (batch * widest))

    def advance(self, node: Bound) -> None:
        """Compute the form of a node; those of its inputs, and the intervals of relaxed ones, are there already."""
        if not node.inputs:
            self.forms[node.name] = self._input()
            return
        forms = [self.forms.get(parent.name) for parent in node.inputs]
        self.forms[node.name] = node.affine(forms, self)
        for parent in node.inputs:
            self.waiting[parent.name] -= 1
            if not self.waiting[parent.name]:
                self.forms.pop(parent.name, None)

    def interval(self, node: Bound) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """Bounds of the node's elements over the region."""
        return self.bounds(self.forms[node.name])

    def bounds(self, form: Form) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """Least and largest value of each element of a form over the region."""
        pixels = form.rows[: self.pixels].flatten(2).permute(1, 2, 0)
        spread = form.rows[self.pixels :].abs().sum(0)
        lower, upper = self.region.least(pixels), -self.region.least(-pixels)
        return lower.view_as(spread) + form.lower - spread, upper.view_as(spread) + form.upper + spread

    def _input(self) -> Form:
        """x itself: each pixel is its own row."""
        centre = self.region.centre
        eye = torch.eye(self.pixels, dtype=centre.dtype, device=centre.device)
        rows = eye.view(self.pixels, 1, *centre.shape[1:]).expand(-1, len(centre), *centre.shape[1:])
        zero = torch.zeros_like(centre)
        return Form(zero, zero, rows)

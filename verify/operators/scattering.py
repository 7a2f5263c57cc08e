"""A tensor written into another at places that do not depend on the network's input, or added to it there."""

from __future__ import annotations

import torch
from torch import Tensor

from verify.operators.call import Call, Slot
from verify.operators.linear import LinearOperator
from verify.operators.operator import rule


@rule("scatter_add.default", "index_add.default")
class Accumulated(LinearOperator):
    """The elements of one tensor, with those of another added at some places. Either tensor may vary."""

    has_offset = True

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        """All but the indices of index_put, which are of no dimension of the images."""
        return not (isinstance(call.args[1], (list, tuple)) and Slot(slot) in call.args[1])

    def check(self) -> None:
        if any(not self.inputs[slot].forward_value.is_floating_point() for slot in self.varying):
            raise self.refuse("places that depend on the network's input")
        if self.call.name in ("aten.scatter.src", "aten.scatter_add.default"):
            index, source = (self.inputs[slot].output_shape for slot in map(self.slot_of, (2, 3)) if slot is not None)
            if index[1:] != source[1:]:
                raise self.refuse("a source larger than its index, of which torch has no gradient; cut it to that size")
        self.check_apart()

    def forward(self, *values: Tensor) -> Tensor:
        """Parts that do not vary are of one image, and serve all."""
        like = values[self.varying[0]]
        return super().forward(
            *(
                value.expand(len(like), *value.shape[1:]) if self._serves_all(slot, like.dim()) else value
                for slot, value in enumerate(values)
            )
        )

    def _serves_all(self, slot: int, rank: int) -> bool:
        shape = self.inputs[slot].output_shape
        one = slot not in self.varying and len(shape) == rank and shape[0] == 1
        return one and self.has_part_an_image(self.call, slot, rank)


@rule(
    "scatter.value", "scatter.src", "index_copy.default", "index_fill.int_Scalar", "index_put.default",
    "select_scatter.default", "slice_scatter.default", "diagonal_scatter.default",
)  # fmt: skip
class Overwritten(Accumulated):
    """The elements of one tensor but for some places, which have those of another."""

    exact = True

    def check(self) -> None:
        super().check()
        if self.call.name == "aten.index_put.default" and self.call.argument(3, False):
            raise self.refuse("a sum (index_add and scatter_add have bounds)")
        if self._most() > 1:
            raise self.refuse("two elements at one place, of which torch does not say which one stays")

    def _most(self) -> float:
        """How many elements come to one place, at most; 1 of calls that have different places."""
        values = [node.forward_value for node in self.inputs]
        slots = {place: self.slot_of(place) for place in (0, 2)}
        like = values[0] if slots[0] is None else values[slots[0]]
        base, dimension = torch.zeros_like(like[:1]), self.call.args[1]
        if self.call.name == "aten.index_put.default":
            indices = [None if index is None else values[index.position] for index in dimension]
            added = torch.ops.aten.index_put.default(base, indices, base.new_ones(()), True)
        elif self.call.name in ("aten.scatter.src", "aten.index_copy.default") and slots[2] is not None:
            index = values[slots[2]]
            if index.dim() == 1 < base.dim():
                return float(torch.bincount(index).max())
            added = base.scatter_add(dimension, index[:1], torch.ones_like(index[:1], dtype=base.dtype))
        else:
            return 1.0
        return float(added.max())

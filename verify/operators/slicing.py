"""Selecting, joining and rearranging elements: slices, concatenation, padding, reshapes, channel shuffles.

None of them changes a value, so an interval is moved end by end. What must not happen is that elements of
different images meet: every class checks that the batch stays the first dimension.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from verify.operators.call import Call
from verify.operators.layout import innermost, lies_innermost, outermost
from verify.operators.linear import LinearOperator
from verify.operators.operator import rule


@rule("clone.default", "contiguous.default", "alias.default", "lift_fresh_copy.default")
class Copy(LinearOperator):
    """The same values."""

    exact = True

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        return [rows]


@rule("detach.default")
class Detach(Copy):
    """The value itself: bounds and attacks go through it as if it were not there.

    What it keeps is a gradient in parameters: see `Builder`.
    """

    def forward(self, *values: Tensor) -> Tensor:
        return values[0]


@rule("dropout.default", "feature_dropout.default", "alpha_dropout.default", "feature_alpha_dropout.default")
class Dropout(Copy):
    """Nothing in evaluation mode; refused in training mode, where the network is not one function."""

    def check(self) -> None:
        if self.call.argument(2, True):
            raise self.refuse("random dropout in training mode (switch the model to eval)")


@rule(
    "slice.Tensor", "select.int", "unbind.int", "split.Tensor", "split_with_sizes.default", "chunk.default",
    "unsqueeze.default", "squeeze.dim", "narrow.default", "index_select.default", "flip.default",
)
class Along(LinearOperator):
    """An operation along one dimension, or a few, of which none may be the batch."""

    exact = True

    dimension_argument = {"split.Tensor": 2, "split_with_sizes.default": 2, "chunk.default": 2}

    def check(self) -> None:
        if self.varying_arguments != [0]:
            raise self.refuse("an index that depends on the network's input")
        position = self.dimension_argument.get(self.call.name.removeprefix("aten."), 1)
        dimensions = self.call.argument(position, self.call.kwargs.get("dim", 0))
        rank = len(self.inputs[self.varying[0]].output_shape) + (self.call.name == "aten.unsqueeze.default")
        for dimension in dimensions if isinstance(dimensions, (list, tuple)) else [dimensions]:
            if dimension % rank == 0 and not self._keeps_everything():
                raise self.refuse("a selection along the batch dimension")

    def _keeps_everything(self) -> bool:
        """x[:, ...] is traced as a slice of the whole batch dimension."""
        whole = self.call.args[2:] in ((0, _END), (0, _END, 1), ())
        return self.call.name == "aten.slice.Tensor" and whole


_END = 2**63 - 1


@rule("cat.default", "concat.default", "stack.default")
class Concatenation(LinearOperator):
    """Tensors joined along a dimension other than the batch. Parts that do not vary are an offset."""

    exact = True

    @property
    def has_offset(self) -> bool:  # type: ignore[override]
        return len(self.varying) < len(self.inputs)

    @property
    def dimension(self) -> int:
        """Along which the parts are joined, of the result's."""
        rank = len(self.inputs[self.varying[0]].output_shape) + (self.call.name == "aten.stack.default")
        return int(self.call.argument(1, self.call.kwargs.get("dim", 0))) % rank

    def check(self) -> None:
        if self.dimension == 0:
            raise self.refuse("a concatenation along the batch dimension")

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        return True

    def forward(self, *values: Tensor) -> Tensor:
        """Parts that do not vary are of one image, and serve all."""
        batch = len(values[self.varying[0]])
        return super().forward(
            *(
                value if position in self.varying else value.expand(batch, *value.shape[1:])
                for position, value in enumerate(values)
            )
        )

    def linear_part(self, values: list[Tensor]) -> Tensor:
        if self.has_offset or self.call.name == "aten.stack.default" or not all(map(lies_innermost, values)):
            return super().linear_part(values)
        parts = [innermost(values[slot.position]) for slot in self.call.args[0]]
        return outermost(torch.cat(parts, self.dimension - 1))


@rule("pad.default", "constant_pad_nd.default", "reflection_pad2d.default", "replication_pad2d.default")
class Padding(LinearOperator):
    """A border of a constant, or of copies of the elements within."""

    exact = has_offset = True

    def check(self) -> None:
        rank = len(self.inputs[0].output_shape)
        if any(self.call.args[1][2 * (rank - 1) :]):
            raise self.refuse("padding of the batch dimension")


@rule("where.self", "where.ScalarSelf", "where.ScalarOther", "masked_fill.Scalar", "masked_fill.Tensor")
class Choice(LinearOperator):
    """Elements of one tensor or of another, as a mask says that does not depend on the network's input."""

    exact = has_offset = True

    @cached_property
    def pixelwise(self) -> bool:
        one = len(self.varying_arguments) == 1
        return one and self.output_shape[1:] == self.inputs[self.varying[0]].output_shape[1:]

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        return True

    def check(self) -> None:
        mask = 0 if "where" in self.call.name else 1
        if self.slot_of(mask) in self.varying:
            raise self.refuse("a mask that depends on the network's input")
        ranks = [len(node.output_shape) for node in self.inputs]
        if any(ranks[position] < max(ranks) for position in self.varying):
            raise self.refuse("broadcasting that moves the batch dimension")


@rule("transpose.int", "permute.default")
class Permutation(LinearOperator):
    """A new order of the dimensions, the batch staying first."""

    exact = True

    def check(self) -> None:
        rank = len(self.inputs[0].output_shape)
        if self.call.name == "aten.permute.default":
            keeps_batch = self.call.args[1][0] % rank == 0
        else:
            keeps_batch = all(dimension % rank for dimension in self.call.args[1:3])
        if not keeps_batch:
            raise self.refuse("a permutation that moves the batch dimension")


@rule(
    "view.default", "reshape.default", "_unsafe_view.default", "expand.default", "broadcast_to.default",
    "flatten.using_ints", "unflatten.int", "squeeze.default", "squeeze.dims",
)
class Reshape(LinearOperator):
    """A new shape for each image. The batch size in the traced shape is the example's: it is left open."""

    exact = True

    @property
    def _repeats(self) -> bool:
        return self.call.name in ("aten.expand.default", "aten.broadcast_to.default")

    def check(self) -> None:
        example = self.inputs[self.varying[0]].forward_value
        shape = self.call(example).shape
        if shape[:1] != example.shape[:1]:
            raise self.refuse("a result whose first dimension is not the batch")
        self.shape = shape[1:]

    def forward(self, *values: Tensor) -> Tensor:
        x = values[0]
        if self._repeats:
            return x.expand(len(x), *self.shape)
        return x.reshape(len(x), *self.shape)

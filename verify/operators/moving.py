"""Rearrangements whose pattern only the call knows: indices, rolls, shuffles, windows; and sums over such windows.

None of them changes a value. That images do not meet is tried out, see `LinearOperator.check_apart`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from torch import Tensor

from verify.operators.call import Call
from verify.operators.linear import LinearOperator
from verify.operators.operator import Operator, rule
from verify.operators.product import MatrixProduct


@rule(
    "channel_shuffle.default", "diag_embed.default", "diagonal.default", "im2col.default", "pixel_shuffle.default",
    "pixel_unshuffle.default", "repeat.default", "repeat_interleave.self_int",
    "roll.default", "rot90.default", "tril.default", "triu.default", "unfold.default",
    "unsafe_chunk.default", "unsafe_split.Tensor", "unsafe_split_with_sizes.default",
)  # fmt: skip
class Moved(LinearOperator):
    """Elements of an image elsewhere in it, several times, or with zeros between."""

    exact = True

    def check(self) -> None:
        if self.varying_arguments != [0]:
            raise self.refuse("a pattern that depends on the network's input")
        self.check_apart()


@rule("index.Tensor")
class Indexed(LinearOperator):
    """x[:, indices, ...], the indices being integers that do not depend on the network's input."""

    exact = True

    def check(self) -> None:
        if self.varying_arguments != [0]:
            raise self.refuse("an index that depends on the network's input")
        if self.call.args[1][0] is not None:
            raise self.refuse("a selection along the batch dimension")
        self.check_apart()


@rule("gather.default")
class Gathered(LinearOperator):
    """Elements along a dimension other than the batch, each at its own index."""

    exact = True

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        return True

    def check(self) -> None:
        if self.varying_arguments != [0]:
            raise self.refuse("an index that depends on the network's input")
        self.check_apart()

    def forward(self, *values: Tensor) -> Tensor:
        """The index is of one image, and serves all."""
        x, index = values[self.varying[0]], values[self._index]
        return x.gather(self.call.args[1], index.expand(len(x), *index.shape[1:]))

    @property
    def _index(self) -> int:
        slot = self.slot_of(2)
        assert slot is not None
        return slot


@rule("col2im.default")
class Folded(LinearOperator):
    """Windows laid over each other and added up."""

    def check(self) -> None:
        self.check_apart()

    @property
    def summands(self) -> int:
        return math.prod(self.call.args[2])


@rule("cumsum.default")
class Cumulated(LinearOperator):
    """Sums of all elements up to each, along a dimension other than the batch."""

    def check(self) -> None:
        self.check_apart()

    @property
    def summands(self) -> int:
        return self.inputs[0].output_shape[self.call.args[1]]


@rule("einsum.default")
class Contraction(LinearOperator):
    """A sum over shared indices of a tensor that varies and of others that do not."""

    @classmethod
    def rule_for(cls, call: Call, varying: Collection[int]) -> type[Operator]:
        factors = [slot.position for slot in call.args[1]]
        return MatrixProduct if len(factors) == 2 and set(factors) <= set(varying) else cls

    def check(self) -> None:
        if sum(slot.position in self.varying for slot in self.call.args[1]) != 1:
            raise self.refuse("a product of tensors that both depend on the network's input")
        self.check_apart()

    def magnitude(self, values: list[Tensor]) -> Tensor:
        return self.forward(*(value if slot in self.varying else value.abs() for slot, value in enumerate(values)))

    @property
    def summands(self) -> int:
        """The size of all indices together over that of those which the result has."""
        sizes: dict[str, int] = {}
        for term, slot in zip(self.call.args[0].split("->")[0].split(","), self.call.args[1], strict=True):
            shape, labels = list(self.inputs[slot.position].output_shape), term.replace(" ", "")
            before, dots, after = labels.partition("...")
            inner = shape[len(before) : len(shape) - len(after)]
            named = [*zip(before, shape, strict=False), *zip(reversed(after), reversed(shape), strict=False)]
            for label, size in [*named, *([(dots, math.prod(inner))] if dots else [])]:
                sizes[label] = max(size, sizes.get(label, 1))
        return math.prod(sizes.values()) // max(1, self.output_shape.numel())

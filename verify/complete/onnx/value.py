"""What ONNX's operators compute with, and the register of their rules.

An ONNX file describes one evaluation, of batch size 1 or without a batch axis; we need any number of images. A value
that depends on the image therefore has a batch axis of its own in front, or in the place of a first axis of size 1
where it has one (`Value.batched`). So a rule follows ONNX's text for one image, and images never mix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from verify.checks.errors import InputError


@dataclass(frozen=True)
class Value:
    """What depends on the image.

    Attributes:
        tensor: "b *shape"; where `batched`, b stands in the place of ONNX's first axis, of size 1.
    """

    tensor: Tensor
    batched: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """In ONNX, for one image."""
        rest = tuple(self.tensor.shape[1:])
        return (1, *rest) if self.batched else rest

    @property
    def full(self) -> Tensor:
        """With ONNX's own axes behind that of the batch."""
        return self.tensor.unsqueeze(1) if self.batched else self.tensor

    @property
    def images(self) -> Tensor:
        """For operators whose first axis is the batch's."""
        if not self.batched:
            raise InputError(f"its input has shape {self.shape}; the first axis must be the batch's, of size 1")
        return self.tensor


@dataclass(frozen=True)
class Constant:
    """What is the same for every image: its values, and the buffer that holds them where they are real numbers."""

    array: np.ndarray
    tensor: Tensor

    @property
    def whole(self) -> list[int]:
        return [int(value) for value in self.array.reshape(-1)]


@dataclass(frozen=True)
class Node:
    """One node of an ONNX file: its attributes and how many outputs of it are read."""

    attributes: Mapping[str, Any]
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


Argument: TypeAlias = "Value | Constant | None"
Rule: TypeAlias = Callable[..., "Value | tuple[Value, ...]"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of these operators; it takes a node and its arguments."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def value_of(full: Tensor) -> Value:
    """The value whose tensor has ONNX's axes behind that of the batch."""
    if full.dim() >= 3 and full.shape[1] == 1:
        return Value(full.squeeze(1), True)
    return Value(full, False)


def constant(argument: Argument) -> Constant:
    """What must be constant.

    Raises:
        InputError: it is not.
    """
    if not isinstance(argument, Constant):
        raise InputError("an input that must be constant depends on the image, or is missing")
    return argument


def given_whole(node: Node, argument: Argument, name: str) -> list[int] | None:
    """Whole numbers that older files have as an attribute and newer ones as an input."""
    found = node.get(name) if argument is None else constant(argument).whole
    return None if found is None else [int(value) for value in found]


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        InputError: there is none such.
    """
    if not -rank <= axis < rank:
        raise InputError(f"axis {axis} of a tensor of {rank} axes")
    return axis % rank


def along(value: Value, axes: Sequence[int]) -> tuple[Tensor, int]:
    """A tensor that has these axes of ONNX's (not negative), and by how much they stand further behind in it."""
    if value.batched and 0 not in axes:
        return value.tensor, 0
    return value.full, 1


def back(tensor: Tensor, offset: int) -> Value:
    """The value of a tensor that was made of what `along` gave."""
    if offset:
        return value_of(tensor)
    return Value(tensor, True) if tensor.dim() > 1 else Value(tensor.unsqueeze(1), False)


def padded(value: Value, rank: int) -> Tensor:
    """In full, with axes of size 1 in front so that there are `rank` of ONNX's."""
    full = value.full
    for _ in range(rank - len(value.shape)):
        full = full.unsqueeze(1)
    return full

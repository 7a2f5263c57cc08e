"""Convolutions (grouped, dilated, strided) and fully connected layers: calls that are linear in one argument."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from verify.operators.call import Call
from verify.operators.correlation import Geometry, correlate, correlate_transposed, largest_products
from verify.operators.layout import innermost, outermost, pays
from verify.operators.linear import LinearOperator
from verify.operators.operator import Operator, rule
from verify.operators.product import MatrixProduct


class Weighted(LinearOperator):
    """weight . x + bias with a fixed weight."""

    input_argument: ClassVar[int] = 0
    bias_argument: ClassVar[int | None] = 2

    def check(self) -> None:
        if self.varying_arguments != [self.input_argument]:
            raise self.refuse("a weight or bias that depends on the network's input")

    @property
    def weight_slot(self) -> int:
        """Which input the weight is, of calls that have it second."""
        slot = self.slot_of(1)
        assert slot is not None
        return slot

    @property
    def has_offset(self) -> bool:  # type: ignore[override]
        return self.bias_argument is not None and self.call.argument(self.bias_argument) is not None

    def magnitude(self, values: list[Tensor]) -> Tensor:
        varying = self.slot_of(self.input_argument)
        values = [value if position == varying else value.abs() for position, value in enumerate(values)]
        return self._without_bias(values)

    def row_norms(self, values: list[Tensor], order: float) -> Tensor:
        """The norm of every row of T, its columns multiplied by x >= 0: of order 2, or infinity, of which some calls
        know no better bound than the norm of order 2."""
        squares = self._without_bias([value.square() for value in values])
        return squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()  # a gradient, where it is 0, too

    def linear_part(self, values: list[Tensor]) -> Tensor:
        return self._without_bias(values)

    def _without_bias(self, values: list[Tensor]) -> Tensor:
        bias = None if self.bias_argument is None else self.slot_of(self.bias_argument)
        return self.forward(
            *(torch.zeros_like(value) if position == bias else value for position, value in enumerate(values))
        )


@rule("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
class TransposedConvolution(Weighted):
    """A transposed convolution."""


@rule("conv2d.default", "conv1d.default", "conv3d.default", "conv2d.padding", "conv1d.padding", "conv3d.padding")
class Convolution(Weighted):
    """Any convolution; applied to many rows, or transposed, it is where the time goes: see `correlation.py`."""

    def linear_part(self, values: list[Tensor]) -> Tensor:
        geometry = self.geometry(values)
        if geometry is None:
            return super().linear_part(values)
        return correlate(values[self.varying[0]], values[self.weight_slot], geometry)

    def row_norms(self, values: list[Tensor], order: float) -> Tensor:
        geometry = self.geometry(values)
        if order != math.inf or geometry is None:
            return super().row_norms(values, order)
        return largest_products(values[self.varying[0]], values[self.weight_slot].abs(), geometry)

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        geometry = self.geometry(values)
        if geometry is None:
            return super().transpose(rows, values)
        size = values[self.varying[0]].shape[2:]
        return [correlate_transposed(rows, values[self.weight_slot], geometry, size)]

    @property
    def summands(self) -> int:
        return self.inputs[self.weight_slot].output_shape[1:].numel()

    def geometry(self, values: list[Tensor]) -> Geometry | None:
        """How the kernel moves; None where padding is given as a word."""
        padding = self.call.argument(4, 0)
        if isinstance(padding, str):
            return None
        spatial = values[self.weight_slot].dim() - 2
        stride, padding, dilation = (
            _each(self.call.argument(position, default), spatial) for position, default in ((3, 1), (4, 0), (5, 1))
        )
        return Geometry(stride, padding, dilation, self.call.argument(6, 1))


def _each(value: Any, spatial: int) -> tuple[int, ...]:
    """One number for every spatial dimension: ATen allows a single one for all."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * spatial if len(values) == 1 else values


@rule("linear.default")
class Linear(Weighted):
    """x W^T + b. Rows that lie innermost stay so: torch's product is ten times slower, and lays them otherwise."""

    def linear_part(self, values: list[Tensor]) -> Tensor:
        x, weight = values[self.varying[0]], values[self.weight_slot]
        if x.dim() != 2 or not pays(x, weight):
            return super().linear_part(values)
        return outermost(weight @ innermost(x))

    def row_norms(self, values: list[Tensor], order: float) -> Tensor:
        if order != math.inf:
            return super().row_norms(values, order)
        return _largest_terms(values[self.varying[0]], values[self.weight_slot].abs())

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        weight = values[self.weight_slot]
        if rows.dim() != 2 or not pays(rows, weight):
            return super().transpose(rows, values)
        return [outermost(weight.T @ innermost(rows))]


@rule("matmul.default", "mm.default", "bmm.default", "mv.default")
class MatMul(Weighted):
    """x W or W x with a fixed W, one for all images."""

    bias_argument = None

    @classmethod
    def rule_for(cls, call: Call, varying: Collection[int]) -> type[Operator]:
        factors = [part.position for part in call.args[:2]]
        return MatrixProduct if set(factors) <= set(varying) else cls

    @property
    def input_argument(self) -> int:  # type: ignore[override]
        return self.varying_arguments[0]

    @property
    def weight_slot(self) -> int:
        slot = self.slot_of(1 - self.input_argument)
        assert slot is not None
        return slot

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        return rank > 2

    def forward(self, *values: Tensor) -> Tensor:
        """By `matmul`, as `bmm` would not broadcast."""
        x, weight = values[self.varying[0]], values[self.weight_slot]
        return torch.matmul(x, weight) if self.input_argument == 0 else torch.matmul(weight, x)

    def row_norms(self, values: list[Tensor], order: float) -> Tensor:
        weight = values[self.weight_slot]
        if order != math.inf or weight.dim() != 2 or self.input_argument != 0:
            return super().row_norms(values, order)
        return _largest_terms(values[self.varying[0]], weight.T.abs())

    def check(self) -> None:
        super().check()
        ranks = [len(self.inputs[slot].output_shape) for slot in (self.varying[0], self.weight_slot)]
        if ranks[1] > ranks[0] or (self.input_argument == 1 and ranks[0] < 3):
            raise self.refuse("broadcasting that moves the batch dimension")


def _largest_terms(x: Float[Tensor, "b *some n"], rows: Float[Tensor, "k n"]) -> Float[Tensor, "b *some k"]:
    """The largest term of each of these sums, for x and rows of no negative number."""
    return torch.stack([(x * row).amax(-1) for row in rows], -1)

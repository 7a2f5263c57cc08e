"""Convolutions (grouped, dilated, strided) and fully connected layers: calls that are linear in one argument."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.operators.base import Interval, LinearOperator, rule


class Weighted(LinearOperator):
    """weight . x + bias with a fixed weight: centre through the call, radius through it with |weight|."""

    input_argument: ClassVar[int] = 0
    bias_argument: ClassVar[int | None] = 2

    def check(self) -> None:
        if self.varying_arguments != [self.input_argument]:
            raise self.refuse("a weight or bias that depends on the network's input")

    @property
    def has_offset(self) -> bool:  # type: ignore[override]
        return self.bias_argument is not None and self.call.argument(self.bias_argument) is not None

    def interval_propagate(self, *intervals: Interval) -> Interval:
        varying, bias = self.slot_of(self.input_argument), None
        if self.bias_argument is not None:
            bias = self.slot_of(self.bias_argument)
        centres, radii = [], []
        for position, (lower, upper) in enumerate(intervals):
            centres.append((lower + upper) / 2 if position == varying else lower)
            if position == varying:
                radii.append((upper - lower) / 2)
            else:
                radii.append(torch.zeros_like(lower) if position == bias else lower.abs())
        centre, radius = self.forward(*centres), self.forward(*radii)
        return centre - radius, centre + radius

    def linear_part(self, values: list[Tensor]) -> Tensor:
        bias = None if self.bias_argument is None else self.slot_of(self.bias_argument)
        return self.forward(
            *(torch.zeros_like(value) if position == bias else value for position, value in enumerate(values))
        )


@rule("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
class TransposedConvolution(Weighted):
    """A transposed convolution."""


@rule("conv2d.default", "conv1d.default", "conv3d.default", "conv2d.padding", "conv1d.padding", "conv3d.padding")
class Convolution(Weighted):
    """Any convolution; its transpose is written out because it is where the time goes."""

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        padding = self.call.argument(4, 0)
        if isinstance(padding, str):
            return super().transpose(rows, values)
        spatial = rows.dim() - 2
        weight = values[self.call.args[1].position]
        stride, padding, dilation = (
            _each(self.call.argument(position, default), spatial)
            for position, default in ((3, 1), (4, 0), (5, 1))
        )
        size = values[self.varying[0]].shape[2:]
        # What stride leaves over at the far edge: those inputs no output reads.
        left_over = [
            n + 2 * p - d * (k - 1) - 1 - s * (m - 1)
            for n, p, d, k, s, m in zip(
                size, padding, dilation, weight.shape[2:], stride, rows.shape[2:], strict=True
            )
        ]
        convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
        groups = self.call.argument(6, 1)
        return [convolve(rows, weight, None, stride, padding, left_over, groups, dilation)]


def _each(value: Any, spatial: int) -> list[int]:
    """One number for every spatial dimension: ATen allows a single one for all."""
    values = [value] if isinstance(value, int) else list(value)
    return values * spatial if len(values) == 1 else values


@rule("linear.default")
class Linear(Weighted):
    """x W^T + b."""


@rule("matmul.default", "mm.default")
class MatMul(Weighted):
    """x W with a fixed right factor."""

    bias_argument = None

    def check(self) -> None:
        super().check()
        x, *weight = self.inputs
        if any(len(node.output_shape) > len(x.output_shape) for node in weight):
            raise self.refuse("broadcasting that moves the batch dimension")


@rule("addmm.default")
class AddMM(Weighted):
    """b + x W."""

    input_argument = 1
    bias_argument = 0

    def check(self) -> None:
        super().check()
        if self.call.kwargs:
            raise self.refuse("factors beta or alpha")

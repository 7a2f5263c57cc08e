"""Batch normalisation, with or without affine parameters, on running or on batch statistics."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from verify.checks.errors import InputError
from verify.graph.lirpa import Bound
from verify.operators.call import Call
from verify.operators.layout import in_layout_of
from verify.operators.linear import LinearOperator
from verify.operators.operator import rule


class Statistics(NamedTuple):
    """Mean and (biased) variance of a clean batch, a channel."""

    mean: Float[Tensor, " c"]
    variance: Float[Tensor, " c"]


Moments: TypeAlias = Callable[[Float[Tensor, "b c *size"]], tuple[Float[Tensor, " c"], Float[Tensor, " c"]]]
"""Mean and biased variance a channel."""


def moments(x: Float[Tensor, "b c *size"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and biased variance a channel, over a batch."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    return mean, variance


@rule("batch_norm.default")
class BatchNorm(LinearOperator):
    """gamma (x - mu) / sqrt(sigma^2 + eps) + beta (the paper, eqs. 2, 6 and 7).

    In training mode mu and sigma are those of one clean batch, recorded by `BoundedNetwork.freeze` and constant
    in x from then on: every image has its own bound, and no perturbation reaches another image through them.
    They stay attached to the autograd graph of that batch, so gradients in weights and in alpha do pass through.
    """

    has_offset = True
    pixelwise = True

    def __init__(self, call: Call, inputs: list[Bound]) -> None:
        super().__init__(call, inputs)
        self.statistics: Statistics | None = None

    def check(self) -> None:
        if self.varying_arguments != [0]:
            raise self.refuse("scale or statistics that depend on the network's input")

    @cached_property
    def on_batch(self) -> bool:
        """Whether the statistics are the batch's (training mode, or a layer without running statistics)."""
        return bool(self.call.args[5]) or self.slot_of(3) is None

    @cached_property
    def _slots(self) -> list[int | None]:
        """The inputs that are weight, bias, mean and variance."""
        return [self.slot_of(argument) for argument in (1, 2, 3, 4)]

    def record(self, x: Float[Tensor, "b c *size"], moments: Moments) -> None:
        """Take the statistics of a clean batch."""
        self.statistics = Statistics(*moments(x))

    def forward(self, *values: Tensor) -> Tensor:
        scale, shift = self._scale_and_shift(values)
        return values[0] * scale + shift

    def magnitude(self, values: list[Tensor]) -> Tensor:
        scale, _ = self._scale_and_shift(values)
        return values[0] * scale.abs()

    def terms(self, largest: list[Tensor]) -> Tensor:
        scale, shift = self._scale_and_shift(largest)
        return largest[0] * scale.abs() + shift.abs() + self.hidden(largest)

    def hidden(self, values: list[Tensor]) -> Tensor:
        """Of the shift, beta - mu gamma / sigma."""
        scale, _ = self._scale_and_shift(values)
        mean, _ = self._moments(values)
        return 2 * mean.abs().view_as(scale) * scale.abs()

    def linear_part(self, values: list[Tensor]) -> Tensor:
        return self._scaled(values[0], values)

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        return [self._scaled(rows, values)]

    def _scaled(self, rows: Tensor, values: list[Tensor]) -> Tensor:
        """The scale as a whole image, in the layout of the rows: to broadcast it takes ten times as long."""
        scale = self._scale_and_shift(values)[0].expand(rows.shape[1:]).unsqueeze(0)
        return rows * in_layout_of(rows.unsqueeze(1), scale)

    def _scale_and_shift(self, values: list[Tensor] | tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Both of shape "c 1 ..." so that they multiply "b c ..."."""
        weight, bias = (None if slot is None else values[slot] for slot in self._slots[:2])
        mean, variance = self._moments(values)
        scale = (variance + self.call.args[7]).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (-1, *[1] * (values[0].dim() - 2))
        return scale.reshape(shape), shift.reshape(shape)

    def _moments(self, values: list[Tensor] | tuple[Tensor, ...]) -> Statistics:
        """The running statistics, or those that were recorded."""
        if self.on_batch:
            if self.statistics is None:
                raise InputError(
                    "batch normalisation in training mode needs the statistics of a clean batch: "
                    "call freeze(images) first, or switch the model to eval and wrap it again"
                )
            return self.statistics
        mean, variance = (None if slot is None else values[slot] for slot in self._slots[2:])
        assert mean is not None and variance is not None  # a call on running statistics has them
        return Statistics(mean, variance)

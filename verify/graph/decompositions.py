"""Calls that torch makes of simpler ones: the graph has the simpler ones, which have rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_COMPOSITE = (
    "adjoint.default", "atleast_1d.Sequence", "atleast_1d.default", "atleast_2d.Sequence", "atleast_2d.default",
    "atleast_3d.Sequence", "atleast_3d.default", "column_stack.default", "diff.default", "divide.Scalar",
    "divide.Tensor", "dsplit.array", "dsplit.int", "dstack.default", "fliplr.default", "hsplit.array", "hsplit.int",
    "hstack.default", "kron.default", "mT.default", "moveaxis.int", "moveaxis.intlist", "movedim.int",
    "movedim.intlist", "multiply.Scalar", "multiply.Tensor", "negative.default", "positive.default", "subtract.Scalar",
    "subtract.Tensor", "swapaxes.default", "swapdims.default", "take_along_dim.default", "tensor_split.indices",
    "tensor_split.sections", "tile.default", "trapezoid.dx", "trapz.dx", "true_divide.Scalar", "true_divide.Tensor",
    "vstack.default",
)  # fmt: skip
"""Of which torch itself knows what they are made of."""


def _lerp(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    """With each end once: intervals of an end that is there twice would not cancel."""
    return (1 - weight) * start + weight * end


def _addcmul(start: Tensor, first: Tensor, second: Tensor, *, value: Any = 1) -> Tensor:
    return start + value * (first * second)


def _addcdiv(start: Tensor, first: Tensor, second: Tensor, *, value: Any = 1) -> Tensor:
    return start + value * (first / second)


def _baddbmm(start: Tensor, first: Tensor, second: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return beta * start + alpha * torch.bmm(first, second)


def _tensordot(first: Tensor, second: Tensor, dims_self: Sequence[int], dims_other: Sequence[int]) -> Tensor:
    """As a sum over shared indices, in which the batch stays where it is."""
    left, right = (list(range(start, start + part.dim())) for start, part in ((0, first), (first.dim(), second)))
    for mine, theirs in zip(dims_self, dims_other, strict=True):
        right[theirs % second.dim()] = left[mine % first.dim()]
    kept = [index for index in [*left, *right] if not (index in left and index in right)]
    indices = ["".join(chr(ord("a") + index) for index in part) for part in (left, right, kept)]
    return torch.einsum("{},{}->{}".format(*indices), first, second)


def _overload(name: str) -> torch._ops.OpOverload:
    packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


def _parts(call: torch._ops.OpOverload) -> Callable[..., Any]:
    return lambda *args, **kwargs: call.decompose(*args, **kwargs)


TABLE: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    **{_overload(name): _parts(_overload(name)) for name in _COMPOSITE},
    _overload("lerp.Scalar"): _lerp,
    _overload("lerp.Tensor"): _lerp,
    _overload("addcmul.default"): _addcmul,
    _overload("addcdiv.default"): _addcdiv,
    _overload("baddbmm.default"): _baddbmm,
    _overload("tensordot.default"): _tensordot,
}
"""For torch's tracer."""

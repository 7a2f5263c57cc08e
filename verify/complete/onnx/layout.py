"""Operators that rearrange, pick and pad."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from verify.checks.errors import InputError
from verify.complete.onnx.value import (
    Argument,
    Node,
    Value,
    along,
    axis_of,
    back,
    constant,
    given_whole,
    padded,
    rule,
    value_of,
)


def _reshaped(x: Value, shape: Sequence[int]) -> Value:
    if math.prod(shape) != math.prod(x.shape):
        raise InputError(f"makes {list(shape)} of {list(x.shape)}, which has another number of elements")
    batch = len(x.tensor)
    if len(shape) >= 2 and shape[0] == 1:
        return Value(x.tensor.reshape(batch, *shape[1:]), True)
    return Value(x.tensor.reshape(batch, *shape), False)


@rule("Reshape")
def _reshape(node: Node, x: Value, shape: Argument = None) -> Value:
    wanted = given_whole(node, shape, "shape")
    if wanted is None:
        raise InputError("has no shape")
    if not node.get("allowzero"):
        if any(size == 0 and place >= len(x.shape) for place, size in enumerate(wanted)):
            raise InputError(f"makes {wanted} of {list(x.shape)}")
        wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    known = math.prod(size for size in wanted if size != -1)
    rest = math.prod(x.shape) // known if known else 0
    return _reshaped(x, [rest if size == -1 else size for size in wanted])


@rule("Flatten")
def _flatten(node: Node, x: Value) -> Value:
    axis = node.get("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    return _reshaped(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@rule("Transpose")
def _transpose(node: Node, x: Value) -> Value:
    order = list(node.get("perm", reversed(range(len(x.shape)))))
    if sorted(order) != list(range(len(x.shape))):
        raise InputError(f"permutes {len(x.shape)} axes by {order}")
    if x.batched and order[0] == 0:
        return Value(x.tensor.permute(order), True)
    return value_of(x.full.permute(0, *(axis + 1 for axis in order)))


@rule("Squeeze")
def _squeeze(node: Node, x: Value, axes: Argument = None) -> Value:
    given = given_whole(node, axes, "axes")
    if given is None:
        given = [axis for axis, size in enumerate(x.shape) if size == 1]
    where = {axis_of(axis, len(x.shape)) for axis in given}
    if any(x.shape[axis] != 1 for axis in where):
        raise InputError(f"removes axes {sorted(where)} of {list(x.shape)}")
    return _reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in where])


@rule("Unsqueeze")
def _unsqueeze(node: Node, x: Value, axes: Argument = None) -> Value:
    given = given_whole(node, axes, "axes") or []
    rank = len(x.shape) + len(given)
    where = {axis_of(axis, rank) for axis in given}
    sizes = iter(x.shape)
    return _reshaped(x, [1 if axis in where else next(sizes) for axis in range(rank)])


@rule("Concat")
def _concat(node: Node, *parts: Argument) -> Value:
    values = [part for part in parts if isinstance(part, Value)]
    axis = axis_of(node.get("axis", 0), len(values[0].shape))
    kept = all(value.batched for value in values) and axis > 0
    count = len(values[0].tensor)
    tensors = []
    for part in parts:
        if isinstance(part, Value):
            tensors.append(part.tensor if kept else part.full)
        else:
            fixed = constant(part).tensor
            shape = fixed.shape[1:] if kept else fixed.shape
            tensors.append(fixed.reshape(1, *shape).expand(count, *shape))
    return back(torch.cat(tensors, axis if kept else axis + 1), 0 if kept else 1)


@rule("Split")
def _split(node: Node, x: Value, sizes: Argument = None) -> tuple[Value, ...]:
    axis = axis_of(node.get("axis", 0), len(x.shape))
    size, wanted = x.shape[axis], given_whole(node, sizes, "split")
    if wanted is None:
        piece = math.ceil(size / node.outputs)
        wanted = [piece] * (size // piece) + [size % piece] * (size % piece > 0)
    if sum(wanted) != size or len(wanted) != node.outputs:
        raise InputError(f"splits {size} into {wanted}, for {node.outputs} outputs")
    tensor, offset = along(x, [axis])
    return tuple(back(part, offset) for part in torch.split(tensor, wanted, axis + offset))


@rule("Slice")
def _slice(
    node: Node, x: Value, starts: Argument = None, ends: Argument = None, axes: Argument = None, steps: Argument = None
) -> Value:
    first, last = given_whole(node, starts, "starts"), given_whole(node, ends, "ends")
    if first is None or last is None:
        raise InputError("has no starts or no ends")
    where = given_whole(node, axes, "axes") or list(range(len(first)))
    stride = given_whole(node, steps, "steps") or [1] * len(first)
    for start, end, axis, step in zip(first, last, where, stride, strict=True):
        axis = axis_of(axis, len(x.shape))
        picked = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        x = _picked(x, axis, picked)
    return x


def _picked(x: Value, axis: int, places: Sequence[int]) -> Value:
    """These places of an axis."""
    if not len(places):
        raise InputError("leaves nothing")
    tensor, offset = along(x, [axis])
    if isinstance(places, range) and places.step > 0:
        index = [slice(None)] * (axis + offset) + [slice(places.start, places[-1] + 1, places.step)]
        return back(tensor[tuple(index)], offset)
    return back(tensor.index_select(axis + offset, torch.tensor(places, device=tensor.device)), offset)


@rule("Gather")
def _gather(node: Node, x: Argument, indices: Argument) -> Value:
    if not isinstance(x, Value):
        raise InputError("gathers at places that depend on the image")
    places, axis = constant(indices), axis_of(node.get("axis", 0), len(x.shape))
    size = x.shape[axis]
    if not all(-size <= place < size for place in places.whole):
        raise InputError(f"gathers at {places.whole[:8]} of an axis of size {size}")
    found = _picked(x, axis, [place % size for place in places.whole])
    return _reshaped(found, [*x.shape[:axis], *places.array.shape, *x.shape[axis + 1 :]])


@rule("Pad")
def _pad(node: Node, x: Value, pads: Argument = None, value: Argument = None, axes: Argument = None) -> Value:
    amounts = given_whole(node, pads, "pads") or []
    where = [axis_of(axis, len(x.shape)) for axis in given_whole(node, axes, "axes") or range(len(x.shape))]
    if len(amounts) != 2 * len(where):
        raise InputError(f"has {len(amounts)} pads for {len(where)} axes")
    ends = {axis: (amounts[place], amounts[place + len(where)]) for place, axis in enumerate(where)}
    used = [axis for axis, pair in ends.items() if any(pair)]
    if not used:
        return x
    modes = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}
    mode = modes.get(node.get("mode", b"constant"))
    if mode is None:
        raise InputError(f"mode {node.get('mode').decode()!r} is unknown")
    filling = node.get("value", 0.0) if value is None else float(constant(value).array.item())
    tensor, offset = along(x, used)
    flat = [side for axis in range(len(x.shape) - 1, min(used) - 1, -1) for side in ends.get(axis, (0, 0))]
    padded = F.pad(tensor, flat, mode, filling) if mode == "constant" else F.pad(tensor, flat, mode)
    return back(padded, offset)


@rule("Expand")
def _expand(node: Node, x: Value, shape: Argument) -> Value:
    wanted = np.broadcast_shapes(x.shape, tuple(constant(shape).whole))
    return value_of(padded(x, len(wanted)).expand(len(x.tensor), *wanted))

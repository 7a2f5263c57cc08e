"""What each ONNX operator is in torch.

An ONNX file describes one evaluation, of batch size 1 or without a batch axis; we need any number of images. A value that
depends on the image therefore has a batch axis of its own in front, or in the place of a first axis of size 1 where it has
one (`Value.batched`). So a rule follows ONNX's text for one image, and images never mix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verify.errors import InputError


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


def _constant(argument: Argument) -> Constant:
    if not isinstance(argument, Constant):
        raise InputError("an input that must be constant depends on the image, or is missing")
    return argument


def _given(node: Node, argument: Argument, name: str) -> list[int] | None:
    """Whole numbers that older files have as an attribute and newer ones as an input."""
    found = node.get(name) if argument is None else _constant(argument).whole
    return None if found is None else [int(value) for value in found]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise InputError(f"axis {axis} of a tensor of {rank} axes")
    return axis % rank


def _along(value: Value, axes: Sequence[int]) -> tuple[Tensor, int]:
    """A tensor that has these axes of ONNX's (not negative), and by how much they stand further behind in it."""
    if value.batched and 0 not in axes:
        return value.tensor, 0
    return value.full, 1


def _back(tensor: Tensor, offset: int) -> Value:
    if offset:
        return value_of(tensor)
    return Value(tensor, True) if tensor.dim() > 1 else Value(tensor.unsqueeze(1), False)


# Element by element.


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda node, x, *rest: Value(function(x.tensor), x.batched)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Dropout": lambda x: x,  # as it is in evaluation
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": F.softplus,
    "Exp": torch.exp,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
}
RULES.update({name: _unary(function) for name, function in UNARY.items()})


@rule("LeakyRelu")
def _leaky_relu(node: Node, x: Value) -> Value:
    return Value(F.leaky_relu(x.tensor, node.get("alpha", 0.01)), x.batched)


@rule("Elu")
def _elu(node: Node, x: Value) -> Value:
    return Value(F.elu(x.tensor, node.get("alpha", 1.0)), x.batched)


@rule("Clip")
def _clip(node: Node, x: Value, low: Argument = None, high: Argument = None) -> Value:
    ends = [
        node.get(name) if end is None else float(_constant(end).array.item())
        for name, end in (("min", low), ("max", high))
    ]
    return Value(torch.clamp(x.tensor, *ends), x.batched) if ends != [None, None] else x


@rule("Cast")
def _cast(node: Node, x: Value) -> Value:
    types = {1: torch.float32, 11: torch.float64}
    if node.get("to") not in types:
        raise InputError("casts what depends on the image to a type that is no float32 or float64")
    return Value(x.tensor.to(types[node.get("to")]), x.batched)


def _binary(function: Callable[[Any, Any], Tensor], node: Node, first: Argument, second: Argument) -> Value:
    if node.get("axis") is not None or node.get("broadcast"):
        raise InputError("broadcasts as ONNX did before opset 7; convert the file to a newer one")
    sides = [side if isinstance(side, Value) else _constant(side) for side in (first, second)]
    ranks = [len(side.shape) if isinstance(side, Value) else side.array.ndim for side in sides]
    # A first axis of size 1 stays the batch's if nothing is wider there, or further in front.
    kept = all(
        side.batched if isinstance(side, Value) else side.array.shape[:1] == (1,)
        for side, rank in zip(sides, ranks, strict=True)
        if rank == max(ranks)
    ) and all(rank == max(ranks) for side, rank in zip(sides, ranks, strict=True) if isinstance(side, Value))
    if kept:
        return Value(function(*(side.tensor for side in sides)), True)
    return value_of(function(*(_padded(side, max(ranks)) if isinstance(side, Value) else side.tensor for side in sides)))


def _padded(value: Value, rank: int) -> Tensor:
    full = value.full
    for _ in range(rank - len(value.shape)):
        full = full.unsqueeze(1)
    return full


BINARY = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div}
RULES.update({name: partial(_binary, function) for name, function in BINARY.items()})


# Sums of products.


@rule("Gemm")
def _gemm(node: Node, a: Argument, b: Argument, c: Argument = None) -> Value:
    left, right = (
        _transposed(side) if node.get(name) else side for side, name in ((a, "transA"), (b, "transB"))
    )
    product = _scaled(_matmul(Node({}, 1), left, right), node.get("alpha", 1.0))
    beta = node.get("beta", 1.0)
    if c is None or not beta:
        return product
    return _binary(torch.add, Node({}, 1), product, Constant(_constant(c).array, _times(_constant(c).tensor, beta)))


def _transposed(side: Argument) -> Argument:
    if isinstance(side, Constant):
        return Constant(side.array.T, side.tensor.t())
    return None if side is None else value_of(side.full.transpose(-1, -2))


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor


def _scaled(value: Value, factor: float) -> Value:
    return Value(_times(value.tensor, factor), value.batched)


@rule("MatMul")
def _matmul(node: Node, left: Argument, right: Argument) -> Value:
    if isinstance(left, Value) and isinstance(right, Value):
        return value_of(torch.matmul(left.full, right.full))
    if isinstance(left, Value):
        matrix = _constant(right)
        if matrix.array.ndim == 1:
            return _without_last(Value(F.linear(left.tensor, matrix.tensor.unsqueeze(0)), left.batched))
        _check_matrix(matrix)
        return Value(F.linear(left.tensor, matrix.tensor.t()), left.batched)
    matrix, x = _constant(left), right
    assert isinstance(x, Value)
    if len(x.shape) == 1:
        _check_matrix(matrix)
        return value_of(F.linear(x.tensor, matrix.tensor))
    if matrix.array.ndim == 1:
        product = F.linear(x.full.transpose(-1, -2), matrix.tensor.unsqueeze(0))
        return value_of(product.squeeze(-1))
    _check_matrix(matrix)
    return value_of(F.linear(x.full.transpose(-1, -2), matrix.tensor).transpose(-1, -2))


def _without_last(value: Value) -> Value:
    return value_of(value.full.squeeze(-1))


def _check_matrix(matrix: Constant) -> None:
    if matrix.array.ndim != 2:
        raise InputError(f"multiplies by a constant of shape {matrix.array.shape}; only matrices and vectors are known")


@rule("BatchNormalization")
def _batch_norm(node: Node, x: Value, scale: Argument, bias: Argument, mean: Argument, variance: Argument) -> Value:
    if node.get("training_mode"):
        raise InputError("is in training mode; export the network in evaluation mode")
    scale, bias, mean, variance = (_constant(part) for part in (scale, bias, mean, variance))
    moments = (mean.tensor, variance.tensor, scale.tensor, bias.tensor)
    return Value(F.batch_norm(x.images, *moments, training=False, eps=node.get("epsilon", 1e-5)), True)


# Windows.


@dataclass(frozen=True)
class _Window:
    """A kernel over the last axes; `before` and `after` are its padding."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    @property
    def is_even(self) -> bool:
        return self.before == self.after

    @property
    def pads(self) -> list[int]:
        """As torch's pad takes them, the last axis first."""
        return [side for pair in reversed(list(zip(self.before, self.after, strict=True))) for side in pair]


def _window(node: Node, size: Sequence[int], kernel: Sequence[int]) -> _Window:
    axes = len(size)
    strides, dilations = list(node.get("strides", [1] * axes)), list(node.get("dilations", [1] * axes))
    pads = list(node.get("pads", [0] * 2 * axes))
    mode = node.get("auto_pad", b"NOTSET").decode()
    if len(kernel) != axes or len(strides) != axes or len(dilations) != axes or len(pads) != 2 * axes:
        raise InputError(f"its kernel, strides, dilations or pads are not of {axes} axes")
    before, after = pads[:axes], pads[axes:]
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        reach = [(length - 1) * dilation + 1 for length, dilation in zip(kernel, dilations, strict=True)]
        total = [
            max(0, (math.ceil(n / stride) - 1) * stride + r - n)
            for n, stride, r in zip(size, strides, reach, strict=True)
        ]
        small, large = [n // 2 for n in total], [n - n // 2 for n in total]
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode not in ("NOTSET", "VALID", ""):
        raise InputError(f"auto_pad {mode!r} is unknown")
    return _Window(list(kernel), strides, dilations, before, after)


def _by_axes(functions: Sequence[Callable[..., Tensor]], images: Tensor) -> Callable[..., Tensor]:
    if not 3 <= images.dim() <= 5:
        raise InputError(f"its input has {images.dim()} axes; 3, 4 and 5 are known")
    return functions[images.dim() - 3]


@rule("Conv")
def _conv(node: Node, x: Value, weight: Argument, bias: Argument = None) -> Value:
    images, kernel = x.images, _constant(weight)
    window = _window(node, images.shape[2:], kernel.array.shape[2:])
    padding = window.before
    if not window.is_even:
        images, padding = F.pad(images, window.pads), [0] * len(padding)
    function = _by_axes((F.conv1d, F.conv2d, F.conv3d), images)
    offset = None if bias is None else _constant(bias).tensor
    sizes = window.strides, padding, window.dilations, node.get("group", 1)
    return Value(function(images, kernel.tensor, offset, *sizes), True)


@rule("ConvTranspose")
def _conv_transpose(node: Node, x: Value, weight: Argument, bias: Argument = None) -> Value:
    images, kernel = x.images, _constant(weight)
    window = _window(node, images.shape[2:], kernel.array.shape[2:])
    if not window.is_even or node.get("output_shape") or node.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise InputError("has pads that differ between its sides, or an output_shape")
    function = _by_axes((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), images)
    offset = None if bias is None else _constant(bias).tensor
    extra = list(node.get("output_padding", [0] * len(window.kernel)))
    sizes = window.strides, window.before, extra, node.get("group", 1), window.dilations
    return Value(function(images, kernel.tensor, offset, *sizes), True)


@rule("MaxPool")
def _max_pool(node: Node, x: Value) -> Value:
    images, window = _pooled(node, x)
    if not window.is_even:
        raise InputError("has pads that differ between its sides")
    function = _by_axes((F.max_pool1d, F.max_pool2d, F.max_pool3d), images)
    sizes = window.kernel, window.strides, window.before, window.dilations
    return Value(function(images, *sizes, ceil_mode=bool(node.get("ceil_mode", 0))), True)


@rule("AveragePool")
def _average_pool(node: Node, x: Value) -> Value:
    images, window = _pooled(node, x)
    counted = bool(node.get("count_include_pad", 0))
    padding = window.before
    if any(dilation != 1 for dilation in window.dilations):
        raise InputError("has dilations")
    if not window.is_even:
        if not counted:
            raise InputError("has pads that differ between its sides and are not counted")
        images, padding = F.pad(images, window.pads), [0] * len(padding)
    function = _by_axes((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), images)
    return Value(
        function(images, window.kernel, window.strides, padding, bool(node.get("ceil_mode", 0)), counted), True
    )


def _pooled(node: Node, x: Value) -> tuple[Tensor, _Window]:
    if node.outputs > 1:
        raise InputError("its second output is read")
    return x.images, _window(node, x.images.shape[2:], node.get("kernel_shape", []))


@rule("GlobalAveragePool")
def _global_average_pool(node: Node, x: Value) -> Value:
    images = x.images
    return Value(images.mean(list(range(2, images.dim())), keepdim=True), True)


def _reduction(function: Callable[..., Tensor], node: Node, x: Value, axes: Argument = None) -> Value:
    given = _given(node, axes, "axes")
    if not given:
        if node.get("noop_with_empty_axes"):
            return x
        given = list(range(len(x.shape)))
    where = sorted({_axis(axis, len(x.shape)) for axis in given})
    tensor, offset = _along(x, where)
    return _back(function(tensor, [axis + offset for axis in where], keepdim=bool(node.get("keepdims", 1))), offset)


RULES["ReduceMean"] = partial(_reduction, torch.mean)
RULES["ReduceSum"] = partial(_reduction, torch.sum)


@rule("Softmax")
def _softmax(node: Node, x: Value) -> Value:
    axis = _axis(node.get("axis", -1), len(x.shape))
    tensor, offset = _along(x, [axis])
    return _back(torch.softmax(tensor, axis + offset), offset)


# Rearrangements.


def _reshaped(x: Value, shape: Sequence[int]) -> Value:
    if math.prod(shape) != math.prod(x.shape):
        raise InputError(f"makes {list(shape)} of {list(x.shape)}, which has another number of elements")
    batch = len(x.tensor)
    if len(shape) >= 2 and shape[0] == 1:
        return Value(x.tensor.reshape(batch, *shape[1:]), True)
    return Value(x.tensor.reshape(batch, *shape), False)


@rule("Reshape")
def _reshape(node: Node, x: Value, shape: Argument = None) -> Value:
    wanted = _given(node, shape, "shape")
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
    given = _given(node, axes, "axes")
    if given is None:
        given = [axis for axis, size in enumerate(x.shape) if size == 1]
    where = {_axis(axis, len(x.shape)) for axis in given}
    if any(x.shape[axis] != 1 for axis in where):
        raise InputError(f"removes axes {sorted(where)} of {list(x.shape)}")
    return _reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in where])


@rule("Unsqueeze")
def _unsqueeze(node: Node, x: Value, axes: Argument = None) -> Value:
    given = _given(node, axes, "axes") or []
    rank = len(x.shape) + len(given)
    where = {_axis(axis, rank) for axis in given}
    sizes = iter(x.shape)
    return _reshaped(x, [1 if axis in where else next(sizes) for axis in range(rank)])


@rule("Concat")
def _concat(node: Node, *parts: Argument) -> Value:
    values = [part for part in parts if isinstance(part, Value)]
    axis = _axis(node.get("axis", 0), len(values[0].shape))
    kept = all(value.batched for value in values) and axis > 0
    count = len(values[0].tensor)
    tensors = []
    for part in parts:
        if isinstance(part, Value):
            tensors.append(part.tensor if kept else part.full)
        else:
            constant = _constant(part).tensor
            shape = constant.shape[1:] if kept else constant.shape
            tensors.append(constant.reshape(1, *shape).expand(count, *shape))
    return _back(torch.cat(tensors, axis if kept else axis + 1), 0 if kept else 1)


@rule("Split")
def _split(node: Node, x: Value, sizes: Argument = None) -> tuple[Value, ...]:
    axis = _axis(node.get("axis", 0), len(x.shape))
    size, wanted = x.shape[axis], _given(node, sizes, "split")
    if wanted is None:
        piece = math.ceil(size / node.outputs)
        wanted = [piece] * (size // piece) + [size % piece] * (size % piece > 0)
    if sum(wanted) != size or len(wanted) != node.outputs:
        raise InputError(f"splits {size} into {wanted}, for {node.outputs} outputs")
    tensor, offset = _along(x, [axis])
    return tuple(_back(part, offset) for part in torch.split(tensor, wanted, axis + offset))


@rule("Slice")
def _slice(
    node: Node, x: Value, starts: Argument = None, ends: Argument = None, axes: Argument = None, steps: Argument = None
) -> Value:
    first, last = _given(node, starts, "starts"), _given(node, ends, "ends")
    if first is None or last is None:
        raise InputError("has no starts or no ends")
    where = _given(node, axes, "axes") or list(range(len(first)))
    stride = _given(node, steps, "steps") or [1] * len(first)
    for start, end, axis, step in zip(first, last, where, stride, strict=True):
        axis = _axis(axis, len(x.shape))
        picked = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        x = _picked(x, axis, picked)
    return x


def _picked(x: Value, axis: int, places: Sequence[int]) -> Value:
    """These places of an axis."""
    if not len(places):
        raise InputError("leaves nothing")
    tensor, offset = _along(x, [axis])
    if isinstance(places, range) and places.step > 0:
        index: list[Any] = [slice(None)] * (axis + offset)
        return _back(tensor[(*index, slice(places.start, places[-1] + 1, places.step))], offset)
    return _back(tensor.index_select(axis + offset, torch.tensor(places, device=tensor.device)), offset)


@rule("Gather")
def _gather(node: Node, x: Argument, indices: Argument) -> Value:
    if not isinstance(x, Value):
        raise InputError("gathers at places that depend on the image")
    places, axis = _constant(indices), _axis(node.get("axis", 0), len(x.shape))
    size = x.shape[axis]
    if not all(-size <= place < size for place in places.whole):
        raise InputError(f"gathers at {places.whole[:8]} of an axis of size {size}")
    found = _picked(x, axis, [place % size for place in places.whole])
    return _reshaped(found, [*x.shape[:axis], *places.array.shape, *x.shape[axis + 1 :]])


@rule("Pad")
def _pad(node: Node, x: Value, pads: Argument = None, value: Argument = None, axes: Argument = None) -> Value:
    amounts = _given(node, pads, "pads") or []
    where = [_axis(axis, len(x.shape)) for axis in _given(node, axes, "axes") or range(len(x.shape))]
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
    filling = node.get("value", 0.0) if value is None else float(_constant(value).array.item())
    tensor, offset = _along(x, used)
    flat = [side for axis in range(len(x.shape) - 1, min(used) - 1, -1) for side in ends.get(axis, (0, 0))]
    padded = F.pad(tensor, flat, mode, filling) if mode == "constant" else F.pad(tensor, flat, mode)
    return _back(padded, offset)


@rule("Expand")
def _expand(node: Node, x: Value, shape: Argument) -> Value:
    wanted = np.broadcast_shapes(x.shape, tuple(_constant(shape).whole))
    return value_of(_padded(x, len(wanted)).expand(len(x.tensor), *wanted))

"""Operators whose kernel moves over an image: convolutions and pools."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from verify.checks.errors import InputError
from verify.complete.onnx.value import Argument, Node, Value, constant, rule


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
    if min(*kernel, *strides, *dilations, 1) < 1:
        raise InputError("its kernel, strides or dilations hold a size below 1")
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
    images, kernel = x.images, constant(weight)
    window = _window(node, images.shape[2:], kernel.array.shape[2:])
    padding = window.before
    if not window.is_even:
        images, padding = F.pad(images, window.pads), [0] * len(padding)
    function = _by_axes((F.conv1d, F.conv2d, F.conv3d), images)
    offset = None if bias is None else constant(bias).tensor
    sizes = window.strides, padding, window.dilations, node.get("group", 1)
    return Value(function(images, kernel.tensor, offset, *sizes), True)


@rule("ConvTranspose")
def _conv_transpose(node: Node, x: Value, weight: Argument, bias: Argument = None) -> Value:
    images, kernel = x.images, constant(weight)
    window = _window(node, images.shape[2:], kernel.array.shape[2:])
    if not window.is_even or node.get("output_shape") or node.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise InputError("has pads that differ between its sides, or an output_shape")
    function = _by_axes((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), images)
    offset = None if bias is None else constant(bias).tensor
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
    if images.dim() < 3:
        raise InputError(f"its input has shape {x.shape}, with no axis to take the mean over")
    return Value(images.mean(list(range(2, images.dim())), keepdim=True), True)

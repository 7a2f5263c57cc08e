"""Convolutions of thousands of small images with few channels, which is what rows of coefficients are.

torch's own are built for many channels. On a CPU they are fast only in the channels-last layout, and depthwise ones in
float64, which run one group at a time, are written as shifted sums here (`experiments/benchmarks/correlation.py`
measures both). A GPU gets torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class Geometry(NamedTuple):
    """How a kernel moves over an image: a number for every spatial dimension, and the number of groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def correlate(
    x: Float[Tensor, "r c *size"], weight: Float[Tensor, "d e *kernel"], geometry: Geometry
) -> Float[Tensor, "r d *out"]:
    """The convolution without bias."""
    if _is_slow(x, weight, geometry):
        return _depthwise(x, weight, geometry)
    stride, padding, dilation, groups = geometry
    return _CONVOLVE[x.dim() - 3](_laid_out(x), weight, None, stride, padding, dilation, groups)


def correlate_transposed(
    rows: Float[Tensor, "r d *out"], weight: Float[Tensor, "d e *kernel"], geometry: Geometry, size: torch.Size
) -> Float[Tensor, "r c *size"]:
    """The transpose of `correlate` for images of the given size."""
    if _is_slow(rows, weight, geometry):
        return _depthwise_transposed(rows, weight, geometry, size)
    stride, padding, dilation, groups = geometry
    # What the stride leaves over at the far edge: those inputs no output reads.
    left_over = [
        n + 2 * p - d * (k - 1) - 1 - s * (m - 1)
        for n, p, d, k, s, m in zip(size, padding, dilation, weight.shape[2:], stride, rows.shape[2:], strict=True)
    ]
    return _TRANSPOSED[rows.dim() - 3](_laid_out(rows), weight, None, stride, padding, left_over, groups, dilation)


def _is_slow(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Depthwise convolutions of images in float64 on a CPU."""
    depthwise = geometry.groups == len(weight) and weight.shape[1] == 1
    return depthwise and x.dim() == 4 and x.dtype == torch.float64 and not x.is_cuda


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _taps(weight: Tensor, geometry: Geometry, out: torch.Size) -> Iterator[tuple[Tensor, slice, slice]]:
    """Every element of a depthwise kernel ("c 1 1"), and which elements of the padded image it meets."""
    (down, right), (fall, step) = geometry.stride, geometry.dilation
    for i in range(weight.shape[2]):
        rows = slice(i * fall, i * fall + down * (out[0] - 1) + 1, down)
        for j in range(weight.shape[3]):
            yield weight[:, :, i, j, None], rows, slice(j * step, j * step + right * (out[1] - 1) + 1, right)


def _depthwise(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    (high, wide), kernel = geometry.padding, weight.shape[2:]
    padded = F.pad(x, (wide, wide, high, high))
    size = torch.Size(
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(padded.shape[2:], geometry.dilation, kernel, geometry.stride, strict=True)
    )
    total = x.new_zeros(*x.shape[:2], *size)
    for tap, rows, columns in _taps(weight, geometry, size):
        total = total.addcmul_(padded[:, :, rows, columns], tap)
    return total


def _depthwise_transposed(rows: Tensor, weight: Tensor, geometry: Geometry, size: torch.Size) -> Tensor:
    high, wide = geometry.padding
    total = rows.new_zeros(*rows.shape[:2], size[0] + 2 * high, size[1] + 2 * wide)
    rows = rows.contiguous()
    for tap, down, across in _taps(weight, geometry, rows.shape[2:]):
        total[:, :, down, across].addcmul_(rows, tap)
    return total[:, :, high : high + size[0], wide : wide + size[1]]

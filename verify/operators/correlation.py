"""Convolutions of thousands of small images with few channels, which is what rows of coefficients are.

torch's own are built for many channels. With the rows innermost (`layout.py`) a convolution is a sum of shifted images,
each times a number where it is depthwise, and otherwise a matrix (`experiments/benchmarks/correlation.py` measures
both). Where a stride makes each of these products copy what it reads, and few channels make them narrow, all windows
are written out for one product instead. A GPU, and a derivative in float32, get torch's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from verify.operators.layout import innermost, outermost, pays

_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

FEW = 3
"""Channels of a group, as many as an image has, up to which windows are written out where a kernel has a stride."""
WINDOWS = 2**20
"""Elements of the windows that are written out at a time: as many as caches hold."""

Slices: TypeAlias = tuple[slice, ...]


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
    if not pays(x, weight):
        stride, padding, dilation, groups = geometry
        return _CONVOLVE[x.dim() - 3](_laid_out(x), weight, None, stride, padding, dilation, groups)
    out = _out_size(x.shape[2:], weight.shape[2:], geometry)
    images = innermost(x)
    if _is_depthwise(weight, geometry):
        total = images.new_zeros(len(weight), *out, len(x))
        for number, read, written in _taps(weight, geometry, x.shape[2:], out):
            total[written].addcmul_(images[read], _tap(weight, number))
        return outermost(total)
    if _is_pointwise(weight, geometry):
        return outermost(_product(weight.flatten(1), images, geometry.groups))
    if _is_narrow(weight, geometry):
        return outermost(_by_windows(images, weight, geometry, out))
    total = images.new_zeros(len(weight), *out, len(x))
    for number, read, written in _taps(weight, geometry, x.shape[2:], out):
        _add_product(total[written], weight.flatten(2)[:, :, number], images[read], geometry.groups)
    return outermost(total)


def correlate_transposed(
    rows: Float[Tensor, "r d *out"], weight: Float[Tensor, "d e *kernel"], geometry: Geometry, size: torch.Size
) -> Float[Tensor, "r c *size"]:
    """The transpose of `correlate` for images of the given size."""
    out, channels = rows.shape[2:], weight.shape[1] * geometry.groups
    if not pays(rows, weight):
        stride, padding, dilation, groups = geometry
        if set(weight.shape[2:]) == {1} and set(padding) == {0} and max(stride) > 1:
            # In its derivative oneDNN writes beyond its memory, on a CPU with AVX2 and no more (torch 2.13.0).
            image = _laid_out(rows.new_zeros(len(rows), channels, *size))
            steps = (slice(0, s * (m - 1) + 1, s) for s, m in zip(stride, out, strict=True))
            places = (slice(None), slice(None), *steps)
            image[places] = _TRANSPOSED[rows.dim() - 3](_laid_out(rows), weight, groups=groups)
            return image
        # What the stride leaves over at the far edge: those inputs no output reads.
        left_over = [
            n + 2 * p - d * (k - 1) - 1 - s * (m - 1)
            for n, p, d, k, s, m in zip(size, padding, dilation, weight.shape[2:], stride, out, strict=True)
        ]
        return _TRANSPOSED[rows.dim() - 3](_laid_out(rows), weight, None, stride, padding, left_over, groups, dilation)
    images = innermost(rows)
    if _is_depthwise(weight, geometry):
        total = images.new_zeros(channels, *size, len(rows))
        for number, written, read in _taps(weight, geometry, size, out):
            total[written].addcmul_(images[read], _tap(weight, number))
        return outermost(total)
    backward = weight.unflatten(0, (geometry.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(2)
    if _is_pointwise(weight, geometry):
        return outermost(_product(backward.squeeze(2), images, geometry.groups))
    if _is_narrow(weight, geometry):
        return outermost(_by_windows_transposed(images, backward, weight, geometry, size))
    total = images.new_zeros(channels, *size, len(rows))
    for number, written, read in _taps(weight, geometry, size, out):
        _add_product(total[written], backward[:, :, number], images[read], geometry.groups)
    return outermost(total)


def _by_windows(
    images: Float[Tensor, "c *size r"], weight: Float[Tensor, "d e *kernel"], geometry: Geometry, out: torch.Size
) -> Float[Tensor, "d *out r"]:
    """`correlate` by one product with all windows of some rows, then of the next ones."""
    taps, kernel = list(_taps(weight, geometry, images.shape[1:-1], out)), weight.shape[2:].numel()
    total = images.new_empty(len(weight), *out, images.shape[-1])
    for some in _blocks(images.shape[-1], len(images) * kernel * out.numel()):
        windows = images.new_zeros(len(images), kernel, *total[0, ..., some].shape)
        for number, read, written in taps:
            pixels = (*read, some)
            windows[:, number][written] = images[pixels]
        total[..., some] = _product(weight.flatten(1), windows.flatten(0, 1), geometry.groups)
    return total


def _by_windows_transposed(
    images: Float[Tensor, "d *out r"],
    backward: Float[Tensor, "c f k"],
    weight: Float[Tensor, "d e *kernel"],
    geometry: Geometry,
    size: torch.Size,
) -> Float[Tensor, "c *size r"]:
    """The transpose of `_by_windows`."""
    taps, kernel = list(_taps(weight, geometry, size, images.shape[1:-1])), backward.shape[2]
    matrix = backward.transpose(1, 2).flatten(0, 1)
    total = images.new_zeros(len(backward), *size, images.shape[-1])
    for some in _blocks(images.shape[-1], len(matrix) * images[0, ..., 0].numel()):
        windows = _product(matrix, images[..., some], geometry.groups).unflatten(0, (-1, kernel))
        for number, written, read in taps:
            pixels = (*written, some)
            total[pixels] += windows[:, number][read]
    return total


def _blocks(rows: int, elements: int) -> list[slice]:
    """Rows, some at a time, for windows of so many elements a row."""
    count = max(1, WINDOWS // max(1, elements))
    return [slice(first, first + count) for first in range(0, rows, count)]


def largest_products(
    x: Float[Tensor, "b c *size"], weight: Float[Tensor, "d e *kernel"], geometry: Geometry
) -> Float[Tensor, "b d *out"]:
    """The largest term of every sum that the convolution is, for x and a kernel of no negative number."""
    out = _out_size(x.shape[2:], weight.shape[2:], geometry)
    total = x.new_zeros(len(x), len(weight), *out)
    kernels = weight.flatten(2)
    for number, read, written in _taps(weight, geometry, x.shape[2:], out):
        for channel in range(weight.shape[1]):
            pixels, results = (slice(None), *read), (slice(None), *written)
            terms = x[:, channel :: weight.shape[1]][pixels].repeat_interleave(len(weight) // geometry.groups, 1)
            terms = terms * kernels[:, channel, number].view(-1, *[1] * len(out))
            before = total[results].clone()  # the derivative needs it, and `total` changes
            total[results] = torch.maximum(before, terms)
    return total


def _out_size(size: torch.Size, kernel: torch.Size, geometry: Geometry) -> torch.Size:
    sizes = zip(size, kernel, *geometry[:3], strict=True)
    return torch.Size((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)


def _is_depthwise(weight: Tensor, geometry: Geometry) -> bool:
    return geometry.groups == len(weight) and weight.shape[1] == 1


def _is_pointwise(weight: Tensor, geometry: Geometry) -> bool:
    return all(k == 1 for k in weight.shape[2:]) and set(geometry.stride) == {1} and set(geometry.padding) == {0}


def _is_narrow(weight: Tensor, geometry: Geometry) -> bool:
    return weight.shape[1] <= FEW and max(geometry.stride) > 1


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _tap(weight: Tensor, number: int) -> Tensor:
    """One element of each channel's kernel, "c 1 ... 1"."""
    return weight.flatten(1)[:, number].view(-1, *[1] * (weight.dim() - 1))


def _taps(
    weight: Tensor, geometry: Geometry, size: torch.Size, out: torch.Size
) -> Iterator[tuple[int, Slices, Slices]]:
    """The number of every element of a kernel, the pixels that it meets, and the results that those go to.

    Both as indices of "c *size" and "c *out".
    """
    for number, offsets in enumerate(itertools.product(*map(range, weight.shape[2:]))):
        pixels, results = [slice(None)], [slice(None)]
        for offset, stride, padding, dilation, n, m in zip(offsets, *geometry[:3], size, out, strict=True):
            start = offset * dilation - padding
            first, last = max(0, -(start // stride)), min(m - 1, (n - 1 - start) // stride)
            results.append(slice(first, max(first, last + 1)))
            pixels.append(slice(first * stride + start, max(first, last + 1) * stride + start, stride))
        if all(result.stop > result.start for result in results[1:]):
            yield number, tuple(pixels), tuple(results)


def _product(matrix: Float[Tensor, "d k"], x: Float[Tensor, "c *out r"], groups: int) -> Float[Tensor, "d *out r"]:
    """The product along the first dimension, group by group."""
    blocks, parts = matrix.unflatten(0, (groups, -1)), x.flatten(1).unflatten(0, (groups, -1))
    return torch.bmm(blocks, parts).view(-1, *x.shape[1:])


def _add_product(
    total: Float[Tensor, "c *out r"], matrix: Float[Tensor, "c k"], x: Float[Tensor, "d *out r"], groups: int
) -> None:
    """Add the product along the first dimension, group by group.

    Lines of images stay where they are, with all their rows: no window is written out.
    """
    # By indices: autograd refuses to write into views of which `chunk` or `unbind` make several at once.
    if groups > 1:
        totals, blocks, parts = (each.unflatten(0, (groups, -1)) for each in (total, matrix, x))
        for number in range(groups):
            _add_product(totals[number], blocks[number], parts[number], 1)
    elif total.dim() > 4:
        for number in range(total.shape[1]):
            _add_product(total[:, number], matrix, x[:, number], groups)
    elif total.stride(-2) != total.shape[-1]:  # the lines that a stride leaves out lie between
        total += _product(matrix, x.contiguous(), groups)
    else:
        lines, read = (each.flatten(-2).view(len(each), -1, each.shape[-2:].numel()) for each in (total, x))
        lines.transpose(0, 1).baddbmm_(matrix.expand(lines.shape[1], *matrix.shape), read.transpose(0, 1))

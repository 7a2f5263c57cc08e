"""Pooling: averages are linear; a max pool is relaxed over the candidates of each window.

Here is where a max pool's bound is computed: :meth:`MaxPool.relax`.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.operators.arithmetic import inner, over
from verify.operators.correlation import Geometry, correlate, correlate_transposed
from verify.operators.form import Form, Sweep
from verify.operators.layout import bordered, in_layout_of, lies_innermost, pays
from verify.operators.linear import LinearOperator
from verify.operators.operator import Backward, Coefficients, Radius, Read, rule
from verify.operators.relaxation import Relaxation


class _Sums(NamedTuple):
    """An average pool as a depthwise convolution with a kernel of ones, times a share an element of the result."""

    geometry: Geometry
    ones: Float[Tensor, "c 1 *kernel"]
    share: Float[Tensor, "1 c *out"]


@rule(
    "avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default",
    "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default",
)
class AveragePool(LinearOperator):
    """Averages over windows, whatever the stride, the padding and `count_include_pad`."""

    def check(self) -> None:
        if (self.call.argument(6) or 1) < 0:
            raise self.refuse("a negative divisor")

    @property
    def summands(self) -> int:
        image = self.inputs[0].output_shape[2:]
        kernel = self.call.args[1]
        if "adaptive" in self.call.name:
            return image.numel()
        return math.prod([kernel] * len(image) if isinstance(kernel, int) else kernel)

    def linear_part(self, values: list[Tensor]) -> Tensor:
        if not self._sums_windows or not pays(values[0]):
            return super().linear_part(values)
        windows = self._windows(values[0])
        return correlate(values[0], windows.ones, windows.geometry) * windows.share

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        if not self._sums_windows:
            return super().transpose(rows, values)
        windows, size = self._windows(values[0]), values[0].shape[2:]
        rows = rows * in_layout_of(rows.unsqueeze(1), windows.share)
        return [correlate_transposed(rows, windows.ones, windows.geometry, size)]

    @property
    def _sums_windows(self) -> bool:
        """Whether it is a pool of images whose windows all lie in the padded image, and so a convolution."""
        return self.call.name == "aten.avg_pool2d.default" and not self.call.argument(4, False)  # ceil_mode

    def _windows(self, x: Float[Tensor, "n c h w"]) -> _Sums:
        kernel = _pair(self.call.args[1])
        stride, padding = _pair(self.call.argument(2, None) or kernel), _pair(self.call.argument(3, 0))
        geometry = Geometry(stride, padding, (1, 1), x.shape[1])
        ones, image = x.new_ones(x.shape[1], 1, *kernel), x.new_ones(1, *x.shape[1:])
        # Of an image of ones the pool gives 1 (or less, where padding counts), the sum of a window its size.
        return _Sums(geometry, ones, self.forward(image) / correlate(image, ones, geometry))


@rule("mean.dim", "sum.dim_IntList")
class Mean(LinearOperator):
    """Averages or sums over dimensions other than the batch; global pooling."""

    def check(self) -> None:
        rank = len(self.inputs[0].output_shape)
        dimensions = self.call.argument(1)
        if not dimensions or any(dimension % rank == 0 for dimension in dimensions):
            raise self.refuse("a mean or sum over the batch dimension")

    @property
    def summands(self) -> int:
        return self.inputs[0].output_shape[1:].numel() // self.output_shape[1:].numel()


TIE = 1e-5
"""Lower bounds as near to each other as this part of the window's widest interval count as equal."""


class Windows(NamedTuple):
    """Relaxation of y = max_i x_i a window: sum_i lower x_i <= y <= sum_i upper x_i + intercept.

    `lower` and `upper` are "b c k n" for k elements a window and n windows, `intercept` is "b c n".
    """

    lower: Tensor
    upper: Tensor
    intercept: Tensor


@rule("max_pool2d.default")
class MaxPool(Relaxation):
    """2-d max pooling: overlapping, padded, strided and dilated windows."""

    def check(self) -> None:
        if len(self.inputs[0].output_shape) != 4:
            raise self.refuse('an input that is not "b c h w"')
        sizes = self.inputs[0].output_shape[2:], self._size
        if any(_some_all_padding(*axis) for axis in zip(*sizes, *self.geometry, strict=True)):
            raise self.refuse("a window of nothing but padding")  # torch's derivative writes beyond its memory

    @cached_property
    def geometry(self) -> tuple[tuple[int, int], ...]:
        """Kernel, stride, padding and dilation, each (rows, columns)."""
        kernel = _pair(self.call.args[1])
        stride = _pair(self.call.argument(2, None) or kernel)
        return kernel, stride, _pair(self.call.argument(3, 0)), _pair(self.call.argument(4, 1))

    @cached_property
    def _size(self) -> torch.Size:
        """Of the result, rows and columns."""
        return self.call(self.inputs[0].forward_value).shape[2:]

    @cached_property
    def _left_over(self) -> tuple[int, int]:
        """By how much the last windows reach beyond the padding, as they may with ceil_mode; rows and columns."""
        sizes = zip(self.inputs[0].output_shape[2:], self._size, *self.geometry, strict=True)
        rows, columns = (max(0, s * (m - 1) + d * (k - 1) + 1 - n - 2 * p) for n, m, k, s, p, d in sizes)
        return rows, columns

    @property
    def _border(self) -> tuple[int, int, int, int]:
        """What is padded before the first and after the last column, and before the first and after the last row."""
        (rows, columns), (below, behind) = self.geometry[2], self._left_over
        return columns, columns + behind, rows, rows + below

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Everything but the largest centre m of a window is told by how far below m it is, in units of the scale: so
        nothing cancels, and in a tiny ball only what is as large as m counts.

        No gradient goes through a difference of 0: it would be that of m, twice, over the scale.
        """
        (centre,), (radius,) = centres, radii
        assert radius is not None
        best = self.forward(centre)
        gap = self._windows(centre) - best.flatten(2).unsqueeze(2)
        gap = torch.where(gap < 0, over(gap, scale), 0.0)
        around = self._windows(radius, 0.0)
        low, high = gap - around, gap + around
        lower, upper = low.amax(2), self._highest(low, high) if relaxed else high.amax(2)
        return best + scale * ((lower + upper) / 2).view_as(best), ((upper - lower) / 2).view_as(best)

    def _highest(self, l: Float[Tensor, "b c k n"], u: Float[Tensor, "b c k n"]) -> Float[Tensor, "b c n"]:
        """The largest value that the upper line allows. (The lower line allows what is true: the largest l.)"""
        lines = self._lines(l, u)
        return (lines.upper * torch.where(lines.upper > 0, u, 0.0)).sum(2) + lines.intercept

    def rows_needed(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "b *shape"]:
        candidates = self._candidates(self._windows(lower), self._windows(upper))
        contested = candidates & (candidates.sum(2, keepdim=True) > 1)
        return self._scatter(contested.to(lower.dtype), lower.shape[-2:]) > 0

    def relax(self, lower: Float[Tensor, "b c h w"], upper: Float[Tensor, "b c h w"]) -> Windows:
        """Bounds of each window from the intervals of its elements: see `_lines`."""
        return self._lines(self._windows(lower), self._windows(upper))

    def _lines(self, l: Float[Tensor, "b c k n"], u: Float[Tensor, "b c k n"]) -> Windows:
        """Bounds of each window from the intervals of its elements.

        Elements whose upper bound is below the best lower bound never win and are dropped; one left is exact.
        Otherwise, as CNN-Cert does for max pooling, y <= gamma + sum_i w_i (x_i - l_i) with
        w_i = max(u_i - gamma, 0) / (u_i - l_i), which holds for any gamma >= max_i l_i: the line through
        (l_i, gamma) and (u_i, u_i) lies above x_i. gamma = (sum u/(u-l) - 1) / sum 1/(u-l), clipped to
        [max l, min u]. From below y >= x_j for the element j of the largest lower bound (`_first`).
        """
        candidates = self._candidates(l, u)
        best, first = l.amax(2, keepdim=True), self._first(l, u, candidates)
        zero, one = torch.zeros_like(l), torch.ones_like(l)
        # Where nothing competes the numbers below are replaced; they only have to be finite.
        l, u = torch.where(candidates, l, zero), torch.where(candidates, u, one)
        width = torch.where(u > l, u - l, one)
        share = torch.where(candidates, 1 / width, zero)
        gamma = ((share * u).sum(2, keepdim=True) - 1) / share.sum(2, keepdim=True)
        smallest = torch.where(candidates, u, torch.full_like(u, torch.inf)).amin(2, keepdim=True)
        gamma = torch.maximum(torch.minimum(gamma, smallest), best)
        weight = (u - gamma).clamp(min=0) * share
        intercept = gamma.squeeze(2) - (weight * l).sum(2)
        alone = candidates.sum(2, keepdim=True) == 1
        upper_weight = torch.where(alone, candidates.to(weight.dtype), weight)
        winner = F.one_hot(first, l.shape[2]).movedim(-1, 2).to(weight.dtype)
        return Windows(winner, upper_weight, torch.where(alone.squeeze(2), torch.zeros_like(intercept), intercept))

    def split(
        self, A: Float[Tensor, "b c h2 w2"], lower: Float[Tensor, "b c h w"], upper: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """By how far a window's value can be from its largest lower bound; in the middle of what can be the largest."""
        l, u = self._windows(lower), self._windows(upper)
        candidates = self._candidates(l, u)
        able = candidates & (candidates.sum(2, keepdim=True) > 1)
        reach = (u - l.amax(2, keepdim=True)).clamp(min=0)
        cost = torch.where(able, A.abs().flatten(2).unsqueeze(2) * reach, 0.0)
        contested = self._scatter(able.to(lower.dtype), lower.shape[-2:]) > 0
        middle = lower / 2 + upper / 2
        point = torch.where(contested & (lower < middle) & (middle < upper), middle, torch.nan)
        return self._scatter(cost, lower.shape[-2:]), point

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        """y = x_j + [0, max_i (x_i - x_j)+] for the element j of the largest lower bound of each window.

        The differences are bounded as forms, so what x_i and x_j share cancels.
        """
        (form,) = forms
        assert form is not None
        lower, upper = (self._windows(side) for side in self.of(read))
        shape = (*lower.shape[:2], *self.output_shape[2:])
        candidates = self._candidates(lower, upper)
        winner = self._first(lower, upper, candidates)
        elements = [Form(*(self._element(part, number) for part in form)) for number in range(lower.shape[2])]
        best = elements[0]
        for number, element in enumerate(elements):
            chosen = (winner == number).view(shape)
            best = Form(*(torch.where(chosen, new, old) for new, old in zip(element, best, strict=True)))
        gap = torch.zeros_like(best.lower)
        for number, rival in enumerate(elements):
            difference = Form(rival.lower - best.upper, rival.upper - best.lower, rival.rows - best.rows)
            able = (candidates[:, :, number] & (winner != number)).view(shape)
            gap = torch.where(able, torch.maximum(gap, sweep.bounds(difference)[1]), gap)
        least = lower.gather(2, winner.unsqueeze(2)).squeeze(2)  # of x_j, which may be a tie below the largest
        gap = torch.minimum(gap, (upper.amax(2) - least).view(shape))
        return best.with_error(torch.zeros_like(gap), gap, sweep)

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        """By autograd, with J constant in the values: so it is almost everywhere, for what is piecewise linear."""
        x = values[0].detach().requires_grad_()
        with torch.enable_grad():
            image = self.forward(x)
        return list(torch.autograd.grad(image, x, rows, create_graph=torch.is_grad_enabled()))

    def terms(self, largest: list[Tensor]) -> Tensor:
        """Of a line through the largest magnitude in each window, and of as many others."""
        (kernel, *_) = self.geometry
        return 2 * kernel[0] * kernel[1] * self.forward(*largest)

    @property
    def summands(self) -> int:
        return math.prod(self.geometry[0])

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, read: Read) -> Backward:
        lower, upper = self.of(read)
        windows = self.relax(lower, upper)
        lA, lower_bias = self._one_side(last_lA, windows, lower.shape[-2:])
        uA, upper_bias = self._one_side(None if last_uA is None else -last_uA, windows, lower.shape[-2:])
        return [(lA, None if uA is None else -uA)], lower_bias, -upper_bias

    def _one_side(self, A: Coefficients, windows: Windows, size: torch.Size) -> tuple[Coefficients, Any]:
        """A lower bound of <A, y> that is linear in x."""
        if A is None:
            return None, 0
        positive, negative = A.clamp(min=0), A.clamp(max=0)
        bias = inner(negative, windows.intercept.view(A.shape[1:]))
        if lies_innermost(A):
            return self._laid_over(positive, negative, windows, size), bias
        positive, negative = positive.flatten(3), negative.flatten(3)  # s b c n
        weights = positive.unsqueeze(3) * windows.lower + negative.unsqueeze(3) * windows.upper
        return self._scatter(weights.flatten(0, 1), size).unflatten(0, A.shape[:2]), bias

    def _laid_over(
        self, positive: Float[Tensor, "s b c h2 w2"], negative: Tensor, windows: Windows, size: torch.Size
    ) -> Float[Tensor, "s b c h w"]:
        """What every element of x receives, element of the windows by element, with the rows innermost throughout."""
        left, right, above, below = self._border
        high, wide = size[0] + above + below, size[1] + left + right
        images, channels = positive.shape[1:3]
        padded = positive.new_zeros(channels, high, wide, images, len(positive)).permute(4, 3, 0, 1, 2)
        for number in range(windows.lower.shape[2]):
            lower, upper = (side[:, :, number].view(positive.shape[1:]) for side in (windows.lower, windows.upper))
            padded[self._places(number)].addcmul_(positive, lower).addcmul_(negative, upper)
        return padded[..., above : above + size[0], left : left + size[1]]

    def _candidates(self, l: Float[Tensor, "b c k n"], u: Float[Tensor, "b c k n"]) -> Bool[Tensor, "b c k n"]:
        """Elements that can be the maximum: the one of the largest lower bound, and all whose upper exceeds it."""
        best, winner = l.max(2, keepdim=True)
        positions = torch.arange(l.shape[2], device=l.device).view(1, 1, -1, 1)
        return (u > best) | (positions == winner)

    def _first(
        self, l: Float[Tensor, "b c k n"], u: Float[Tensor, "b c k n"], candidates: Bool[Tensor, "b c k n"]
    ) -> Int[Tensor, "b c n"]:
        """The candidate of the largest lower bound of every window; of several that are equal, the first.

        Rounding must not choose: bounds would jump with it. The 0 of a ReLU is often in two places of a window.
        """
        zero = torch.zeros_like(l)
        best = l.amax(2, keepdim=True)
        widest = torch.where(candidates, u - l, zero).amax(2, keepdim=True)
        return (candidates & (l >= best - TIE * widest)).to(torch.uint8).argmax(2)

    def _windows(self, x: Float[Tensor, "b c h w"], border: float = -torch.inf) -> Float[Tensor, "b c k n"]:
        """The elements of every window; padding is -inf, so it never competes."""
        kernel, stride, _, dilation = self.geometry
        padded = F.pad(x, self._border, value=border)
        return F.unfold(padded, kernel, dilation, 0, stride).unflatten(1, (x.shape[1], -1))

    def _element(self, x: Float[Tensor, "*some h w"], number: int) -> Float[Tensor, "*some h2 w2"]:
        """The element of that number of every window; 0 where it is padding."""
        return bordered(x, self._border)[self._places(number)]

    def _places(self, number: int) -> tuple[Any, slice, slice]:
        """Where in the padded image the element of that number of every window is."""
        (_, width), stride, _, dilation = self.geometry
        first = (number // width * dilation[0], number % width * dilation[1])
        last = [f + s * (size - 1) + 1 for f, s, size in zip(first, stride, self.output_shape[2:], strict=True)]
        return ..., slice(first[0], last[0], stride[0]), slice(first[1], last[1], stride[1])

    def _scatter(self, elements: Float[Tensor, "b c k n"], size: torch.Size) -> Float[Tensor, "b c h w"]:
        """The transpose of `_windows`: what every element of x receives from the windows it is in."""
        kernel, stride, padding, dilation = self.geometry
        below, behind = self._left_over
        image = F.fold(
            elements.flatten(1, 2), (size[0] + below, size[1] + behind), kernel, dilation, padding, stride
        )
        return image[..., : size[0], : size[1]]


def _some_all_padding(size: int, windows: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether along an axis there is a window without any of the image's pixels."""
    starts = (number * stride - padding for number in range(windows))
    return not all(any(0 <= start + tap * dilation < size for tap in range(kernel)) for start in starts)


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])

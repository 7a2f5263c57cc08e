"""Calls that torch makes of simpler ones: the graph has the simpler ones, which have rules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

_COMPOSITE = (
    "adjoint.default", "atleast_1d.Sequence", "atleast_1d.default", "atleast_2d.Sequence", "atleast_2d.default",
    "atleast_3d.Sequence", "atleast_3d.default", "column_stack.default", "diff.default", "divide.Scalar",
    "divide.Tensor", "dsplit.array", "dsplit.int", "dstack.default", "fliplr.default", "hsplit.array", "hsplit.int",
    "hstack.default", "kron.default", "mT.default", "moveaxis.int", "moveaxis.intlist", "movedim.int",
    "movedim.intlist", "multiply.Scalar", "multiply.Tensor", "negative.default", "positive.default",
    "rnn_relu_cell.default", "rnn_tanh_cell.default", "subtract.Scalar", "subtract.Tensor",
    "swapaxes.default", "swapdims.default", "take_along_dim.default", "tensor_split.indices",
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


def _plus(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The call that adds a product to what there is."""

    def plus(start: Tensor, first: Tensor, second: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        parts = ((start, beta), (product(first, second), alpha))
        before, added = (part if factor == 1 else factor * part for part, factor in parts)
        return before + added

    return plus


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return _tensordot(first, second, [-1], [-1])


def _tensordot(first: Tensor, second: Tensor, dims_self: Sequence[int], dims_other: Sequence[int]) -> Tensor:
    """As a sum over shared indices, in which the batch stays where it is."""
    left, right = (list(range(start, start + part.dim())) for start, part in ((0, first), (first.dim(), second)))
    for mine, theirs in zip(dims_self, dims_other, strict=True):
        right[theirs % second.dim()] = left[mine % first.dim()]
    kept = [index for index in [*left, *right] if not (index in left and index in right)]
    indices = ["".join(chr(ord("a") + index) for index in part) for part in (left, right, kept)]
    return torch.einsum("{},{}->{}".format(*indices), first, second)


def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """A mask as the places that it selects: their number is that of the result, so its values have to be known."""
    if all(index is None or index.dtype not in (torch.bool, torch.uint8) for index in indices):
        return NotImplemented
    places: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            places.append(index)
            continue
        if isinstance(index, FakeTensor):
            raise ValueError(
                "an index by a mask that is a buffer or made in forward; keep its places, mask.nonzero(), as a buffer"
            )
        with unset_fake_temporarily(), disable_proxy_modes_tracing():
            places += index.nonzero(as_tuple=True)
    return torch.ops.aten.index.Tensor(x, places)


def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Any:
    return NotImplemented if alpha == 1 else torch.index_add(x, dim, index, alpha * source)


def _lstm_cell(x: Tensor, states: Sequence[Tensor], *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Hochreiter and Schmidhuber, 1997, as torch's LSTMCell, which writes in place."""
    hidden, cell = states
    taken, forgotten, new, shown = (mine + theirs for mine, theirs in _gates(x, hidden, 4, *weights))
    cell = torch.sigmoid(forgotten) * cell + torch.sigmoid(taken) * torch.tanh(new)
    return torch.sigmoid(shown) * torch.tanh(cell), cell


def _gru_cell(x: Tensor, hidden: Tensor, *weights: Tensor) -> Tensor:
    """Cho et al., 2014, as torch's GRUCell, which writes in place."""
    reset, update, new = _gates(x, hidden, 3, *weights)
    kept = torch.sigmoid(update[0] + update[1])
    return (1 - kept) * torch.tanh(new[0] + torch.sigmoid(reset[0] + reset[1]) * new[1]) + kept * hidden


def _gates(
    x: Tensor, hidden: Tensor, count: int, first: Tensor, second: Tensor, *biases: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """What each gate of a recurrent cell has of the input and of the last state."""
    before, after = biases or (None, None)
    parts = (torch.nn.functional.linear(x, first, before), torch.nn.functional.linear(hidden, second, after))
    return list(zip(*(part.chunk(count, 1) for part in parts), strict=True))


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    values, gates = x.chunk(2, dim)
    return values * torch.sigmoid(gates)


def _at_least(x: Tensor, number: Any) -> Tensor:
    """max(x, number), as a rectifier: the relaxation that is known best."""
    return torch.relu(x) if number == 0 else torch.relu(x - number) + number


def _clamp(x: Tensor, min: Any = None, max: Any = None) -> Any:
    if max is None and min is not None:
        return _at_least(x, min)
    if min is None and max is not None:
        return -_at_least(-x, -max)
    return NotImplemented


def _clamp_tensors(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    x = x if min is None else torch.maximum(x, min)
    return x if max is None else torch.minimum(x, max)


def _threshold(x: Tensor, threshold: Any, value: Any) -> Any:
    return _at_least(x, value) if threshold == value else NotImplemented  # it jumps


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    weight = weight.reshape(1, -1, *[1] * (x.dim() - 2)) if x.dim() > 1 and weight.numel() > 1 else weight
    return weight * x + (1 - weight) * torch.relu(x)


def _rrelu(x: Tensor, lower: Any = 1 / 8, upper: Any = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    return NotImplemented if training else torch.ops.aten.leaky_relu.default(x, (lower + upper) / 2)


def _maximum(first: Tensor, second: Tensor) -> Tensor:
    """As a pool of two: the smaller of the two counts where it can be larger."""
    shape = torch.broadcast_shapes(first.shape, second.shape)
    return _largest(torch.stack([first.expand(shape), second.expand(shape)], -1))


def _minimum(first: Tensor, second: Tensor) -> Tensor:
    return -_maximum(-first, -second)


def _largest(x: Tensor) -> Tensor:
    """Over the last dimension."""
    shape = x.shape[:-1]
    pooled = torch.max_pool2d(x.reshape(shape[0], 1, -1, x.shape[-1]), (1, x.shape[-1]))
    return pooled.reshape(shape)


def _amax(x: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    dims = sorted({each % x.dim() for each in ([dim] if isinstance(dim, int) else dim)})
    if not dims or dims[0] == 0:
        return NotImplemented
    last = x.movedim(dims, list(range(-len(dims), 0)))
    result = _largest(last.flatten(-len(dims)))
    return result.reshape([1 if place in dims else size for place, size in enumerate(x.shape)]) if keepdim else result


def _amin(x: Tensor, dim: Any = (), keepdim: bool = False) -> Any:
    result = _amax(-x, dim, keepdim)
    return result if result is NotImplemented else -result


def _max(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    result = _amax(x, dim, keepdim)
    return result if result is NotImplemented else (result, torch.argmax(x, dim, keepdim))


def _min(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    result = _amin(x, dim, keepdim)
    return result if result is NotImplemented else (result, torch.argmin(x, dim, keepdim))


def _pool1d(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    kernel, stride, padding, dilation = (_first(part) for part in (kernel, stride or kernel, padding, dilation))
    row = [1, kernel], [1, stride], [0, padding], [1, dilation]
    return torch.max_pool2d(x.unsqueeze(2), *row, ceil).squeeze(2)


def _pool3d(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    """Over rows and columns, then over the depth."""
    if x.dim() != 5:
        return NotImplemented
    kernel, stride, padding, dilation = (_triple(part) for part in (kernel, stride or kernel, padding, dilation))
    flat = torch.max_pool2d(x.flatten(1, 2), kernel[1:], stride[1:], padding[1:], dilation[1:], ceil)
    deep = flat.unflatten(1, x.shape[1:3])
    column = [kernel[0], 1], [stride[0], 1], [padding[0], 0], [dilation[0], 1]
    return torch.max_pool2d(deep.flatten(3), *column, ceil).unflatten(3, deep.shape[3:])


def _adaptive_pool(x: Tensor, size: Any) -> tuple[Tensor, Tensor]:
    """A pool, where all windows are of one size; else window by window."""
    sizes = [size] if isinstance(size, int) else list(size)
    image = x.shape[-len(sizes) :]
    if any(whole % part for whole, part in zip(image, sizes, strict=True)):
        axes = [
            [slice(number * whole // part, -(-(number + 1) * whole // part)) for number in range(part)]
            for whole, part in zip(image, sizes, strict=True)
        ]
        before = (slice(None),) * (x.dim() - len(sizes))
        windows = [x[before + places].flatten(-len(sizes)) for places in itertools.product(*axes)]
        result = torch.stack([_largest(window) for window in windows], -1).unflatten(-1, sizes)
    else:
        kernel = [whole // part for whole, part in zip(image, sizes, strict=True)]
        result = (torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)[len(sizes) - 1](x, kernel)
    return result, _places(result)


def _pool_with_indices(x: Tensor, *window: Any) -> tuple[Tensor, Tensor]:
    result = torch.max_pool2d(x, *window)
    return result, _places(result)


def _places(result: Tensor) -> Tensor:
    """Stands for the places of the largest elements: integers that vary, and are refused where they are used."""
    return result.to(torch.int64)


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Any:
    """With the epsilon of the type that the model computes in, where none is given: bounds may be in another."""
    return NotImplemented if eps is not None else torch.rms_norm(x, shape, weight, torch.finfo(x.dtype).eps)


def _first(value: Any) -> int:
    return value if isinstance(value, int) else value[0]


def _triple(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 3 if len(values) == 1 else values


def overload(name: str) -> torch._ops.OpOverload:
    """The ATen call of a name without its namespace."""
    packet, own = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), own)


def _parts(call: torch._ops.OpOverload) -> Callable[..., Any]:
    return lambda *args, **kwargs: call.decompose(*args, **kwargs)


TABLE: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    **{overload(name): _parts(overload(name)) for name in _COMPOSITE},
    overload("lerp.Scalar"): _lerp,
    overload("lerp.Tensor"): _lerp,
    overload("addcmul.default"): _addcmul,
    overload("addcdiv.default"): _addcdiv,
    overload("addmm.default"): _plus(torch.mm),
    overload("addmv.default"): _plus(torch.mv),
    overload("baddbmm.default"): _plus(torch.bmm),
    overload("inner.default"): _inner,
    overload("tensordot.default"): _tensordot,
    overload("index.Tensor"): _index,
    overload("index_add.default"): _index_add,
    overload("lstm_cell.default"): _lstm_cell,
    overload("gru_cell.default"): _gru_cell,
    overload("glu.default"): _glu,
    overload("exp2.default"): lambda x: torch.exp(math.log(2) * x),
    overload("log1p.default"): lambda x: torch.log(x + 1),
    overload("log2.default"): lambda x: torch.log(x) / math.log(2),
    overload("log10.default"): lambda x: torch.log(x) / math.log(10),
    overload("erfc.default"): lambda x: 1 - torch.erf(x),
    overload("clamp.default"): _clamp,
    overload("clip.default"): _clamp,
    overload("clamp.Tensor"): _clamp_tensors,
    overload("clip.Tensor"): _clamp_tensors,
    overload("clamp_min.default"): _at_least,
    overload("clamp_max.default"): lambda x, number: -_at_least(-x, -number),
    overload("clamp_min.Tensor"): lambda x, least: torch.maximum(x, least),
    overload("clamp_max.Tensor"): lambda x, most: torch.minimum(x, most),
    overload("threshold.default"): _threshold,
    overload("prelu.default"): _prelu,
    overload("rrelu.default"): _rrelu,
    overload("rms_norm.default"): _rms_norm,
    overload("maximum.default"): _maximum,
    overload("minimum.default"): _minimum,
    overload("fmax.default"): _maximum,
    overload("fmin.default"): _minimum,
    overload("max.other"): _maximum,
    overload("min.other"): _minimum,
    overload("amax.default"): _amax,
    overload("amin.default"): _amin,
    overload("aminmax.default"): lambda x, *, dim=(), keepdim=False: (_amin(x, dim, keepdim), _amax(x, dim, keepdim)),
    overload("max.dim"): _max,
    overload("min.dim"): _min,
    overload("max_pool1d.default"): _pool1d,
    overload("max_pool3d.default"): _pool3d,
    overload("max_pool2d_with_indices.default"): _pool_with_indices,
    overload("adaptive_max_pool1d.default"): _adaptive_pool,
    overload("adaptive_max_pool2d.default"): _adaptive_pool,
    overload("adaptive_max_pool3d.default"): _adaptive_pool,
}
"""For torch's tracer."""

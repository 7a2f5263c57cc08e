"""Calls that are bounded by way of simpler ones, where they read what depends on the image.

What does not depend on it is computed by the call as it is: another order of rounding would give another constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from verify.graph.decompositions import TABLE, overload
from verify.operators.call import Call, Slot
from verify.operators.log_sum import softmax_of_some
from verify.operators.operator import refused


class _AsItIs(Exception):
    """The call has a rule of its own for this use."""


def parts(call: Call, values: Sequence[Tensor], varying: Collection[int]) -> fx.Graph | None:
    """The simpler calls that a call is made of, with a placeholder for each input; None where it has a rule.

    Args:
        call: one that `COMPOSED` knows.
        values: of the call's inputs, for their shapes.
        varying: which of the inputs depend on the image.

    Raises:
        UnsupportedOperator: a use for which it is not known.
    """
    compose = COMPOSED[call.target]
    if compose is _quotient and call.argument(1) not in map(Slot, varying):
        return None

    def run(*inputs: Tensor) -> Any:
        filled = call.filled(inputs)
        result = compose(*filled.args, **filled.kwargs)
        if result is NotImplemented:
            raise _AsItIs
        return result if call.index is None else result[call.index]

    try:
        return make_fx(run, TABLE, tracing_mode="fake", pre_dispatch=True)(*values).graph
    except _AsItIs:
        return None
    except NotImplementedError as error:
        raise refused(call, str(error)) from error


def _quotient(first: Any, second: Tensor) -> Tensor:
    return torch.reciprocal(second) * first


def _norm(x: Tensor, order: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    if order not in (1, 2, None) or dim is None:
        raise NotImplementedError("a norm other than l1 or l2 over dimensions of an image")
    if order == 1:
        return torch.sum(torch.abs(x), dim, keepdim)
    return _root(torch.sum(torch.square(x), dim, keepdim))


def _softmax(x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    return torch.exp(torch.log_softmax(x, dim))


def _logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Any:
    """Along one dimension, which is kept: the use that has a rule."""
    dims = sorted({each % x.dim() for each in ([dim] if isinstance(dim, int) else dim)})
    if 0 in dims:
        raise NotImplementedError("a sum over images")
    if len(dims) == 1:
        return NotImplemented if keepdim else torch.logsumexp(x, dims, True).squeeze(dims[0])
    result = torch.logsumexp(x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims)), [-1], True).squeeze(-1)
    return result.reshape([1 if place in dims else size for place, size in enumerate(x.shape)]) if keepdim else result


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout:
        raise NotImplementedError("attention with dropout")
    if enable_gqa:
        raise NotImplementedError("attention with shared heads (repeat them: key.repeat_interleave(n, -3))")
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, -1) @ value


def _standardised(x: Tensor, dims: list[int], eps: float) -> Tensor:
    deviation, variance = _deviation(x, dims)
    return _over_root(deviation, variance, eps, _count(x, dims))


def _over_root(x: Tensor, square: Tensor, eps: float, count: int) -> Tensor:
    return torch.ops.verify.standardised(x, torch.ops.verify.power_of_variance(square, eps, -0.5), count)


def _deviation(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """From the mean, and its mean square."""
    if any(dim % x.dim() == 0 for dim in dims):
        raise NotImplementedError("a mean over images")
    deviation = x - x.mean(dims, keepdim=True)
    return deviation, deviation.square().mean(dims, keepdim=True)


def _count(x: Tensor, dims: list[int]) -> int:
    return math.prod(x.shape[dim] for dim in dims)


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: bool,
) -> Tensor:
    return _scaled(_standardised(x, _last(shape), eps), weight, bias)


def _group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    grouped = x.unflatten(1, (groups, -1))
    return _scaled(_standardised(grouped, _after(1, grouped), eps).flatten(1, 2), *_of_channels(x, weight, bias))


def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, own: bool, momentum: float, eps: float, fast: bool
) -> Tensor:
    if not own:
        return torch.batch_norm(x, weight, bias, mean, variance, False, momentum, eps, fast)
    return _scaled(_standardised(x, _after(1, x), eps), *_of_channels(x, weight, bias))


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    assert eps is not None  # that of the type is filled in when the model is traced
    square = x.square().mean(_last(shape), keepdim=True)
    return _scaled(_over_root(x, square, eps, _count(x, _last(shape))), weight, None)


def _last(shape: Sequence[int]) -> list[int]:
    return list(range(-len(shape), 0))


def _after(dim: int, x: Tensor) -> list[int]:
    return list(range(dim + 1, x.dim()))


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _of_channels(x: Tensor, *parameters: Tensor | None) -> list[Tensor | None]:
    shape = (1, -1, *[1] * (x.dim() - 2))
    return [None if parameter is None else parameter.reshape(shape) for parameter in parameters]


def _variance(x: Tensor, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if not dims:
        raise NotImplementedError("a mean over images")
    _, variance = _deviation(x, dims)
    count = _count(x, dims)
    variance = variance * (count / (count - (1 if correction is None else correction)))
    return variance if keepdim else variance.squeeze(tuple(dims))


def _root(square: Tensor) -> Tensor:
    return torch.ops.verify.power_of_variance(square, 0.0, 0.5)


def _standard_deviation(*args: Any, **kwargs: Any) -> Tensor:
    return _root(_variance(*args, **kwargs))


COMPOSED: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    overload("div.Tensor"): _quotient,
    overload("linalg_vector_norm.default"): _norm,
    overload("softmax.int"): _softmax,
    overload("_softmax.default"): _softmax,
    overload("_log_softmax.default"): lambda x, dim, half: torch.log_softmax(x, dim),
    overload("logsumexp.default"): _logsumexp,
    torch.ops.verify.softmax_of_some.default: softmax_of_some,
    overload("scaled_dot_product_attention.default"): _attention,
    overload("layer_norm.default"): _layer_norm,
    overload("native_layer_norm.default"): lambda *args: (_layer_norm(*args),),
    overload("group_norm.default"): _group_norm,
    overload("instance_norm.default"): _instance_norm,
    overload("rms_norm.default"): _rms_norm,
    overload("var.correction"): _variance,
    overload("var.dim"): _variance,
    overload("std.correction"): _standard_deviation,
    overload("std.dim"): _standard_deviation,
    overload("norm.ScalarOpt_dim"): _norm,
}
"""Functions of a call's arguments; they raise NotImplementedError with a word on what they do not cover, and are
NotImplemented where the call has a rule."""

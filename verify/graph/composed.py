"""Calls that are bounded by way of simpler ones, where they read what depends on the image.

What does not depend on it is computed by the call as it is: another order of rounding would give another constant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from verify.graph.decompositions import TABLE, overload
from verify.operators.call import Call, Slot
from verify.operators.operator import refused


class _AsItIs(Exception):
    """The call has a rule of its own for this use."""


def parts(call: Call, values: Sequence[Tensor], varying: Collection[int]) -> fx.Graph | None:
    """The simpler calls that a call is made of, with a placeholder for each input; None where there are none.

    Args:
        values: of the call's inputs, for their shapes.
        varying: which of the inputs depend on the image.

    Raises:
        UnsupportedOperator: a use for which it is not known.
    """
    compose = COMPOSED.get(call.target)
    if compose is None or (compose is _quotient and call.argument(1) not in map(Slot, varying)):
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
    return torch.sqrt(torch.relu(torch.sum(torch.square(x), dim, keepdim)))  # whatever rounding may say


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


COMPOSED: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    overload("div.Tensor"): _quotient,
    overload("linalg_vector_norm.default"): _norm,
    overload("softmax.int"): _softmax,
    overload("_softmax.default"): _softmax,
    overload("_log_softmax.default"): lambda x, dim, half: torch.log_softmax(x, dim),
    overload("logsumexp.default"): _logsumexp,
    overload("norm.ScalarOpt_dim"): _norm,
}
"""Functions of a call's arguments; they raise NotImplementedError with a word on what they do not cover, and are
NotImplemented where the call has a rule."""

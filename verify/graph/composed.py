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
        return result if call.index is None else result[call.index]

    try:
        return make_fx(run, TABLE, tracing_mode="fake", pre_dispatch=True)(*values).graph
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


COMPOSED: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    overload("div.Tensor"): _quotient,
    overload("linalg_vector_norm.default"): _norm,
    overload("norm.ScalarOpt_dim"): _norm,
}
"""Functions of a call's arguments; they raise NotImplementedError with a word on what they do not cover."""

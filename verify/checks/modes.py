"""The modes of torch that a caller may be in, and bounds may not be computed in."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_own_modes(function: Callable[P, R]) -> Callable[P, R]:
    """The function, without autocast or inference mode around it.

    Autocast would compute in half precision what is to be a proof. Inference mode makes tensors at which nothing has a
    derivative, and bounds need derivatives of their own; as under it, nothing of the result then has a gradient.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.no_grad())
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return wrapped


def differentiable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, outside of which no derivative uses it."""
    return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def uncompiled() -> Iterator[None]:
    """Parts of a model that torch.compile has taken run as they are written, so that they can be traced."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import it takes seconds
        yield
        return
    dynamo = sys.modules["torch._dynamo"]
    with torch.compiler.set_stance("force_eager"), dynamo.config.patch(error_on_nested_fx_trace=False):
        yield

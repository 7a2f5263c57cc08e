"""The front end: a torch module as a graph of ATen calls, in which nothing is written that is read elsewhere.

Another front end (torch.export) would have to give the same kind of graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from verify.operators import UnsupportedOperator


def trace(model: nn.Module, example: Float[Tensor, "b *shape"]) -> fx.Graph:
    """The model on the example as a graph of ATen calls; placeholders are its tensors by name, then the input.

    Runs on copies of parameters and buffers, so that nothing of the model changes.

    Raises:
        UnsupportedOperator: the model cannot be traced, or the trace would not say all that it does.
    """
    tensors = copies(model)

    def run(*values: Tensor) -> Any:
        return evaluated(model, dict(zip(tensors, values[:-1], strict=True)), values[-1])

    # Fake tensors have shapes and no values: what asks for a value, by .item(), .numpy() or nonzero(), would fix it in
    # the graph, and fails. Without a mode of ours torch's tracer makes one a node: half of the time.
    valueless = TracingContext(FakeTensorMode(allow_fallback_kernels=True, allow_non_fake_inputs=True))
    with kept_random_state(example.device), torch.no_grad():
        try:
            with tracing(valueless):
                traced = make_fx(run, tracing_mode="fake", pre_dispatch=True)(*tensors.values(), example.clone())
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UnsupportedOperator(f"the network cannot be traced: {reason}") from error
        _refuse_hidden_writes(traced, *copies(model).values(), example.clone())
    for node, name in zip(traced.graph.find_nodes(op="placeholder"), [*tensors, None], strict=True):
        node.meta["tensor"] = name
    return traced.graph


def copies(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers as copies that a forward pass may change.

    By name: one name a place, though its module may be in several, and one copy for a tensor that is in several places.
    """
    places = {
        name: tensor
        for prefix, module in model.named_modules()
        for tensors in (module.named_parameters, module.named_buffers)
        for name, tensor in tensors(prefix, recurse=False, remove_duplicate=False)
    }
    copied = {tensor: tensor.detach().clone() for tensor in places.values()}
    return {name: copied[tensor] for name, tensor in places.items()}


def evaluated(model: nn.Module, tensors: dict[str, Tensor], x: Float[Tensor, "b *shape"]) -> Any:
    """The model's result with these tensors, named as `copies` names them, in place of its own.

    torch's `functional_call` would by default give every name of a module to it in turn, and would leave it with the
    last copy.
    """
    return functional_call(model, tensors, (x,), tie_weights=False)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Whatever random numbers the body draws, the user's generators do not notice."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def out_of_place(target: Any) -> Any:
    """The call that leaves its arguments alone, for one such as relu_ that overwrites them."""
    packet, overload = str(target).removeprefix("aten.").split(".")
    if not packet.endswith("_") or packet.endswith("__"):
        return target
    functional = getattr(torch.ops.aten, packet.removesuffix("_"), None)
    return getattr(functional, overload, target)


def _refuse_hidden_writes(traced: fx.GraphModule, *inputs: Tensor) -> None:
    """Refuse to read memory through a node that was made before a call wrote to that memory.

    In the trace the result of relu_(x) takes the place of x from then on. A view of x that was taken before
    (or x itself, where a view of it was written to, as by x[:, 0] = 0) still stands for the old value there,
    but not in torch.
    """
    values = fx.Interpreter(traced, garbage_collect_values=False)
    values.run(*inputs)
    current: dict[int, set[fx.Node]] = {}  # memory written to -> the nodes made since
    for node in traced.graph.nodes:
        for source in node.all_input_nodes:
            if any(source not in current.get(memory, {source}) for memory in _memory(values.env[source])):
                raise UnsupportedOperator(
                    f"{node.target}: reads what an in-place operation overwrote through another view of it; "
                    "use the out-of-place form"
                )
        for written in _overwritten(node):
            current.update({memory: set() for memory in _memory(values.env[written])})
        for memory in _memory(values.env[node]):
            current.get(memory, set()).add(node)


def _memory(value: Any) -> set[int]:
    """Where the tensors in a value lie."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}


def _overwritten(node: fx.Node) -> list[fx.Node]:
    """The arguments whose memory the call changes."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    arguments = node.target._schema.arguments
    given = dict(zip((argument.name for argument in arguments), node.args, strict=False)) | node.kwargs
    written = [given.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    return [leaf for leaf in tree_leaves(written) if isinstance(leaf, fx.Node)]

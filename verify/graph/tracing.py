"""The front end: a torch module as a graph of ATen calls, in which nothing is written that is read elsewhere.

Another front end (torch.export) would have to give the same kind of graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.func import functional_call
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from verify.checks import inputs as checks
from verify.checks.errors import first_line
from verify.graph.attention import BatchFirst, cancel_orders
from verify.graph.decompositions import TABLE
from verify.operators import UnsupportedOperator

KNOWN = 4096
"""Elements of a tensor made of numbers, such as a channel's deviations, whose values a model may ask for."""


@dataclass(frozen=True)
class Trace:
    """What a model computes.

    Attributes:
        graph: its ATen calls; placeholders are its parameters and buffers, then the input. A node's `meta` has its
            value's shape and type, "val", and a placeholder's name in the model, "tensor" (None for the input).
        tensor: the parameter or buffer of a name, as it is when asked for.
        constants: tensors that the model has otherwise, or made of numbers, by their names in the graph.
        output: for the example.
    """

    graph: fx.Graph
    tensor: Callable[[str], Tensor]
    constants: dict[str, Tensor]
    output: Float[Tensor, "b k"]

    def copy(self) -> Trace:
        """The same with tensors of its own, which no change of the model reaches."""
        names = [node.meta["tensor"] for node in self.graph.find_nodes(op="placeholder")]
        tensors = {name: self.tensor(name).detach().clone() for name in names if name is not None}
        constants = {name: value.detach().clone() for name, value in self.constants.items()}
        return replace(self, tensor=tensors.__getitem__, constants=constants)


def trace(model: nn.Module, example: Float[Tensor, "b *shape"]) -> Trace:
    """The model on the example as a graph of ATen calls.

    Runs on copies of parameters and buffers, so that nothing of the model changes.

    Raises:
        UnsupportedOperator: the model has another form of output, it cannot be traced, or the trace would not say all
            that it does.
    """
    with kept_random_state(example.device), torch.no_grad():
        output = checks.outputs(lambda x: evaluated(model, copies(model), x), example.clone())
    if not isinstance(output, Tensor) or output.dim() != 2:
        raise UnsupportedOperator(
            'the network must have one output, of shape "b k": wrap it so that it has (verify.Binary, if it is "b")'
        )
    graph = _graph(model, example)
    names = [str(node.target) for node in graph.find_nodes(op="get_attr")]
    constants = {name: getattr(graph.owning_module, name) for name in names}
    owners = dict(model.named_modules(remove_duplicate=False))

    def tensor(name: str) -> Tensor:
        owner, _, attribute = name.rpartition(".")
        value: Tensor = getattr(owners[owner], attribute)
        return value

    return Trace(graph, tensor, constants, output)


def _graph(model: nn.Module, example: Float[Tensor, "b *shape"]) -> fx.Graph:
    """The calls, with placeholders for the tensors of `copies` and then the input."""
    tensors = copies(model)

    def run(*values: Tensor) -> Any:
        with BatchFirst():
            return evaluated(model, dict(zip(tensors, values[:-1], strict=True)), values[-1])

    # Fake tensors have shapes and no values: what asks for a value, by .item(), .numpy() or nonzero(), would fix it in
    # the graph, and fails. Without a mode of ours torch's tracer makes one a node: half of the time.
    valueless = TracingContext(FakeTensorMode(allow_fallback_kernels=True, allow_non_fake_inputs=True))
    with kept_random_state(example.device), torch.no_grad():
        try:
            with tracing(valueless), _known_numbers():
                tracer = make_fx(run, TABLE, tracing_mode="fake", pre_dispatch=True)
                traced = tracer(*tensors.values(), example.clone())
        except Exception as error:
            raise UnsupportedOperator(f"the network cannot be traced: {_in_words(error)}") from error
        _refuse_hidden_writes(traced, *copies(model).values(), example.clone())
    for node, name in zip(traced.graph.find_nodes(op="placeholder"), [*tensors, None], strict=True):
        node.meta["tensor"] = name
    for node in traced.graph.nodes:
        _write_out(node)
    cancel_orders(traced.graph)
    return traced.graph


def _in_words(error: Exception) -> str:
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        return (
            f"{error.func}: what it does depends on the values of a tensor, as with `if`, .item() or nonzero(); "
            "a network is bounded as one sequence of operations, so write the choice with relu, maximum or clamp"
        )
    return first_line(error)


@contextmanager
def _known_numbers() -> Iterator[None]:
    """Let torch's tracer know the values of tensors that the model makes of numbers, as it does of one element.

    torchvision's normalisation asks whether a standard deviation of three is 0.
    """
    limit = proxy_tensor.CONSTANT_NUMEL_LIMIT
    proxy_tensor.CONSTANT_NUMEL_LIMIT = KNOWN
    try:
        yield
    finally:
        proxy_tensor.CONSTANT_NUMEL_LIMIT = limit


_FILLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "zeros_like.default": lambda args: 0,
    "ones_like.default": lambda args: 1,
    "full_like.default": lambda args: args[1],
    "new_zeros.default": lambda args: 0,
    "new_ones.default": lambda args: 1,
    "new_full.default": lambda args: args[2],
}
"""Calls that fill a tensor as large as another, or of its type, with a number; which one, by their arguments."""
_SHAPED = {"expand_as.default": "expand", "view_as.default": "view", "reshape_as.default": "reshape"}


def _write_out(node: fx.Node) -> None:
    """Write out what a call takes of a tensor's shape or type only: on that tensor its result does not depend."""
    made, name, aten = node.meta.get("val"), str(node.target).removeprefix("aten."), torch.ops.aten
    if not isinstance(made, Tensor):
        return
    if name in _FILLS:
        node.target, node.args = aten.full.default, (list(made.shape), _FILLS[name](node.args))
        node.kwargs = {"dtype": made.dtype, "device": made.device}
    elif name in _SHAPED:
        node.target, node.args = getattr(aten, _SHAPED[name]).default, (node.args[0], list(made.shape))
    elif name in ("type_as.default", "to.other"):
        node.target, node.args, node.kwargs = aten.to.device, (node.args[0], made.device, made.dtype), {}


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
    namespace, packet, overload = str(target).split(".")
    if namespace != "aten" or not packet.endswith("_") or packet.endswith("__"):
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
    known: set[fx.Node] = set()  # whose values the tracer knows, and goes on knowing in spite of writes through a view
    for node in traced.graph.nodes:
        sources = node.all_input_nodes
        if node.target is torch.ops.aten.lift_fresh_copy.default or (sources and known.issuperset(sources)):
            known.add(node)
        for source in sources:
            if any(source not in current.get(memory, {source}) for memory in _memory(values.env[source])):
                raise UnsupportedOperator(
                    f"{node.target}: reads what an in-place operation overwrote through another view of it; "
                    "use the out-of-place form"
                )
        for written in _overwritten(node):
            old = _memory(values.env[written])
            if node not in known and any(old & _memory(values.env[view]) for view in known if _is_view(view)):
                raise UnsupportedOperator(
                    f"{node.target}: overwrites numbers of which the network also has a view; use the out-of-place form"
                )
            current.update({memory: set() for memory in old})
        for memory in _memory(values.env[node]):
            current.get(memory, set()).add(node)


def _is_view(node: fx.Node) -> bool:
    """Whether a tensor that shares memory with others is another tensor than they: not the result of an operation that
    was in place."""
    return not (node.target is torch.ops.aten.lift_fresh_copy.default or _overwritten(node))


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

"""A torch module as a bounded graph: traced to ATen calls, every call an operator with sound rules.

The graph is auto_LiRPA's `BoundedModule`. What we replace here is its parser (TorchScript and ONNX; ours is `trace`),
the copies of buffers (`Leaf` reads the user's module), and what recurses: a deep network would exhaust the stack.
`verify.propagation` has the walks over the graph.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from verify.graph.building import INPUT, Builder
from verify.graph.lirpa import Bound, BoundedModule
from verify.graph.tracing import Trace
from verify.operators import LinearOperator, Relaxation
from verify.operators.normalisation import BatchNorm, Moments, Statistics


class _Shell(nn.Module):
    """What BoundedModule is built from in place of the user's model, of which it would touch mode and buffers."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.training = False

    def forward(self, *_: Tensor) -> Tensor:
        return self.trace.output


class Graph(BoundedModule):
    """The graph of a model: its nodes, and nothing of a computation of bounds.

    Args:
        trace: of a module of one input "b *shape" and one output "b *classes".
        example: an input, of the type that the graph is to have; its values do not matter.

    Raises:
        UnsupportedOperator: naming the first call that has no sound rule.
    """

    def __init__(self, trace: Trace, example: Float[Tensor, "b *shape"]) -> None:
        self.trace = trace
        super().__init__(_Shell(trace), example, {"conv_mode": "matrix"}, device=example.device)
        self.forget_statistics()

    @property
    def nodes(self) -> list[Bound]:
        """Every node, inputs before their users."""
        return list(self._modules.values())

    def users(self, node: Bound) -> list[Bound]:
        """The nodes that read this one."""
        return [self[name] for name in dict.fromkeys(node.output_name)]

    def before(self, node: Bound) -> list[str]:
        """Names of the nodes that a node's value depends on and that vary, inputs before their users; not its own."""
        needed = {parent.name for parent in node.inputs}
        for each in reversed(self.nodes):
            if each.name in needed:
                needed |= {parent.name for parent in each.inputs}
        return [each.name for each in self.nodes if each.name in needed and each.from_input]

    @cached_property
    def relaxed(self) -> list[str]:
        """Names of the nodes whose neurons an operator relaxes, and so needs bounds of."""
        relaxations = [node for node in self.nodes if isinstance(node, Relaxation) and node.from_input]
        read = {parent.name for node in relaxations for parent in node.inputs if parent.from_input}
        return [node.name for node in self.nodes if node.name in read]

    @cached_property
    def neurons(self) -> dict[str, torch.Size]:
        """The shape of one image's neurons at each of these nodes."""
        return {name: self[name].output_shape[1:] for name in self.relaxed}

    @cached_property
    def linear_only(self) -> frozenset[str]:
        """Names of the nodes that only linear operators read."""
        return frozenset(
            node.name for node in self.nodes if all(isinstance(user, LinearOperator) for user in self.users(node))
        )

    @cached_property
    def summands(self) -> int:
        """At least as many terms as any operator of the graph sums up."""
        return max((node.summands for node in self.nodes if node.from_input and node.inputs), default=1)

    @property
    def batch_norms(self) -> list[BatchNorm]:
        """The normalisations that use a batch's statistics."""
        return [node for node in self.nodes if isinstance(node, BatchNorm) and node.on_batch]

    def evaluate(
        self, x: Float[Tensor, "b *shape"], record: Moments | None = None
    ) -> Float[Tensor, "b *classes"]:
        """The network's output, node by node; nothing is kept.

        Args:
            record: x is the clean batch whose statistics batch norm in training mode is to use; computes them.
        """
        return self.values(x, record)[self.final_name]

    def values(
        self, x: Float[Tensor, "b *shape"], record: Moments | None = None, constant: bool = False
    ) -> dict[str, Tensor]:
        """The value of every node, by its name; see `evaluate`.

        Args:
            constant: keep no autograd graph of what depends on x; of weights, such as softmax(alpha), there is one.
        """
        values: dict[str, Tensor] = {}
        differentiable = torch.is_grad_enabled()
        for node in self.nodes:
            inputs = [values[parent.name] for parent in node.inputs]
            if record is not None and isinstance(node, BatchNorm) and node.on_batch:
                node.record(inputs[0], record)
            with torch.set_grad_enabled(differentiable and not (constant and node.from_input)):
                values[node.name] = x if node.name == INPUT else node.forward(*inputs)
        return values

    def pullback(
        self, rows: Float[Tensor, "b *classes"], values: dict[str, Tensor]
    ) -> Float[Tensor, "b *shape"]:
        """J^T rows, J the Jacobian of the outputs at the input whose `values` these are."""
        reached = {self.final_name: rows}
        for node in reversed(self.nodes):
            if node.name not in reached or node.name == INPUT:
                continue
            parts = node.pullback(reached.pop(node.name), [values[parent.name] for parent in node.inputs])
            for position, part in zip(node.varying, parts, strict=True):
                name = node.inputs[position].name
                reached[name] = reached[name] + part if name in reached else part
        return reached[INPUT]

    def forget_statistics(self) -> None:
        """Require a new clean batch before the next evaluation in training mode."""
        for node in self.batch_norms:
            node.statistics = None

    def copy_statistics(self, other: Graph) -> None:
        """Take the statistics of another graph of the same model, in this one's precision."""
        for mine, theirs in zip(self.batch_norms, other.batch_norms, strict=True):
            if theirs.statistics is not None:
                dtype = self.example_dtype
                mine.statistics = Statistics(*(value.detach().to(dtype) for value in theirs.statistics))

    # What we replace of BoundedModule.

    def _convert_nodes(self, model: _Shell, global_input: tuple[Tensor]) -> tuple[list, list, list, None]:
        """Operators, leaves and outputs of the traced graph, in BoundedModule's terms."""
        self.example_dtype = global_input[0].dtype
        return Builder(model.trace, global_input[0]).build()

    def get_forward_value(self, node: Bound) -> Tensor:
        """The value at a node and at all before it."""
        for before in self.nodes:
            if getattr(before, "forward_value", None) is None:
                self._evaluate(before)
            if before is node:
                break
        return node.forward_value

    def _evaluate(self, node: Bound) -> None:
        node.forward_value = node.forward(*(parent.forward_value for parent in node.inputs))
        node.output_shape = node.forward_value.shape
        node.batch_dim = 0 if node.from_input else -1

"""From the trace of a model to operators: what a `BoundedGraph` is built of."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from verify.graph.lirpa import Bound, BoundInput
from verify.graph.tracing import out_of_place, trace
from verify.operators import RULES, Call, Constant, Slot, UnsupportedOperator
from verify.operators.normalisation import BatchNorm, moments

INPUT = "/input"
"""The name of the node that is the network's input."""


class Leaf(BoundInput):
    """A parameter or buffer, read from the user's module each time, so it is never out of date."""

    def __init__(self, name: str, read: Callable[[], Tensor]) -> None:
        super().__init__(name, None)
        self.from_input = False
        self.read = read

    def forward(self) -> Tensor:
        return self.read()


class Builder:
    """Turns a traced graph into operators: merges equal calls, drops what the output does not need."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.example = model, example
        self.graph = trace(model, example)
        self.made: dict[fx.Node, Bound] = {}
        self.known: dict[Any, Bound] = {}
        self.operators: list[Bound] = []
        self.leaves: list[Bound] = []

    def build(self) -> tuple[list[Bound], list[Bound], list[Bound], None]:
        output = next(iter(self.graph.find_nodes(op="output"))).args[0]
        needed = _ancestors(output)
        with torch.no_grad():
            for node in self.graph.nodes:
                if node in needed and not _has_several_results(node):
                    self.made[node] = self._make(node)
        if not self.made[output].from_input:
            raise UnsupportedOperator("the network's output does not depend on its input")
        return self.operators, self.leaves, [self.made[output]], None

    def _make(self, node: fx.Node) -> Bound:
        if node.op == "placeholder":
            return self._leaf(node.meta["tensor"])
        if node.op == "get_attr":
            return self._constant(str(node.target))
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node) and isinstance(index, int)
            return self._call(source, index)
        return self._call(node, None)

    def _constant(self, name: str) -> Bound:
        """A tensor that the model holds in no parameter or buffer; every use of it is traced apart."""
        if name not in self.known:
            value = getattr(self.graph.owning_module, name)
            self.known[name] = self._add_leaf(Leaf(name, lambda: value))
        return self.known[name]

    def _leaf(self, name: str | None) -> Bound:
        if name is None:
            node = BoundInput("input", self.example, input_index=0)
            node.name = INPUT
            self.leaves.insert(0, node)
            return self._finish(node, [])
        owner, _, attribute = name.rpartition(".")
        module = self.model.get_submodule(owner)
        # An alias: a Parameter set on a node would be registered as the node's own.
        return self._add_leaf(Leaf(name, lambda: (tensor := getattr(module, attribute)).view_as(tensor)))

    def _add_leaf(self, leaf: Leaf) -> Bound:
        leaf.name = f"/leaf/{leaf.ori_name}"
        self.leaves.append(leaf)
        return self._finish(leaf, [])

    def _call(self, node: fx.Node, index: int | None) -> Bound:
        inputs: list[Bound] = []

        def slot(argument: fx.Node) -> Slot:
            made = self.made[argument]
            if made not in inputs:
                inputs.append(made)
            return Slot(inputs.index(made))

        args = fx.node.map_arg(node.args, slot)
        kwargs = fx.node.map_arg(node.kwargs, slot)
        call = Call(out_of_place(node.target), tuple(args), dict(kwargs), index)
        key = repr((call.name, call.args, sorted(call.kwargs.items()), index, [parent.name for parent in inputs]))
        if key not in self.known:
            self.known[key] = self._operator(call, inputs, f"/{len(self.operators)}/{call.name}")
        return self.known[key]

    def _operator(self, call: Call, inputs: list[Bound], name: str) -> Bound:
        varies = any(parent.from_input for parent in inputs)
        # A constant is evaluated as often as needed, so it may neither be random nor change anything.
        fixed = not varies and not call.is_random and not call.target._schema.is_mutable
        cls = Constant if fixed else RULES.get(call.name)
        if cls is None:
            raise UnsupportedOperator(
                f"{call.name}: no sound bound is known for this operator (those of verify/operators are)"
            )
        made = cls(call, inputs)
        made.name, made.from_input = name, varies
        self.operators.append(made)
        self._finish(made, inputs)
        if varies and made.output_shape[:1] != self.example.shape[:1]:
            raise made.refuse("a result whose first dimension is not the batch")
        return made

    def _finish(self, node: Bound, inputs: Iterable[Bound]) -> Bound:
        """Evaluate the node on the example: rules look at shapes when they are built."""
        inputs = list(inputs)
        node.input_name = [parent.name for parent in inputs]
        if isinstance(node, BatchNorm) and node.on_batch:
            node.record(inputs[0].forward_value, moments)
        node.forward_value = node.forward(*(parent.forward_value for parent in inputs))
        node.output_shape = node.forward_value.shape
        return node


def _has_several_results(node: fx.Node) -> bool:
    """A chunk or split: each of its items becomes a call of its own."""
    return bool(node.users) and all(user.target is operator.getitem for user in node.users)


def _ancestors(output: fx.Node) -> set[fx.Node]:
    needed, stack = set(), [output]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    return needed

"""From the trace of a model to operators: what a `BoundedGraph` is built of."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from verify.checks.modes import differentiable
from verify.graph import composed
from verify.graph.lirpa import Bound, BoundInput
from verify.graph.tracing import Trace, out_of_place
from verify.operators import RULES, Call, Constant, Operator, Slot, UnsupportedOperator
from verify.operators.alternatives import advice
from verify.operators.normalisation import BatchNorm, moments
from verify.operators.operator import refused

INPUT = "/input"
"""The name of the node that is the network's input."""


CASTS = ("aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "aten._to_copy.default")
"""Calls that change a tensor's type or device, and no value in real arithmetic."""

SOFTMAX = (torch.ops.aten.softmax.int, torch.ops.aten._softmax.default)


class Leaf(BoundInput):
    """A tensor of the model, read from it each time, so it is never out of date."""

    def __init__(self, name: str, read: Callable[[], Tensor]) -> None:
        super().__init__(name, None)
        self.from_input = False
        self.read = read

    def forward(self) -> Tensor:
        return self.read()


class Builder:
    """Turns a traced graph into operators: merges equal calls, drops what the output does not need.

    What depends on the input has the type of the example, which may be another than the trace's. What does not has the
    type that the model gives it, so that it is what the model computes with; where the two meet it is converted.
    """

    def __init__(self, trace: Trace, example: Tensor) -> None:
        self.trace, self.example = trace, example
        self.attached: set[fx.Node] = set()
        self.made: dict[fx.Node, Bound] = {}
        self.known: dict[Any, Bound] = {}
        self.operators: list[Bound] = []
        self.leaves: list[Bound] = []

    def build(self) -> tuple[list[Bound], list[Bound], list[Bound], None]:
        graph = self.trace.graph
        output = next(iter(graph.find_nodes(op="output"))).args[0]
        needed = _ancestors(output)
        self.attached = _ancestors(output, attached=True)
        with torch.no_grad():
            for node in graph.nodes:
                if node in needed and not _has_several_results(node):
                    self.made[node] = self._make(node)
        if not self.made[output].from_input:
            raise UnsupportedOperator("the network's output does not depend on its input")
        used = _behind(self.made[output])
        return [node for node in self.operators if node in used], self.leaves, [self.made[output]], None

    def _make(self, node: fx.Node) -> Bound:
        if node.op == "placeholder":
            return self._leaf(node.meta["tensor"], attached=node in self.attached)
        if node.op == "get_attr":
            return self._constant(str(node.target))
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node) and isinstance(index, int)
            return self._call(source, index, node.meta["val"])
        return self._call(node, None, node.meta["val"])

    def _constant(self, name: str) -> Bound:
        """A tensor that the model holds in no parameter or buffer; every use of it is traced apart."""
        if name not in self.known:
            value = differentiable(self.trace.constants[name])
            self.known[name] = self._add_leaf(Leaf(name, lambda: value))
        return self.known[name]

    def _leaf(self, name: str | None, attached: bool) -> Bound:
        """The input, or a parameter or buffer; one that is not attached has no gradient."""
        if name is None:
            node = BoundInput("input", self.example, input_index=0)
            node.name = INPUT
            self.leaves.insert(0, node)
            return self._finish(node, [])

        def read() -> Tensor:
            tensor = differentiable(self.trace.tensor(name))
            # An alias: a Parameter set on a node would be registered as the node's own.
            return tensor.view_as(tensor) if attached else tensor.detach()

        return self._add_leaf(Leaf(name, read))

    def _add_leaf(self, leaf: Leaf) -> Bound:
        leaf.name = f"/leaf/{leaf.ori_name}"
        self.leaves.append(leaf)
        return self._finish(leaf, [])

    def _call(self, node: fx.Node, index: int | None, traced: Tensor) -> Bound:
        """The call of a node, or one of its results; `traced` has its shape, type and device in the trace."""
        inputs: list[Bound] = []

        def slot(argument: fx.Node) -> Slot:
            made = self.made[argument]
            if made not in inputs:
                inputs.append(made)
            return Slot(inputs.index(made))

        args = fx.node.map_arg(node.args, slot)
        kwargs = fx.node.map_arg(node.kwargs, slot)
        call = Call(out_of_place(node.target), tuple(args), dict(kwargs), index)
        if not any(parent.from_input for parent in inputs):
            return self._operator(call, inputs)
        if call.name in CASTS:
            self._check_type(call, traced)
            return inputs[0]
        simpler = self._composed(*self._of_some(call, inputs))
        if simpler is not None:
            self._check_type(call, traced)
            return simpler
        call = replace(call, kwargs={name: value for name, value in call.kwargs.items() if name != "dtype"})  # of a sum
        made = self._operator(call, self._operands(call, inputs))
        self._check_type(call, traced)
        return made

    def _of_some(self, call: Call, inputs: list[Bound]) -> tuple[Call, list[Bound]]:
        """A softmax of what a constant sets to -infinity in part, as that of the others: bounds know no such number.

        What is -infinity by the image, or would be without that constant, is left as it is.
        """
        source = inputs[0]
        if call.target not in SOFTMAX or not isinstance(source, Operator):
            return call, inputs
        infinite = torch.isneginf(source.forward_value)
        if not infinite.any():
            return call, inputs
        parents = [parent if parent.from_input else self._without_infinity(parent) for parent in source.inputs]
        finite = self._operator(replace(source.call, args=tuple(map(_finite, source.call.args))), parents)
        zeros = [self._zeros(parent) if parent.from_input else parent for parent in source.inputs]
        kept = self._operator(
            Call(torch.ops.aten.ne.Scalar, (Slot(0), -torch.inf)), [self._operator(source.call, zeros)]
        )
        if torch.isneginf(finite.forward_value).any() or (kept.forward_value == infinite).any():
            return call, inputs
        return Call(torch.ops.verify.softmax_of_some.default, (Slot(0), Slot(1), call.args[1])), [finite, kept]

    def _without_infinity(self, constant: Bound) -> Bound:
        """0 where a constant is -infinity."""
        if not constant.forward_value.is_floating_point():
            return constant
        infinite = self._operator(Call(torch.ops.aten.isneginf.default, (Slot(0),)), [constant])
        return self._operator(Call(torch.ops.aten.masked_fill.Scalar, (Slot(0), Slot(1), 0.0)), [constant, infinite])

    def _zeros(self, like: Bound) -> Bound:
        value = torch.zeros_like(like.forward_value[:1])
        return self._add_leaf(Leaf(f"zeros/{like.name}", lambda: value))

    def _composed(self, call: Call, inputs: list[Bound]) -> Bound | None:
        """The call by the simpler ones that it is made of, where there are such."""
        if call.target not in composed.COMPOSED:
            return None
        values = [parent.forward_value for parent in inputs]
        floats = [value.to(self.example.dtype) if value.is_floating_point() else value for value in values]
        varying = [slot for slot, parent in enumerate(inputs) if parent.from_input]
        parts = composed.parts(call, floats, varying)
        if parts is None:
            return None
        self.made.update(zip(parts.find_nodes(op="placeholder"), inputs, strict=True))
        output = next(iter(parts.find_nodes(op="output"))).args[0]
        needed = _ancestors(output)
        for node in parts.nodes:
            if node in needed and node not in self.made and not _has_several_results(node):
                self.made[node] = self._make(node)
        return self.made[output]

    def _check_type(self, call: Call, traced: Tensor) -> None:
        """Whether the result is one of real arithmetic up to rounding that walks account for, and where they are."""
        if traced.dtype not in (torch.float32, torch.float64):
            raise refused(call, f"a result of type {traced.dtype}")
        if traced.device != self.example.device:
            raise refused(call, f"a result on another device ({traced.device}) than the images")

    def _operands(self, call: Call, inputs: list[Bound]) -> list[Bound]:
        """The inputs as an operator takes them: constants are of the example's type, and of one image."""
        rule = RULES.get(call.name, Operator)
        rank = max(len(parent.output_shape) for parent in inputs if parent.from_input)
        operands = []
        for slot, parent in enumerate(inputs):
            if not parent.from_input:
                if len(parent.output_shape) == rank and rule.has_part_an_image(call, slot, rank):
                    parent = self._of_one_image(call, parent)
                if parent.forward_value.is_floating_point() and parent.forward_value.dtype != self.example.dtype:
                    parent = self._operator(Call(torch.ops.aten.to.dtype, (Slot(0), self.example.dtype)), [parent])
            operands.append(parent)
        return operands

    def _of_one_image(self, call: Call, constant: Bound) -> Bound:
        """A constant that was made as large as the traced batch, as it is for one image: it serves any batch.

        That there is one for batches of every size, `BoundedNetwork` tries.
        """
        value = constant.forward_value
        if len(value) != len(self.example):
            return constant
        if (value != value[:1]).any():
            raise refused(call, "a constant that differs from image to image")
        return self._operator(Call(torch.ops.aten.slice.Tensor, (Slot(0), 0, 0, 1)), [constant])

    def _operator(self, call: Call, inputs: list[Bound]) -> Bound:
        """The operator of a call, one for all equal ones."""
        key = repr((call.name, call.args, sorted(call.kwargs.items()), call.index, [parent.name for parent in inputs]))
        if key not in self.known:
            self.known[key] = self._new_operator(call, inputs, f"/{len(self.operators)}/{call.name}")
        return self.known[key]

    def _new_operator(self, call: Call, inputs: list[Bound], name: str) -> Bound:
        varies = any(parent.from_input for parent in inputs)
        # A constant is evaluated as often as needed, so it may neither be random nor change anything.
        fixed = not varies and not call.is_random and not call.target._schema.is_mutable
        cls = Constant if fixed else RULES.get(call.name)
        if cls is None:
            raise UnsupportedOperator(f"{call.name}: no sound bound is known for this operator; {advice(call.name)}")
        made = cls.rule_for(call, [slot for slot, parent in enumerate(inputs) if parent.from_input])(call, inputs)
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


def _behind(output: Bound) -> set[Bound]:
    """The nodes that it is computed from."""
    needed, stack = set(), [output]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.inputs)
    return needed


def _finite(argument: Any) -> Any:
    return 0.0 if isinstance(argument, float) and argument == -torch.inf else argument


def _has_several_results(node: fx.Node) -> bool:
    """A chunk or split: each of its items becomes a call of its own."""
    return bool(node.users) and all(user.target is operator.getitem for user in node.users)


def _ancestors(output: fx.Node, attached: bool = False) -> set[fx.Node]:
    """What the output is computed from; if `attached`, without what it reads through detach() only."""
    needed, stack = set(), [output]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            if not (attached and str(node.target).startswith("aten.detach")):
                stack.extend(node.all_input_nodes)
    return needed

"""Element by element, matrix products, batch norm and reductions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.checks.errors import InputError
from verify.complete.onnx.value import (
    RULES,
    Argument,
    Constant,
    Node,
    Rule,
    Value,
    along,
    axis_of,
    back,
    constant,
    given_whole,
    padded,
    rule,
    value_of,
)


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda node, x, *rest: Value(function(x.tensor), x.batched)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Dropout": lambda x: x,  # as it is in evaluation
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": F.softplus,
    "Exp": torch.exp,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
}
RULES.update({name: _unary(function) for name, function in UNARY.items()})


@rule("LeakyRelu")
def _leaky_relu(node: Node, x: Value) -> Value:
    return Value(F.leaky_relu(x.tensor, node.get("alpha", 0.01)), x.batched)


@rule("Elu")
def _elu(node: Node, x: Value) -> Value:
    return Value(F.elu(x.tensor, node.get("alpha", 1.0)), x.batched)


@rule("Clip")
def _clip(node: Node, x: Value, low: Argument = None, high: Argument = None) -> Value:
    ends = [
        node.get(name) if end is None else float(constant(end).array.item())
        for name, end in (("min", low), ("max", high))
    ]
    return Value(torch.clamp(x.tensor, *ends), x.batched) if ends != [None, None] else x


@rule("Cast")
def _cast(node: Node, x: Value) -> Value:
    types = {1: torch.float32, 11: torch.float64}
    if node.get("to") not in types:
        raise InputError("casts what depends on the image to a type that is no float32 or float64")
    return Value(x.tensor.to(types[node.get("to")]), x.batched)


def _binary(function: Callable[[Any, Any], Tensor], node: Node, first: Argument, second: Argument) -> Value:
    if node.get("axis") is not None or node.get("broadcast"):
        raise InputError("broadcasts as ONNX did before opset 7; convert the file to a newer one")
    sides = [side if isinstance(side, Value) else constant(side) for side in (first, second)]
    ranks = [len(side.shape) if isinstance(side, Value) else side.array.ndim for side in sides]
    # A first axis of size 1 stays the batch's if nothing is wider there, or further in front.
    kept = all(
        side.batched if isinstance(side, Value) else side.array.shape[:1] == (1,)
        for side, rank in zip(sides, ranks, strict=True)
        if rank == max(ranks)
    ) and all(rank == max(ranks) for side, rank in zip(sides, ranks, strict=True) if isinstance(side, Value))
    if kept:
        return Value(function(*(side.tensor for side in sides)), True)
    return value_of(function(*(padded(side, max(ranks)) if isinstance(side, Value) else side.tensor for side in sides)))


BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div
}
RULES.update({name: partial(_binary, function) for name, function in BINARY.items()})


@rule("Gemm")
def _gemm(node: Node, a: Argument, b: Argument, c: Argument = None) -> Value:
    left, right = (
        _transposed(side) if node.get(name) else side for side, name in ((a, "transA"), (b, "transB"))
    )
    product = _scaled(_product(left, right), node.get("alpha", 1.0))
    beta = node.get("beta", 1.0)
    if c is None or not beta:
        return product
    return _binary(torch.add, Node({}, 1), product, Constant(constant(c).array, _times(constant(c).tensor, beta)))


def _transposed(side: Argument) -> Argument:
    if isinstance(side, Constant):
        return Constant(side.array.T, side.tensor.t())
    return None if side is None else value_of(side.full.transpose(-1, -2))


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor


def _scaled(value: Value, factor: float) -> Value:
    return Value(_times(value.tensor, factor), value.batched)


@rule("MatMul")
def _matmul(node: Node, left: Argument, right: Argument) -> Value:
    return _product(left, right)


def _product(left: Argument, right: Argument) -> Value:
    if isinstance(left, Value) and isinstance(right, Value):
        return value_of(torch.matmul(left.full, right.full))
    if isinstance(left, Value):
        matrix = constant(right)
        if matrix.array.ndim == 1:
            return _without_last(Value(F.linear(left.tensor, matrix.tensor.unsqueeze(0)), left.batched))
        _check_matrix(matrix)
        return Value(F.linear(left.tensor, matrix.tensor.t()), left.batched)
    matrix, x = constant(left), right
    if not isinstance(x, Value):
        raise InputError("a factor is missing")
    if len(x.shape) == 1:
        _check_matrix(matrix)
        return value_of(F.linear(x.tensor, matrix.tensor))
    if matrix.array.ndim == 1:
        product = F.linear(x.full.transpose(-1, -2), matrix.tensor.unsqueeze(0))
        return value_of(product.squeeze(-1))
    _check_matrix(matrix)
    return value_of(F.linear(x.full.transpose(-1, -2), matrix.tensor).transpose(-1, -2))


def _without_last(value: Value) -> Value:
    return value_of(value.full.squeeze(-1))


def _check_matrix(matrix: Constant) -> None:
    if matrix.array.ndim != 2:
        raise InputError(f"multiplies by a constant of shape {matrix.array.shape}; only matrices and vectors are known")


@rule("BatchNormalization")
def _batch_norm(node: Node, x: Value, scale: Argument, bias: Argument, mean: Argument, variance: Argument) -> Value:
    if node.get("training_mode"):
        raise InputError("is in training mode; export the network in evaluation mode")
    scale, bias, mean, variance = (constant(part) for part in (scale, bias, mean, variance))
    moments = (mean.tensor, variance.tensor, scale.tensor, bias.tensor)
    return Value(F.batch_norm(x.images, *moments, training=False, eps=node.get("epsilon", 1e-5)), True)


def _reduction(function: Callable[..., Tensor], node: Node, x: Value, axes: Argument = None) -> Value:
    given = given_whole(node, axes, "axes")
    if not given:
        if node.get("noop_with_empty_axes"):
            return x
        given = list(range(len(x.shape)))
    where = sorted({axis_of(axis, len(x.shape)) for axis in given})
    tensor, offset = along(x, where)
    return back(function(tensor, [axis + offset for axis in where], keepdim=bool(node.get("keepdims", 1))), offset)


RULES["ReduceMean"] = partial(_reduction, torch.mean)
RULES["ReduceSum"] = partial(_reduction, torch.sum)


@rule("Softmax")
def _softmax(node: Node, x: Value) -> Value:
    axis = axis_of(node.get("axis", -1), len(x.shape))
    tensor, offset = along(x, [axis])
    return back(torch.softmax(tensor, axis + offset), offset)

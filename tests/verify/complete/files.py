"""ONNX files that the tests make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

OPSET = 17


def node(kind, inputs, outputs="y", **attributes):
    """A node; names are separated by spaces."""
    return helper.make_node(kind, inputs.split(" "), outputs.split(" "), name=f"{kind}_{outputs}", **attributes)


def graph_model(nodes, shape, output="y", opset=OPSET, kind=TensorProto.FLOAT, **constants):
    """A model of one input x and one output; constants by name."""
    initial = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info(output, kind, None)]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def dense_model(layers: nn.Sequential, shape):
    """Linear layers and ReLUs as MatMul, Add and Relu, without a batch axis."""
    nodes, constants, value = [], {}, "x"
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            constants[f"w{number}"] = layer.weight.detach().float().numpy().T.copy()
            constants[f"b{number}"] = layer.bias.detach().float().numpy()
            nodes.append(node("MatMul", f"{value} w{number}", f"m{number}"))
            nodes.append(node("Add", f"m{number} b{number}", f"v{number}"))
        else:
            nodes.append(node("Relu", value, f"v{number}"))
        value = f"v{number}"
    return graph_model(nodes, shape, output=value, **constants)

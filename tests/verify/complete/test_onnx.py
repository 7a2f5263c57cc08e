"""ONNX files: every operator means what onnxruntime computes, image by image; what is not understood is refused."""

import pickle

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from tests.verify.complete.files import graph_model, node, saved
from verify import BoundedNetwork, InputError, UnsupportedOperator, from_onnx, to_onnx

RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values):
    return np.array(values, dtype=np.int64)


IMAGE = [1, 2, 5, 6]
GRAPHS = {
    "gemm": ([node("Gemm", "x w b", transB=1, alpha=0.5, beta=2.0)], [1, 4], {"w": numbers(3, 4), "b": numbers(3)}),
    "gemm transposed": ([node("Gemm", "x w", transA=1)], [4, 1], {"w": numbers(4, 3)}),
    "gemm from the left": ([node("Gemm", "w x b")], [4, 1], {"w": numbers(3, 4), "b": numbers(3, 1)}),
    "matmul": ([node("MatMul", "x w")], [1, 4], {"w": numbers(4, 3)}),
    "matmul of a vector": ([node("MatMul", "x w")], [4], {"w": numbers(4, 3)}),
    "matmul by a vector": ([node("MatMul", "x w")], [1, 3, 4], {"w": numbers(4)}),
    "matmul from the left": ([node("MatMul", "w x")], [4], {"w": numbers(3, 4)}),
    "matrix from the left": ([node("MatMul", "w x")], [4, 2], {"w": numbers(3, 4)}),
    "vector from the left": ([node("MatMul", "w x")], [1, 4, 2], {"w": numbers(4)}),
    "add, wider than the batch": ([node("Add", "x w")], [1, 4], {"w": numbers(3, 4)}),
    "add, more axes": ([node("Add", "w x")], [1, 4], {"w": numbers(1, 3, 4)}),
    "subtract from": ([node("Sub", "w x")], [1, 2, 3], {"w": numbers(3)}),
    "multiply a channel": ([node("Mul", "x w")], IMAGE, {"w": numbers(2, 1, 1)}),
    "divide": ([node("Div", "x w")], [1, 4], {"w": np.float32(3)}),
    "add two ranks": ([node("Relu", "x", "r"), node("Reshape", "x s", "z"), node("Add", "r z")], [1, 4], {"s": whole(1, 4, 1)}),
    "convolution": ([node("Conv", "x w b", pads=[1, 0, 1, 2], strides=[2, 1], dilations=[1, 2])], IMAGE, {"w": numbers(3, 2, 3, 2), "b": numbers(3)}),
    "grouped convolution": ([node("Conv", "x w", group=2, auto_pad="SAME_UPPER", strides=[2, 2])], IMAGE, {"w": numbers(4, 1, 2, 2)}),
    "same, lower": ([node("Conv", "x w", auto_pad="SAME_LOWER")], IMAGE, {"w": numbers(2, 2, 2, 2)}),
    "transposed convolution": ([node("ConvTranspose", "x w", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])], IMAGE, {"w": numbers(2, 3, 3, 3)}),
    "max pool": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], IMAGE, {}),
    "average pool": ([node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], IMAGE, {}),
    "average pool, pads counted": ([node("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)], IMAGE, {}),
    "global average pool": ([node("GlobalAveragePool", "x")], IMAGE, {}),
    "batch norm": ([node("BatchNormalization", "x g b m v", epsilon=0.1)], IMAGE, {"g": numbers(2), "b": numbers(2), "m": numbers(2), "v": np.abs(numbers(2))}),
    "leaky relu": ([node("LeakyRelu", "x", alpha=0.3)], [1, 4], {}),
    "relu, dropout, identity": ([node("Relu", "x", "r"), node("Dropout", "r", "d"), node("Identity", "d")], [1, 4], {}),
    "flatten": ([node("Flatten", "x", axis=2)], IMAGE, {}),
    "reshape": ([node("Reshape", "x s")], IMAGE, {"s": whole(0, -1, 3)}),
    "reshape without a batch": ([node("Reshape", "x s")], IMAGE, {"s": whole(4, -1)}),
    "channels last": ([node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w")], [1, 5, 6, 2], {"w": numbers(3, 2, 2, 2)}),
    "transpose the batch": ([node("Transpose", "x", perm=[1, 2, 3, 0])], IMAGE, {}),
    "concat": ([node("Relu", "x", "r"), node("Concat", "x r", axis=1)], IMAGE, {}),
    "concat in the batch": ([node("Relu", "x", "r"), node("Concat", "x r w", axis=0)], [1, 4], {"w": numbers(1, 4)}),
    "concat a constant": ([node("Concat", "x w", axis=-1)], [1, 4], {"w": numbers(1, 2)}),
    "slice": ([node("Slice", "x s e a t")], IMAGE, {"s": whole(1, -3), "e": whole(10**9, -1), "a": whole(2, 3), "t": whole(2, 1)}),
    "slice backwards": ([node("Slice", "x s e a t")], [1, 6], {"s": whole(-1), "e": whole(-(2**62)), "a": whole(1), "t": whole(-2)}),
    "gather": ([node("Gather", "x i", axis=1)], [1, 6], {"i": whole(3, -1, 0)}),
    "gather one": ([node("Gather", "x i", axis=2)], IMAGE, {"i": np.array(-2)}),
    "gather the batch": ([node("Gather", "x i", axis=0)], IMAGE, {"i": np.array(0)}),
    "gather a table": ([node("Gather", "x i", axis=1)], [1, 6], {"i": np.array([[0, 1], [5, 4]])}),
    "pad": ([node("Pad", "x p c")], IMAGE, {"p": whole(0, 0, 1, 0, 0, 1, 2, 0), "c": np.float32(0.5)}),
    "reflect": ([node("Pad", "x p", mode="reflect")], IMAGE, {"p": whole(0, 0, 1, 1, 0, 0, 2, 0)}),
    "squeeze": ([node("Squeeze", "x a")], [1, 4, 1], {"a": whole(-1)}),
    "squeeze all": ([node("Squeeze", "x")], [1, 4, 1], {}),
    "unsqueeze": ([node("Unsqueeze", "x a")], [1, 4], {"a": whole(0, 3)}),
    "mean": ([node("ReduceMean", "x", axes=[2, -1], keepdims=0)], IMAGE, {}),
    "sum of all": ([node("ReduceSum", "x", keepdims=0)], IMAGE, {}),
    "sum": ([node("ReduceSum", "x a")], IMAGE, {"a": whole(1)}),
    "split": ([node("Split", "x s", "a b", axis=1), node("Concat", "b a", axis=1)], [1, 5], {"s": whole(2, 3)}),
    "expand": ([node("Expand", "x s")], [1, 4], {"s": whole(3, 1)}),
    "shape folded": ([
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n axis", "u"), node("Concat", "u rest", "t", axis=0),
        node("Reshape", "x t"),
    ], IMAGE, {"zero": np.array(0), "axis": whole(0), "rest": whole(-1)}),
    "constants folded": ([node("ConstantOfShape", "s", "o"), node("Mul", "o w", "v"), node("Add", "x v")], [1, 4], {"s": whole(1), "w": numbers(4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_an_operator_is_what_onnxruntime_computes_and_has_bounds(name, tmp_path):
    nodes, shape, constants = GRAPHS[name]
    model = from_onnx(saved(graph_model(nodes, shape, **constants), tmp_path / "f.onnx"))
    x = torch.randn(3, *model.example.shape[1:], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(x), model.reference(x), rtol=1e-4, atol=1e-5)
    network = BoundedNetwork(model, model.example)
    bounds = network.double().bounds(x.double(), 0.0, domain="free")
    assert (bounds.lower <= model(x) + 1e-4).all() and (bounds.upper >= model(x) - 1e-4).all()


CLIP = {"lo": np.float32(-0.5), "hi": np.float32(0.5)}
OTHERS = {
    "max_pool2d": ([node("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], IMAGE, {}),
    "clamp": ([node("Clip", "x lo hi")], [1, 4], CLIP),
    "softmax": ([node("Softmax", "x")], [1, 4], {}),
    **{name.lower(): ([node(name, "x")], [1, 4], {}) for name in ("Sigmoid", "Tanh", "Exp", "Neg", "Abs", "Softplus", "Elu")},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_bounds_may_not_know_is_read_and_then_bounded_or_refused_by_name(name, tmp_path):
    nodes, shape, constants = OTHERS[name]
    model = from_onnx(saved(graph_model(nodes, shape, **constants), tmp_path / "f.onnx"))
    x = torch.randn(3, *model.example.shape[1:], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(x), model.reference(x), rtol=1e-4, atol=1e-5)
    try:
        network = BoundedNetwork(model, model.example)
    except UnsupportedOperator as error:
        assert name in str(error)
    else:
        bounds = network.bounds(x, 0.1, domain="free")
        assert (bounds.lower <= model(x)).all() and (bounds.upper >= model(x)).all()


def test_weights_keep_their_precision(tmp_path):
    nodes, shape, constants = GRAPHS["gemm"]
    model = from_onnx(saved(graph_model(nodes, shape, **constants), tmp_path / "f.onnx"))
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    double = graph_model([node("MatMul", "x w")], [1, 4], kind=TensorProto.DOUBLE, w=np.ones((4, 2)))
    model = from_onnx(saved(double, tmp_path / "d.onnx"))
    assert model.example.dtype == model(model.example).dtype == torch.float64


def test_a_dynamic_first_axis_is_the_batch(tmp_path):
    model = from_onnx(saved(graph_model([node("Relu", "x")], ["n", 4]), tmp_path / "f.onnx"))
    assert model.example.shape == (1, 4)


def test_a_model_goes_to_other_processes(tmp_path):
    nodes, shape, constants = GRAPHS["convolution"]
    model = from_onnx(saved(graph_model(nodes, shape, **constants), tmp_path / "f.onnx"))
    other, x = pickle.loads(pickle.dumps(model)), torch.rand(2, *model.example.shape[1:])
    assert torch.equal(other(x), model(x)) and torch.equal(other.reference(x), model.reference(x))


def test_weights_beside_the_file_are_found(tmp_path):
    file = graph_model([node("MatMul", "x w")], [1, 4], w=numbers(4, 3))
    onnx.save(file, str(tmp_path / "f.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
    assert from_onnx(tmp_path / "f.onnx").example.shape == (1, 4)


def test_an_unsupported_node_is_named_with_its_operator(tmp_path):
    with pytest.raises(UnsupportedOperator, match=r"'Erf_y' \(Erf\)"):
        from_onnx(saved(graph_model([node("Erf", "x")], [1, 4]), tmp_path / "f.onnx"))


def test_a_wrong_reading_is_noticed(tmp_path, monkeypatch):
    from verify.complete.onnx.value import RULES

    monkeypatch.setitem(RULES, "Relu", RULES["Identity"])
    with pytest.raises(InputError, match="differ from onnxruntime's"):
        from_onnx(saved(graph_model([node("Relu", "x")], [1, 4]), tmp_path / "f.onnx"))


def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    path = saved(graph_model([node("Relu", "x")], [1, 4]), tmp_path / "f.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'dsrna\[onnx\]'"):
        from_onnx(path)


def test_an_exported_network_is_the_same(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 3)).eval()
    x = torch.rand(4, 1, 8, 8)
    written = to_onnx(model, x[:1], tmp_path / "f.onnx")
    torch.testing.assert_close(written(x), model(x))
    weights = {tuple(buffer.shape): buffer for buffer in written.buffers()}
    assert torch.equal(weights[(3, 1, 3, 3)], model[0].weight)  # batch norm is not folded into it
    with pytest.raises(InputError, match="training mode"):
        to_onnx(model.train(), x[:1], tmp_path / "g.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["f.onnx"]


def test_inputs_that_are_no_parameters_of_older_files(tmp_path):
    """Before version 4 of the format, initial values are inputs too."""
    file = graph_model([node("MatMul", "x w")], [1, 4], w=numbers(4, 3), opset=8)
    file.ir_version = 3
    file.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
    assert from_onnx(saved(file, tmp_path / "f.onnx")).example.shape == (1, 4)

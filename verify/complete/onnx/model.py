"""Networks in ONNX files as torch modules, compared with onnxruntime when they are read."""

from __future__ import annotations

import gzip
import importlib
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from verify.checks.errors import InputError, first_line
from verify.complete.onnx.value import RULES, Argument, Constant, Node, Value
from verify.operators import UnsupportedOperator

TYPES = {1: torch.float32, 11: torch.float64}
"""Of inputs and weights, by ONNX's numbers for them."""
TRIALS = 4
"""Random inputs on which our outputs are compared with onnxruntime's."""
AGREEMENT = 1e-4
"""How far apart they may be, relative to one and the largest of them."""


MOST_INPUTS = 10**7
"""Numbers in an input: more than any image has."""


class Step(NamedTuple):
    """A node that depends on the image."""

    name: str
    kind: str
    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Runtime:
    """An ONNX file as onnxruntime computes it.

    Args:
        source: its path, where it is on disk as it is: weights may lie in files beside it. Else its content.

    Raises:
        InputError: the package is missing, or does not take the file.
    """

    def __init__(self, source: str | bytes) -> None:
        self.source = source
        runtime = package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong comes as an error
        try:
            # Its fallback would print, and try the same once more.
            self.session = runtime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:
            raise InputError(f"onnxruntime does not take it: {first_line(error)}") from error

    def __reduce__(self) -> tuple[type[Runtime], tuple[str | bytes]]:
        return Runtime, (self.source,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Runtime:
        return self

    def __call__(self, x: Float[Tensor, "b *shape"], name: str, shape: tuple[int, ...]) -> Float[Tensor, "b k"]:
        """The outputs, one image after the other, in ONNX's shape for one."""
        arrays = x.detach().cpu().numpy()
        rows = [self.session.run(None, {name: row.reshape(shape)})[0].reshape(1, -1) for row in arrays]
        return torch.from_numpy(np.concatenate(rows))


class OnnxModel(nn.Module):
    """The network of an ONNX file: input "b *shape", output "b k".

    Weights are buffers in the file's precision; what the file computes of them alone is computed once, as onnx's
    reference does. Make it with `from_onnx`.

    Attributes:
        shape: of the input in the file, for one image.
        example: an input, "1 *shape".
    """

    def __init__(self, model: Any, weights: Mapping[str, np.ndarray], runtime: Runtime) -> None:
        super().__init__()
        graph = model.graph
        self.runtime = runtime
        self.input, self.shape, dtype = _input(graph)
        self.batched = len(self.shape) > 1 and self.shape[0] == 1
        self.example = torch.zeros((1, *self.shape[self.batched :]), dtype=dtype)
        self.output = _output(graph)
        self.arrays: dict[str, np.ndarray] = {}
        self.steps: list[Step] = []
        self._names: dict[str, str] = {}
        self._read(model, weights)

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b k"]:
        """The outputs, flattened."""
        values = {self.input: Value(x, self.batched)}
        for step in self.steps:
            self._run(step, values)
        return values[self.output].tensor.reshape(len(x), -1)

    def reference(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b k"]:
        """The outputs as onnxruntime computes them from the file."""
        return self.runtime(x.to(self.example.dtype), self.input, self.shape)

    def _read(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        """The steps, from the file's nodes; those that do not depend on the image become constants."""
        for name, array in weights.items():
            self._keep(name, array)
        values = {self.input: Value(self.example, self.batched)}
        read = {name for proto in model.graph.node for name in proto.input} | {self.output}
        for proto in model.graph.node:
            missing = [name for name in proto.input if name and name not in self.arrays and name not in values]
            if missing:
                raise InputError(f"node {_title(proto)} reads {missing[0]!r}, which nothing makes")
            varying = [name for name in proto.input if name in values]
            if not varying:
                self._fold(proto, model.opset_import)
            elif proto.op_type in ("Shape", "Size"):
                self._keep(proto.output[0], _measured(proto, values[varying[0]].shape))
            else:
                self.steps.append(_step(proto, read))
                self._run(self.steps[-1], values)
        if self.output not in values:
            raise InputError(f"the output {self.output!r} does not depend on the input")
        if not values[self.output].tensor.numel():
            raise InputError(f"the output {self.output!r} has no elements")

    def _keep(self, name: str, array: np.ndarray) -> None:
        """A constant: real numbers as a buffer, too."""
        self.arrays[name] = array
        if array.dtype == np.float16:
            raise InputError(f"{name!r} is of half precision, which rounds by as much as is certified")
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise InputError(f"{name!r} holds values that are no numbers")
        self._names[name] = f"constant_{len(self._names)}"
        value = torch.from_numpy(np.array(array)) if array.dtype.kind in "fiub" else torch.zeros(())
        self.register_buffer(self._names[name], value)

    def _fold(self, proto: Any, opsets: Any) -> None:
        onnx, reference = importlib.import_module("onnx"), importlib.import_module("onnx.reference")
        inputs = {name: self.arrays[name] for name in proto.input if name}
        info = [onnx.helper.make_tensor_value_info(name, 0, None) for name in inputs]
        results = [onnx.helper.make_tensor_value_info(name, 0, None) for name in proto.output if name]
        graph = onnx.helper.make_graph([proto], "constant", info, results)
        try:
            single = onnx.helper.make_model(graph, opset_imports=opsets)
            with np.errstate(all="ignore"):
                found = reference.ReferenceEvaluator(single).run(None, inputs)
        except Exception as error:
            raise InputError(f"node {_title(proto)} cannot be computed: {first_line(error)}") from error
        for name, array in zip([name for name in proto.output if name], found, strict=True):
            self._keep(name, np.asarray(array))

    def _run(self, step: Step, values: dict[str, Value]) -> None:
        arguments = [self._argument(name, values) for name in step.inputs]
        try:
            found = RULES[step.kind](step.node, *arguments)
        except (InputError, ArithmeticError, AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"node {step.name!r} ({step.kind}): {first_line(error)}") from error
        values.update(zip(step.outputs, found if isinstance(found, tuple) else (found,), strict=False))

    def _argument(self, name: str, values: Mapping[str, Value]) -> Argument:
        if not name:
            return None
        return values[name] if name in values else Constant(self.arrays[name], getattr(self, self._names[name]))


def from_onnx(path: str | Path) -> OnnxModel:
    """The network in an ONNX file, as a torch module.

    The module takes any number of images; its input has the file's shape, with the batch's axis in the place of a first
    axis of size 1 (in front, where the file has none), and its outputs are flattened. Its outputs on random inputs are
    compared with onnxruntime's. `BoundedNetwork(model, model.example)` bounds it.

    Raises:
        InputError: the packages `onnx` and `onnxruntime` are missing; the file is not there, no ONNX, or has several
            inputs or outputs or axes of no fixed size; or our outputs differ from onnxruntime's.
        UnsupportedOperator: a node has an operator that is not known here; it is named.

    Example:
        >>> model = verify.from_onnx("network.onnx")
        >>> network = verify.BoundedNetwork(model, model.example)
    """
    path = Path(path)
    onnx = package("onnx")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        model = onnx.load_model_from_string(content)
        onnx.load_external_data_for_model(model, str(path.parent))
        to_array = importlib.import_module("onnx.numpy_helper").to_array
        weights = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:
        said = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{path}: no ONNX file that can be read: {said}") from error
    try:
        _check_names(model.graph)
        _input(model.graph)  # first: onnxruntime would make room for an input of any size
        network = OnnxModel(model, weights, Runtime(content if path.suffix == ".gz" else str(path))).eval()
        _compare(network)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    return network


def _compare(network: OnnxModel) -> None:
    """Our outputs with onnxruntime's, on pixels and on numbers of any sign.

    Raises:
        InputError: they are too far apart, or not finite.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (TRIALS, *network.example.shape[1:])
    pixels, numbers = torch.rand(shape, generator=generator), torch.randn(shape, generator=generator)
    x = torch.cat([pixels, numbers]).to(network.example)
    ours = network(x)
    try:
        theirs = network.reference(x)
    except Exception as error:
        raise InputError(f"onnxruntime cannot compute it: {first_line(error)}") from error
    if not torch.isfinite(theirs).all():
        raise InputError("its outputs on random inputs are not finite")
    tolerance = float(AGREEMENT * (1 + theirs.abs().amax()))
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0.0, atol=tolerance):
        raise InputError("our outputs differ from onnxruntime's; the file cannot be trusted to mean what we make of it")


def package(name: str) -> ModuleType:
    """The optional package of this name.

    Raises:
        InputError: it is missing; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"ONNX files need the package {name}; pip install 'dsrna[onnx]'") from None


def _check_names(graph: Any) -> None:
    """Protobuf gives bytes for a string that is no UTF-8."""
    values = (value.name for part in (graph.input, graph.output, graph.initializer) for value in part)
    nodes = (name for proto in graph.node for name in (proto.name, proto.op_type, *proto.input, *proto.output))
    if not all(isinstance(name, str) for name in itertools.chain(values, nodes)):
        raise InputError("holds names that are no text")


def _input(graph: Any) -> tuple[str, tuple[int, ...], torch.dtype]:
    """Name, shape for one image, and type of the only input."""
    initial = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initial]
    if len(inputs) != 1:
        raise InputError(f"has {len(inputs)} inputs; networks of one are known")
    (value,) = inputs
    kind = value.type.tensor_type
    if kind.elem_type not in TYPES:
        raise InputError(f"its input {value.name!r} is of no type that is known; float32 and float64 are")
    shape = []
    for axis, size in enumerate(kind.shape.dim):
        if not (fixed := size.dim_value if size.HasField("dim_value") else 1 if axis == 0 else 0) > 0:
            raise InputError(f"axis {axis} of its input {value.name!r} has no fixed size; export it with one")
        shape.append(fixed)
    if not shape or math.prod(shape) > MOST_INPUTS:
        raise InputError(f"its input {value.name!r} has the shape {shape}, which is none of an image")
    return value.name, tuple(shape), TYPES[kind.elem_type]


def _output(graph: Any) -> str:
    if len(graph.output) != 1:
        raise InputError(f"has {len(graph.output)} outputs; networks of one are known")
    name: str = graph.output[0].name
    return name


def _step(proto: Any, read: set[str]) -> Step:
    helper = importlib.import_module("onnx.helper")
    if proto.op_type not in RULES or proto.domain not in ("", "ai.onnx"):
        raise UnsupportedOperator(f"node {_title(proto)} has an operator that is not known; known are {_known()}")
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    outputs = tuple(proto.output)
    used = len(outputs) if proto.op_type == "Split" else sum(name in read for name in outputs)
    return Step(proto.name or proto.output[0], proto.op_type, Node(attributes, used), tuple(proto.input), outputs)


def _measured(proto: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Of a node that asks for the shape of what depends on the image."""
    helper = importlib.import_module("onnx.helper")
    ends = {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}
    if proto.op_type == "Size":
        return np.array(math.prod(shape), dtype=np.int64)
    return np.array(shape[slice(ends.get("start", 0), ends.get("end"))], dtype=np.int64)


def _title(proto: Any) -> str:
    return f"{proto.name or (proto.output[0] if proto.output else '')!r} ({proto.op_type})"


def _known() -> str:
    return ", ".join(sorted(RULES))

"""Networks into ONNX files."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from verify.checks import inputs as checks
from verify.checks.errors import InputError, first_line
from verify.checks.inputs import Array
from verify.complete.onnx.model import OnnxModel, from_onnx, package


def to_onnx(model: nn.Module, example: Float[Tensor, "b *shape"] | Array, path: str | Path) -> OnnxModel:
    """Write a network in evaluation mode as ONNX, for one image, in the example's precision.

    Nothing is fused: the file holds the same network, weight by weight. It is read back by `from_onnx`, which compares
    it with onnxruntime, and then compared with the model.

    Args:
        model: one input, one output "b k".
        example: an input; its values do not matter.
        path: where to; nothing is written there if anything fails.

    Returns:
        What was read back.

    Raises:
        InputError: the packages `onnx` and `onnxruntime` are missing, the model is in training mode, torch cannot
            export it, or the file computes something else.
    """
    package("onnx")
    model = checks.module(model)
    example = checks.pixels("example", example, *checks.place(model))[:1]
    path = Path(path)
    if any(part.training for part in model.modules()):
        raise InputError("the model is in training mode; call eval() before it is exported")
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(example.shape, generator=generator).to(example)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        _export(model, image, temporary)
        written = from_onnx(temporary)
        with torch.no_grad():
            expected, found = model(image), written(image)
        if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-4, atol=1e-4):
            raise InputError("the exported network computes something else than the model")
        os.replace(temporary, path)
    written.runtime.source = str(path)
    return written


def _export(model: nn.Module, image: Float[Tensor, "1 *shape"], path: Path) -> None:
    # The older of torch's two exporters: it needs no further packages. PRESERVE keeps batch norm as it is, where
    # EVAL would fold it into convolutions, in float32.
    kept = torch.onnx.TrainingMode.PRESERVE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (image,), str(path), dynamo=False, training=kept, input_names=["X"], output_names=["Y"]
            )
    except Exception as error:
        raise InputError(f"torch cannot export the model: {first_line(error)}") from error

"""The network that is certified, attacked or audited: of an architecture, an ONNX file, or a function of the user's."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from robust_nas.data import Data
from robust_nas.files import digest
from robust_nas.genotype import Architecture
from robust_nas.options.attacks import AttackOptions
from robust_nas.options.certification import AuditOptions, CertifyOptions
from robust_nas.training import load_trained
from robust_nas.zoo import find
from verify import InputError, from_onnx
from verify.checks.errors import first_line

Named: TypeAlias = CertifyOptions | AuditOptions | AttackOptions
"""What names a network."""


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode, and what tells it apart.

    Attributes:
        network: of pixels in [0, 1], "b c h w" as the data set has them, to logits.
        digest: SHA-256 of what it is made from.
        name: how it was named.
    """

    network: nn.Module
    digest: str
    name: str


def architecture(options: Named, trains: bool = False) -> Architecture | None:
    """The architecture that options name, or None where they name an ONNX file or a function.

    Args:
        trains: weights may be missing, because they are trained first.

    Raises:
        InputError: they name none of the three or several, or weights are missing or too many.
    """
    if sum(given is not None for given in (options.arch, options.onnx, options.model)) != 1:
        raise InputError("give one network: --arch, --onnx or --model")
    if options.arch is None:
        if options.weights is not None:
            raise InputError("--weights are of --arch; an ONNX file or a function brings its own")
        return None
    if options.weights is None and not trains:
        raise InputError("--arch needs its --weights")
    return find(options.arch)


def subject(options: Named, arch: Architecture | None, data: Data) -> Subject:
    """The network that options name, with the architecture that `architecture` found, for the images of a data set.

    Raises:
        InputError: a file is not what it should be, a function fails, or the network is of other images or classes.
    """
    if arch is not None:
        weights = Path(str(options.weights))
        return Subject(load_trained(arch, weights, data), digest(weights), str(weights))
    if options.onnx is not None:
        path = Path(options.onnx)
        network: nn.Module = from_onnx(path)
        found = Subject(_fitted(network, data, path), _fingerprint(network, path.read_bytes()), str(path))
    else:
        network = _made(str(options.model))
        found = Subject(network, _fingerprint(network), str(options.model))
    _check(found, data)
    return found


def _fitted(network: Any, data: Data, path: Path) -> nn.Module:
    """An ONNX file often takes a vector, or further axes of size 1; the order of the pixels must be the data set's."""
    image, wanted = data.test.images[:1].shape[1:], network.example.shape[1:]
    axes, others = ([size for size in shape if size > 1] for shape in (image, wanted))
    if image.numel() != wanted.numel() or axes != others and len(others) > 1:
        raise InputError(f"{path}: takes images of shape {tuple(wanted)}; those of {data.name} are {tuple(image)}")
    return network if image == wanted else nn.Sequential(nn.Flatten(), nn.Unflatten(1, wanted), network)


def _made(spec: str) -> nn.Module:
    """What the function MODULE:FUNCTION returns; the folder that one is in counts as one of modules."""
    module, _, name = spec.rpartition(":")
    if not module or not name:
        raise InputError(f"--model {spec}: must be MODULE:FUNCTION, such as networks:trained for networks.py")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # for good: processes that are given the network import the module again
    try:
        made = getattr(importlib.import_module(module), name)()
    except Exception as error:
        raise InputError(f"--model {spec}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"--model {spec}: returned {type(made).__name__}, no torch.nn.Module")
    return made.eval()


@torch.no_grad()
def _check(found: Subject, data: Data) -> None:
    """Images must give logits, one a class.

    Raises:
        InputError: they do not.
    """
    images = data.test.images[:2]
    try:
        logits = found.network(images)
    except Exception as error:
        shape = tuple(images.shape[1:])
        raise InputError(f"{found.name}: fails on images of {data.name}, {shape}: {first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.shape != (len(images), data.classes):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"{found.name}: gives {given} for {len(images)} images; {data.name} needs logits of {data.classes} classes"
        )
    if not torch.isfinite(logits).all():
        raise InputError(f"{found.name}: gives logits that are not finite on images of {data.name}")


def _fingerprint(network: nn.Module, more: bytes = b"") -> str:
    """SHA-256 of the tensors of a network, and of more."""
    found = sha256(more)
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

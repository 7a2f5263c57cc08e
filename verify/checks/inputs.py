"""What users give, checked in one place.

Each function hands back what it was given, fit for use, or raises an `InputError` that says in one line what is wrong.
Arrays and lists become tensors (`tensor`), on the device of the network. Labels, radii and specifications follow the
images to their device; images that are tensors are moved nowhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from verify.checks.errors import InputError, did_you_mean, first_line
from verify.checks.modes import differentiable

T = TypeVar("T")
Array: TypeAlias = np.ndarray | Sequence[Any]
"""What becomes a tensor: an array, or a list of numbers, lists, arrays or tensors."""

PRECISIONS = (torch.float32, torch.float64)
"""What bounds are computed in: half precision rounds by as much as certified radii are."""


def number(name: str, value: Any, least: float | None = None, endless: bool = False) -> float:
    """A number of at least `least`, or a positive one; finite, if it may not be endless."""
    amount = _amount(value)
    if amount is None:
        raise InputError(f"{name} must be a number, not {_described(value)}")
    if not (amount > 0 if least is None else amount >= least):
        raise InputError(f"{name} must be {'positive' if least is None else f'at least {least:g}'}, not {amount}")
    if amount == torch.inf and not endless:
        raise InputError(f"{name} must be finite")
    return amount


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, and of 64 bits."""
    try:
        count = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, not {_described(value)}") from None
    if not least <= count < 2**63:
        raise InputError(f"{name} must be a whole number of at least {least}, and of 64 bits, not {count}")
    return count


def choice(name: str, value: Any, options: Collection[str]) -> str:
    """One of the words."""
    if not isinstance(value, str) or value not in options:
        raise InputError(f"{name} {_described(value)} is not one of {', '.join(options)}{did_you_mean(value, options)}")
    return value


def function(name: str, value: Any) -> Callable[..., Any]:
    """Something to call."""
    if not callable(value):
        raise InputError(f"{name} must be a function, not {_described(value)}")
    return value


def instance(name: str, value: Any, kind: type[T], how: str) -> T:
    """An object of our own; `how` says how to make one."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be a verify.{kind.__name__}, not {_described(value)}; {how}")
    return value


def tensor(name: str, value: Any, device: torch.device | None = None, fractions: torch.dtype = torch.float32) -> Tensor:
    """A dense tensor of real numbers, fit for derivatives; one of an array, or of a list of numbers, lists or arrays.

    Args:
        device: of what is made of an array or a list, which have none.
        fractions: precision of a list, which has none. An array keeps its own.
    """
    if not isinstance(value, Tensor):
        value = _made(name, value, fractions).to(device)
    if value.layout != torch.strided or value.is_nested:
        raise InputError(f"{name} must be dense; use to_dense()")
    if value.is_complex() or value.is_quantized:
        raise InputError(f"{name} must hold real numbers, not {value.dtype}")
    if value.is_meta:
        raise InputError(f"{name} must hold values; on the meta device there are none")
    return differentiable(value)


def _made(name: str, value: Any, fractions: torch.dtype) -> Tensor:
    """A tensor of an array or a list; a copy, as a region must not change with the array."""
    listed = isinstance(value, list | tuple)
    if not listed and not hasattr(value, "__array__"):
        raise InputError(f"{name} must be a tensor, an array or a list, not {_described(value)}")
    try:
        if listed and any(hasattr(item, "__array__") for item in value):
            return torch.stack([tensor(name, item, None, fractions) for item in value])
        array = np.asarray(value)
        made = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} does not make a tensor: {first_line(error)}") from error
    return made.to(fractions) if listed and made.is_floating_point() else made


def pixels(
    name: str, value: Any, device: torch.device | None = None, fractions: torch.dtype = torch.float32
) -> Float[Tensor, "b *shape"]:
    """A batch of images in one of our precisions; see `tensor`."""
    images = tensor(name, value, device, fractions)
    if images.dtype not in PRECISIONS:
        raise InputError(f"{name} must be torch.float32 or torch.float64, not {images.dtype}; convert the pixels")
    if images.dim() < 2 or not images[:1].numel() and len(images):
        raise InputError(f'{name} must be a batch of images, of shape "b *shape", not {tuple(images.shape)}')
    return images


def place(network: Any) -> tuple[torch.device, torch.dtype]:
    """The device and precision of what a network computes on; the CPU and float32 where it has no numbers."""
    numbers = [network.example] if hasattr(network, "example") else []
    numbers += list(network.parameters()) if isinstance(network, nn.Module) else []
    first = next((each for each in numbers if each.is_floating_point()), torch.empty(0))
    return first.device, first.dtype


def batch(images: Any, example: Float[Tensor, "n *shape"]) -> Float[Tensor, "b *shape"]:
    """Images as a network takes them: of its example's shape and on its device, one or more."""
    images, shape = tensor("images", images, example.device, example.dtype), tuple(example.shape[1:])
    if tuple(images.shape[1:]) != shape or not len(images):
        raise InputError(f"the network takes images of shape {shape}, one or more; given is {tuple(images.shape)}")
    if images.device != example.device:
        raise InputError(f"the images are on {images.device}, the network on {example.device}; move one of them")
    return pixels("images", images)


def alike(images: Any, example: Float[Tensor, "n *shape"]) -> Float[Tensor, "b *shape"]:
    """The same, of the example's precision, too."""
    images = batch(images, example)
    if images.dtype != example.dtype:
        raise InputError(f"the images are {images.dtype}, the network {example.dtype}; convert one of them")
    return images


def like(name: str, value: Any, images: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """A tensor of the very form of the images."""
    given = tensor(name, value, images.device, images.dtype)
    if given.shape != images.shape or given.dtype != images.dtype or given.device != images.device:
        form = f"{images.dtype} of shape {tuple(images.shape)} on {images.device}"
        raise InputError(f"{name} must be as the images are: {form}")
    return given


def vectors(value: Any, images: Float[Tensor, "b *shape"], outputs: int) -> Float[Tensor, "r b k"]:
    """Vectors of the outputs, some for every image."""
    given = tensor("vectors", value, images.device, images.dtype)
    if given.dim() != 3 or given.shape[1:] != (len(images), outputs) or not len(given):
        expected = f"(r, {len(images)}, {outputs})"
        raise InputError(f'vectors must have shape "r b k", here {expected}, not {tuple(given.shape)}')
    return given.to(images)


def classes(
    name: str, value: Any, most: int, count: int | None = None, device: torch.device | None = None
) -> Int[Tensor, " b"]:
    """One class an image, as torch.int64: bytes would pick elements as a mask does.

    Args:
        most: how many classes there are.
        count: of the images, where there are any.
    """
    labels = tensor(name, value)
    count = labels.shape[:1].numel() if count is None else count
    if labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
        given = f"given is {labels.dtype} of shape {tuple(labels.shape)}"
        raise InputError(f"{name} must be {count} whole numbers, one an image; {given}")
    labels = labels.to(labels.device if device is None else device, torch.int64)
    if not ((labels >= 0) & (labels < most)).all():
        raise InputError(f"{name} must be 0 to {most - 1}, the network's classes")
    return labels


def others(value: Any, labels: Int[Tensor, " b"], most: int) -> Int[Tensor, " b"] | None:
    """Targets: one class an image that is not its label, if any are given."""
    if value is None:
        return None
    targets = classes("targets", value, most, len(labels), labels.device)
    if (targets == labels).any():
        raise InputError("a target is the label of its image; take another class")
    return targets


def radii(name: str, value: Any, images: Float[Tensor, "b *shape"], endless: bool = False) -> Float[Tensor, " b"]:
    """One radius an image, from one for all or one an image: in float64, and finite in the images' precision."""
    amount = _amount(value)
    if amount is None and (value is None or isinstance(value, bool | str)):
        raise InputError(f"{name} must be a number, or one number an image, not {_described(value)}")
    given = tensor(name, value if amount is None else [amount], fractions=torch.float64)
    if given.dtype == torch.bool:
        raise InputError(f"{name} must be a number, or one number an image, not {given.dtype}")
    if given.dim() > 1 or given.dim() == 1 and len(given) not in (1, len(images)):
        raise InputError(f"{name} must be one number, or {len(images)}, one an image; given is {tuple(given.shape)}")
    given = given.to(images.device, torch.float64)
    if not (given >= 0).all() or not endless and torch.isinf(given.to(images.dtype)).any():
        raise InputError(f"{name} must be {'numbers' if endless else 'finite'} and not negative")
    return given.expand(len(images))


def specification(value: Any, images: Float[Tensor, "b *shape"], outputs: int) -> Float[Tensor, "b s k"]:
    """Rows of linear functions of the outputs, for every image; the outputs themselves if none are given."""
    if value is None:
        value = torch.eye(outputs)
    rows = tensor("specification", value, images.device, images.dtype)
    if rows.dim() not in (2, 3):
        raise InputError(f'specification must have shape "s k" or "b s k", not {tuple(rows.shape)}')
    if rows.shape[-1] != outputs:
        raise InputError(f"specification has {rows.shape[-1]} columns, the network {outputs} outputs")
    if not rows.shape[-2]:
        raise InputError("specification has no rows")
    if rows.dim() == 3 and len(rows) not in (1, len(images)):
        raise InputError(f"specification is for {len(rows)} images; there are {len(images)}")
    rows = rows.to(images)
    if not torch.isfinite(rows).all():
        raise InputError("specification holds values that are not finite")
    return rows.expand(len(images), *rows.shape[-2:])


def intervals(
    name: str, value: Any, shapes: Mapping[str, torch.Size], images: Float[Tensor, "b *shape"], complete: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Lower and upper bounds of neurons, as an earlier result has them.

    Args:
        shapes: of one image's neurons, by the names of the nodes that may be bounded.
        complete: whether they all must be.
    """
    if not isinstance(value, Mapping) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value.values()):
        raise InputError(f"{name} must be the intervals of an earlier result: pairs of tensors by the names of nodes")
    if unknown := [key for key in value if key not in shapes]:
        raise InputError(f"{name} has {unknown[0]!r}, which is no node of this network that has to be bounded")
    if complete and (missing := [key for key in shapes if key not in value]):
        raise InputError(f"{name} lacks the node {missing[0]!r}")
    form = images.device, images.dtype
    checked = {key: (tensor(name, pair[0], *form), tensor(name, pair[1], *form)) for key, pair in value.items()}
    for key, pair in checked.items():
        expected = (len(images), *shapes[key])
        if any(side.shape != expected or side.dtype != images.dtype or side.device != images.device for side in pair):
            raise InputError(f"{name} of {key} must be {images.dtype} of shape {expected} on {images.device}")
    return checked


def module(model: Any) -> nn.Module:
    """The model, without what spreads it over devices or compiles it.

    Raises:
        InputError: it is no torch module, one that is compiled for good, or has values that no proof can be about.
    """
    model = _bare(model)
    if not isinstance(model, nn.Module):
        how = "take its module()" if hasattr(model, "module") else "wrap it in one"
        raise InputError(f"the model must be a torch.nn.Module, not {_described(model)}; {how}")
    for name, part in model.named_modules():
        where = name or "the model"
        if isinstance(part, torch.jit.ScriptModule):
            raise InputError(f"{where} is TorchScript, which cannot be traced; give the module that it was made from")
        if type(part).__module__.startswith("torch.ao.nn") and ".quantized" in type(part).__module__:
            raise InputError(f"{where} is quantised, which has no sound rule; give the model as it was before")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        _real(name, value)
    return model


def _bare(model: Any) -> Any:
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else _bare(compiled)


def _real(name: str, value: Tensor) -> None:
    if value.is_meta:
        raise InputError(f"{name} is on the meta device, without values; load the model first")
    if value.is_quantized or value.is_complex():
        raise InputError(f"{name} is {value.dtype}, for which there are no sound rules")
    if value.is_floating_point() and value.dtype not in PRECISIONS:
        raise InputError(f"{name} is {value.dtype}, which rounds by as much as is certified; use model.float()")


def outputs(model: Callable[[Tensor], Any], images: Float[Tensor, "b *shape"]) -> Any:
    """What the user's model makes of the images; an error of its own in one line.

    Raises:
        InputError: with what the model says.
    """
    try:
        return model(images)
    except InputError:
        raise
    except Exception as error:
        given = f"a batch of {len(images)} of shape {tuple(images.shape[1:])}, {images.dtype} on {images.device}"
        raise InputError(f"the model does not take {given}: {first_line(error)}") from error


def logits(model: Callable[[Tensor], Any], images: Float[Tensor, "b *shape"]) -> Float[Tensor, "b k"]:
    """The same, where the model has outputs of the form that a classifier's have."""
    if not len(images):
        raise InputError("there are no images")
    found = outputs(model, images)
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(images):
        raise InputError('the network must have one output, of shape "b k": wrap it so that it has')
    return found


def _amount(value: Any) -> float | None:
    """A number as a float; nothing for what is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return torch.inf


def _described(value: Any) -> str:
    """A short value itself, and the type of another."""
    return repr(value) if value is None or isinstance(value, (str, int, float)) else type(value).__name__

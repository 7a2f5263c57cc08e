"""Data sets that torchvision fetches and reads whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from robust_nas.data import Examples
from verify.checks.errors import InputError, first_line


def torchvision_datasets(name: str) -> ModuleType:
    """torchvision's data sets, imported when one is asked for: that takes a second.

    Args:
        name: of the data set that needs them.

    Raises:
        InputError: there is no torchvision, or none that fits this torch.
    """
    try:
        return import_module("torchvision.datasets")
    except (ImportError, RuntimeError) as error:
        reason = first_line(error)
        raise InputError(f"{name}: needs torchvision ({reason}); `dsrna doctor` says how to get it") from error


def downloaded(
    name: str,
    class_name: str,
    root: Path,
    download: bool,
    shape: tuple[int, int, int],
    classes: int = 10,
    labels: str = "targets",
    parts: Sequence[Mapping[str, object]] = ({"train": True}, {"train": False}),
) -> tuple[Examples, Examples]:
    """Training and test images of a torchvision data set whose `data` are bytes, `n h w`, `n h w c` or `n c h w`.

    Args:
        labels: where the data set has its labels.
        parts: what its class takes for the one and for the other.

    Raises:
        InputError: torchvision is missing, or the files are, or they cannot be read.
    """
    reader = getattr(torchvision_datasets(name), class_name)
    found = []
    for part in parts:
        try:
            read = reader(root, **part, download=download)
            numbers = torch.as_tensor(getattr(read, labels), dtype=torch.int64)
            found.append(_whole(torch.as_tensor(read.data), numbers, shape, classes))
        except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
            raise InputError(
                f"{name}: no complete data in {root.resolve()} ({reason}); "
                "give their folder with --data DIR, or fetch them with --download"
            ) from error
    return found[0], found[1]


def _whole(pixels: Tensor, labels: Tensor, shape: tuple[int, int, int], classes: int) -> Examples:
    """The examples of a part, once nothing is missing: files that were mixed up can be read as well.

    Raises:
        ValueError: they are not what the data set holds.
    """
    images = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels
    if images.shape[1:] != shape:
        images = images.permute(0, 3, 1, 2)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    if images.shape[1:] != shape:
        raise ValueError(f"images of shape {tuple(images.shape[1:])}, not {shape}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels {int(labels.min())} to {int(labels.max())}, not 0 to {classes - 1}")
    return Examples(images.float().contiguous() / 255, labels)

"""Data sets that torchvision fetches and reads whole."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from robust_nas.data import Examples
from verify.checks.errors import InputError

CLASSES = 10


def downloaded(
    name: str, class_name: str, root: Path, download: bool, shape: tuple[int, int, int]
) -> tuple[Examples, Examples]:
    """Training and test images of a torchvision data set whose `data` are bytes, `n h w` or `n h w c`."""
    from torchvision import datasets  # here, because it takes a second to import

    reader = getattr(datasets, class_name)
    parts = []
    for train in (True, False):
        try:
            part = reader(root, train=train, download=download)
            parts.append(_whole(torch.as_tensor(part.data), torch.as_tensor(part.targets), shape))
        except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
            raise InputError(
                f"{name}: no complete data in {root.resolve()} ({reason}); "
                "give their folder with --data DIR, or fetch them with --download"
            ) from error
    return parts[0], parts[1]


def _whole(pixels: Tensor, labels: Tensor, shape: tuple[int, int, int]) -> Examples:
    """The examples of a part, once nothing is missing: files that were mixed up can be read as well.

    Raises:
        ValueError: they are not what the data set holds.
    """
    images = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    if images.shape[1:] != shape:
        raise ValueError(f"images of shape {tuple(images.shape[1:])}, not {shape}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise ValueError(f"labels {int(labels.min())} to {int(labels.max())}, not 0 to {CLASSES - 1}")
    return Examples(images.float().contiguous() / 255, labels)

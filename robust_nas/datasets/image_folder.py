"""Folders of images, read file by file: ImageNet, or a person's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from robust_nas.data import Data, FileExamples
from robust_nas.datasets.base import DataSet, Epsilons
from robust_nas.datasets.downloads import torchvision_datasets
from robust_nas.images import ImageFiles
from verify.checks.errors import InputError


def load(root: Path, download: bool, *, name: str, size: int) -> Data:
    """Folders train/CLASS and val/CLASS (or test/CLASS) of images; there is nothing to fetch.

    Training images are random crops, mirrored at random, the others' middle is cut out, as usual with ImageNet. Those
    for testing come in a random order, always the same.
    """
    read = torchvision_datasets(name).ImageFolder
    try:
        folders = [read(root / part) for part in ("train", "val" if (root / "val").is_dir() else "test")]
    except OSError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InputError(
            f"{name}: no images in {root.resolve()} ({reason}); "
            "give the folder that holds train/CLASS/* and val/CLASS/* (or test/CLASS/*) with --data DIR"
        ) from error
    first, second = (folder.classes for folder in folders)
    if first != second:
        lonely = ", ".join(sorted(set(first) ^ set(second)))
        raise InputError(f"{name}: {root.resolve()} has classes for training or for testing alone: {lonely}")
    if len(first) < 2:
        raise InputError(f"{name}: {root.resolve()} has one class, {first[0]}; there is nothing to tell apart")
    train, test = (
        FileExamples(ImageFiles([path for path, _ in folder.samples], size), torch.tensor(folder.targets))
        for folder in folders
    )
    # Folders come class by class; attacks and certificates take the first images, which must not be of a few classes.
    order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
    return Data(name, train, test.part(order), classes=len(first), mean=mean, std=std, augment=True)


def _images(name: str, size: int) -> DataSet:
    return DataSet(
        partial(load, name=name, size=size),
        attacks=Epsilons(fgsm=2 / 255, linf=2 / 255, l2=1.0),
        trainings={
            "adversarial": {"linf": 2 / 255, "l2": 0.5},
            "certified": {"linf": 1 / 255, "l2": 0.05},
            "tangent": {"l2": 0.05},
        },
        own_folder=True,
    )


IMAGEFOLDER, IMAGEFOLDER64 = _images("imagefolder", 224), _images("imagefolder64", 64)
"""At the size of ImageNet's images, and at one that a small network can have."""

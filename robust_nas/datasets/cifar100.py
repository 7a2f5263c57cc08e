"""CIFAR-100."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.cifar10 import CIFAR10
from robust_nas.datasets.downloads import downloaded


def load(root: Path, download: bool) -> Data:
    """The photographs of 100 classes in the form of CIFAR-10."""
    train, test = downloaded("cifar100", "CIFAR100", root, download, (3, 32, 32), classes=100)
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return Data("cifar100", train, test, classes=100, mean=mean, std=std, augment=True)


CIFAR100 = replace(CIFAR10, load=load)

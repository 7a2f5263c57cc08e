"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.base import DataSet, Epsilons
from robust_nas.datasets.downloads import downloaded


def load(root: Path, download: bool) -> Data:
    """50,000 and 10,000 photographs of 32 x 32 pixels, cropped and flipped in training."""
    train, test = downloaded("cifar10", "CIFAR10", root, download, (3, 32, 32))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Data("cifar10", train, test, classes=10, mean=mean, std=std, augment=True)


CIFAR10 = DataSet(
    load,
    attacks=Epsilons(fgsm=2 / 255, linf=8 / 255, l2=1.0),
    trainings={
        "adversarial": {"linf": 8 / 255, "l2": 0.5},
        "certified": {"linf": 2 / 255, "l2": 0.1},
        "tangent": {"l2": 0.1},
    },
)

"""CIFAR-100."""

from __future__ import annotations

from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.base import DataSet, Epsilons
from robust_nas.datasets.downloads import downloaded


def load(root: Path, download: bool) -> Data:
    """The photographs of 100 classes in the form of CIFAR-10."""
    train, test = downloaded("cifar100", "CIFAR100", root, download, (3, 32, 32), classes=100)
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return Data("cifar100", train, test, classes=100, mean=mean, std=std, augment=True)


CIFAR100 = DataSet(
    load,
    attacks=Epsilons(fgsm=2 / 255, linf=8 / 255, l2=1.0),
    trainings={
        "adversarial": {"linf": 8 / 255, "l2": 0.5},
        "certified": {"linf": 2 / 255, "l2": 0.1},
        "tangent": {"l2": 0.1},
    },
)

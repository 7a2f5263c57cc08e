"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017)."""

from __future__ import annotations

from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.base import DataSet, Epsilons
from robust_nas.datasets.downloads import downloaded


def load(root: Path, download: bool) -> Data:
    """60,000 and 10,000 clothes in the form of MNIST; the zeros around them are part of the network."""
    train, test = downloaded("fashionmnist", "FashionMNIST", root, download, (1, 28, 28))
    return Data("fashionmnist", train, test, classes=10, mean=(0.2860,), std=(0.3530,), pad=2)


FASHION_MNIST = DataSet(
    load,
    attacks=Epsilons(fgsm=2 / 255, linf=0.1, l2=1.0),
    trainings={
        "adversarial": {"linf": 0.1, "l2": 1.5},
        "certified": {"linf": 0.1, "l2": 0.5},
        "tangent": {"l2": 0.5},
    },
)

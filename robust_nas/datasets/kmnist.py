"""Kuzushiji-MNIST (Clanuwat et al. 2018)."""

from __future__ import annotations

from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.base import DataSet, Epsilons
from robust_nas.datasets.downloads import downloaded


def load(root: Path, download: bool) -> Data:
    """60,000 and 10,000 cursive Japanese letters in the form of MNIST, with the same zeros around them."""
    train, test = downloaded("kmnist", "KMNIST", root, download, (1, 28, 28))
    return Data("kmnist", train, test, classes=10, mean=(0.1918,), std=(0.3483,), pad=2)


KMNIST = DataSet(
    load,
    attacks=Epsilons(fgsm=2 / 255, linf=0.3, l2=1.0),
    trainings={
        "adversarial": {"linf": 0.3, "l2": 1.5},
        "certified": {"linf": 0.1, "l2": 0.5},
        "tangent": {"l2": 0.5},
    },
)

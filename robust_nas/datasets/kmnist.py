"""Kuzushiji-MNIST (Clanuwat et al. 2018)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.downloads import downloaded
from robust_nas.datasets.mnist import MNIST


def load(root: Path, download: bool) -> Data:
    """60,000 and 10,000 cursive Japanese letters in the form of MNIST, with the same zeros around them."""
    train, test = downloaded("kmnist", "KMNIST", root, download, (1, 28, 28))
    return Data("kmnist", train, test, classes=10, mean=(0.1918,), std=(0.3483,), pad=2)


KMNIST = replace(MNIST, load=load)

"""Street View House Numbers (Netzer et al. 2011)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.cifar10 import CIFAR10
from robust_nas.datasets.downloads import downloaded


def load(root: Path, download: bool) -> Data:
    """73,257 and 26,032 digits, without the extra ones; not augmented, because a mirrored digit is none."""
    train, test = downloaded(
        "svhn", "SVHN", root, download, (3, 32, 32), labels="labels", parts=({"split": "train"}, {"split": "test"})
    )
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    return Data("svhn", train, test, classes=10, mean=mean, std=std)


SVHN = replace(CIFAR10, load=load)

"""Street View House Numbers (Netzer et al. 2011)."""

from __future__ import annotations

from pathlib import Path

from robust_nas.data import Data
from robust_nas.datasets.base import DataSet, Epsilons
from robust_nas.datasets.downloads import downloaded


def load(root: Path, download: bool) -> Data:
    """73,257 and 26,032 digits, without the extra ones; not augmented, because a mirrored digit is none."""
    train, test = downloaded(
        "svhn", "SVHN", root, download, (3, 32, 32), labels="labels", parts=({"split": "train"}, {"split": "test"})
    )
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    return Data("svhn", train, test, classes=10, mean=mean, std=std)


SVHN = DataSet(
    load,
    attacks=Epsilons(fgsm=2 / 255, linf=8 / 255, l2=1.0),
    trainings={
        "adversarial": {"linf": 8 / 255, "l2": 0.5},
        "certified": {"linf": 2 / 255, "l2": 0.1},
        "tangent": {"l2": 0.1},
    },
)

"""Handwritten digits of 8 x 8 pixels, which ship with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import torch

from robust_nas.data import Data, Examples
from robust_nas.datasets.base import DataSet, Epsilons

TEST_PER_CLASS = 50


def load(root: Path, download: bool) -> Data:
    """1797 digits of 8 x 8 pixels; 50 of each class, evenly spaced in the file's order, are the test images.

    The other 1297 train. The file's order goes by writer, so both parts see all writers.
    """
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    bunch = load_digits()
    examples = Examples(
        torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(bunch.target)
    )
    test = torch.zeros(len(examples.labels), dtype=torch.bool)
    for digit in range(10):
        places = (examples.labels == digit).nonzero().squeeze(1)
        test[places[torch.linspace(0, len(places) - 1, TEST_PER_CLASS).long()]] = True
    return Data(
        name="digits",
        train=examples.take((~test).nonzero().squeeze(1)),
        test=examples.take(test.nonzero().squeeze(1)),
        classes=10,
        mean=(0.3048,),
        std=(0.3758,),
    )


# The paper has no digits. Ours: one of their 16 steps of grey; in l2 MNIST's 1 times the ratio of the image sides.
DIGITS = DataSet(
    load,
    attacks=Epsilons(fgsm=1 / 16, linf=1 / 16, l2=8 / 28),
    trainings={
        "adversarial": {"linf": 0.1, "l2": 0.5},
        "certified": {"linf": 0.1, "l2": 0.3},
        "tangent": {"l2": 0.3},
    },
)

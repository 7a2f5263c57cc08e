"""Threat models, and the epsilons of the paper, data set by data set."""

from __future__ import annotations

from dataclasses import dataclass

from robust_nas.datasets.base import Epsilons
from robust_nas.registry import DATASETS
from verify.checks.errors import InputError

NORM_NAMES = {"linf": "l-infinity", "l2": "l2"}


@dataclass(frozen=True)
class Threat:
    """Perturbations of norm at most epsilon, in [0,1] pixels, that keep the image in [0,1].

    Raises:
        InputError: no such norm, or epsilon is not above 0.
    """

    norm: str
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in NORM_NAMES:
            raise InputError(f"unknown norm {self.norm!r}; attacks know {', '.join(NORM_NAMES)}")
        if not self.epsilon > 0:
            raise InputError(f"epsilon must be above 0, not {self.epsilon}")


def paper_epsilons(dataset: str) -> Epsilons:
    """The epsilons of a data set, those of the paper where it has some.

    Raises:
        InputError: there are none.
    """
    known = DATASETS[dataset].attacks if dataset in DATASETS else None
    if known is None:
        raise InputError(f"no epsilon is known for {dataset}; give --norm and --epsilon")
    return known

"""Threat models, and the epsilons of the paper, data set by data set."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Epsilons:
    """Radii in [0,1] pixels.

    Attributes:
        fgsm: of FGSM in l-infinity.
        linf: of the other l-infinity attacks.
        l2: of the l2 attacks.
    """

    fgsm: float
    linf: float
    l2: float


PAPER_EPSILONS = {
    # DSRNA (CVPR 2021), section 4.3.1: PGD with 8/255 on CIFAR-10, 2/255 on ImageNet and .3 on MNIST, FGSM with 2/255
    # on all three, AutoAttack l-infinity as PGD, AutoAttack l2 with 1 on all three; for C&W it names none.
    "cifar10": Epsilons(fgsm=2 / 255, linf=8 / 255, l2=1.0),
    "imagefolder": Epsilons(fgsm=2 / 255, linf=2 / 255, l2=1.0),
    "imagefolder64": Epsilons(fgsm=2 / 255, linf=2 / 255, l2=1.0),
    "mnist": Epsilons(fgsm=2 / 255, linf=0.3, l2=1.0),
    # The paper has no digits. Ours: one of their 16 steps of grey; in l2 MNIST's 1 times the ratio of the image sides.
    "digits": Epsilons(fgsm=1 / 16, linf=1 / 16, l2=8 / 28),
}


def paper_epsilons(dataset: str) -> Epsilons:
    """The epsilons of a data set.

    Raises:
        InputError: there are none.
    """
    if dataset not in PAPER_EPSILONS:
        raise InputError(f"no epsilon is known for {dataset}; give --norm and --epsilon")
    return PAPER_EPSILONS[dataset]

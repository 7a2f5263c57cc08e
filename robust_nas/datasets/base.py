"""What a data set is that has a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from robust_nas.data import Data


@dataclass(frozen=True)
class Epsilons:
    """Radii of attacks in [0,1] pixels.

    Attributes:
        fgsm: of FGSM in l-infinity.
        linf: of the other l-infinity attacks.
        l2: of the l2 attacks.
    """

    fgsm: float
    linf: float
    l2: float


@dataclass(frozen=True)
class DataSet:
    """How to load it, and the perturbations that it is usual to take.

    Attributes:
        load: from the folder that holds it, and whether it may be fetched into it.
        attacks: the radii of attacks where a person gives none; None where they have to be given. Those of DSRNA (CVPR
            2021), section 4.3.1: PGD with 8/255 on CIFAR-10, 2/255 on ImageNet and .3 on MNIST, FGSM with 2/255 on all
            three, AutoAttack l-infinity as PGD, AutoAttack l2 with 1 on all three; for C&W it names none.
        trainings: the radii that robust recipes train against, by recipe and norm: "adversarial" those of the attacks
            and of RobNet, in l2 the usual ones, "certified" and "tangent" radii beyond the means of DSRNA's Tables 5
            and 6.
        own_folder: whether a person brings it, so that it has a folder of its own.
    """

    load: Callable[[Path, bool], Data]
    attacks: Epsilons | None = None
    trainings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    own_folder: bool = False

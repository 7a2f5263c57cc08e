"""The sizes of perturbations that robust recipes train against, where the user names none."""

from __future__ import annotations

from verify.checks.errors import InputError

EPSILONS: dict[str, dict[str, dict[str, float]]] = {
    # The radii of the paper's attacks (section 4.3.1) and of RobNet; l2 at the sizes usual for each data set.
    "adversarial": {
        "digits": {"linf": 0.1, "l2": 0.5},
        "mnist": {"linf": 0.3, "l2": 1.5},
        "cifar10": {"linf": 8 / 255, "l2": 0.5},
        "imagefolder": {"linf": 2 / 255, "l2": 0.5},
        "imagefolder64": {"linf": 2 / 255, "l2": 0.5},
    },
    # Beyond the mean radii of the paper's Tables 5 and 6.
    "certified": {
        "digits": {"linf": 0.1, "l2": 0.3},
        "mnist": {"linf": 0.1, "l2": 0.5},
        "cifar10": {"linf": 2 / 255, "l2": 0.1},
        "imagefolder": {"linf": 1 / 255, "l2": 0.05},
        "imagefolder64": {"linf": 1 / 255, "l2": 0.05},
    },
    "tangent": {
        "digits": {"l2": 0.3},
        "mnist": {"l2": 0.5},
        "cifar10": {"l2": 0.1},
        "imagefolder": {"l2": 0.05},
        "imagefolder64": {"l2": 0.05},
    },
}
"""By recipe, data set and norm, in pixels of [0, 1]."""


def default_epsilon(recipe: str, dataset: str, norm: str) -> float:
    """The size of perturbations for a recipe; 0 for one that has none.

    Raises:
        InputError: a recipe that has one knows none for the data set or norm.
    """
    if recipe not in EPSILONS:
        return 0.0
    found = EPSILONS[recipe].get(dataset, {}).get(norm)
    if found is None:
        raise InputError(f"recipe {recipe} has no epsilon of its own for {dataset} in {norm}; give --epsilon")
    return found

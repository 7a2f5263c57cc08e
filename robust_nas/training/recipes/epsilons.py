"""The sizes of perturbations that robust recipes train against, where the user names none."""

from __future__ import annotations

from robust_nas.registry import DATASETS, RECIPES
from verify.checks.errors import InputError


def default_epsilon(recipe: str, dataset: str, norm: str) -> float:
    """The size of perturbations for a recipe, see `DataSet.trainings`; 0 for one that has none.

    Raises:
        InputError: a recipe that has one knows none for the data set or norm.
    """
    if not RECIPES[recipe].perturbed:
        return 0.0
    trainings = DATASETS[dataset].trainings if dataset in DATASETS else {}
    found = trainings.get(recipe, {}).get(norm)
    if found is None:
        raise InputError(f"recipe {recipe} has no epsilon of its own for {dataset} in {norm}; give --epsilon")
    return found

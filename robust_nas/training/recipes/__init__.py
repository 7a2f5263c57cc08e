"""Training recipes, one file each; `robust_nas.registry` has their names."""

from robust_nas.registry import RECIPES
from robust_nas.training.recipes.base import Loss, Recipe, RecipeSettings
from robust_nas.training.recipes.epsilons import default_epsilon

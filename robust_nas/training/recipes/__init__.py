"""Training recipes, by name. To add one: a file here and a line in `RECIPES`."""

from robust_nas.training.recipes.adversarial import Adversarial
from robust_nas.training.recipes.base import Loss, Recipe, RecipeSettings
from robust_nas.training.recipes.certified import BOUNDS, Certified
from robust_nas.training.recipes.epsilons import EPSILONS, default_epsilon
from robust_nas.training.recipes.jacobian import Jacobian
from robust_nas.training.recipes.standard import Standard
from robust_nas.training.recipes.tangent import Tangent

RECIPES: dict[str, type[Recipe]] = {
    "standard": Standard,
    "jacobian": Jacobian,
    "adversarial": Adversarial,
    "certified": Certified,
    "tangent": Tangent,
}

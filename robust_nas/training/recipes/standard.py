"""Cross-entropy on clean images."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.training.learner import Learner
from robust_nas.training.recipes.base import Loss, Recipe


class Standard(Recipe):
    """Cross-entropy on clean images, with that of the auxiliary head."""

    perturbed = False

    def __call__(
        self, learner: Learner, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], progress: float
    ) -> Loss:
        return Loss(self.mean(learner.losses(images, labels)), {})

"""Adversarial training (Madry et al., ICLR 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from robust_nas.training.learner import Learner
from robust_nas.training.recipes.base import Loss, Recipe
from verify.regions import Ball

STEP = 0.25
"""A step of PGD as a fraction of epsilon: RobNet's 2/255 at 8/255."""


class Adversarial(Recipe):
    """Cross-entropy on images that PGD has moved as far as it could, within the ball and [0, 1].

    PGD starts at a random point and climbs the cross-entropy. It sees the network in evaluation mode: on the running
    statistics, so that images are attacked one by one, and without drop-path. The step of the weights is taken on the
    attacked images in training mode.

    Settings: `norm`, `epsilon`, `attack_steps`.
    """

    def __call__(
        self, learner: Learner, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], progress: float
    ) -> Loss:
        ball = Ball(images, self.settings.epsilon, self.settings.norm)
        learner.eval()
        attacked = self.attack(learner, ball, labels)
        learner.train()
        return Loss(self.mean(learner.losses(attacked, labels)), {})

    def attack(self, learner: nn.Module, ball: Ball, labels: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """The images at the end of PGD."""
        x = ball.project(ball.centre + self._noise(ball.centre))
        for _ in range(self.settings.attack_steps):
            x = x.detach().requires_grad_()
            loss = F.cross_entropy(learner(x), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x, materialize_grads=True)  # 0 where no path leads to the logits
            x = ball.project(x + STEP * self.settings.epsilon * self._direction(gradient))
        return x.detach()

    def _noise(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Uniform in the cube of side 2 epsilon; the ball's projection shortens what is too long in l2."""
        shape = (self.drawn_for(images), *images.shape[1:])
        cube = 2 * torch.rand(shape, generator=self.generator, device=images.device) - 1
        return self.settings.epsilon * self.own(cube).to(images)

    def _direction(self, gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return gradient.sign() if self.settings.norm == "linf" else gradient / _lengths(gradient)


def _lengths(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 1 1"]:
    return x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny).view(-1, 1, 1, 1)

"""Jacobian regularisation (Hoffman, Roberts and Yaida 2019; the paper's [21]), which the paper trains with."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.training.learner import Learner
from robust_nas.training.recipes.base import Loss, Recipe
from robust_nas.training.statistics import fixed, recorded


class Jacobian(Recipe):
    """Cross-entropy + lambda/2 mean_i ||J(x_i)||_F^2, J the Jacobian of the logits in the pixels ([21], eqs. 3-6).

    The norm is estimated by random projections ([21], algorithm 1): K/n sum_j ||v_j^T J(x_i)||^2 over n vectors v_j
    uniform on the sphere has ||J||_F^2 as expectation. With as many projections as classes or more, it is exact.
    Settings: `jacobian_weight` is lambda, `projections` is n.

    In J, batch norm's statistics are those of the clean batch and constant in x, as everywhere in this project: without
    that the gradient of a sum over images would mix their Jacobians. Gradients in the weights pass through them.
    """

    columns = ("jacobian",)
    perturbed = False

    def __call__(
        self, learner: Learner, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], progress: float
    ) -> Loss:
        with recorded(learner.network, self.processes.moments) as statistics:
            loss = self.mean(learner.losses(images, labels))
        with fixed(learner.network, statistics):
            norm = self.mean(self.squared_norms(learner, images))
        value = loss + self.settings.jacobian_weight / 2 * norm
        return Loss(value, {"jacobian": self.figure(norm)})

    def squared_norms(self, learner: Learner, images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """||J||_F^2 of each image, or its estimate."""
        x = images.detach().requires_grad_()
        logits = learner.network(x)
        vectors = self._vectors(images, logits.shape[1])
        (products,) = torch.autograd.grad(logits, x, vectors, create_graph=True, is_grads_batched=True)
        return products.flatten(2).square().sum(2).sum(0) * (logits.shape[1] / len(vectors))

    def _vectors(self, images: Tensor, classes: int) -> Float[Tensor, "n b k"]:
        if self.settings.projections >= classes:
            return torch.eye(classes, device=images.device).unsqueeze(1).expand(-1, len(images), -1)
        shape = (self.drawn_for(images), self.settings.projections, classes)
        drawn = torch.randn(shape, generator=self.generator, device=images.device, dtype=images.dtype)
        return self.own(drawn / drawn.norm(dim=2, keepdim=True)).transpose(0, 1)

"""DSRNA-Jacobian: how far a small perturbation moves the outputs, to first order (section 3.1.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.base import Measurement, RobustnessMetric
from robust_nas.metrics.epsilon import START
from verify.bounds import BoundedNetwork
from verify.errors import InputError

DUAL = {"linf": 1, "l2": 2}
"""q with 1/p + 1/q = 1 for the norm p of the perturbation."""


class JacobianNorm(RobustnessMetric):
    """R = -delta/N sum_i 1/K sum_k ||J_k(x_i)||_q (eq. 15), J_k the gradient of logit k in the pixels.

    The estimate takes one row an image, uniform over the classes: its expectation is the mean over k, exactly.
    The random projection of [21], which the paper uses, estimates squares of l2 norms alone; and "Frobenius
    norm" for sum_k ||J_k||_2, as the paper has it, is not what eq. 15 says: rows are taken here one by one.

    Args:
        norm: "linf" (q = 1) or "l2" (q = 2).
        delta: radius in eq. 14; the paper does not give it. We take where its epsilon starts. It only scales R.
        images: how many of the batch are measured: the first ones.
        exact: every row, K backward passes; else the estimate, one.
        seed: of the generator that draws the rows.

    Raises:
        InputError: another norm.
    """

    columns = ("jacobian",)

    def __init__(
        self, norm: str = "linf", delta: float = START, images: int = 64, exact: bool = False, seed: int = 0
    ) -> None:
        if norm not in DUAL:
            raise InputError(f"unknown norm {norm!r} for the Jacobian metric; known: {', '.join(DUAL)}")
        self.q, self.delta, self.images, self.exact = DUAL[norm], delta, images, exact
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        images = images[: self.images]
        if self.exact:
            every = torch.arange(network.classes, device=images.device)
            rows = every.unsqueeze(1).expand(-1, len(images))
        else:
            drawn = torch.randint(network.classes, (1, len(images)), generator=self._generator)
            rows = drawn.to(images.device)
        value = -self.delta * row_norms(network, images, rows, self.q).mean()
        return Measurement(value, {"jacobian": value.item()})


def row_norms(
    network: BoundedNetwork, images: Float[Tensor, "b c h w"], rows: Int[Tensor, "r b"], q: int
) -> Float[Tensor, "r b"]:
    """||J_k(x)||_q for r rows k of each image; differentiable in the parameters where gradients are enabled."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = network(x)
        gradients = [
            torch.autograd.grad(
                logits.gather(1, row.unsqueeze(1)).sum(), x, retain_graph=True, create_graph=differentiable
            )[0]
            for row in rows
        ]
    return torch.linalg.vector_norm(torch.stack(gradients).flatten(2), q, dim=2)

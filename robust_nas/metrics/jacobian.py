"""DSRNA-Jacobian: how far a small perturbation moves the outputs, to first order (section 3.1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.base import ImageMetric, MetricSettings
from robust_nas.metrics.epsilon import START
from robust_nas.registry import JACOBIANS
from verify.bounds import BoundedNetwork
from verify.checks.errors import InputError, known_names
from verify.regions import DUAL_ORDERS

DUAL = {norm: DUAL_ORDERS[norm] for norm in ("linf", "l2")}
"""q with 1/p + 1/q = 1 for the norm p of the perturbation."""


class JacobianNorm(ImageMetric):
    """R = -delta/N sum_i 1/K sum_k ||J_k(x_i)||_q (eq. 15), J_k the gradient of logit k in the pixels.

    "Frobenius norm" for sum_k ||J_k||_2, as the paper has it, is not what eq. 15 says: rows are taken here one by
    one. The paper computes it "based on random projection" (Hoffman et al. 2019, its [21]), which estimates another
    quantity, the square of the Frobenius norm, and none for q = 1; that reading is "projection".

    Args:
        norm: "linf" (q = 1) or "l2" (q = 2).
        delta: radius in eq. 14; the paper does not give it. We take where its epsilon starts. It only scales R.
        images: how many of the batch are measured: the first ones.
        estimate: "exact": every row, K backward passes. "sampled": one row an image, uniform over the classes: its
            expectation is the mean over k, at any q. "projection" (l2 only): R = -K/2 mean_i ||v_i^T J(x_i)||^2 with
            v_i uniform on the sphere, whose expectation is -1/2 ||J||_F^2; without delta, as in [21].
        seed: of the generator that draws rows or projections.

    Raises:
        InputError: another norm or estimate, or a projection for l-infinity.
    """

    column = "jacobian"

    def __init__(
        self, norm: str = "linf", delta: float = START, images: int = 64, estimate: str = "sampled", seed: int = 0
    ) -> None:
        if norm not in DUAL:
            raise InputError(f"unknown norm {norm!r} for the Jacobian metric; {known_names(norm, DUAL)}")
        if estimate not in JACOBIANS:
            raise InputError(f"unknown Jacobian estimate {estimate!r}; {known_names(estimate, JACOBIANS)}")
        if estimate == "projection" and norm != "l2":
            raise InputError("a random projection estimates l2 norms only; take --norm l2 or --jacobian sampled")
        super().__init__(norm, images)
        self.q, self.delta, self.estimate = DUAL[norm], delta, estimate
        self._generator = torch.Generator().manual_seed(seed)

    @classmethod
    def of(cls, settings: MetricSettings) -> JacobianNorm:
        images, estimate = settings.jacobian_images, settings.jacobian
        return cls(settings.norm, images=images, estimate=estimate, seed=settings.seed)

    def scores(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        vectors = self._vectors(network.classes, len(images)).to(images)
        products = network.vector_jacobian(images, vectors).flatten(2)
        if self.estimate == "projection":
            return -network.classes / 2 * products.square().sum(2).mean(0)
        return -self.delta * torch.linalg.vector_norm(products, self.q, dim=2).mean(0)

    def held(self, network: BoundedNetwork, images: int) -> float:
        return float(min(images, self.images)) * (network.classes if self.estimate == "exact" else 1)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(state["generator"])

    def _vectors(self, classes: int, own: int) -> Float[Tensor, "r b k"]:
        """What multiplies the Jacobian of each of this process' images; drawn for the images of all processes."""
        if self.estimate == "exact":
            return torch.eye(classes).unsqueeze(1).expand(-1, own, -1)
        if self.estimate == "sampled":
            drawn = torch.randint(classes, (self.images,), generator=self._generator)
            vectors = torch.nn.functional.one_hot(drawn, classes).float()
        else:
            vectors = torch.randn(self.images, classes, generator=self._generator)
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
        return vectors[self.processes.rank :: self.processes.size][:own].unsqueeze(0)

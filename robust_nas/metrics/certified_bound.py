"""DSRNA-CB: the certified lower bound of the supernet's outputs (section 3.1.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.base import Measurement, RobustnessMetric
from robust_nas.metrics.epsilon import EpsilonControl
from verify.bounds import BoundedNetwork, margins
from verify.errors import InputError

TARGETS = ("margin", "logits")


class CertifiedBound(RobustnessMetric):
    """R = mean over images of min over k != y of the lower bound of f_y - f_k over the ball around the image.

    A true bound of the mixed network at the current epsilon, with batch norm's statistics held at those of the
    clean batch. The gap that steers epsilon is the mean of upper minus lower bound of the same rows.

    The first call brings epsilon from its start to where the gap is under twice the target, by the same rule at
    a steeper slope, on one image and without gradients. Otherwise the first steps would give alpha gradients a
    billion times those that follow, and Adam, which remembers squares for a thousand steps, would hardly move
    alpha again.

    Args:
        norm: "linf", "l2" or "l1".
        domain: "unit" or "free".
        method: of the bounds: "ibp", "crown-ibp" or "crown".
        target: "margin", or "logits": R is the mean over images and classes of the lower bound of f_k. That is
            the wording of the paper, which does not say how the K bounds become one number.
        images: how many of the batch are bounded: the first ones.
        control: where epsilon starts and how it moves.

    Raises:
        InputError: unknown target.
    """

    columns = ("certified_bound", "epsilon", "gap")

    def __init__(
        self,
        norm: str = "linf",
        domain: str = "unit",
        method: str = "crown-ibp",
        target: str = "margin",
        images: int = 8,
        control: EpsilonControl | None = None,
    ) -> None:
        if target not in TARGETS:
            raise InputError(f"unknown target {target!r}; known: {', '.join(TARGETS)}")
        self.norm, self.domain, self.method = norm, domain, method
        self.target, self.images = target, images
        self.control = control or EpsilonControl()
        self._settled = False

    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        images, labels = images[: self.images], labels[: self.images]
        if not self._settled:
            self._settle(network, images[:1], labels[:1])
        epsilon = self.control.epsilon
        value, gap = self.measure(network, images, labels)
        self.control.update(gap)
        return Measurement(value, {"certified_bound": value.item(), "epsilon": epsilon, "gap": gap})

    def measure(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, ""], float]:
        """R and the gap, in logits, of all these images at the current epsilon; NaN where bounds overflow."""
        rows = margins(labels, network.classes) if self.target == "margin" else None
        bounds = network.bounds(images, self.control.epsilon, self.norm, rows, self.method, self.domain)
        lower = bounds.lower.amin(1) if self.target == "margin" else bounds.lower
        return lower.mean(), (bounds.upper - bounds.lower).mean().item()

    @torch.no_grad()
    def _settle(self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> None:
        while self.control.approach(self.measure(network, images, labels)[1]):
            pass
        self._settled = True

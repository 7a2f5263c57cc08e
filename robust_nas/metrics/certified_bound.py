"""DSRNA-CB: the certified lower bound of the supernet's outputs (section 3.1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.base import ImageMetric, Measurement, MetricSettings
from robust_nas.metrics.epsilon import VANISHING, EpsilonControl
from robust_nas.metrics.interval_slope import INTERVALS
from robust_nas.registry import BOUNDS, named
from verify.bounds import BoundedNetwork
from verify.checks.errors import InputError, known_names
from verify.propagation.methods import METHODS
from verify.specification import margins

TARGETS = ("margin", "logits")
ROW, REFINED = 7.0, 3.0
"""What methods with rows of coefficients keep a row, and how many times that where neurons have rows of their own."""


class CertifiedBound(ImageMetric):
    """R = mean over images of min over k != y of the lower bound of f_y - f_k over the ball around the image.

    A true bound of the mixed network at the current epsilon, with batch norm's statistics held at those of the
    clean batch. The gap that steers epsilon is the mean of upper minus lower bound of the same rows.

    The first call, and the first after `restart`, brings epsilon to where the gap is near the target, on one image and
    without gradients (`EpsilonControl.settle`). Otherwise the first steps would give alpha gradients a
    billion times those that follow, and Adam, which remembers squares for a thousand steps, would hardly move
    alpha again.

    So epsilon is each network's own, and R at it compares nothing between networks. To score networks give one epsilon
    to all: `control=EpsilonControl(epsilon, slope=0.0)`.

    Args:
        norm: "linf", "l2" or "l1".
        domain: "unit" or "free".
        method: of the bounds. "ibp" (centre and radius; two forward passes, finite at any depth), "block" (the
            literal composition of eqs. 3-11, looser), or, tighter and dearer, "crown-ibp", "affine", "crown".
        target: "margin", or "logits": R is the mean over images and classes of the lower bound of f_k. That is
            the wording of the paper, which does not say how the K bounds become one number.
        images: how many of the batch are bounded: the first ones.
        control: where epsilon starts and how it moves; its floor is far lower for methods that can go there.

    Raises:
        InputError: unknown target or method.
    """

    column = "certified_bound"
    bounded = True

    def __init__(
        self,
        norm: str = "linf",
        domain: str = "unit",
        method: str = "ibp",
        target: str = "margin",
        images: int = 8,
        control: EpsilonControl | None = None,
    ) -> None:
        if target not in TARGETS:
            raise InputError(f"unknown target {target!r}; {known_names(target, TARGETS)}")
        if method not in BOUNDS:
            raise InputError(f"unknown bound {method!r}; {known_names(method, BOUNDS)}")
        super().__init__(norm, images)
        self.domain, self.method, self.target = domain, method, target
        floor = VANISHING if METHODS[method].forward else EpsilonControl.floor
        self.control = control or EpsilonControl(floor=floor)
        self._settled = False

    @classmethod
    def of(cls, settings: MetricSettings) -> CertifiedBound:
        method, epsilon = settings.bound_method, settings.epsilon
        images = settings.bound_images or named("bound", method, METHODS).step_images
        control = None if epsilon is None else EpsilonControl(epsilon, slope=0.0)
        return cls(settings.norm, method=method, images=images, control=control)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, "epsilon", "gap")

    def restart(self) -> None:
        self._settled = False

    def scores(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " n"]:
        return self.measure(network, images, labels)[0]

    def __call__(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> Measurement:
        own = self.processes.count(self.images)
        images, labels = images[:own], labels[:own]
        if not self._settled:
            self._settle(network, images[:1], labels[:1])
        epsilon = self.control.epsilon
        values, width, unit = self.measure(network, images, labels)
        found, weight = self.mean(values), self.processes.weight(len(labels))
        width, unit = self.processes.total([weight * width, weight * unit])
        self.control.update(width / unit)
        return Measurement(found.value, {**found.log, "epsilon": epsilon, "gap": width / unit})

    def measure(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, " n"], float, float]:
        """R of each image that counts, the bounds' mean width, and its unit in the gap; NaN where bounds overflow."""
        rows = margins(labels, network.classes) if self.target == "margin" else None
        bounds = network.bounds(images, self.control.epsilon, self.norm, rows, self.method, self.domain)
        lower = bounds.lower.amin(1) if self.target == "margin" else bounds.lower.mean(1)
        return lower, (bounds.upper - bounds.lower).mean().item(), 1.0

    def held(self, network: BoundedNetwork, images: int) -> float:
        images = min(images, self.images)
        method = METHODS[self.method]
        if method.forward:
            return INTERVALS * images
        if not method.forms:
            return ROW * network.classes * images
        rows = 2 * network.example[0].numel()  # pixels and about as many errors
        return ROW * rows * images * (REFINED if method.refined else 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"epsilon": self.control.epsilon, "settled": self._settled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.control = replace(self.control, epsilon=state["epsilon"])
        self._settled = state["settled"]

    @torch.no_grad()
    def _settle(self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> None:
        def gap_at(epsilon: float) -> float:
            self.control.epsilon = epsilon
            own = 0.0
            if self.processes.leads:  # it has the batch's first image
                _, width, unit = self.measure(network, images, labels)
                own = width / unit
            return self.processes.total([own])[0]

        self.control.settle(gap_at)
        self._settled = True

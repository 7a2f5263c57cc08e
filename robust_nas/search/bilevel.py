"""One step of the bilevel optimisation, first order (eq. 16 of DSRNA, CVPR 2021; Algorithm 1 of DARTS)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_nas.data import Examples
from robust_nas.metrics import Measurement, RobustnessMetric
from robust_nas.spaces.supernet import Supernet
from verify.bounds import BoundedNetwork


def weight_step(model: Supernet, batch: Examples, optimiser: torch.optim.Optimizer, clip: float) -> float:
    """One step of the weights on the training loss, its gradient clipped to an l2 norm; returns the loss.

    Alpha gets neither a step nor a gradient, and no gradient is left on the weights.
    """
    weights = model.weights()
    loss = F.cross_entropy(model(batch.images), batch.labels)
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    nn.utils.clip_grad_norm_(weights, clip)
    optimiser.step()
    optimiser.zero_grad()
    return loss.item()


@dataclass
class AlphaStep:
    """A step of alpha on L_val(w, alpha) - gamma R(w, alpha), w as it is: first order.

    The metric is measured even when gamma is 0, but then without gradients: the step is the one that a search
    without a metric makes, bit for bit.

    A step with a robustness term that is not finite, or whose gradient is not, goes by the loss alone; a step
    with a loss of which that is true moves nothing.

    Attributes:
        network: the supernet in training mode, wrapped.
        optimiser: of the two alphas.
        metric: R, None for a search without.
        gamma: its weight.
    """

    network: BoundedNetwork
    optimiser: torch.optim.Optimizer
    metric: RobustnessMetric | None
    gamma: float

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys of what a step returns."""
        return (
            "val_loss",
            "val_accuracy",
            *(self.metric.columns if self.metric else ()),
            "robustness",
            "weighted_robustness",
            "loss_gradient",
            "robustness_gradient",
            "finite",
        )

    def __call__(self, batch: Examples) -> dict[str, int | float | None]:
        """Take the step; returns figures for the log.

        Gradients are given as l2 norms over both alphas, that of robustness with the factor gamma; None for
        what there is not. `finite` is 1 when every term that should count did.
        """
        alphas: list[Tensor] = self.optimiser.param_groups[0]["params"]
        logits = self.network.freeze(batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        gradients = torch.autograd.grad(loss, alphas, retain_graph=True, materialize_grads=True)
        measured = self._measure(batch)
        value = weighted = pull = None
        if measured is not None:
            value = measured.value.item()
            weighted = self.gamma * value
            if self.gamma:
                pull = torch.autograd.grad(-self.gamma * measured.value, alphas, materialize_grads=True)
        loss_figures = {"val_loss": loss.item(), "loss_gradient": _norm(gradients)}
        term_figures = {
            "robustness": value,
            "weighted_robustness": weighted,
            "robustness_gradient": None if pull is None else _norm(pull),
        }
        loss_is_finite, term_is_finite = _finite(loss_figures.values()), _finite(term_figures.values())
        if pull is not None and term_is_finite:
            gradients = tuple(ours + theirs for ours, theirs in zip(gradients, pull, strict=True))
        if loss_is_finite:
            for alpha, gradient in zip(alphas, gradients, strict=True):
                alpha.grad = gradient
            self.optimiser.step()
            self.optimiser.zero_grad()
        return {
            **loss_figures,
            "val_accuracy": (logits.argmax(1) == batch.labels).double().mean().item(),
            **(measured.log if measured else {}),
            **term_figures,
            "finite": float(loss_is_finite and term_is_finite),
        }

    def _measure(self, batch: Examples) -> Measurement | None:
        if self.metric is None:
            return None
        with torch.set_grad_enabled(self.gamma > 0):
            return self.metric(self.network, *batch)


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))


def _finite(figures: Iterable[float | None]) -> bool:
    """Whether all that there are, are finite."""
    return all(figure is None or math.isfinite(figure) for figure in figures)

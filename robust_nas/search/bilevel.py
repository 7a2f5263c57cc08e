"""The two steps of the bilevel problem, eq. 16 of the paper, first order.

    min over alpha of  L_val(w*(alpha), alpha) - gamma R(w*(alpha), alpha),   w*(alpha) = argmin over w of L_train

with w* replaced by the weights as they are (first-order DARTS).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_nas.data import Examples
from robust_nas.metrics import RobustnessMetric
from robust_nas.spaces.supernet import Supernet
from verify.bounds import BoundedNetwork


def weight_step(model: Supernet, batch: Examples, optimiser: torch.optim.Optimizer, clip: float) -> float:
    """One step on the weights; returns the training loss before it, in nats. Alpha gets no gradient."""
    weights = model.weights()
    loss = F.cross_entropy(model(batch.images), batch.labels)
    _apply(optimiser, weights, torch.autograd.grad(loss, weights), clip)
    return loss.item()


class AlphaStep:
    """Steps on alpha: down the validation loss, up the metric.

    At gamma 0 the metric is measured and logged, and its gradient not so much as multiplied by 0: the search is that
    without a metric, bit for bit.

    Args:
        network: the supernet in training mode, bounded; the metric measures it.
        optimiser: of alpha.
        metric: None for a search without one.
        gamma: weight of the metric.
    """

    def __init__(
        self,
        network: BoundedNetwork,
        optimiser: torch.optim.Optimizer,
        metric: RobustnessMetric | None,
        gamma: float,
    ) -> None:
        assert isinstance(network.model, Supernet)
        self.network, self.model = network, network.model
        self.optimiser, self.metric, self.gamma = optimiser, metric, gamma

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in the log of a step."""
        own = ("val_loss", "loss_gradient")
        if self.metric is None:
            return own
        return (*own, "robustness", "weighted_robustness", "metric_gradient", "finite", *self.metric.columns)

    def __call__(self, batch: Examples) -> dict[str, float | None]:
        """One step; returns what to log: losses in nats, norms of the gradients in alpha.

        A metric whose value or gradient is not finite counts for nothing in its step, and `finite` is 0.
        """
        alphas = self.model.architecture_parameters()
        loss = F.cross_entropy(self.model(batch.images), batch.labels)
        gradients = torch.autograd.grad(loss, alphas)
        log: dict[str, float | None] = {"val_loss": loss.item(), "loss_gradient": _norm(gradients)}
        if self.metric is not None:
            pull, measured = self._measure(self.metric, batch, alphas)
            log |= measured
            if self.gamma and measured["finite"]:
                gradients = tuple(down - self.gamma * up for down, up in zip(gradients, pull, strict=True))
        _apply(self.optimiser, alphas, gradients)
        return log

    def _measure(
        self, metric: RobustnessMetric, batch: Examples, alphas: Sequence[nn.Parameter]
    ) -> tuple[tuple[Tensor, ...], dict[str, float]]:
        """The metric's gradient in alpha, also through the statistics of this clean batch, and its log."""
        self.network.freeze(batch.images)
        value, figures = metric(self.network, batch.images, batch.labels)
        pull = torch.autograd.grad(value, alphas)
        size, robustness = _norm(pull), value.item()
        finite = bool(torch.isfinite(torch.tensor([size, robustness])).all())
        return pull, {
            "robustness": robustness,
            "weighted_robustness": self.gamma * robustness,
            "metric_gradient": size,
            "finite": float(finite),
            **figures,
        }


def _apply(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    clip: float | None = None,
) -> None:
    """Hand the gradients to the optimiser; nothing else sees them."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _norm(gradients: Sequence[Tensor]) -> float:
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()

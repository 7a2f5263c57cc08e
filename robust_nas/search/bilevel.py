"""One step of the bilevel optimisation (eq. 16 of DSRNA, CVPR 2021; Algorithm 1 of DARTS), first or second order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_nas.data import Examples
from robust_nas.distributed import ALONE, Processes
from robust_nas.metrics import Measurement, RobustnessMetric
from robust_nas.search.balance import Balance
from robust_nas.spaces.backbone import OneShot
from verify.bounds import BoundedNetwork

PROBE = 0.01
"""Length of the step of the finite difference along the weights (DARTS, section 2.3)."""

Gradients = tuple[Tensor, ...]


def weight_step(
    model: OneShot,
    loss: Callable[[], Tensor],
    optimiser: torch.optim.Optimizer,
    clip: float,
    processes: Processes = ALONE,
    amp: bool = False,
) -> float:
    """One step of the weights on the training loss, its gradient clipped to an l2 norm; returns the loss.

    Alpha gets neither a step nor a gradient, and no gradient is left on the weights. Weights that the loss does not
    reach stay as they are: no momentum, no decay. (Those of an operation that counts with a weight of 0 are reached.)
    A gradient that is not finite moves nothing, and NaN is returned.

    Args:
        model, optimiser: of the weights.
        loss: gives the training loss on the batch; this process' part.
        clip: largest l2 norm of the gradient.
        processes: those that share the batch.
        amp: compute the forward pass in bfloat16 where that is safe (torch.autocast).
    """
    weights = model.weights()
    with processes.synchronised(model), torch.autocast(weights[0].device.type, torch.bfloat16, enabled=amp):
        value = loss()
    found = torch.autograd.grad(value, weights, allow_unused=True)
    used = {weight: gradient for weight, gradient in zip(weights, found, strict=True) if gradient is not None}
    for weight, gradient in zip(used, processes.add_up(list(used.values())), strict=True):
        weight.grad = gradient
    finite = math.isfinite(nn.utils.clip_grad_norm_(list(used), clip))
    if finite:
        optimiser.step()
    optimiser.zero_grad()
    return processes.total([value.item()])[0] if finite else math.nan


@dataclass
class Unrolled:
    """The weights after one more step on the training loss: DARTS' second order, eqs. 5-8.

    w' = w - xi (mu m + grad_w L_train(w, alpha) + lambda w), with the momentum mu m and the weight decay lambda of the
    optimiser, and its learning rate as xi. The momentum is that of the last step and does not depend on alpha.

    Attributes:
        network: the supernet in training mode, wrapped.
        optimiser: SGD of the weights.
        exact: the product with the mixed second derivative by autograd; else by a central difference along the
            weights, with two more gradients instead of a graph of a gradient.
        processes: those that share the batch.
    """

    network: BoundedNetwork
    optimiser: torch.optim.Optimizer
    exact: bool = False
    processes: Processes = ALONE

    @contextmanager
    def weights(self, train: Examples) -> Iterator[list[Tensor]]:
        """Have w' in place of w within the block; gives the parameters."""
        (group,) = self.optimiser.param_groups
        weights: list[Tensor] = group["params"]
        gradients = self.processes.add_up(torch.autograd.grad(self._loss(train), weights))
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                momentum = self.optimiser.state[weight].get("momentum_buffer")
                step = gradient + group["weight_decay"] * weight
                if momentum is not None:
                    step = step + group["momentum"] * momentum
                weight -= group["lr"] * step
        try:
            yield weights
        finally:
            _set(weights, before)

    def through(self, vector: Sequence[Tensor], alphas: Sequence[Tensor], train: Examples) -> Gradients:
        """-xi d/d alpha <grad_w L_train(w, alpha), v>: what alpha does to the objective by way of w'.

        Args:
            vector: v, the gradient of the objective in w'.
        """
        (group,) = self.optimiser.param_groups
        product = self._exact_product if self.exact else self._difference
        return tuple(-group["lr"] * part for part in product(group["params"], vector, alphas, train))

    def _difference(
        self, weights: Sequence[Tensor], vector: Sequence[Tensor], alphas: Sequence[Tensor], train: Examples
    ) -> Gradients:
        length = _norm(vector)
        if length == 0 or not math.isfinite(length):
            return tuple(torch.full_like(alpha, 0 * length) for alpha in alphas)
        reach = PROBE / length
        before = [weight.detach().clone() for weight in weights]
        ends = []
        for sign in (1, -1):
            _set(weights, [old + sign * reach * part for old, part in zip(before, vector, strict=True)])
            ends.append(self._in_alpha(self._loss(train), alphas))
        _set(weights, before)
        return tuple((plus - minus) / (2 * reach) for plus, minus in zip(*ends, strict=True))

    def _exact_product(
        self, weights: Sequence[Tensor], vector: Sequence[Tensor], alphas: Sequence[Tensor], train: Examples
    ) -> Gradients:
        gradients = torch.autograd.grad(self._loss(train), weights, create_graph=True)
        product = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        return self._in_alpha(product, alphas)

    def _in_alpha(self, part: Tensor, alphas: Sequence[Tensor]) -> Gradients:
        return self.processes.add_up(torch.autograd.grad(part, alphas, materialize_grads=True))

    def _loss(self, train: Examples) -> Tensor:
        logits = self.network.freeze(train.images, self.processes.moments)
        return self.processes.weight(len(train.labels)) * F.cross_entropy(logits, train.labels)


class ArchitectureStep(ABC):
    """What moves the architecture parameters, whatever they are."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The keys of what a step returns; `val_loss` is one."""

    @abstractmethod
    def __call__(self, held_out: Examples, train: Examples, watched: bool = True) -> dict[str, int | float | None]:
        """Take the step; returns figures for the log.

        Args:
            held_out: this process' share of the validation batch.
            train: its share of the training batch.
            watched: whether figures that cost extra are wanted too. The step is the same.
        """


@dataclass
class AlphaStep(ArchitectureStep):
    """A step of alpha on L_val(w, alpha) - gamma R(w, alpha): first order at w as it is, second order at w'.

    L_val is the cross-entropy of held-out images, or the loss of the recipe that the search is for.

    The metric is measured even when gamma is 0, but then without gradients: the step is the one that a search
    without a metric makes, bit for bit.

    A step with a robustness term that is not finite, or whose gradient is not, goes by the loss alone; a step
    with a loss of which that is true moves nothing.

    Attributes:
        network: the supernet in training mode, wrapped.
        optimiser: of the architecture parameters.
        metric: R, None for a search without.
        gamma: its weight.
        balance: steers the weight instead; it learns from the steps that are watched.
        unrolled: for the second order.
        processes: those that share the batches.
        penalty: a term of the objective in the architecture parameters alone, the same in all processes; None for
            none.
        loss: gives L_val on this process' share of the images, its part of it; None for the cross-entropy.
    """

    network: BoundedNetwork
    optimiser: torch.optim.Optimizer
    metric: RobustnessMetric | None
    gamma: float
    unrolled: Unrolled | None = None
    processes: Processes = ALONE
    penalty: Callable[[], Tensor] | None = None
    loss: Callable[[Examples], Tensor] | None = None
    balance: Balance | None = None

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
            "cosine",
            *(("gamma",) if self.balance else ()),
            *(("unrolled_gradient",) if self.unrolled else ()),
            *(("penalty",) if self.penalty else ()),
            "finite",
        )

    @property
    def _weight(self) -> float:
        return self.balance.gamma if self.balance else self.gamma

    def __call__(self, held_out: Examples, train: Examples, watched: bool = True) -> dict[str, int | float | None]:
        """Take the step; returns figures for the log.

        Gradients are given as l2 norms over all architecture parameters, that of robustness with the factor gamma,
        and the cosine between that of the loss and that of robustness; None for what there is not. In second order
        these are the direct ones, at w', and `unrolled_gradient` is the norm of what comes by way of w'.
        `finite` is 1 when every term that should count did.

        Args:
            held_out: this process' share of the validation batch.
            train: its share of the training batch, on which the second order unrolls.
            watched: give the norms and the cosine of the two terms' gradients. Both terms pass through the clean
                batch's statistics, and so through all of its graph: together they cost less than one by one. Equal up
                to rounding.
        """
        alphas: list[Tensor] = self.optimiser.param_groups[0]["params"]
        if self.unrolled is None:
            gradients, figures = self._objective(held_out, alphas, [], watched)
        else:
            with self.unrolled.weights(train) as weights:
                gradients, figures = self._objective(held_out, alphas, weights, watched)
            gradients, vector = gradients[: len(alphas)], gradients[len(alphas) :]
            indirect = self.unrolled.through(vector, alphas, train)
            gradients = _sum(gradients, indirect)
            figures["unrolled_gradient"] = _norm(indirect)
        if self.penalty:
            value = self.penalty()
            gradients = _sum(gradients, torch.autograd.grad(value, alphas, materialize_grads=True))
            figures["penalty"] = value.item()
        if figures["robustness"] is not None:
            figures |= {"gamma": self._weight, "weighted_robustness": self._weight * figures["robustness"]}
        if math.isfinite(figures["val_loss"]) and _finite(gradients):
            for alpha, gradient in zip(alphas, gradients, strict=True):
                alpha.grad = gradient
            self.optimiser.step()
            self.optimiser.zero_grad()
        else:
            figures["finite"] = 0.0
        return {column: figures[column] for column in self.columns}

    def _objective(
        self, held_out: Examples, alphas: Sequence[Tensor], weights: Sequence[Tensor], watched: bool
    ) -> tuple[Gradients, dict[str, Any]]:
        """Gradients of the objective in alphas and weights, without a term that is not finite; figures for the log."""
        logits, loss = self._loss(held_out)
        right = float((logits.argmax(1) == held_out.labels).sum())
        val_loss, right, images = self.processes.total([loss.item(), right, float(len(held_out.labels))])
        figures = {
            **dict.fromkeys(self.columns, None),
            "val_loss": val_loss,
            "val_accuracy": right / images,
            "finite": 1.0,
        }
        pull = None
        measured = self._measure(held_out)
        if measured is not None:
            value = self.processes.total([measured.value.item()])[0]
            figures |= {**measured.log, "robustness": value}
            figures["finite"] = float(math.isfinite(value))
            pull = -measured.value if self._weight else None
        parameters = [*alphas, *weights]
        if pull is not None and figures["finite"] and not watched:
            gradients = self._gradients(loss + self._weight * pull, parameters)
            if _finite(gradients):
                return gradients, figures
            figures["finite"], pull = 0.0, None
            _, loss = self._loss(held_out)  # to have kept its graph would cost memory in every step
        return self._apart(loss, pull, parameters, len(alphas), figures)

    def _loss(self, held_out: Examples) -> tuple[Tensor, Tensor]:
        """Logits and this process' part of the loss; fixes the statistics of batch norm to those of the batch."""
        with torch.set_grad_enabled(self.loss is None or self._weight > 0):
            logits = self.network.freeze(held_out.images, self.processes.moments)
        if self.loss is not None:
            return logits, self.loss(held_out)
        return logits, self.processes.weight(len(held_out.labels)) * F.cross_entropy(logits, held_out.labels)

    def _apart(
        self, loss: Tensor, pull: Tensor | None, parameters: Sequence[Tensor], alphas: int, figures: dict[str, Any]
    ) -> tuple[Gradients, dict[str, Any]]:
        """The same from the gradients of the two terms one by one, with figures of both.

        Args:
            pull: -R; None where only the loss counts.
            alphas: how many of the parameters, the first, the figures are of.
            figures: those so far; `finite` says whether R is.
        """
        gradients = self._gradients(loss, parameters, retain_graph=pull is not None)
        more: dict[str, Any] = {"loss_gradient": _norm(gradients[:alphas])}
        if pull is not None:
            other = self._gradients(pull, parameters)
            if self.balance:
                self.balance.update(more["loss_gradient"], _norm(other[:alphas]))
            other = tuple(self._weight * gradient for gradient in other)
            more["robustness_gradient"] = _norm(other[:alphas])
            more["cosine"] = _cosine(gradients[:alphas], other[:alphas])
            more["finite"] = float(figures["finite"] and _finite(other))
            if more["finite"]:
                gradients = _sum(gradients, other)
        return gradients, figures | more

    def _gradients(self, part: Tensor, parameters: Sequence[Tensor], retain_graph: bool = False) -> Gradients:
        """Of a term of which every process holds a part."""
        own = torch.autograd.grad(part, parameters, retain_graph=retain_graph, materialize_grads=True)
        return self.processes.add_up(own)

    def _measure(self, batch: Examples) -> Measurement | None:
        if self.metric is None:
            return None
        with torch.set_grad_enabled(self._weight > 0):
            return self.metric(self.network, *batch)


def _sum(first: Gradients, second: Gradients) -> Gradients:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))


def _cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """0 where one of the two is 0."""
    product = sum((a * b).sum().item() for a, b in zip(first, second, strict=True))
    return product / length if (length := _norm(first) * _norm(second)) else 0.0


def _set(weights: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)


def _finite(gradients: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

"""SmoothDARTS (Chen and Hsieh, ICML 2020): the weights learn to do well around alpha too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robust_nas.search.strategies.base import Step, Strategy
from robust_nas.search.strategies.pc_darts import PartialChannels
from robust_nas.spaces.supernet import Supernet

FIRST, LAST = 0.03, 0.3
"""Radius of the perturbation at the search's start and, as of the authors' code, at its end."""
ASCENT_STEPS = 7

Weights = Mapping[str, Float[Tensor, "edges ops"]]
"""Of every edge's operations, by kind of cell."""


class Smoothing(Strategy):
    """The weights' step is at perturbed weights of the operations, softmax(alpha) + delta with |delta| <= epsilon.

    Each row is then clamped to [0, 1] and normalised. Alpha's step is clean, and alpha itself never perturbed.
    """

    orders = ("first",)

    @contextmanager
    def around_weight_step(self, model: Supernet, step: Step, loss: Callable[[], Tensor]) -> Iterator[None]:
        with model.held_at(self.perturbed(model, step, loss)):
            yield

    @abstractmethod
    def perturbed(self, model: Supernet, step: Step, loss: Callable[[], Tensor]) -> Weights:
        """The weights of the operations for the step."""


class RandomSmoothing(Smoothing):
    """SDARTS-RS: uniform noise."""

    def perturbed(self, model: Supernet, step: Step, loss: Callable[[], Tensor]) -> Weights:
        return noisy(clean(model), radius(step), step.generator)


class AdversarialSmoothing(Smoothing):
    """SDARTS-ADV: what raises the training loss most, by `ASCENT_STEPS` of projected sign ascent.

    It starts at random and takes steps of 2 epsilon / 7; the supernet is in evaluation mode. As in the authors' code
    every iterate is normalised, so that the gradient is always at weights that sum to 1.
    """

    def perturbed(self, model: Supernet, step: Step, loss: Callable[[], Tensor]) -> Weights:
        centre, epsilon = clean(model), radius(step)
        found = noisy(centre, epsilon, step.generator)
        training = model.training
        model.eval()  # else running statistics would move
        try:
            for _ in range(ASCENT_STEPS):
                uphill = zip(found.items(), _gradients(model, found, loss, step), strict=True)
                found = {
                    kind: projected(weights + 2 * epsilon / ASCENT_STEPS * gradient.sign(), centre[kind], epsilon)
                    for (kind, weights), gradient in uphill
                }
        finally:
            model.train(training)
        return found


class PartialAdversarialSmoothing(PartialChannels, AdversarialSmoothing):
    """PC-DARTS-ADV: PC-DARTS' supernet and warm-up, the weights' step of SDARTS-ADV.

    The paper's authors left no code of it. The strengths of edges are not perturbed.
    """


def radius(step: Step) -> float:
    """Epsilon, which grows linearly with the epochs."""
    return FIRST + (LAST - FIRST) * step.epoch / step.preset.epochs


@torch.no_grad()
def clean(model: Supernet) -> Weights:
    """The weights as alpha has them."""
    return {kind: model.relaxation(kind)(alpha) for kind, alpha in model.alphas.items()}


def noisy(centre: Weights, epsilon: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform noise within epsilon added."""
    found = {}
    for kind, weights in centre.items():
        noise = 2 * torch.rand(weights.shape, dtype=weights.dtype, generator=generator) - 1
        found[kind] = projected(weights + epsilon * noise.to(weights), weights, epsilon)
    return found


def projected(
    weights: Float[Tensor, "edges ops"], centre: Float[Tensor, "edges ops"], epsilon: float
) -> Float[Tensor, "edges ops"]:
    """Clipped to within epsilon of the centre and to [0, 1]; then every row is scaled to a sum of 1.

    A row that is 0 after clipping becomes its largest operation alone, as in the authors' code.
    """
    weights = torch.minimum(torch.maximum(weights, centre - epsilon), centre + epsilon)
    clipped = weights.clamp(0, 1)
    total = clipped.sum(1, keepdim=True)
    largest = F.one_hot(weights.argmax(1), weights.shape[1]).to(weights)
    return torch.where(total > 0, clipped / total, largest)


def _gradients(model: Supernet, weights: Weights, loss: Callable[[], Tensor], step: Step) -> tuple[Tensor, ...]:
    """Of the loss of all processes in the weights of the operations, at these."""
    with model.held_at(weights):
        # What is added to softmax(alpha) has the gradient of the sum.
        offsets = [model.relaxation(kind).offset.requires_grad_() for kind in weights]
        return step.processes.add_up(torch.autograd.grad(loss(), offsets, materialize_grads=True))

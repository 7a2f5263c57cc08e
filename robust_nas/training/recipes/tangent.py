"""Certified training in l2 on estimated intervals: boxes are loose there, tangents are not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.training.learner import Learner, cross_entropies
from robust_nas.training.recipes.base import Loss, Recipe, bounded
from verify.propagation.neurons import Intervals
from verify.regions import Ball, per_image
from verify.specification import margins

NEIGHBOURS = 3
"""Side of the square of pixels over which squared derivatives are averaged: one sample an image is noisy."""
TINY = 1e-12
"""The least squared derivative, so that its root has a gradient."""


class Tangent(Recipe):
    """Cross-entropy of margins of which the smallest is CROWN's lower bound on estimated intervals.

    Intervals turn an l2 ball into a box at the first rectifier, and so count a perturbation of one pixel everywhere at
    once. Here a neuron z has the interval z -+ epsilon |dz/dx|, the ball's image under the network linearised at x. Its
    squared l2 norm is the expectation of (dz/dx v)^2 for normal v, so one forward pass with one direction an image
    estimates those of all neurons. CROWN's backward pass on these intervals then charges for every neuron that could
    change sides in the ball. The loss is no bound, and no less trainable for that (as in SABR, Mueller et al., ICLR
    2023); what the network is worth, tight bounds such as method "affine" tell afterwards.

    The class that is nearest by the clean margin is bounded, the others count with their clean margins. Batch norm's
    statistics are those of the clean batch; gradients pass through them, and through the tangents.

    Settings: `epsilon`. Preset: `ramp`.

    Raises:
        InputError: a preset with drop-path or an auxiliary head, which no bound knows.
    """

    columns = ("clean_loss", "epsilon", "verified", "unstable")
    norms = ("l2",)

    def begin(self, learner: Learner, example: Float[Tensor, "1 c h w"]) -> None:
        self.network = bounded(learner, self.preset, example)

    def __call__(
        self, learner: Learner, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], progress: float
    ) -> Loss:
        with torch.no_grad():
            learner(images)  # moves the running statistics, which a bound leaves alone
        self.network.freeze(images, self.processes.moments)
        ball = Ball(images, self.settings.epsilon * self.grown(progress), "l2", "free")
        logits, neurons = self.network.tangents(images, self._directions(images))
        intervals = {name: _interval(*pair, ball.epsilon) for name, pair in neurons.items()}
        runner_up = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
        specification = margins(labels, logits.shape[1], runner_up)
        lower = self.network.lower_given(ball, specification, intervals).squeeze(1)
        gaps = logits.gather(1, labels[:, None]) - logits  # that of the label with itself is the 1 in log(1 + ...)
        gaps = gaps.scatter(1, runner_up[:, None], lower[:, None])
        return Loss(
            self.mean(torch.logsumexp(-gaps, 1)),
            {
                "clean_loss": self.figure(self.mean(cross_entropies(logits, labels))),
                "epsilon": self.settings.epsilon * self.grown(progress),
                "verified": self.figure(self.mean((lower > 0).to(lower))),
                "unstable": self.figure(self.mean(_unstable(intervals))),
            },
        )

    def _directions(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        shape = (self.drawn_for(images), *images.shape[1:])
        return self.own(torch.randn(shape, generator=self.generator, device=images.device)).to(images)


def _interval(value: Tensor, derivative: Tensor, epsilon: Float[Tensor, " b"]) -> tuple[Tensor, Tensor]:
    """The estimated interval of neurons, from their values and one derivative each."""
    squares = derivative.square()
    if squares.dim() == 4:
        squares = F.avg_pool2d(squares, NEIGHBOURS, 1, NEIGHBOURS // 2, count_include_pad=False)
    radius = per_image(epsilon.to(value), value) * squares.clamp(min=TINY).sqrt()
    return value - radius, value + radius


def _unstable(intervals: Intervals) -> Float[Tensor, " b"]:
    """The fraction of neurons, of each image, whose interval holds 0."""
    holds = [((lower < 0) & (upper > 0)).flatten(1) for lower, upper in intervals.values()]
    return torch.cat(holds, 1).to(torch.float32).mean(1)

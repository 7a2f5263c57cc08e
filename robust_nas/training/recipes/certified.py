"""Certified training: interval bounds (Gowal et al. 2018), warmed up as by Shi et al. (NeurIPS 2021)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robust_nas.registry import TRAINING_BOUNDS
from robust_nas.training.learner import Learner, cross_entropies
from robust_nas.training.recipes.base import Loss, Recipe, bounded
from verify.checks.errors import InputError, known_names
from verify.propagation.bounds import Bounds
from verify.propagation.neurons import Intervals
from verify.regions import Ball
from verify.specification import margins

TOLERANCE = 0.5
"""tau of the two regularisers."""
REGULARISATION = 0.5
"""lambda_0: their weight at epsilon 0; it falls to 0 as epsilon grows to its value."""
WIDEST = 1e6
"""Logits; where intervals of the margins come out wider, epsilon is made smaller, see `Certified`."""


class Certified(Recipe):
    """Cross-entropy of the worst logits that bounds allow in the free-domain ball, with epsilon growing from 0.

    The worst margins z_k of all classes stand for logits: log(1 + sum_k exp(-z_k)) for lower bounds z_k of f_y - f_k.
    What holds in the free domain holds in [0, 1].

    While epsilon grows, two regularisers (Shi et al., section 3.2) keep intervals from exploding and neurons from
    dying: `tightness`, relu(tau - w_0 / w_i) / tau with w_i the mean width of the intervals that a layer of ReLUs
    reads and w_0 that of the ball, and `balance`, which wants active and inactive neurons to weigh the same in the
    mean and the variance of the intervals' centres. Fresh weights have the spread that keeps widths in expectation
    (section 3.1).

    The intervals of a fresh deep network are wider than any float: 10^48 times the ball's at the end of 20 cells, where
    a batch norm follows every convolution. An image whose margins have intervals wider than `WIDEST` is therefore given
    a ball so small that theirs are about as wide as that. What such a loss falls with is the logarithm of the width,
    until the image can bear the epsilon that is due.

    With bound "crown-ibp" (Zhang et al., ICLR 2020) the margins are a mixture that begins with CROWN's, on intervals,
    and ends with the intervals' as epsilon reaches its value.

    Batch norm's statistics are those of the clean batch, in the bounds too; gradients pass through them.

    Settings: `norm`, `epsilon`, `bound`. Preset: `ramp`.

    Raises:
        InputError: a bound of another name; or a preset with drop-path or an auxiliary head, which no bound knows.
    """

    columns = ("clean_loss", "epsilon", "verified", "regulariser")

    def begin(self, learner: Learner, example: Float[Tensor, "1 c h w"]) -> None:
        if (bound := self.settings.bound) not in TRAINING_BOUNDS:
            raise InputError(f"unknown bound {bound!r} for training; {known_names(bound, TRAINING_BOUNDS)}")
        self.network = bounded(learner, self.preset, example)
        keep_widths(learner.network)

    def __call__(
        self, learner: Learner, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], progress: float
    ) -> Loss:
        with torch.no_grad():
            learner(images)  # moves the running statistics, which a bound leaves alone
        logits = self.network.freeze(images, self.processes.moments)
        grown = self.grown(progress)
        ball = Ball(images, self.settings.epsilon * grown, self.settings.norm, "free")
        rows = margins(labels, logits.shape[1])
        ball, bounds = self.bounds(ball, rows, grown)
        lower = self._margins(ball, rows, bounds.lower, grown)
        robust = self.mean(torch.logsumexp(torch.cat([torch.zeros_like(lower[:, :1]), -lower], 1), 1))
        regulariser = self.regulariser(ball, bounds.intervals) if grown < 1 else torch.zeros_like(robust)
        value = robust + REGULARISATION * (1 - grown) * regulariser
        return Loss(
            value,
            {
                "clean_loss": self.figure(self.mean(cross_entropies(logits, labels))),
                "epsilon": self.figure(self.mean(ball.epsilon)),
                "verified": self.figure(self.mean((lower > 0).all(1).to(lower))),
                "regulariser": self.figure(regulariser),
            },
        )

    def bounds(self, ball: Ball, rows: Float[Tensor, "b s k"], grown: float) -> tuple[Ball, Bounds]:
        """Bounds by intervals, and the balls, some of them made smaller, that they are of."""

        def by_intervals() -> Bounds:
            return self.network.bounds(ball, specification=rows, method="ibp", keep_intervals=grown < 1)

        found = by_intervals()
        too_wide = ~((found.upper - found.lower).detach() < WIDEST).all(1)  # not a number is too wide
        if too_wide.any():
            with torch.no_grad():
                slope = self.network.width_slope(ball.centre, ball.norm, rows, ball.domain).amax(1).double()
            smaller = torch.fmin(ball.epsilon, (math.log(WIDEST) - slope).exp())
            ball = ball.with_epsilon(torch.where(too_wide, smaller, ball.epsilon))
            found = by_intervals()
        return ball, found

    def _margins(
        self, ball: Ball, rows: Float[Tensor, "b s k"], lower: Float[Tensor, "b s"], grown: float
    ) -> Float[Tensor, "b s"]:
        """Lower bounds of the margins: the intervals', with CROWN's mixed in as the recipe's bound says."""
        if self.settings.bound != "crown-ibp" or grown == 1:
            return lower
        tighter = self.network.bounds(ball, specification=rows, method="crown-ibp").lower
        return grown * lower + (1 - grown) * tighter

    def regulariser(self, ball: Ball, intervals: Intervals) -> Float[Tensor, ""]:
        """This process' part of the mean over layers of both regularisers."""
        width = ball.epsilon.mean()  # of the pixels; their ends, in float32, are one number where epsilon is tiny
        layers = torch.stack([sums(lower.double(), upper.double()) for lower, upper in intervals.values()])
        layers = self.processes.sum(layers)
        terms = [tightness(layer, width) + balance(layer) for layer in layers]
        return torch.stack(terms).mean().to(ball.centre) / self.processes.size


def keep_widths(network: nn.Module) -> None:
    """Fresh weights of variance 2 pi / n^2 for n inputs: a layer doubles the width of intervals in expectation, and the
    ReLU after it halves it.

    Biases become 0. (Shi et al., section 3.1.)
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            inputs = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(2 * math.pi) / inputs)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def sums(lower: Tensor, upper: Tensor) -> Float[Tensor, "9"]:
    """What the regularisers need of a layer's neurons, as sums over neurons and images: they add up over processes.

    Number; half widths; centres; number, centres and their squares of those surely active; the same two of those surely
    inactive are the last.
    """
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    active, inactive = (lower > 0).to(centre), (upper < 0).to(centre)
    parts = [torch.ones_like(centre), radius, centre]
    for chosen in (active, inactive):
        parts += [chosen, chosen * centre, chosen * centre.square()]
    return torch.stack([part.sum() for part in parts])


def tightness(layer: Float[Tensor, "9"], width: Tensor) -> Float[Tensor, ""]:
    """relu(tau - w_0 / w_i) / tau of a layer's `sums`, for w_0 the width of the ball and w_i that of its intervals."""
    number, radius = layer[0], layer[1]
    return torch.relu(TOLERANCE - width * number / radius.clamp(min=torch.finfo(radius.dtype).tiny)) / TOLERANCE


def balance(layer: Float[Tensor, "9"]) -> Float[Tensor, ""]:
    """relu(tau - ratio) / tau for the ratios, at most 1, of means and of variances; 0 where a side has no neuron."""
    mean = layer[2] / layer[0]
    totals, spreads = [], []
    for first in (3, 6):
        count, centres, squares = layer[first : first + 3]
        if count == 0:
            return torch.zeros_like(mean)
        totals.append(centres.abs())
        spreads.append(squares - 2 * mean * centres + mean.square() * count)
    ratios = [_ratio(*pair) for pair in (totals, spreads)]
    terms: Tensor = sum(torch.relu(TOLERANCE - ratio) for ratio in ratios)  # type: ignore[assignment]
    return terms / TOLERANCE


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """The smaller over the larger."""
    return torch.minimum(one, other) / torch.maximum(one, other).clamp(min=1e-12)

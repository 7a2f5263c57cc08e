"""What the tests of attacks share: linear networks, whose smallest perturbations are known in closed form."""

from dataclasses import replace

import torch
from torch import nn

from robust_nas.attacks import Target
from robust_nas.attacks.outcomes import Attacked, Outcome
from robust_nas.attacks.threats import Threat
from robust_nas.data import Examples

CPU = torch.device("cpu")


class Linear(nn.Module):
    """Two logits, 0 and scale (w.x + b); the images lie so that b centres them."""

    def __init__(self, seed=0, scale=20.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(16, generator=generator)
        self.w = nn.Parameter(w + 0.3 * w.sign())  # no weight near 0, where rounding would choose a gradient's sign
        self.b = nn.Parameter(-0.5 * self.w.sum().detach())
        self.scale = scale

    def score(self, x):
        return x.flatten(1) @ self.w + self.b

    def forward(self, x):
        score = self.scale * self.score(x)
        return torch.stack([torch.zeros_like(score), score], 1)


class Staircase(nn.Module):
    """A network whose logits are rounded: it has the network's answers, nearly, and a gradient of 0."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return torch.round(self.network(x))


def interior_images(count=12, seed=0, side=4):
    """Grey images, far enough from black and white that clipping never binds in these tests."""
    return 0.5 + 0.1 * (torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed)) - 0.5)


def target_of(network, images, labels=None, batch_size=128):
    """A target whose labels are the network's answers, unless others are given."""
    with torch.no_grad():
        labels = network(images).argmax(1) if labels is None else labels
    return Target.of(network.eval().requires_grad_(False), Examples(images, labels), CPU, batch_size)


def outcome(**values):
    """An outcome in which nothing happened but what is given."""
    nothing = Outcome(0, 1, 1, True, "pgd-10", "linf", 0.1, False, float("inf"), 10.0, 0.1, "")
    return replace(nothing, **values)


def attacked_by(attack, successes, count=100, norm="linf", epsilon=0.01, by=None):
    """An attack that broke so many of the images."""
    rows = [outcome(index=i, success=i < successes, by=(by or attack.name) if i < successes else "") for i in range(count)]
    return Attacked(attack, Threat(norm, epsilon), rows)

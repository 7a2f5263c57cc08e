"""Random chains of ordinary layers: whatever order of dimensions one leaves behind, the next bounds it.

Rows of coefficients lie in memory as the last operator left them. Dozens of neurons are unstable here, so that all
layouts come up that many rows have.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.levels import level
from tests.verify.helpers import assert_between, attack, extremes, random_images, random_rows, randomise
from verify import METHODS, Ball, BoundedNetwork, attack_radius, audit, certified_radius, prove

RADII = {"linf": 0.2, "l2": 0.7, "l1": 2.0}
SHAPE = (3, 6, 6)
CHAINS = level(4, 16)


class Chain(nn.Module):
    """Some twelve random layers, a relaxed one after most others, and a dense layer at the end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.layers, self.steps = nn.ModuleList(), []
        x = torch.zeros(2, *SHAPE)
        for _ in range(6):
            for name in (self._choice(["conv", "mix", "pool", "join"]), self._choice(["rearrange", "reduce", "none"])):
                x = self._grow(name, x)
            if self._draw(15) == 0:
                x = self._add(x, with_a_number)
            if self._draw(3):
                x = self._add(x, lambda x: F.relu(x - 0.1))
        self.head = nn.Linear(x[0].numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.head(x.flatten(1))

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.generator))

    def _choice(self, options: list):
        return options[self._draw(len(options))]

    def _add(self, x: Tensor, step) -> Tensor:
        self.steps.append(step)
        return step(x)

    def _module(self, x: Tensor, module: nn.Module) -> Tensor:
        self.layers.append(module)
        return self._add(x, module)

    def _grow(self, name: str, x: Tensor) -> Tensor:
        rank, size = x.dim() - 1, list(x.shape[1:])
        dimension = 1 + self._draw(rank)
        if name == "conv" and rank in (2, 3):
            conv = nn.Conv2d if rank == 3 else nn.Conv1d
            groups = size[0] if self._draw(3) == 0 else 1
            stride = 1 + (self._draw(3) == 0)
            return self._module(x, conv(size[0], groups * self._choice([1, 2]) if groups > 1 else 5, 3, stride, 1, groups=groups))
        if name == "mix":
            return self._module(x, nn.Linear(size[-1], self._choice([4, 6])))
        if name == "pool" and rank == 3 and min(size[1:]) >= 3:
            return self._module(x, self._choice([nn.MaxPool2d(2, 1), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1)]))
        if name == "join":
            return self._add(x, lambda x: torch.cat([x, x.flip(dimension)], dimension)) if x[0].numel() < 150 else x
        if name == "reduce" and rank > 1 and x[0].numel() > 40:
            dimensions = [dimension] if rank == 2 or self._draw(2) else [dimension, 1 + dimension % rank]
            keep, mean = bool(self._draw(2)), bool(self._draw(2))
            return self._add(x, lambda x: x.mean(dimensions, keep) if mean else x.sum(dimensions, keep) / 3)
        if name == "rearrange":
            return self._rearrange(x, rank, size, dimension)
        return x

    def _rearrange(self, x: Tensor, rank: int, size: list[int], dimension: int) -> Tensor:
        other = 1 + self._draw(rank)
        order = [0, *(1 + torch.randperm(rank, generator=self.generator)).tolist()]
        lines = [(-1,), (size[0], -1), (size[0], -1, size[-1])][self._draw(rank)]
        return self._add(
            x,
            self._choice([
                lambda x: x.transpose(dimension, other),
                lambda x: x.permute(order),
                lambda x: x.flip(dimension),
                lambda x: x.narrow(dimension, 0, max(1, x.shape[dimension] - 1)),
                lambda x: x.reshape(len(x), *lines),
            ]),
        )


def with_a_number(x: Tensor) -> Tensor:
    """A relaxed neuron that is all of a node: its shape is "b"."""
    x = x.flatten(1)
    return torch.cat([x, F.relu(x.mean(1) - 0.2).unsqueeze(1)], 1)


def chain(seed: int) -> nn.Module:
    return randomise(Chain(seed), seed)


@pytest.mark.parametrize("seed", range(CHAINS))
def test_every_method_bounds_it_and_each_image_as_if_alone(seed):
    """Sound, with gradients too, and a batch of many rows (another layout) says what one image and one row say."""
    model, norm = chain(seed), list(RADII)[seed % 3]
    images, rows = random_images(SHAPE, 1 + seed % 3, seed), random_rows(20, 3, 1 + seed % 3, seed)
    network = BoundedNetwork(model, images[:1])
    ball = Ball(images, RADII[norm], norm, "unit" if seed % 2 else "free")
    low, high = extremes(model, attack(model, ball, rows, samples=4, steps=3), rows)
    weights = list(model.parameters())
    for method in METHODS:
        found = network.bounds(ball, specification=rows, method=method)
        assert_between(found, low, high, method)
        with torch.no_grad():
            plain = network.bounds(ball, specification=rows, method=method)
        torch.testing.assert_close(found.lower, plain.lower, rtol=1e-6, atol=1e-6)
        if method == "alpha-crown":  # ends for all rows together
            continue
        alone = ball.take(torch.tensor([0]))
        single = network.bounds(alone, specification=rows[:1, :3], method=method)
        torch.testing.assert_close(found.lower[:1, :3], single.lower, rtol=1e-6, atol=1e-6)
        got = torch.autograd.grad(found.lower[0, :3].sum(), weights, allow_unused=True)
        expected = torch.autograd.grad(single.lower.sum(), weights, allow_unused=True)
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(100, level(101, 103)))
def test_radii_and_their_audit(seed):
    model, norm = chain(seed), list(RADII)[seed % 3]
    images = random_images(SHAPE, 2, seed)
    labels = model(images).argmax(1)
    network = BoundedNetwork(model.float(), images[:1].float())
    ceiling = attack_radius(network, images.float(), labels, norm, steps=5, rounds=5)
    for method in ("auto", "crown"):
        found = certified_radius(network, images, labels, norm, method=method, ceiling=ceiling)
        assert (found.radius > 0).all() and (found.radius <= ceiling.double()).all()
    audited = audit(network, images, labels, found.radius, norm, samples=20, starts=2, steps=5)
    assert audited.broken == 0


def test_an_export_from_a_channels_last_framework_is_decided():
    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.hidden, self.out = nn.Conv2d(1, 3, 2, 2), nn.Linear(12, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(F.relu(self.hidden(F.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1))))

    model, images = randomise(Exported()), random_images((1, 4, 4), 1)
    network, label = BoundedNetwork(model, images), int(model(images).argmax())
    ceiling = float(attack_radius(network, images, torch.tensor([label])))
    assert prove(network, Ball(images, 0.8 * ceiling), label).verdict == "proven"
    assert prove(network, Ball(images, 1.05 * ceiling), label).verdict == "broken"

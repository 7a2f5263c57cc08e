"""Small networks of the kinds that people bring, at 32x32: bounds of every method hold, and radii are positive."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.verify.helpers import assert_between, assert_neurons, attack, extremes, random_images, random_rows
from verify import METHODS, Ball, BoundedNetwork, audit, certified_radius


class Patches(nn.Module):
    """Tokens of an image, with places."""

    def __init__(self, size: int, width: int, cls: bool) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, size, size)
        self.cls = nn.Parameter(torch.randn(1, 1, width)) if cls else None
        self.places = nn.Parameter(0.1 * torch.randn(1, (32 // size) ** 2 + cls, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return (tokens if self.cls is None else torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1)) + self.places


class Transformer(nn.Module):
    """A vision transformer of two blocks over four patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches(16, 8, cls=True)
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patches(x)))[:, 0])


class Mixer(nn.Module):
    """An MLP mixer of one block over sixteen patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norms = Patches(8, 6, cls=False), nn.ModuleList(nn.LayerNorm(6) for _ in range(3))
        self.tokens = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16))
        self.channels = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


class Excited(nn.Module):
    """Squeeze and excitation between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 6, 4, 4), nn.Conv2d(6, 4, 3, 2)
        self.squeeze, self.excite, self.head = nn.Linear(6, 2), nn.Linear(2, 6), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return self.head(F.relu(self.last(x * gate[:, :, None, None])).flatten(1))


def grouped() -> nn.Module:
    """Convolutions with group norm."""
    body = [nn.Conv2d(1, 4, 4, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.GroupNorm(1, 4), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(36, 3))


NETWORKS = {"transformer": Transformer, "mixer": Mixer, "squeeze and excitation": Excited, "group norm": grouped}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_bounded_by_every_method_and_has_radii(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name]().double().eval()
    images = random_images((1, 32, 32), 1)
    network, rows = BoundedNetwork(model, images[:1]), random_rows(2, 3, 1)
    ball = Ball(images, 1e-3)
    points = attack(model, ball, rows, samples=4, steps=4)
    low, high = extremes(model, points, rows)
    for method in METHODS:
        with torch.no_grad():
            bounds = network.bounds(ball, specification=rows, method=method, keep_intervals=True)
        assert_between(bounds, low, high, method)
        assert_neurons(network, points, bounds, method)
    assert ((bounds.upper - bounds.lower) <= 2 * (high - low)).all()
    labels = model(images).argmax(1)
    found = certified_radius(network, images, labels, method="affine", tolerance=0.3)
    assert (found.radius > 1e-4).all()
    assert audit(network, images, labels, found.radius, method="affine").broken == 0

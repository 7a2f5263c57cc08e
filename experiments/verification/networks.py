"""Small networks of 8 x 8 digits, one of each kind that verifiers meet; an exact program is within reach of most."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.data import Data
from robust_nas.genotype import Genotype
from robust_nas.spaces.network import Network


class Residual(nn.Module):
    """x + a convolution, a ReLU and another convolution of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.inner(x)


def dense(data: Data) -> nn.Module:
    """Two layers of 32 ReLUs."""
    layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, data.classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def convolution(data: Data) -> nn.Module:
    """Two convolutions, 96 ReLUs."""
    layers = [nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, data.classes))


def residual(data: Data) -> nn.Module:
    """A residual block, 192 ReLUs."""
    layers = [nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), Residual(4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, data.classes))


def max_pool(data: Data) -> nn.Module:
    """A convolution, 128 ReLUs, and 32 maxima of 4 of them."""
    layers = [nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, data.classes))


def sigmoid(data: Data) -> nn.Module:
    """Two layers of 24 sigmoids."""
    layers = [nn.Linear(64, 24), nn.Sigmoid(), nn.Linear(24, 24), nn.Sigmoid(), nn.Linear(24, data.classes)]
    return nn.Sequential(nn.Flatten(), *layers)


def darts(data: Data) -> nn.Module:
    """Three DARTS cells of two nodes and 2 channels: separable and dilated convolutions, a pool, a skip connection."""
    normal = (("sep_conv_3x3", 0), ("avg_pool_3x3", 1), ("dil_conv_3x3", 0), ("skip_connect", 2))
    reduce = (("sep_conv_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 0), ("sep_conv_3x3", 2))
    genotype = Genotype(normal, (2, 3), reduce, (2, 3), nodes=2)
    return Network(
        genotype, 1, data.classes, channels=2, cells=3, mean=data.mean, std=data.std, pad=data.pad, stem_stride=2
    )


NETWORKS: Mapping[str, Callable[[Data], nn.Module]] = {
    "dense": dense,
    "convolution": convolution,
    "residual": residual,
    "max-pool": max_pool,
    "sigmoid": sigmoid,
    "darts": darts,
}
"""What builds each, with fresh weights."""


def seeded(name: str, data: Data, seed: int) -> nn.Module:
    """A network with the fresh weights of a seed."""
    torch.manual_seed(seed)
    return NETWORKS[name](data)

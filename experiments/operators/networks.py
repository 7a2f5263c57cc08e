"""Whole networks of these operators, with random weights: radii by method, times, and attacks on what is certified.

    python experiments/operators/networks.py

Writes results/networks.csv. Batch norms have the statistics of 64 random images. The labels are the networks' own
answers, so that every image is classified correctly. Seconds are those of one processor, so that other jobs on the
machine count little. torchvision's networks take one image; a method that they have no row of figures for takes more
than minutes an evaluation.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.common import Script
from robust_nas.runs import Run
from verify import BoundedNetwork, InputError, attack_radius, audit, certified_radius

RESULTS = Path(__file__).parent.parent / "results"
METHODS = ("ibp", "crown-ibp", "affine", "crown", "alpha-crown")
TOLERANCE = 0.1


class PointNet(nn.Module):
    """A small network on each of 32 points, the maximum over all, a classifier (Qi et al., CVPR 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Conv1d(3, 16, 1), nn.ReLU(), nn.Conv1d(16, 32, 1), nn.ReLU())
        self.all = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.all(self.each(x).amax(2))
        return logits


class UNet(nn.Module):
    """Down by a pool, up by interpolation, with a connection across (Ronneberger et al., MICCAI 2015); mean logits."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.Sequential(nn.Conv2d(12, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        across = self.down(x)
        above = F.interpolate(self.deep(across), scale_factor=2, mode="bilinear")
        return torch.mean(self.up(torch.cat([across, above], 1)), (2, 3))


class SqueezeExcite(nn.Module):
    """A convolutional network with gates of channels (Hu et al., CVPR 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU())
        self.gate = nn.Sequential(squeeze, nn.Conv2d(2, 8, 1), nn.Sigmoid())
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        logits: Tensor = self.last(features * self.gate(features))
        return logits


class Mixer(nn.Module):
    """An MLP-mixer of one block (Tolstikhin et al., NeurIPS 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, 2)
        self.before, self.between = nn.LayerNorm(8), nn.LayerNorm(8)
        self.tokens = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16))
        self.channels = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        x = x + self.tokens(self.before(x).mT).mT
        x = x + self.channels(self.between(x))
        logits: Tensor = self.last(x.mean(1))
        return logits


class VisionTransformer(nn.Module):
    """Patches of 4 pixels, two blocks, two heads (Dosovitskiy et al., ICLR 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 4, 8) / 4)
        block = partial(nn.TransformerEncoderLayer, 8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.blocks = nn.ModuleList(block() for _ in range(2))
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT + self.places
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.last(x.mean(1))
        return logits


def sigmoid_mlp() -> nn.Module:
    """Three layers."""
    layers = (nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.Sigmoid(), nn.Linear(32, 5))
    return nn.Sequential(nn.Flatten(), *layers)


def generator() -> nn.Module:
    """From 16 numbers to an image of 8 x 8 pixels, of which five sums are bounded."""
    first = (nn.Linear(16, 64), nn.Unflatten(1, (16, 2, 2)), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.BatchNorm2d(8))
    last = (nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    return nn.Sequential(*first, nn.ReLU(), *last)


def torchvision_network(name: str) -> nn.Module:
    """As torchvision has it, with ten classes."""
    from torchvision import models

    network: nn.Module = getattr(models, name)(num_classes=10)
    return network


class Case(NamedTuple):
    """A network and how it is measured.

    Attributes:
        build: the network with random weights.
        shape: of its input.
        images: how many are bounded.
        left_out: methods that it has no figures for, and why.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    images: int = 2
    left_out: dict[str, str] = {}


NETWORKS: dict[str, Case] = {
    "sigmoid MLP": Case(sigmoid_mlp, (1, 8, 8)),
    "PointNet": Case(PointNet, (3, 32)),
    "generator with tanh": Case(generator, (16,)),
    "squeeze and excitation": Case(SqueezeExcite, (1, 8, 8)),
    "U-Net": Case(UNet, (1, 8, 8)),
    "MLP-mixer": Case(Mixer, (1, 8, 8)),
    "vision transformer": Case(VisionTransformer, (1, 8, 8)),
    "ResNet-18": Case(partial(torchvision_network, "resnet18"), (3, 32, 32), 1),
    "MobileNetV2": Case(partial(torchvision_network, "mobilenet_v2"), (3, 32, 32), 1),
    "EfficientNet-B0": Case(partial(torchvision_network, "efficientnet_b0"), (3, 32, 32), 1),
}


def built(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """The network in float64, in evaluation mode; batch norms with the statistics of random images."""
    torch.manual_seed(0)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(64, *shape))
    return model.double().eval()


def measure(name: str, time_limit: float) -> Iterator[dict[str, Any]]:
    """A row for every method of a network, or one that says why it is refused."""
    case = NETWORKS[name]
    model = built(case.build, case.shape)
    images = torch.rand(case.images, *case.shape, generator=torch.Generator().manual_seed(1)).double()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    common = {"network": name, "parameters": parameters, "images": case.images}
    try:
        network = BoundedNetwork(model, images[:1])
    except InputError as error:
        yield {**common, "status": str(error)}
        return
    with torch.no_grad():
        labels = model(images).argmax(1)
    attacked = attack_radius(network, images, labels)
    common["attack_radius"] = attacked.mean().item()
    for method in METHODS:
        if method in case.left_out:
            yield {**common, "method": method, "status": case.left_out[method]}
            continue
        start = time.process_time()
        found = certified_radius(
            network, images, labels, method=method, ceiling=attacked, tolerance=TOLERANCE, time_limit=time_limit
        )
        seconds = (time.process_time() - start) / case.images
        broken = audit(network, images, labels, found.radius, method=method, samples=20, starts=3, steps=10).broken
        row = {"radius": found.radius.mean().item(), "seconds": seconds, "broken": broken}
        yield {**common, "method": method, **row, "status": " ".join(dict.fromkeys(found.status))}


COLUMNS = ("network", "parameters", "images", "attack_radius", "method", "radius", "seconds", "broken", "status")


def kept(names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the networks that are not measured now."""
    path = RESULTS / "networks.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["network"] not in names]


@click.command(cls=Script)
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), help="This one alone. [all]")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True)
def main(names: tuple[str, ...], time_limit: float) -> None:
    """Measure whole networks."""
    torch.set_num_threads(1)
    rows = kept(names or tuple(NETWORKS))
    for name in names or NETWORKS:
        for row in measure(name, time_limit):
            print(row, flush=True)
            rows.append(row)
        rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))  # stable: methods stay in order
        Run(RESULTS).write_csv("networks.csv", [{key: row.get(key) for key in COLUMNS} for row in rows])


if __name__ == "__main__":
    main()

"""How large a network is: its parameters, and the multiply-adds of one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robust_nas.genotype import Architecture
from robust_nas.spaces.network import Network

CELLS, CHANNELS = 20, 36
"""The size at which papers compare cells on CIFAR-10 (DARTS, section 3.2)."""

IMAGENET_CELLS, IMAGENET_CHANNELS = 14, 48
"""And on ImageNet."""


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes:
        parameters: number of trainable parameters.
        multiply_adds: of convolutions and linear layers for one image; a multiplication and its addition are one.
            Batch norms, activations, pools and sums are not counted, as is usual.
    """

    parameters: int
    multiply_adds: int


def size(network: nn.Module, shape: Sequence[int]) -> Size:
    """The size of a network for images of this shape, "c h w". Its mode stays as it was."""
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Size(parameters, multiply_adds(network, shape).total())


def multiply_adds(network: nn.Module, shape: Sequence[int]) -> Counter[str]:
    """Those of every convolution and linear layer of a network, by the layer's name: see `Size`.

    Args:
        network: its mode stays as it was.
        shape: of an image, "c h w".
    """
    counts: Counter[str] = Counter()

    def count(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        # Every element of the output is a product with one filter: "in/groups kernel..." or "in".
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        counts[name] += output[0].numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(partial(count, name))
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    parameter, training = next(network.parameters()), network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return counts


def size_on_cifar10(architecture: Architecture, cells: int = CELLS, channels: int = CHANNELS) -> Size:
    """The size of an architecture's network for CIFAR-10.

    Args:
        cells: of the network; an architecture that has a number of cells keeps it.
        channels: of a node in the first cells.
    """
    return _size_of(architecture, cells, channels, classes=10, width=32, stem="cifar")


def size_on_imagenet(architecture: Architecture) -> Size:
    """The size of an architecture's network for ImageNet: 14 cells, or the number that it has, and 48 channels."""
    return _size_of(architecture, IMAGENET_CELLS, IMAGENET_CHANNELS, classes=1000, width=224, stem="imagenet")


def _size_of(architecture: Architecture, cells: int, channels: int, classes: int, width: int, stem: str) -> Size:
    network = Network(
        architecture,
        in_channels=3,
        classes=classes,
        channels=channels,
        cells=architecture.depth or cells,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        stem=stem,
    )
    return size(network, (3, width, width))

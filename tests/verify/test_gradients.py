"""Bounds are differentiable in alpha and in the weights: against central differences in float64.

The other methods are held against them as metrics, in tests/robust_nas/metrics.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robust_nas.spaces.supernet import Supernet
from tests.verify.helpers import random_images, randomise
from verify import BoundedNetwork, margins

RADIUS = {"linf": 1e-3, "l2": 5e-3}


def supernet() -> Supernet:
    return randomise(Supernet(1, 3, channels=1, cells=3, nodes=1, mean=(0.3,), std=(0.4,)), seed=3).train()


def metric(network: BoundedNetwork, images: Tensor, norm: str, method: str) -> Tensor:
    """The worst certified margin, averaged; batch statistics frozen anew on the clean batch."""
    network.freeze(images)
    labels = torch.tensor([0, 1, 2])
    bounds = network.bounds(images, RADIUS[norm], norm, margins(labels, 3), method)
    return bounds.lower.amin(1).mean()


@pytest.mark.parametrize("norm", RADIUS)
@pytest.mark.parametrize("method", ["ibp", "affine"])
def test_the_gradient_is_that_of_central_differences(norm: str, method: str) -> None:
    model, images = supernet(), random_images((1, 6, 6))
    network = BoundedNetwork(model, images[:1])
    parameters = [*model.architecture_parameters(), model.classifier.weight, model.stem[0].weight]
    gradients = torch.autograd.grad(metric(network, images, norm, method), parameters)
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        expected = central_difference(parameter, direction, lambda: metric(network, images, norm, method))
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-8)
        assert expected != 0


@torch.no_grad()
def central_difference(parameter: Tensor, direction: Tensor, function, step: float = 1e-6) -> Tensor:
    """d function / d direction; the graph reads the parameter anew each time."""
    values = []
    for sign in (1, -1):
        parameter += sign * step * direction
        values.append(function())
        parameter -= sign * step * direction
    return (values[0] - values[1]) / (2 * step)

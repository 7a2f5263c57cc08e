"""Gradients of bounds against central differences, in float64, through batch statistics and softmax."""

import pytest
import torch
from torch import nn

from robust_nas.spaces.supernet import Supernet
from tests.verify.helpers import random_images, random_rows, randomise
from verify import METHODS, Ball, BoundedNetwork, margins

RADII = {"linf": 2e-3, "l2": 1e-2}
IMAGES = random_images((1, 6, 6), 4)[1:]
"""Without equal pixels: among neurons that are equal by symmetry, rounding would choose another one each time."""


@pytest.fixture(scope="module")
def supernet() -> BoundedNetwork:
    """Two cells, one node each, every operation; batch norm on the statistics of the batch."""
    model = Supernet(1, 3, channels=1, cells=2, nodes=1, mean=[0.3], std=[0.4])
    model = randomise(model, 2).train()
    with torch.no_grad():
        for alpha in model.architecture_parameters():
            alpha.mul_(0.3)
    return BoundedNetwork(model, random_images((1, 6, 6)))


def objective(network: BoundedNetwork, norm: str, method: str) -> torch.Tensor:
    """Smooth in the bounds: all lower and upper ones, with random weights; statistics frozen anew."""
    network.freeze(IMAGES)
    bounds = network.bounds(Ball(IMAGES, RADII[norm], norm), specification=random_rows(2, 3, 3), method=method)
    weights = random_rows(2, 2, 3, seed=1)
    return (weights[..., 0] * bounds.lower + weights[..., 1] * bounds.upper).sum()


def central_difference(function, parameter: nn.Parameter, direction: torch.Tensor) -> float:
    """Fourth order; a kink between the points shows as a disagreement of two step sizes."""
    start, estimates = parameter.detach().clone(), []
    with torch.no_grad():
        for step in (4e-6, 1e-6):
            values = []
            for multiple in (-2, -1, 1, 2):
                parameter.copy_(start + multiple * step * direction)
                values.append(function().item())
            parameter.copy_(start)
            estimates.append((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step))
    assert estimates[0] == pytest.approx(estimates[1], rel=1e-4, abs=1e-6), "a kink: choose another seed"
    return estimates[1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_supernet(supernet, norm, method):
    """In every alpha and in weights of all kinds; d(statistics)/d(parameter) is part of it."""
    model = supernet.model
    model.zero_grad()
    objective(supernet, norm, method).backward()
    generator = torch.Generator().manual_seed(0)
    chosen = [
        *(f"alphas.{kind}" for kind in ("normal", "reduce")),
        "stem.0.weight", "stem.1.weight", "stem.1.bias", "cells.0.inputs.last.1.weight",
        "cells.1.edges.0.operations.4.0.1.weight", "classifier.weight",
    ]  # fmt: skip
    parameters = dict(model.named_parameters())
    checked = 0
    for name in chosen:
        if name not in parameters:
            raise AssertionError(f"{name} is none of {sorted(parameters)}")
        parameter = parameters[name]
        if parameter.grad is None:  # two cells: both are reductions
            assert name == "alphas.normal"
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        expected = central_difference(lambda: objective(supernet, norm, method), parameter, direction)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-7), name
        assert abs(expected) > 1e-6, name
        checked += 1
    assert checked == 7


def test_every_entry_of_alpha(supernet):
    """Not only in a random direction."""
    model = supernet.model
    model.zero_grad()
    objective(supernet, "linf", "crown-ibp").backward()
    alpha = model.alphas["reduce"]
    for entry in torch.eye(alpha.numel(), dtype=torch.float64).view(-1, *alpha.shape):
        expected = central_difference(lambda: objective(supernet, "linf", "crown-ibp"), alpha, entry)
        assert (alpha.grad * entry).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_gradient_passes_through_the_statistics(supernet):
    """With statistics that are held fixed it is another gradient: the difference is not small."""
    model = supernet.model
    gradients = []
    for fixed in (False, True):
        model.zero_grad()
        supernet.freeze(IMAGES)
        if fixed:
            for node in supernet.graph.batch_norms:
                node.statistics = type(node.statistics)(*(value.detach() for value in node.statistics))
        rows = margins(torch.tensor([0, 1, 2]), 3)
        supernet.bounds(IMAGES, 2e-3, specification=rows, method="crown-ibp").lower.sum().backward()
        gradients.append(model.alphas["reduce"].grad.clone())
    assert (gradients[0] - gradients[1]).norm() > 0.05 * gradients[0].norm()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_network_in_evaluation_mode(method):
    """Weights, biases, and scale and shift of batch norm; through a max pool."""
    model = randomise(
        nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(2, 2, 3, padding=1),
            nn.ReLU(), nn.Flatten(), nn.Linear(32, 3),
        ),
        1,
    )  # fmt: skip
    images = random_images((1, 6, 6), 2)
    network = BoundedNetwork(model, images)

    def function() -> torch.Tensor:
        return network.bounds(images, 0.02, specification=random_rows(2, 3, 2), method=method).lower.sum()

    function().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        expected = central_difference(function, parameter, direction)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_a_gradient_in_the_images():
    """The centre of a ball may require a gradient, too."""
    model = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    images = random_images((4,)).requires_grad_()
    network = BoundedNetwork(model, images)
    network.bounds(images, 0.05, domain="free").lower.sum().backward()
    direction = random_images((4,), seed=9).detach()

    def along(step: float) -> float:
        return network.bounds(images.detach() + step * direction, 0.05, domain="free").lower.sum().item()

    expected = (along(1e-6) - along(-1e-6)) / 2e-6
    assert (images.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4)

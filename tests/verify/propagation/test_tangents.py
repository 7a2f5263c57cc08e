"""Directional derivatives of the neurons, and bounds on given intervals: what training in l2 stands on."""

import pytest
import torch
from torch import nn

from tests.verify.helpers import random_images, randomise
from verify import METHODS, Ball, BoundedNetwork, margins
from verify.checks.errors import InputError
from verify.propagation.worst_points import WorstPoints


class Cell(nn.Module):
    """Two branches, one of them around a max pool, and batch norm."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.pool = nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.MaxPool2d(2, 1)
        self.last = nn.Linear(27, 4)

    def read(self, x):
        """What the ReLU and the max pool read, and the outputs."""
        before = self.norm(self.first(x))
        inside = self.second(before.relu())
        pooled = self.pool(inside)
        return before, inside, self.last((pooled + before.relu()[..., 1:, 1:]).flatten(1))

    def forward(self, x):
        return self.read(x)[-1]


@pytest.fixture
def cell():
    model = randomise(Cell(), 3)
    images = random_images((1, 4, 4), 5, 1)
    return model, images, BoundedNetwork(model, images)


def test_tangents_are_values_and_directional_derivatives(cell):
    model, images, network = cell
    directions = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, derivatives = torch.func.jvp(model.read, (images,), (directions,))
    outputs, neurons = network.tangents(images, directions)
    assert torch.allclose(outputs, values[-1], rtol=1e-12)
    assert len(neurons) == 2
    for found, value, derivative in zip(neurons.values(), values, derivatives, strict=False):
        assert torch.allclose(found[0], value, rtol=1e-12)
        assert torch.allclose(found[1], derivative, rtol=1e-9, atol=1e-12)


def test_squared_tangents_estimate_squared_norms_of_gradients(cell):
    model, images, network = cell
    image = images[:1]
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn((4000, 1, 4, 4), generator=generator, dtype=torch.float64)
    neurons = network.tangents(image.expand_as(directions), directions).neurons
    exact = [part[0].flatten(-4).square().sum(-1) for part in torch.func.jacrev(model.read)(image)[:2]]
    for (_, derivative), expected in zip(neurons.values(), exact, strict=True):
        samples = derivative.square()
        error = samples.std(0) / len(samples) ** 0.5
        assert ((samples.mean(0) - expected).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_the_intervals_of_a_bound_it_is_that_bounds_line(cell, norm, monkeypatch):
    """And so holds where they hold."""
    monkeypatch.setattr(WorstPoints, "__call__", lambda points, activation: None)  # it has no affine forms to go by
    model, images, network = cell
    labels = model(images).argmax(1)
    ball, rows = Ball(images, 0.1, norm), margins(labels, 4)
    bounds = network.bounds(ball, specification=rows, method="affine")
    assert bounds.line is not None
    expected = ball.least(bounds.line.coefficients) + bounds.line.intercept
    found = network.lower_given(ball, rows, bounds.intervals)
    assert torch.allclose(found, expected, rtol=1e-9)
    assert (found < network.bounds(Ball(images, 0.0, norm), specification=rows, method="ibp").lower).all()


def test_given_intervals_leave_no_trace_in_later_bounds(cell):
    """Absurd ones would prove anything."""
    model, images, network = cell
    ball, rows = Ball(images, 0.1, "l2"), margins(model(images).argmax(1), 4)
    points = {name: (value + 9, value + 9) for name, (value, _) in network.tangents(images, images).neurons.items()}
    network.lower_given(ball, rows, points)
    for method in METHODS:
        found = network.bounds(ball, specification=rows, method=method).lower
        expected = BoundedNetwork(model, images).bounds(ball, specification=rows, method=method).lower
        assert torch.equal(found, expected), method


def test_where_no_neuron_can_change_sides_it_is_the_networks_linear_part(cell):
    model, images, network = cell
    labels, ball = model(images).argmax(1), Ball(images, 1e-6, "l2", "free")
    rows = margins(labels, 4)
    outputs, neurons = network.tangents(images, torch.zeros_like(images))
    found = network.lower_given(ball, rows, {name: (value, value) for name, (value, _) in neurons.items()})
    jacobians = torch.stack([torch.func.jacrev(lambda x: model(x[None])[0])(image).flatten(1) for image in images])
    slopes = torch.linalg.vector_norm(rows.double() @ jacobians, dim=2)
    clean = torch.einsum("bsk,bk->bs", rows.double(), outputs)
    assert torch.allclose(clean - found, 1e-6 * slopes, rtol=1e-5)


def test_a_gradient_passes_through_both(cell):
    """Against central differences in all weights together."""
    model, images, _ = cell
    network = BoundedNetwork(model, images)
    directions = torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = margins(model(images).argmax(1), 4)
    weights = list(model.parameters())
    change = [torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)).to(weight) for weight in weights]

    def value():
        neurons = network.tangents(images, directions).neurons
        around = {name: (value - 0.1 * slope.abs(), value + 0.1 * slope.abs()) for name, (value, slope) in neurons.items()}
        return network.lower_given(Ball(images, 0.1, "l2"), rows, around).sum()

    gradients = torch.autograd.grad(value(), weights)
    slope = sum((gradient * part).sum() for gradient, part in zip(gradients, change, strict=True)).item()
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, part in zip(weights, change, strict=True):
                weight += sign * 1e-7 * part
        ends.append(value().item())
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-4)


def test_a_model_that_changed_its_mode_is_refused(cell):
    model, images, network = cell
    model.train()
    with pytest.raises(InputError, match="wrap it again"):
        network.tangents(images, images)

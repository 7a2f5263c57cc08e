"""Bounds are differentiable in alpha and in the weights: against central differences, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robust_nas.spaces.supernet import Supernet
from tests.verify.helpers import Function, HeldSlopes, random_images, random_rows, randomise
from verify import METHODS, Ball, BoundedNetwork, margins

RADII = {"linf": 1e-3, "l2": 2e-3}
IMAGES = random_images((1, 6, 6), 4)[1:]
"""Without equal pixels: among neurons that are equal by symmetry, rounding would choose another one each time."""


@pytest.fixture(scope="module")
def supernet() -> BoundedNetwork:
    """Two cells, one node each, every operation; batch norm on the statistics of the batch."""
    model = randomise(Supernet(1, 3, channels=1, cells=2, nodes=1, mean=[0.3], std=[0.4]), 2).train()
    with torch.no_grad():
        for alpha in model.architecture_parameters():
            alpha.mul_(0.3)
    return BoundedNetwork(model, IMAGES)


def objective(network: BoundedNetwork, norm: str, method: str) -> Tensor:
    """All lower and upper bounds, with random weights; statistics are frozen anew on the clean batch."""
    network.freeze(IMAGES)
    bounds = network.bounds(Ball(IMAGES, RADII[norm], norm), specification=random_rows(2, 3, 3), method=method)
    weights = random_rows(2, 2, 3, seed=1)
    return (weights[..., 0] * bounds.lower + weights[..., 1] * bounds.upper).sum()


@torch.no_grad()
def assert_gradient(function: Callable[[], Tensor], parameters: dict[str, nn.Parameter]) -> None:
    """The gradient of `function`, already in the parameters, is right in a random direction."""
    generator = torch.Generator().manual_seed(0)
    expected = 0.0
    directions, starts = {}, {}
    for name, parameter in parameters.items():
        random = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        directions[name], starts[name] = random * (1e-2 + parameter.std(correction=0)), parameter.detach().clone()
        expected += (parameter.grad * directions[name]).sum().item()
    assert abs(expected) > 1e-6
    for step in (1e-6, 4.1e-6):
        values = []
        for sign in (1, -1):
            for name, parameter in parameters.items():
                parameter.copy_(starts[name] + sign * step * directions[name])
            values.append(function().item())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)
    for name, parameter in parameters.items():
        parameter.copy_(starts[name])


# No search maximises alpha-CROWN's bound: it would wait too long. Of the other two, one norm is in every run.
SLOW = {("alpha-crown", "linf"), ("alpha-crown", "l2"), ("crown", "l2"), ("affine", "linf")}


@pytest.mark.parametrize(
    ("method", "norm"),
    [
        pytest.param(method, norm, marks=[pytest.mark.slow] if (method, norm) in SLOW else [])
        for method in METHODS
        for norm in ("linf", "l2")
    ],
)
def test_gradients_of_a_supernet(supernet, norm, method, monkeypatch):
    """In alpha, and in weights of all layers; d(statistics)/d(parameter) is part of it, d(slopes) is not."""
    model, held = supernet.model, HeldSlopes(monkeypatch)

    def function() -> Tensor:
        held.begin()
        return objective(supernet, norm, method)

    model.zero_grad()
    function().backward()
    parameters = {name: value for name, value in model.named_parameters() if value.grad is not None}
    assert set(dict(model.named_parameters())) - set(parameters) == {"alphas.normal"}  # both cells are reductions
    assert all(parameter.grad.abs().max() > 0 for parameter in parameters.values())
    alphas = {"alphas.reduce": parameters.pop("alphas.reduce")}
    for part in (alphas, parameters):
        assert_gradient(function, part)


@pytest.mark.parametrize("domain", ["unit", "free"])
def test_gradients_of_the_width_slope(supernet, domain):
    model, rows = supernet.model, random_rows(2, 3, 3)

    def function() -> Tensor:
        supernet.freeze(IMAGES)
        return (supernet.width_slope(IMAGES, specification=rows, domain=domain) * random_rows(1, 2, 3)[:, 0]).sum()

    model.zero_grad()
    function().backward()
    alphas = {"alphas.reduce": model.alphas["reduce"]}
    weights = {name: value for name, value in model.named_parameters() if "alphas" not in name and value.grad is not None}
    for part in (alphas, weights):
        assert_gradient(function, part)


def test_the_gradient_passes_through_the_statistics(supernet):
    """With statistics that are held fixed it is another gradient, and the difference is not small."""
    model, gradients = supernet.model, []
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


def test_the_gradient_of_the_jacobian_is_that_of_differentiating_twice(supernet):
    """In alpha, in the weights, and by way of the batch's statistics."""
    vectors, mix = random_rows(2, 3, 3).transpose(0, 1), random_images(IMAGES.shape, 2, seed=1) - 0.5
    parameters = list(supernet.model.parameters())
    found = []
    for by_autograd in (True, False):
        supernet.freeze(IMAGES)
        if by_autograd:
            x = IMAGES.clone().requires_grad_()
            outputs = supernet(x)
            products = [torch.autograd.grad(outputs, x, vector, create_graph=True)[0] for vector in vectors]
        else:
            products = list(supernet.vector_jacobian(IMAGES, vectors))
        found.append(torch.autograd.grad((mix * torch.stack(products)).sum(), parameters, materialize_grads=True))
    for twice, once in zip(*found, strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 1e-6 for gradient in found[1][:2])


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

    def function() -> Tensor:
        return network.bounds(images, 0.02, specification=random_rows(2, 3, 2), method=method).lower.sum()

    function().backward()
    assert_gradient(function, dict(model.named_parameters()))


def test_a_gradient_in_the_images():
    """The centre of a ball may require a gradient, too."""
    model = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    images = random_images((4,)).requires_grad_()
    network = BoundedNetwork(model, images)
    network.bounds(images, 0.05, domain="free").lower.sum().backward()
    direction = random_images((4,), seed=9)

    def along(step: float) -> float:
        return network.bounds(images.detach() + step * direction, 0.05, domain="free").lower.sum().item()

    expected = (along(1e-6) - along(-1e-6)) / 2e-6
    assert (images.grad * direction).sum().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_read_through_detach_only_has_no_gradient(method):
    """As in the model itself; everything else has the gradient that it has without the call."""

    def gradients(cut: Callable[[Tensor], Tensor]) -> dict[str, Tensor | None]:
        model = Function(lambda m, x: m.last(torch.relu(cut(m.behind(x)) + m.both(x) + cut(m.both(x)))))
        model.behind, model.both, model.last = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)
        network = BoundedNetwork(randomise(model), torch.zeros(1, 4, dtype=torch.float64))
        network.bounds(random_images((4,)), 0.1, method=method).lower.sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    found, whole = gradients(Tensor.detach), gradients(lambda x: x)
    assert found.pop("behind.weight") is None and found.pop("behind.bias") is None
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, whole[name])
        assert name == "last.bias" or gradient.abs().max() > 0

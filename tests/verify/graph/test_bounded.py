"""Contracts of wrapping: nothing of the user's network changes, and nothing of it is out of date."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from tests.levels import level
from tests.verify.helpers import Function, assert_sound, random_images, randomise
from verify import METHODS, BoundedNetwork, InputError, UnsupportedOperator, attack_radius, certified_radius

SHAPE = (1, 6, 6)


class Net(nn.Module):
    """A bit of everything that has a state: batch norms, dropout, frozen parameters, buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.plain = nn.BatchNorm2d(3, affine=False)
        self.last = nn.Linear(12, 3)
        self.alpha = nn.Parameter(torch.randn(2))
        self.frozen = nn.Parameter(torch.randn(3, 1, 1), requires_grad=False)
        self.register_buffer("shift", torch.full((3, 1, 1), 0.2))
        self.register_buffer("scratch", torch.ones(3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.first(x - 0.5)) * self.frozen + self.shift * self.scratch
        weights = self.alpha.softmax(0)
        h = weights[0] * F.max_pool2d(h, 3, 2, 1) + weights[1] * F.avg_pool2d(h, 3, 2, 1)
        return self.last(F.relu(self.plain(h), inplace=True).flatten(1))


def net(*, train: bool = False, seed: int = 0) -> Net:
    return randomise(Net(), seed).train(train)


def snapshot(model: nn.Module) -> dict[str, object]:
    state = {name: value.detach().clone() for name, value in model.named_parameters()}
    state |= {name: value.clone() for name, value in model.named_buffers()}
    state |= {f"{name}: gradient": value.grad for name, value in model.named_parameters()}
    state |= {f"{name}: requires_grad": value.requires_grad for name, value in model.named_parameters()}
    state |= {f"{name}: mode": module.training for name, module in model.named_modules()}
    state |= {f"{name}: attributes": sorted(vars(module)) for name, module in model.named_modules()}
    state |= {f"{name}: hooks": len(module._forward_hooks) for name, module in model.named_modules()}
    return state


def assert_same(before: dict[str, object], after: dict[str, object]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, name


@pytest.mark.parametrize("train", [False, True])
def test_wrapping_and_bounding_leave_the_network_as_it_was(train):
    model, images, labels = net(train=train), random_images(SHAPE), torch.tensor([0, 1, 2])
    example, before = images.clone(), snapshot(model)
    identities = {name: id(value) for name, value in model.named_parameters()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    network = BoundedNetwork(model, example)
    network.freeze(images)
    network(images)
    for method in METHODS:
        network.bounds(images, 0.05, method=method)
    network.double()
    attack_radius(network, images, labels, steps=2, rounds=2)
    certified_radius(network, images, labels, method="crown-ibp", tolerance=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(before, snapshot(model))
    assert identities == {name: id(value) for name, value in model.named_parameters()}
    assert torch.equal(images, example)


@pytest.mark.parametrize("train", [False, True])
def test_refusing_leaves_the_network_as_it_was(train):
    model = Function(lambda m, x: torch.sigmoid(m.inner(x)) + m.noise.normal_())
    model.inner = net()
    model.register_buffer("noise", torch.zeros(3, dtype=torch.float64))
    model.train(train)
    before, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(UnsupportedOperator):
        BoundedNetwork(model, random_images(SHAPE))
    assert_same(before, snapshot(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_reach_only_what_requires_them():
    model, images = net(), random_images(SHAPE)
    BoundedNetwork(model, images).bounds(images, 0.02).lower.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("method", level(("ibp", "affine", "crown"), METHODS))
def test_parameters_and_buffers_are_read_when_bounds_are_computed(method):
    """In place, replaced, loaded, and by an optimiser: the bounds are those of the network as it is."""
    model, images = net(), random_images(SHAPE)
    network = BoundedNetwork(model, images)

    def assert_follows() -> None:
        fresh = BoundedNetwork(copy.deepcopy(model), images)
        ours, expected = (n.bounds(images, 0.02, method=method) for n in (network, fresh))
        torch.testing.assert_close((ours.lower, ours.upper), (expected.lower, expected.upper), rtol=0, atol=0)
        assert not torch.allclose(ours.lower, seen[-1])
        torch.testing.assert_close(network(images), model(images))
        seen.append(ours.lower)

    seen = [network.bounds(images, 0.02, method=method).lower]
    with torch.no_grad():
        model.first.weight.add_(0.1)
    assert_follows()
    model.first.weight.data = model.first.weight.data * 1.2
    assert_follows()
    model.last.bias = nn.Parameter(model.last.bias.detach() - 1)
    assert_follows()
    model.norm.running_mean.add_(0.3)
    assert_follows()
    model.plain.running_var = model.plain.running_var * 2
    assert_follows()
    model.shift.sub_(0.5)
    assert_follows()
    model.scratch.mul_(-1)
    assert_follows()
    model.load_state_dict(net(seed=1).state_dict())
    assert_follows()
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    network.bounds(images, 0.02, method=method).lower.sum().backward()
    optimiser.step()
    assert_follows()


def test_statistics_that_move_are_followed():
    """Training between two bounds: running statistics are the model's own, never copies."""
    model, images = net(), random_images(SHAPE)
    network = BoundedNetwork(model, images)
    model.train()
    model(images)
    model.eval()
    torch.testing.assert_close(network(images), model(images))


def test_another_mode_is_refused():
    model, images, labels = net(), random_images(SHAPE), torch.tensor([0, 1, 2])
    network = BoundedNetwork(model, images)
    for change in (model.train, model.norm.train):
        change()
        for use in (
            lambda: network(images),
            lambda: network.freeze(images),
            lambda: network.bounds(images, 0.1),
            lambda: network.double(),
            lambda: certified_radius(network, images, labels),
        ):
            with pytest.raises(InputError, match="changed since it was wrapped, between train and eval") as caught:
                use()
            assert "\n" not in str(caught.value)
        model.eval()
        network.bounds(images, 0.1, method="ibp")


def test_a_deep_network_is_no_recursion():
    layers = [layer for _ in range(200) for layer in (nn.Linear(3, 3), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(3, 2)).double()
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.copy_(torch.eye(3) * 0.99)
    images = random_images((3,))
    bounds = BoundedNetwork(model, images).bounds(images, 0.01, method="crown-ibp")
    assert (bounds.lower <= model(images) + 1e-9).all()
    assert (model(images) <= bounds.upper + 1e-9).all()
    bounds.lower.sum().backward()
    assert torch.isfinite(layers[0].weight.grad).all()


def test_what_the_output_does_not_need_is_left_out():
    model = Function(lambda m, x: (x.sigmoid(), m.inner(x))[1])
    model.inner = nn.Linear(4, 2)
    assert_sound(randomise(model), (4,))


def test_names_of_parameters_mean_nothing():
    """Not "input", and not what the graph calls its own nodes."""
    model = Function(lambda m, x: F.relu(x * m.input + m._tensor_constant0) - 0.3 * m.output)
    for name in ("input", "output", "_tensor_constant0"):
        model.register_parameter(name, nn.Parameter(torch.ones(4)))
    assert_sound(randomise(model), (4,))


class Shared(nn.Module):
    """One module at two places, weights tied to one another, and a parameter of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.twin = nn.Linear(4, 4)
        self.twin.weight = self.layer.weight
        self.scales = nn.ParameterList([torch.ones(4), torch.ones(4)])
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for scale in self.scales:
            x = F.relu(self.norm(self.twin(self.layer(x)))) * scale
        return x


def test_shared_modules_and_tied_weights():
    assert_sound(randomise(Shared()), (4,))


def test_parametrised_weights():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU(), parametrizations.orthogonal(nn.Linear(6, 3))
    )
    model = model.double().eval()
    assert_sound(model, (5,))
    images = random_images((5,))
    network = BoundedNetwork(model, images)
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(2)
    torch.testing.assert_close(network(images), model(images))


def test_a_network_of_constants_that_are_no_buffers():
    offset = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    model = Function(lambda m, x: F.relu(m.inner(x) + offset) - offset.sum())
    model.inner = nn.Linear(4, 3)
    assert_sound(randomise(model), (4,))


def test_training_mode_of_a_part_only():
    """Batch norm in training mode inside a network in evaluation mode: the modes of all modules count."""
    model, images = net(), random_images(SHAPE)
    model.norm.train()
    network = BoundedNetwork(model, images)
    with pytest.raises(InputError, match="clean batch"):
        network.bounds(images, 0.01)
    network.freeze(images)
    assert torch.isfinite(network.bounds(images, 0.01).lower).all()


def test_the_example_counts_only_for_its_shape_and_type():
    model, images = net(), random_images(SHAPE)
    examples = (images, images[:1] * 0, torch.full((4, *SHAPE), torch.nan, dtype=torch.float64), -5 * images[1:])
    bounds = [BoundedNetwork(model, example).bounds(images, 0.02).lower for example in examples]
    for other in bounds[1:]:
        assert torch.equal(other, bounds[0])


def test_a_module_put_in_anothers_place_is_noticed():
    model = randomise(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
    network = BoundedNetwork(model, torch.zeros(1, 2, dtype=torch.float64))
    model[2] = nn.Linear(3, 2).double().eval()
    with pytest.raises(InputError, match="changed since it was wrapped, .* or in its modules; wrap it again"):
        network.bounds(torch.zeros(1, 2, dtype=torch.float64), 0.1)

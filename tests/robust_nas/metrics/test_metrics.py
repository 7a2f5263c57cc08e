"""Metrics against independent computations, and their gradients in alpha against central differences."""

import math

import pytest
import torch
from torch import nn

from robust_nas.metrics import (
    METRICS,
    CertifiedBound,
    EpsilonControl,
    IntervalSlope,
    JacobianNorm,
    LogRadius,
    MetricSettings,
    Sum,
)
from robust_nas.spaces.network import Network
from robust_nas.spaces.supernet import Supernet
from tests.levels import level
from tests.robust_nas.helpers import GENOTYPE
from tests.verify.helpers import HeldSlopes
from verify.bounds import BoundedNetwork
from verify.checks.errors import InputError
from verify.specification import margins


@pytest.fixture(scope="module")
def tiny():
    """A network without batch norm, its wrapping, and a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).double()
    images = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    return model, BoundedNetwork(model, images), images, torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    model = Supernet(1, 3, channels=2, cells=2, nodes=1, mean=[0.3], std=[0.4]).double().train()
    with torch.no_grad():
        for alpha in model.alphas.values():
            alpha.copy_(0.3 * torch.randn_like(alpha))
    images = torch.rand(6, 1, 6, 6, dtype=torch.float64)
    return model, BoundedNetwork(model, images), images, torch.tensor([0, 1, 2, 0, 1, 2])


def settled(epsilon, **options):
    """A certified bound whose epsilon stays where it is."""
    control = EpsilonControl(epsilon=epsilon, slope=0.0)
    return CertifiedBound(control=control, **options)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_jacobian_is_that_of_autodiff(tiny, norm):
    model, network, images, labels = tiny
    rows = torch.func.vmap(torch.func.jacrev(lambda x: model(x.unsqueeze(0))[0]))(images).flatten(2)
    expected = -0.2 * rows.norm(p={"linf": 1, "l2": 2}[norm], dim=2).mean()
    found = JacobianNorm(norm, delta=0.2, estimate="exact")(network, images, labels)
    assert expected < 0
    assert torch.allclose(found.value, expected, rtol=1e-12)
    assert found.log == {"jacobian": found.value.item()}


def test_estimate_draws_every_row_equally_and_is_right_on_average(tiny):
    _, network, images, labels = tiny
    estimate = JacobianNorm("linf", delta=1.0)
    rows = torch.eye(3).double().unsqueeze(1).expand(-1, 5, -1)
    every = network.vector_jacobian(images, rows).flatten(2).norm(1, 2)
    exact = JacobianNorm("linf", delta=1.0, estimate="exact")(network, images, labels).value
    assert torch.allclose(-every.mean(), exact)
    values = torch.stack([estimate(network, images, labels).value for _ in range(600)])
    assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_certified_bound_is_the_mean_worst_margin(tiny, norm, method):
    _, network, images, labels = tiny
    found = settled(0.05, norm=norm, method=method, images=2)(network, images, labels)
    bounds = network.bounds(images[:2], 0.05, norm, margins(labels[:2], 3), method)
    assert torch.equal(found.value, (bounds.lower[0].min() + bounds.lower[1].min()) / 2)
    gap = (bounds.upper - bounds.lower).mean().item()
    assert found.log == {"certified_bound": found.value.item(), "epsilon": 0.05, "gap": pytest.approx(gap)}


def test_target_logits_is_the_mean_lower_bound(tiny):
    _, network, images, labels = tiny
    found = settled(0.05, target="logits")(network, images, labels)
    expected = network.bounds(images, 0.05, "linf", None, "ibp").lower.mean()
    assert torch.equal(found.value, expected)


def test_projection_estimates_half_the_squared_frobenius_norm(tiny):
    model, network, images, labels = tiny
    rows = torch.func.vmap(torch.func.jacrev(lambda x: model(x.unsqueeze(0))[0]))(images).flatten(1)
    expected = -rows.square().sum(1).mean() / 2
    estimate = JacobianNorm("l2", estimate="projection")
    values = torch.stack([estimate(network, images, labels).value for _ in range(600)])
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))
    with pytest.raises(InputError, match="l2 norms only"):
        JacobianNorm("linf", estimate="projection")


def test_interval_slope_is_the_slope_of_the_interval(tiny):
    _, network, images, labels = tiny
    rows, epsilon = margins(labels, 3), 1e-6
    bounds = network.bounds(images, epsilon, "linf", rows, "ibp")
    expected = -((bounds.upper - bounds.lower) / 2 / epsilon).log().mean()
    found = IntervalSlope("linf")(network, images, labels)
    assert torch.allclose(found.value, expected, rtol=1e-6)
    assert found.log == {"interval_slope": found.value.item()}


def test_sum(tiny):
    _, network, images, labels = tiny
    bound, jacobian = settled(0.05), JacobianNorm(estimate="exact")
    both = Sum((2.0, bound), (0.5, jacobian))
    found = both(network, images, labels)
    assert found.value == 2 * bound(network, images, labels).value + 0.5 * jacobian(network, images, labels).value
    assert tuple(found.log) == both.columns == ("certified_bound", "epsilon", "gap", "jacobian")


@pytest.mark.parametrize("name", METRICS)
def test_scores_a_trained_network_and_serves_as_a_term_of_its_training(name):
    torch.manual_seed(0)
    model = Network(GENOTYPE, 1, 3, channels=2, cells=2, mean=[0.3], std=[0.4]).eval()
    images, labels = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    metric = METRICS[name](MetricSettings("linf"))
    value = metric(BoundedNetwork(model, images), images, labels).value
    assert math.isfinite(value.item())
    gradients = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients) and any(g.any() for g in gradients)


@pytest.mark.parametrize("name", METRICS)
def test_a_loaded_state_measures_what_the_old_one_would_have(tiny, name):
    _, network, images, labels = tiny
    first, second = (METRICS[name](MetricSettings("linf", seed=seed)) for seed in (1, 2))
    first(network, images, labels)
    second.load_state_dict(first.state_dict())
    assert first(network, images, labels).log == second(network, images, labels).log


BOUNDS = [("cb", method) for method in ("ibp", "block", "crown-ibp", "affine", "crown")]


@pytest.mark.parametrize("norm", level(["l2"], ["linf", "l2"]))
@pytest.mark.parametrize(("name", "method"), [*BOUNDS, ("jacobian", ""), ("ibp-slope", "")])
def test_gradient_in_alpha(supernet, norm, name, method, monkeypatch):
    model, network, images, labels = supernet
    held = HeldSlopes(monkeypatch)
    if name == "cb":
        metric = settled(1e-3, norm=norm, method=method, images=2)
    else:
        metric = JacobianNorm(norm, estimate="exact") if name == "jacobian" else IntervalSlope(norm, images=2)
    alphas = model.architecture_parameters()

    def value():
        held.begin()
        network.freeze(images)
        return metric(network, images, labels).value

    gradients = torch.autograd.grad(value(), alphas, materialize_grads=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(level(1, 2)):
        directions = [torch.randn(a.shape, generator=generator, dtype=a.dtype) for a in alphas]
        expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
        step, ends = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                for alpha, direction in zip(alphas, directions, strict=True):
                    alpha += sign * step * direction
                ends.append(value().item())
                for alpha, direction in zip(alphas, directions, strict=True):
                    alpha -= sign * step * direction
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


def test_measuring_leaves_model_and_generators_alone(supernet):
    model, network, images, labels = supernet
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    network.freeze(images)
    Sum((1.0, CertifiedBound(images=1)), (1.0, JacobianNorm()))(network, images, labels).value.backward()
    model.zero_grad()
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_epsilon_follows_the_gap():
    assert EpsilonControl().epsilon == 0.03
    for gap, factor in [(1.0, 1.0), (0.0, 1.5), (1.5, 0.75), (1e9, 0.5), (math.nan, 0.5), (math.inf, 0.5)]:
        control = EpsilonControl()
        control.update(gap)
        assert control.epsilon == pytest.approx(0.03 * factor)
    control = EpsilonControl(epsilon=1.5e-12)
    control.update(math.nan)
    assert control.epsilon == control.floor


def test_epsilon_reaches_the_target_before_the_first_step(supernet):
    _, network, images, labels = supernet
    network.freeze(images)
    metric = CertifiedBound(images=1, method="ibp")
    found = metric(network, images, labels)
    assert found.log["epsilon"] < 0.03
    assert metric.control.target / 2 <= found.log["gap"] <= 2 * metric.control.target


@pytest.mark.parametrize("power", [1.0, 3.0, 12.0])
@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e9, 1e40])
def test_epsilon_settles_where_the_gap_is_near_the_target(factor, power):
    tried = []

    def gap_at(epsilon):
        tried.append(epsilon)
        gap = factor * epsilon * (1 + (1e3 * epsilon) ** (power - 1))
        return gap if gap < 1e30 else math.inf

    control = EpsilonControl(floor=1e-300)
    control.settle(gap_at)
    assert 0.5 <= gap_at(control.epsilon) <= 2
    assert len(tried) <= 25


def test_epsilon_settles_at_the_floor_where_nothing_is_narrow_enough():
    control = EpsilonControl()
    control.settle(lambda epsilon: math.inf)
    assert control.epsilon == control.floor


def test_overflow_is_not_finite(supernet):
    _, network, images, labels = supernet
    network.freeze(images)
    control = EpsilonControl(epsilon=1e307, floor=1e307)
    found = CertifiedBound(images=1, domain="free", control=control)(network, images, labels)
    assert not math.isfinite(found.value.item())
    assert not math.isfinite(found.log["gap"])


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_log_radius_is_of_the_margin_over_what_the_bound_gives_away(tiny, method):
    model, network, images, _ = tiny
    labels = model(images).argmax(1).clone()
    labels[0] = (labels[0] + 1) % 3  # wrong, and so without a radius
    found = LogRadius(method=method, control=EpsilonControl(0.01, slope=0.0))(network, images, labels)
    lower = network.bounds(images, 0.01, "linf", margins(labels, 3), method).lower
    answers = zip(model(images), labels, strict=True)
    clean = torch.stack([row[y] - row[[k for k in range(3) if k != y]] for row, y in answers])
    radii = (0.01 * clean / (clean - lower)).amin(1)[1:]
    assert torch.allclose(found.value, radii.log().mean())
    assert found.log == {
        "log_radius": found.value.item(),
        "epsilon": 0.01,
        "gap": pytest.approx(((clean - lower).mean() / clean.abs().mean()).item()),
    }


@pytest.mark.parametrize("epsilon", level([None], [None, 1e-3]))
def test_logits_times_ten_change_nothing_of_the_log_radius(epsilon):
    """Neither its value nor its gradient, nor where epsilon goes; `cb` and `jacobian` see another network."""

    def measured(name, times):
        torch.manual_seed(1)
        model = Supernet(1, 3, channels=2, cells=2, nodes=1, mean=[0.3], std=[0.4]).double().train()
        with torch.no_grad():
            model.classifier.weight.mul_(times)
            model.classifier.bias.mul_(times)
        images, labels = torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 0, 1, 2])
        network = BoundedNetwork(model, images)
        labels = torch.where(torch.arange(6) < 4, network.freeze(images).argmax(1), labels)  # some are right
        metric, values = METRICS[name](MetricSettings("linf", epsilon=epsilon)), []
        for _ in range(3):
            network.freeze(images)
            values.append(metric(network, images, labels).value)
        gradients = torch.autograd.grad(values[-1], list(model.alphas.values()), materialize_grads=True)
        return torch.stack(values).detach(), torch.stack(gradients)

    for name in ("log-radius", "cb"):
        (values, gradients), (scaled, others) = measured(name, 1.0), measured(name, 10.0)
        assert torch.allclose(values, scaled, rtol=1e-9) == (name == "log-radius")
        assert gradients.any() and torch.allclose(gradients, others, rtol=1e-6) == (name == "log-radius")


def test_a_network_that_is_always_wrong_has_no_log_radius(tiny):
    model, network, images, _ = tiny
    assert LogRadius()(network, images, model(images).argmin(1)).value.isnan()

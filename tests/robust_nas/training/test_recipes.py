"""Training losses against what they are defined as."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_nas.distributed import normalise
from robust_nas.training.recipes import RecipeSettings, certified, default_epsilon
from robust_nas.training.recipes.certified import balance, keep_widths, sums, tightness
from robust_nas.training.statistics import fixed, recorded
from tests.robust_nas.training.helpers import BOUNDED, TINY, small_data, training
from verify.checks.errors import InputError
from verify.operators.normalisation import moments
from verify.regions import Ball
from verify.specification import margins


def in_double(recipe, settings, **changes):
    """A recipe and its learner in float64, without anything random, and a batch."""
    plain = {} if recipe in BOUNDED else {"drop_path": 0.0, "cutout": 0, "auxiliary": 0.0}
    found = training(recipe, settings, **{**plain, **changes})
    found.learner.double()
    examples = small_data().train
    images, labels = examples.images[:6].double(), examples.labels[:6]
    found.recipe.begin(found.learner, images[:1])
    return found.recipe, found.learner.train(), images, labels


def jacobians(learner, images):
    """Of every image, with batch norm on the statistics of the whole batch as constants: by torch.func."""
    with recorded(learner.network, moments) as statistics:
        learner(images)
    constants = {norm: tuple(part.detach() for part in pair) for norm, pair in statistics.items()}
    with fixed(learner.network, constants):
        return torch.stack([torch.func.jacrev(lambda x: learner(x[None])[0])(image).flatten(1) for image in images])


def test_the_jacobian_norm_is_exact_with_as_many_projections_as_classes():
    recipe, learner, images, labels = in_double("jacobian", RecipeSettings(projections=3, jacobian_weight=0.3))
    expected = jacobians(learner, images).square().sum((1, 2)).mean()
    loss = recipe(learner, images, labels, 0.0)
    assert loss.log["jacobian"] == pytest.approx(expected.item(), rel=1e-9)
    clean = F.cross_entropy(learner(images), labels)
    assert loss.value.item() == pytest.approx((clean + 0.15 * expected).item(), rel=1e-9)


@pytest.mark.parametrize("projections", [1, 2])
def test_projections_have_the_norm_as_expectation(projections):
    recipe, learner, images, _ = in_double("jacobian", RecipeSettings(projections=projections))
    expected = jacobians(learner, images).square().sum((1, 2))
    with recorded(learner.network, moments) as statistics:
        learner(images)
    with fixed(learner.network, statistics):
        drawn = torch.stack([recipe.squared_norms(learner, images).detach() for _ in range(400)])
    error = drawn.std(0) / math.sqrt(400)
    assert ((drawn.mean(0) - expected).abs() < 4 * error).all()
    assert (drawn.std(0) > 0).all()


@pytest.mark.parametrize(("recipe", "norm"), [("jacobian", "linf"), ("certified", "linf"), ("tangent", "l2")])
def test_the_gradient_is_that_of_the_loss(recipe, norm):
    """Against central differences, through batch norm's statistics too."""
    settings = RecipeSettings(norm, 0.01, projections=3, jacobian_weight=0.1)
    loss, learner, images, labels = in_double(recipe, settings)
    state = loss.state_dict()
    direction = [torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
                 for weight in learner.parameters()]  # fmt: skip
    gradients = torch.autograd.grad(loss(learner, images, labels, 0.9).value, list(learner.parameters()))
    slope = sum((gradient * part).sum() for gradient, part in zip(gradients, direction, strict=True))
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, part in zip(learner.parameters(), direction, strict=True):
                weight += sign * 1e-7 * part
        loss.load_state_dict(state)  # the same random numbers
        ends.append(loss(learner, images, labels, 0.9).value)
    assert slope.item() == pytest.approx(((ends[0] - ends[1]) / 2e-7).item(), rel=1e-4)


def test_fixed_statistics_leave_the_running_ones_alone_and_go_away():
    _, learner, images, _ = in_double("jacobian", RecipeSettings())
    with recorded(learner.network, moments) as statistics:
        first = learner(images)
    running = {name: value.clone() for name, value in learner.network.named_buffers()}
    with fixed(learner.network, statistics):
        again = learner(images)
        alone = learner(images[:1])
    assert torch.allclose(first, again, rtol=1e-9)
    assert torch.allclose(first[:1], alone, rtol=1e-9)
    for name, value in learner.network.named_buffers():
        assert torch.equal(value, running[name]), name
    assert not torch.allclose(learner(images[:2])[:1], alone, rtol=1e-3)


def test_normalise_is_batch_norm():
    norm, x = nn.BatchNorm2d(3), torch.rand(4, 3, 2, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert torch.allclose(normalise(norm, x, *moments(x)), norm(x), atol=1e-6)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.4)])
def test_attacked_images_lie_in_the_ball_and_cost_more(norm, epsilon):
    recipe, learner, images, labels = in_double("adversarial", RecipeSettings(norm, epsilon, attack_steps=5))
    learner.eval()
    running = {name: value.clone() for name, value in learner.named_buffers()}
    attacked = recipe.attack(learner, Ball(images, epsilon, norm), labels)
    size = (attacked - images).flatten(1).norm(p=math.inf if norm == "linf" else 2, dim=1)
    assert (size <= epsilon * (1 + 1e-9)).all()
    assert (size > 0.5 * epsilon).all()
    assert ((attacked >= 0) & (attacked <= 1)).all()
    clean, worse = (F.cross_entropy(learner(x), labels, reduction="none") for x in (images, attacked))
    assert (worse > clean).all()
    for name, value in learner.named_buffers():
        assert torch.equal(value, running[name]), name
    learner.train()
    recipe(learner, images, labels, 0.0)
    assert all(module.training for module in learner.modules())


def test_one_step_on_a_linear_model_is_the_fast_gradient_sign():
    recipe, _, _, _ = in_double("adversarial", RecipeSettings("linf", 0.04, attack_steps=8))
    weight = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    images = torch.full((1, 1, 4, 4), 0.5)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    linear[1].weight.data = weight
    attacked = recipe.attack(linear, Ball(images, 0.04), torch.tensor([0]))
    expected = images - 0.04 * (weight[0] - weight[1]).sign().view(1, 1, 4, 4)  # 8 steps of a quarter reach every corner
    assert torch.allclose(attacked, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bound", ["ibp", "crown-ibp"])
def test_no_perturbation_costs_more_than_the_certified_loss(norm, bound):
    epsilon = 0.02 if norm == "linf" else 0.05
    recipe, learner, images, labels = in_double("certified", RecipeSettings(norm, epsilon, bound=bound), ramp=(0.0, 1.0))
    loss = recipe(learner, images, labels, 0.6)
    assert loss.log["epsilon"] == pytest.approx(0.6 * epsilon)
    certified = loss.value.item() - 0.5 * 0.4 * loss.log["regulariser"]
    ball = Ball(images, 0.6 * epsilon, norm, "free")
    generator = torch.Generator().manual_seed(0)
    worst = max(
        F.cross_entropy(recipe.network(ball.sample(generator)), labels).item() for _ in range(50)
    )
    assert loss.log["clean_loss"] < worst <= certified


def test_only_images_with_intervals_too_wide_are_given_smaller_balls(monkeypatch):
    recipe, learner, images, labels = in_double("certified", RecipeSettings("linf", 0.1), ramp=(0.0, 1.0))
    recipe.network.freeze(images)
    small = torch.tensor([True, False, False, True, False, True])
    due, rows = torch.where(small, 1e-9, 0.06).double(), margins(labels, 3)
    ball = Ball(images, due, "linf", "free")
    bounds = recipe.network.bounds(ball, specification=rows, method="ibp")
    widest = 10 * (bounds.upper - bounds.lower)[small].amax().item()
    monkeypatch.setattr(certified, "WIDEST", widest)
    given, bounds = recipe.bounds(ball, rows, 0.6)
    assert torch.equal(given.epsilon[small], due[small])
    assert ((given.epsilon[~small] > 0) & (given.epsilon[~small] < 1e-4)).all()
    assert torch.equal(bounds.lower, recipe.network.bounds(given, specification=rows, method="ibp").lower)
    assert ((bounds.upper - bounds.lower).amax(1)[~small] / widest).log().abs().amax() < 3  # about as wide as that


def test_a_network_of_20_cells_comes_to_bear_a_larger_ball():
    """Its intervals are so wide at first that at the due epsilon nothing else would count."""
    settings = RecipeSettings("linf", 0.01)
    found = training("certified", settings, cells=20, channels=4, learning_rate=0.005, epochs=2)
    examples = small_data().train
    logits = found.recipe.network.freeze(examples.images)
    rows = margins(examples.labels, logits.shape[1])
    due = found.recipe.network.bounds(examples.images, 1e-5, specification=rows, method="ibp")
    assert ((due.upper - due.lower).amax(1) > 10 * certified.WIDEST).all()
    log = list(found.steps())
    assert 0 < log[0]["epsilon"] < 1e-9
    assert all(math.isfinite(row["loss"]) for row in log)
    assert sum(row["epsilon"] for row in log[4:]) > 2 * sum(row["epsilon"] for row in log[:4])


def test_the_tangent_loss_is_that_of_linear_networks_around_the_images():
    """While no neuron can change sides: the runner-up's margin less epsilon times its gradient's norm."""
    settings = RecipeSettings("l2", 1e-6)
    recipe, learner, images, labels = in_double("tangent", settings, ramp=(0.0, 1.0))
    clean, slopes = learner(images).detach(), jacobians(learner, images)
    expected = []
    for logits, slope, label in zip(clean, slopes, labels, strict=True):
        order = logits.argsort(descending=True)
        runner_up = order[1] if order[0] == label else order[0]
        gaps = logits[label] - logits
        gaps[runner_up] -= 1e-6 * 0.5 * (slope[label] - slope[runner_up]).norm()
        expected.append((-gaps).exp().sum().log())
    loss = recipe(learner, images, labels, 0.5)
    change = loss.value.item() - F.cross_entropy(clean, labels).item()
    assert change == pytest.approx(torch.stack(expected).mean().item() - F.cross_entropy(clean, labels).item(), rel=1e-5)
    assert change > 0
    assert loss.log["unstable"] == 0


def test_neurons_are_unstable_in_larger_balls_and_the_loss_is_higher():
    logs, values = [], []
    for epsilon in (1e-6, 0.1, 0.5):
        recipe, learner, images, labels = in_double("tangent", RecipeSettings("l2", epsilon), ramp=(0.0, 1.0))
        loss = recipe(learner, images, labels, 1.0)
        logs.append(loss.log)
        values.append(loss.value.item())
    assert 0 == logs[0]["unstable"] < logs[1]["unstable"] < logs[2]["unstable"]
    assert values[0] < values[1] < values[2]
    assert logs[0]["clean_loss"] == logs[2]["clean_loss"]


@pytest.mark.parametrize("recipe", BOUNDED)
def test_epsilon_grows_along_the_ramp(recipe):
    recipe = training(recipe, ramp=(0.2, 0.7)).recipe
    assert [recipe.grown(progress) for progress in (0.0, 0.45, 0.7, 1.0)] == pytest.approx([1e-3, 0.5, 1, 1])


def test_running_statistics_move_in_certified_training():
    recipe, learner, images, labels = in_double("certified", RecipeSettings("linf", 0.01))
    twin = training("standard", drop_path=0.0, auxiliary=0.0).learner.double().train()
    twin.load_state_dict(learner.state_dict())
    twin(images)
    recipe(learner, images, labels, 0.5)
    for (name, value), other in zip(learner.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(value, other, rtol=1e-9), name


def test_tightness_is_felt_in_a_ball_that_float32_cannot_hold():
    """Deep networks begin with one: of a pixel's ends, which are one number, every width would be infinitely many."""
    recipe = certified.Certified(RecipeSettings("linf", 0.01), TINY, torch.device("cpu"))
    ball = Ball(torch.full((2, 1, 4, 4), 0.5), 1e-12, "linf", "free")
    assert (ball.lower == ball.upper).all()
    radius = torch.tensor([[1e-11, 2e-11]] * 2, dtype=torch.float64, requires_grad=True)
    recipe.regulariser(ball, {"layer": (-radius, radius)}).backward()
    assert radius.grad is not None and (radius.grad > 0).all()


def test_the_regularisers_are_those_of_the_paper():
    """Written out with masks, as means over the neurons of a layer (Shi et al., section 3.2)."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(4, 5, generator=generator) + 0.3
    radius = torch.rand(4, 5, generator=generator)
    layer = sums(centre - radius, centre + radius)
    width = torch.tensor(0.1)
    assert tightness(layer, width) == pytest.approx(F.relu(0.5 - 0.1 / radius.mean()).item() / 0.5)
    active, inactive = centre - radius > 0, centre + radius < 0
    assert active.any()
    assert inactive.any()
    means = [(centre * side).mean().abs() for side in (active, inactive)]
    variances = [((centre - centre.mean()).square() * side).sum() for side in (active, inactive)]
    expected = sum(F.relu(0.5 - min(pair) / max(pair)) for pair in (means, variances)) / 0.5
    assert expected > 0
    assert balance(layer).item() == pytest.approx(expected.item(), rel=1e-5)
    assert balance(sums(centre.abs(), centre.abs() + 1)) == 0


def test_fresh_weights_keep_the_width_of_intervals():
    """E|w| n = 2 for n inputs; a ReLU takes half of it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(64, 64, 3, groups=4), nn.Linear(500, 100))
    keep_widths(network)
    for module in network:
        growth = module.weight.detach().abs().flatten(1).sum(1).mean()
        assert growth == pytest.approx(2.0, rel=0.02)
        assert (module.bias == 0).all()


def test_what_a_bound_does_not_know_is_refused():
    for recipe in BOUNDED:
        with pytest.raises(InputError, match="no drop-path and no auxiliary head"):
            training(recipe, drop_path=0.1)
    with pytest.raises(InputError, match="unknown bound 'best' for training; known: ibp, crown-ibp"):
        training("certified", RecipeSettings(epsilon=0.1, bound="best"))


def test_default_epsilons():
    assert default_epsilon("standard", "mnist", "linf") == 0
    assert default_epsilon("adversarial", "cifar10", "linf") == 8 / 255
    with pytest.raises(InputError, match="recipe certified has no epsilon of its own for fruit in linf; give --epsilon"):
        default_epsilon("certified", "fruit", "linf")


def test_settings_are_all_used_by_some_recipe():
    """A change of each changes the loss of the recipe that it belongs to."""
    changes = {
        "adversarial": {"norm": "l2", "epsilon": 0.3, "attack_steps": 1, "seed": 5},
        "jacobian": {"jacobian_weight": 5.0, "projections": 2, "seed": 5},
        "certified": {"norm": "l2", "epsilon": 0.03, "bound": "crown-ibp"},
        "tangent": {"epsilon": 0.03, "seed": 5},
    }

    def loss(name: str, chosen: RecipeSettings) -> float:
        recipe, learner, images, labels = in_double(name, chosen, ramp=(0.0, 1.0))
        return recipe(learner, images, labels, 0.5).value.item()

    base = RecipeSettings("linf", 0.05, attack_steps=3, seed=1)
    for name, settings in changes.items():
        expected = loss(name, base)
        for setting, value in settings.items():
            assert loss(name, replace(base, **{setting: value})) != expected, (name, setting)

"""Attacks: points inside their regions, and radii close to what is optimal."""

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.helpers import ORDERS, Function, random_images, randomise
from tests.verify.networks import classifier, closed_form
from verify import DOMAINS, NORMS, Ball, BoundedNetwork, Box, attack_radius
from verify.certify.attack import pgd, worst_margin


def test_worst_margin():
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 4.0], [1.0, 5.0, 2.0]])
    assert worst_margin(logits, torch.tensor([0, 1, 2])).tolist() == [0.5, 0.0, -3.0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_pgd_stays_inside_and_gets_somewhere(norm, domain, mlp, digits):
    images, labels = digits
    network = BoundedNetwork(mlp, images).double()
    ball = Ball(images.double(), {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm], norm, domain)
    found = pgd(network, ball, labels, steps=20, start=ball.sample(torch.Generator().manual_seed(0)))
    size = torch.linalg.vector_norm((found - ball.centre).flatten(1), ORDERS[norm], dim=1)
    assert (size <= ball.epsilon + 1e-12).all()
    assert (found >= ball.lower - 1e-12).all()
    assert (found <= ball.upper + 1e-12).all()
    before, after = (worst_margin(network(x), labels) for x in (ball.centre, found))
    assert (after < before).all()


def test_pgd_on_a_box_finds_the_corner():
    model, images, labels = classifier(0, classes=2)
    box = Box(images - 0.2 * images, images + 0.1)
    gradient = model.weight[labels] - model.weight[1 - labels]
    corner = torch.where(gradient > 0, box.lower, box.upper)
    found = pgd(model, box, labels, steps=30, start=box.centre)
    torch.testing.assert_close(worst_margin(model(found), labels), worst_margin(model(corner), labels), rtol=0, atol=0.02)
    assert (worst_margin(model(found), labels) >= worst_margin(model(corner), labels) - 1e-12).all()


def test_pgd_keeps_the_best_point_and_takes_any_gradient():
    """Gradients of 0, and steps that make it worse: never worse than the start."""
    flat = Function(lambda m, x: torch.stack([x[:, 0] * 0, x[:, 0] * 0 - 1], 1))
    images, labels = random_images((3,)), torch.zeros(3, dtype=torch.long)
    for norm in NORMS:
        assert torch.isfinite(pgd(flat, Ball(images, 0.1, norm), labels, steps=5, start=images)).all()
    bent = Function(lambda m, x: torch.stack([(x[:, 0] - 0.5).abs(), 0 * x[:, 0]], 1))
    images = torch.full((1, 1), 0.5)
    found = pgd(bent, Ball(images, 0.3, "linf"), labels[:1], steps=1, start=images)
    assert worst_margin(bent(found), labels[:1]) == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_two_classes_are_attacked_near_the_optimum(norm, dtype):
    """A linear classifier has its closed form; no attack is below it."""
    for seed in range(level(1, 3)):
        model, images, labels = classifier(seed, classes=2)
        exact = closed_form(model, images, labels, norm).to(dtype)
        found = attack_radius(BoundedNetwork(model.to(dtype), images.to(dtype)), images.to(dtype), labels, norm, "free")
        assert (found >= exact * (1 - 1e-5)).all()
        assert (found <= exact * 1.06).all()


@pytest.mark.parametrize("norm", NORMS)
def test_several_classes_are_attacked_mostly_near_the_optimum(norm):
    """The attack follows the class that is nearest, which need not be the one reached first."""
    model, images, labels = classifier(6, classes=6)
    exact = closed_form(model, images, labels, norm)
    found = attack_radius(BoundedNetwork(model, images), images, labels, norm, "free")
    assert (found >= exact * (1 - 1e-9)).all()
    assert (found / exact).median() <= 1.05
    assert (found / exact).max() <= 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_radius_is_of_a_point_that_exists(norm, mlp, digits):
    """At the radius that is returned there is a misclassified point of the domain; rounds only improve it."""
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    found = attack_radius(network, images, labels, norm, rounds=10)
    coarse = attack_radius(network, images, labels, norm, rounds=3)
    assert (found <= coarse).all()
    assert (found < coarse).any()
    correct = mlp(images).argmax(1) == labels
    assert torch.equal(found == 0, ~correct)
    ball = Ball(images, found * 1.02, norm)
    x = pgd(network, ball, labels, steps=50, start=images)
    assert (worst_margin(network(x), labels)[correct] <= 0).float().mean() > 0.7


def test_what_cannot_be_attacked_has_no_radius():
    model = randomise(nn.Linear(3, 2))
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    images = random_images((3,))
    found = attack_radius(BoundedNetwork(model, images), images, torch.tensor([0, 0, 1]))
    assert found.tolist() == [torch.inf, torch.inf, 0.0]


def test_attacks_repeat():
    model, images, labels = classifier(0)
    network = BoundedNetwork(model, images)
    first, second = (attack_radius(network, images, labels, "l2", seed=3) for _ in range(2))
    assert torch.equal(first, second)

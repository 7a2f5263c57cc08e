"""Certificates about one other class an image: exact where they can be, and held by everything that tries them."""

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.helpers import DUALS, random_images, randomise
from verify import NORMS, BoundedNetwork, attack_radius, audit, certified_radius, margins
from verify.certify.attack import worst_margin
from verify.regions import Ball

FEW = {"samples": 20, "starts": 3, "steps": 15}


def others(labels, classes, seed=0):
    shift = torch.randint(1, classes, labels.shape, generator=torch.Generator().manual_seed(seed))
    return (labels + shift) % classes


def linear(seed=0):
    model, images = randomise(nn.Linear(20, 4), seed), 0.25 + 0.5 * random_images((20,), 8, seed)
    labels = model(images).argmax(1)
    return model, images, labels, others(labels, 4)


def deep(seed):
    layers = (nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    return randomise(nn.Sequential(*layers), seed)


def test_the_specification_has_one_row():
    rows = margins(torch.tensor([0, 2]), 3, torch.tensor([1, 0]))
    assert rows.tolist() == [[[1, -1, 0]], [[-1, 0, 1]]]


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_classifier_has_its_exact_radius(norm):
    model, images, labels, targets = linear()
    place = torch.arange(8)
    weight = model.weight[labels] - model.weight[targets]
    logits = model(images)
    distance = logits[place, labels] - logits[place, targets]
    exact = (distance / torch.linalg.vector_norm(weight, DUALS[norm], dim=1)).detach()
    network = BoundedNetwork(model, images)
    found = certified_radius(network, images, labels, norm, "free", "affine", tolerance=0.01, targets=targets)
    assert (found.radius <= exact * (1 + 1e-9)).all() and (found.radius >= 0.985 * exact).all()
    attacked = attack_radius(network, images, labels, norm, "free", targets=targets)
    assert (attacked >= exact * (1 - 1e-9)).all() and (attacked[attacked.isfinite()] > 0).all()
    untargeted = certified_radius(network, images, labels, norm, "free", "affine", tolerance=0.01).radius
    assert (found.radius >= 0.98 * untargeted).all() and (found.radius > 1.1 * untargeted).any()


@pytest.mark.parametrize("method", ["ibp", "affine", "crown", pytest.param("alpha-crown", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_point_of_the_ball_lets_the_class_overtake(norm, method):
    checked, count = 0, level(1, 4)
    for seed in range(count):
        model, images = deep(seed), random_images((4,), 10, seed)
        labels = model(images).argmax(1)
        targets, network = others(labels, 3, seed), BoundedNetwork(model, images)
        ceiling = attack_radius(network, images, labels, norm, targets=targets)
        radius = certified_radius(network, images, labels, norm, method=method, targets=targets).radius
        assert (radius <= ceiling).all()
        ball, place = Ball(images, radius, norm, "unit"), torch.arange(10)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(200):
            logits = model(ball.sample(generator))
            assert (logits[place, labels] >= logits[place, targets])[radius > 0].all()
        assert audit(network, images, labels, radius, norm, method=method, targets=targets, **FEW).broken == 0
        checked += int((radius > 0).sum())
    assert checked >= 5 * count


def test_the_audit_counts_attacks_towards_the_class_alone():
    """A radius about a far class is false about all classes; twice the distance to the class is false about that too."""
    model, images, labels, targets = linear()
    network = BoundedNetwork(model, images)
    found = certified_radius(network, images, labels, "l2", "free", "affine", targets=targets).radius
    assert audit(network, images, labels, found, "l2", "free", "affine", targets=targets, **FEW).broken == 0
    untargeted = certified_radius(network, images, labels, "l2", "free", "affine", tolerance=0.01).radius
    failures = audit(network, images, labels, found, "l2", "free", "affine", **FEW).failures
    assert failures[found > 1.1 * untargeted].all()
    assert audit(network, images, labels, 2 * found, "l2", "free", "affine", targets=targets, **FEW).broken == 8


def test_a_misclassified_image_has_radius_0():
    model, images, labels, targets = linear()
    result = certified_radius(BoundedNetwork(model, images), images, targets, "l2", "free", "affine", targets=labels)
    assert (result.radius == 0).all() and result.status == ["misclassified"] * 8


def test_the_margin_is_to_the_class():
    logits = torch.tensor([[1.0, 4.0, 2.5]])
    assert worst_margin(logits, torch.tensor([1]), torch.tensor([0])).tolist() == [3.0]

"""Binary classifiers: a network of one output has the certificates of its two logits."""

import pytest
import torch
from torch import nn

from tests.verify.helpers import DUALS, random_images, randomise
from verify import (
    NORMS,
    Ball,
    Binary,
    BoundedNetwork,
    InputError,
    attack_radius,
    audit,
    certified_radius,
    complete_radius,
    margins,
    prove,
)


def small(seed=0):
    model = randomise(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), seed)
    return model, random_images((6,), 8, seed)


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_one_has_its_exact_radius(norm):
    model, images = randomise(nn.Linear(6, 1)), 0.25 + 0.5 * random_images((6,), 8)
    with torch.no_grad():
        model.bias.sub_(model(images).median())
    value = model(images).detach()[:, 0]
    labels = (value > 0).long()
    assert len(set(labels.tolist())) == 2
    network = BoundedNetwork(Binary(model), images[:1])
    exact = value.abs() / torch.linalg.vector_norm(model.weight.detach(), DUALS[norm])
    found = certified_radius(network, images, labels, norm, "free", tolerance=0.01).radius
    assert (found <= exact).all() and (found >= 0.98 * exact).all()
    assert (certified_radius(network, images, 1 - labels, norm, "free").radius == 0).all()


@pytest.mark.parametrize("flat", [False, True])
def test_its_two_logits_are_what_everything_is_about(flat):
    model, images = small()
    labels = (model(images) > 0).long()[:, 0]
    network = BoundedNetwork(Binary(nn.Sequential(model, nn.Flatten(0)) if flat else model), images[:1])
    ceiling = attack_radius(network, images, labels)
    found = certified_radius(network, images, labels, ceiling=ceiling)
    assert (found.radius > 0).all() and (found.radius < ceiling).all()
    assert audit(network, images, labels, found.radius, samples=20, starts=2, steps=10).broken == 0
    exact = complete_radius(network, images[:2], labels[:2], lower=found.radius[:2], upper=ceiling[:2], tolerance=0.05)
    assert (exact.upper <= 1.06 * exact.lower).all()
    assert prove(network, Ball(images[:1], 1.01 * exact.upper[:1]), int(labels[0])).verdict == "broken"


def test_without_the_wrapper_one_line_names_it():
    model, images = small()
    network, labels = BoundedNetwork(model, images[:1]), torch.zeros(8, dtype=torch.long)
    for call in (
        lambda: certified_radius(network, images, labels),
        lambda: attack_radius(network, images, labels),
        lambda: audit(network, images, labels, torch.full((8,), 0.1)),
        lambda: prove(network, Ball(images[:1], 0.1), 0),
        lambda: margins(labels, 1),
    ):
        with pytest.raises(InputError, match="verify.Binary"):
            call()
    bounds = network.bounds(images, 0.1)  # as a function to bound it is as good as any
    assert (bounds.lower <= model(images)).all() and (model(images) <= bounds.upper).all()

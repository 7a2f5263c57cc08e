"""The free domain has no unit of its own: radii are those of the images' scale, whatever it is."""

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.helpers import Function, random_images, randomise
from verify import Ball, BoundedNetwork, InputError, attack_radius, certified_radius, complete_radius


def network_of(scale, shift=0.0, seed=0):
    """The same classifier of images in another unit."""
    model = randomise(nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3)), seed)
    scaled = Function(lambda self, x: self.model((x - shift) / scale))
    scaled.model = model
    images = random_images((8,), 4, seed)
    return BoundedNetwork(scaled, images[:1]), images * scale + shift, model(images).argmax(1)


@pytest.mark.parametrize("norm", level(["l2"], ["linf", "l2", "l1"]))
@pytest.mark.parametrize(("scale", "shift"), level([(255.0, -2.0)], [(255.0, 0.0), (1e-3, -2.0)]))
def test_radii_scale_with_the_images(norm, scale, shift):
    results = []
    for network, images, labels in (network_of(1.0), network_of(scale, shift)):
        ceiling = attack_radius(network, images, labels, norm, "free")
        found = certified_radius(network, images, labels, norm, "free", tolerance=0.01)
        exact = complete_radius(
            network, images[:1], labels[:1], norm, "free", lower=found.radius[:1], upper=ceiling[:1], tolerance=0.05
        )
        results.append((ceiling, found.radius, exact.lower))
    for unit, other in zip(*results, strict=True):
        assert torch.isfinite(other).all() and (other > 0).all()
        torch.testing.assert_close(other / scale, unit, rtol=0.05, atol=0)


def constant(scale):
    """Class 0 by one logit everywhere, though its outputs depend on the image."""
    return Function(lambda self, x: torch.stack([x.sum(1) + 1, x.sum(1)], 1) / scale)


@pytest.mark.parametrize("images", [torch.zeros(2, 5), 100 * torch.ones(2, 5)])
def test_a_search_without_an_end_of_its_own_ends(images):
    images, labels = images.double(), torch.zeros(2, dtype=torch.long)
    network = BoundedNetwork(constant(3.0), images[:1])
    found = certified_radius(network, images, labels, "linf", "free")
    assert found.status == ["certified"] * 2 and (found.radius >= 30).all()
    assert torch.isinf(attack_radius(network, images, labels, "linf", "free")).all()
    limited = certified_radius(network, images, labels, "linf", "free", largest=7.0)
    assert ((limited.radius > 6.5) & (limited.radius <= 7)).all()


@pytest.mark.parametrize("largest", [0.0, -1.0, float("inf"), float("nan")])
def test_the_largest_radius_is_a_positive_number(largest):
    network, images, labels = network_of(1.0)
    for call in (attack_radius, certified_radius):
        with pytest.raises(InputError, match="largest"):
            call(network, images, labels, "linf", "free", largest=largest)


def test_the_unit_domain_ends_with_the_unit_box():
    network = BoundedNetwork(constant(1.0), torch.zeros(1, 5, dtype=torch.float64))
    images, labels = random_images((5,), 2), torch.zeros(2, dtype=torch.long)
    assert certified_radius(network, images, labels).radius.tolist() == pytest.approx([1, 1], rel=0.05)
    assert Ball(images, 1.0).lower.min() == 0

"""Normalisations by an image's own statistics: layer, group, instance and RMS norm, variances and deviations by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.verify.helpers import BALLS, Function, around, assert_sound, random_images, randomise
from verify import BoundedNetwork, UnsupportedOperator, certified_radius

SHAPE = (4, 2, 3)
NORMS = {
    "layer norm": nn.LayerNorm(SHAPE),
    "layer norm of the last": nn.LayerNorm(3, eps=0.1, bias=False),
    "group norm": nn.GroupNorm(2, 4, eps=0.01),
    "instance norm": nn.InstanceNorm2d(4, affine=True, eps=0.01),
    "RMS norm": nn.RMSNorm(3, eps=0.01),
    "by hand": Function(lambda m, x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 0.01).sqrt()),
    "by a deviation": Function(lambda m, x: (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 0.1)),
    "by a variance": Function(lambda m, x: x * (0.5 + x.var(3)).reciprocal().unsqueeze(3)),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_sound(name):
    model = around(NORMS[name], SHAPE)
    assert_sound(model, (1, *SHAPE[1:]), balls=BALLS[:1], methods=("ibp", "crown-ibp", "affine"), scale=0.2)


def test_a_norm_with_statistics_kept_is_linear():
    norm = nn.InstanceNorm1d(3, track_running_stats=True, affine=True)
    model = randomise(nn.Sequential(nn.Unflatten(1, (3, 2)), norm, nn.Flatten(), nn.Linear(6, 2)))
    assert not BoundedNetwork(model, torch.rand(1, 6).double()).graph.relaxed


def test_a_constant_image_has_a_certificate():
    """Its variance is 0: what keeps it from being negative is in the graph."""
    model = randomise(nn.Sequential(nn.LayerNorm(4, eps=0.5), nn.Linear(4, 2)))
    images = torch.full((1, 4), 0.5, dtype=torch.float64)
    labels = model(images).argmax(1)
    found = certified_radius(BoundedNetwork(model, images), images, labels)
    assert (found.radius > 0).all()


@pytest.mark.parametrize("norm", [lambda x: F.layer_norm(x, (4,)), lambda x: F.rms_norm(x, (4,))])
def test_the_epsilon_is_that_of_the_models_precision(norm):
    """In float64 the network is the same: an RMS norm without an epsilon has float32's."""
    images = 1e-4 * random_images((4,)).float()
    network = BoundedNetwork(Function(lambda m, x: norm(x)), images)
    expected, found = norm(images).double(), network.double()(images.double())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_what_does_not_depend_on_the_image_is_computed_as_it_is():
    model = Function(lambda m, x: x + F.layer_norm(m.w, (3,)) / m.w, w=torch.randn(1, 3))
    names = [node.call.name for node in BoundedNetwork(model, torch.rand(1, 3)).graph.nodes if node.inputs]
    assert names == ["aten.layer_norm.default", "aten.div.Tensor", "aten.add.Tensor"]


@pytest.mark.parametrize(
    "function", [lambda x: F.layer_norm(x, (2, 4)), lambda x: x.var(0, keepdim=True) + x, lambda x: x / x.std()]
)
def test_images_do_not_meet_in_a_norm(function):
    with pytest.raises(UnsupportedOperator, match=r"^aten\.\w+"):
        BoundedNetwork(Function(lambda m, x: function(x)), torch.rand(2, 4))

"""Batch norm: with and without scale and shift, on running and on batch statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tests.verify.helpers import (
    Function,
    around,
    assert_sound,
    frozen,
    random_images,
    random_rows,
    randomise,
)
from verify import BoundedNetwork, InputError

NORMS = {
    "affine": nn.BatchNorm2d(2),
    "without affine": nn.BatchNorm2d(2, affine=False),
    "without running statistics": nn.BatchNorm2d(2, track_running_stats=False),
    "another epsilon": nn.BatchNorm2d(2, eps=0.3),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_batch_norm_in_every_mode(norm, train, first):
    """In evaluation mode a layer without running statistics normalises by the batch, as in training mode."""
    model = around(copy.deepcopy(NORMS[norm]), (2, 5, 4), first=first)
    shape = (2, 5, 4) if first else (1, 5, 4)
    if train or norm != "without running statistics":
        assert_sound(model, shape, train=train)
    else:
        network = BoundedNetwork(model, torch.rand(1, *shape, dtype=torch.float64))
        with pytest.raises(InputError, match="statistics of a clean batch"):
            network.bounds(random_images(shape), 0.1)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 2, 2)])
@pytest.mark.parametrize("train", [False, True])
def test_other_dimensions(shape, train):
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 4: nn.BatchNorm3d}[len(shape)](3)
    assert_sound(around(norm, shape, first=True), shape, train=train)


def network(seed: int = 0) -> nn.Sequential:
    return randomise(
        nn.Sequential(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 3, 3, bias=False),
            nn.BatchNorm2d(3, affine=False),
            nn.ReLU(),
            nn.Conv2d(3, 2, 3, bias=False),
            nn.BatchNorm2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
        seed,
    )


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_folded_into_the_convolution_it_gives_the_same_bounds(method):
    model = network()
    folded = nn.Sequential(
        model[0],
        fuse_conv_bn_eval(model[1], _with_scale(model[2])),
        model[3],
        fuse_conv_bn_eval(model[4], model[5]),
        *model[6:],
    )
    images, rows = random_images((1, 6, 6)), random_rows(3, 3, 3)
    torch.testing.assert_close(model(images), folded(images))
    plain, fused = (
        BoundedNetwork(m, images).bounds(images, 0.05, "l2", rows, method) for m in (model, folded.eval())
    )
    torch.testing.assert_close(plain.lower, fused.lower)
    torch.testing.assert_close(plain.upper, fused.upper)


def _with_scale(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """torch's folding wants a scale: one of 1 that is the same function."""
    scaled = nn.BatchNorm2d(norm.num_features).double().eval()
    scaled.running_mean, scaled.running_var = norm.running_mean, norm.running_var
    return scaled


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_frozen_statistics_are_those_of_the_whole_clean_batch(method):
    """In training mode the bounds are those of the network whose running statistics are the batch's."""
    model, images = network(1).train(), random_images((1, 6, 6), 5)
    bounded = BoundedNetwork(model, images)
    torch.testing.assert_close(bounded.freeze(images), frozen(model, images)(images))
    torch.testing.assert_close(bounded(images[1:3]), frozen(model, images)(images[1:3]))
    reference = BoundedNetwork(frozen(model, images), images)
    for some in (images, images[2:4], images[:1]):
        ours, theirs = (n.bounds(some, 0.05, method=method) for n in (bounded, reference))
        torch.testing.assert_close(ours.lower, theirs.lower)
        torch.testing.assert_close(ours.upper, theirs.upper)
    other = random_images((1, 6, 6), 4, seed=5)
    bounded.freeze(other)
    reference = BoundedNetwork(frozen(model, other), images)
    torch.testing.assert_close(bounded.bounds(images, 0.05).lower, reference.bounds(images, 0.05).lower)


def test_training_mode_without_a_clean_batch_is_refused():
    model = network().train()
    bounded = BoundedNetwork(model, random_images((1, 6, 6)))
    for use in (bounded, lambda images: bounded.bounds(images, 0.1), lambda images: bounded.double()(images)):
        with pytest.raises(InputError, match="needs the statistics of a clean batch") as caught:
            use(random_images((1, 6, 6)))
        assert "\n" not in str(caught.value)


def test_double_takes_the_frozen_statistics_along():
    model, images = network().train(), random_images((1, 6, 6))
    bounded = BoundedNetwork(model.float(), images.float())
    bounded.freeze(images.float())
    twin = bounded.double()
    torch.testing.assert_close(twin(images[:1]).float(), bounded(images[:1].float()))
    bounded.freeze(images.float() / 2)
    assert not torch.allclose(twin(images[:1]).float(), bounded(images[:1].float()), atol=1e-3)


def test_no_perturbation_reaches_another_image_through_the_statistics():
    model, images = network().train(), random_images((1, 6, 6))
    bounded = BoundedNetwork(model, images)
    bounded.freeze(images)
    changed = images.clone()
    changed[1] = 1 - changed[1]
    torch.testing.assert_close(bounded(changed)[0], bounded(images)[0])


def test_a_scale_that_depends_on_the_input_is_refused():
    def normalised(m, x):
        scale = x.mean((0, 2, 3))
        return nn.functional.batch_norm(x, torch.zeros(1), torch.ones(1), scale, None).flatten(1)

    with pytest.raises(InputError):
        BoundedNetwork(Function(normalised), torch.rand(1, 1, 3, 3))

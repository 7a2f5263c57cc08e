"""What a model computes with besides its parameters: constants of every making, changes of type, sizes of the batch."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few
from tests.verify.helpers import (
    Function,
    assert_between,
    assert_neurons,
    assert_sound,
    attack,
    extremes,
    random_images,
    random_rows,
    randomise,
)
from verify import Ball, BoundedNetwork, InputError, UnsupportedOperator, audit, certified_radius

SHAPE = (2, 4, 4)
VALUES = torch.tensor([[0.1, -0.3], [0.7, 0.9]])
"""Numbers that float32 and float64 round to different ones."""


def batch_of(c, h):
    return c.reshape(1, 1, 4, 1).repeat(h.shape[0], 2, 1, 4)


MADE = {
    "attribute": lambda m, h: m.plain,
    "attribute of float64": lambda m, h: m.wide,
    "buffer of float64": lambda m, h: m.buffer,
    "parameter of float64": lambda m, h: m.parameter,
    "in a list": lambda m, h: m.several[0],
    "closure": lambda m, h: VALUES,
    "numpy": lambda m, h: torch.from_numpy(np.array(VALUES.tolist())),
    "numpy in float32": lambda m, h: torch.from_numpy(np.array(VALUES.tolist(), dtype=np.float32)),
    "numbers": lambda m, h: torch.tensor(VALUES.tolist()),
    "numbers of float64, cast": lambda m, h: torch.tensor(VALUES.tolist(), dtype=torch.float64).to(h.dtype),
    "new_tensor": lambda m, h: h.new_tensor(VALUES.tolist()),
    "a quotient of ones": lambda m, h: torch.ones(2, 2) / 9,
    "full": lambda m, h: torch.full((2, 2), 0.1),
    "full as": lambda m, h: torch.full_like(h[0, 0, :2, :2], 0.1),
    "new_full": lambda m, h: h.new_full((2, 2), 0.1),
    "ones as": lambda m, h: torch.ones_like(h[:1, 0, :2, :2]).squeeze(0) / 7,
    "linspace": lambda m, h: torch.linspace(0.1, 0.7, 4).view(2, 2),
    "a function of parameters": lambda m, h: m.parameter.softmax(1).to(h),
    "a comparison": lambda m, h: (m.plain > 0.1).to(h.dtype) - 0.3,
    "type_as": lambda m, h: m.wide.type_as(h),
}
USED = {
    "sum": lambda h, c: h + c.view(4, 1),
    "difference": lambda h, c: c.view(4, 1) - h,
    "product": lambda h, c: h * c.view(4, 1),
    "quotient": lambda h, c: h / c.view(4, 1),
    "kernel": lambda h, c: F.conv2d(h, c.view(1, 1, 2, 2).expand(2, 1, 2, 2), groups=2),
    "weight": lambda h, c: F.linear(h.view(len(h), 2, 8, 2), c, c[0]),
    "matrix": lambda h, c: h.view(len(h), 2, 8, 2) @ c,
    "choice": lambda h, c: torch.where(c.view(4, 1) > 0.2, h, c.view(4, 1)),
}
SAME_TYPE = [USED["kernel"], USED["weight"], USED["matrix"]]
"""What torch wants tensors of one type for."""
AS_LARGE_AS_THE_BATCH = {
    "sum": lambda h, c: h + batch_of(c, h),
    "difference": lambda h, c: batch_of(c, h).sub(h),
    "in place": lambda h, c: (h * 1).sub_(batch_of(c, h)).div_(batch_of(c, h)),
    "product": lambda h, c: batch_of(c, h) * h,
    "quotient": lambda h, c: h / c.reshape(1, 1, 4, 1).expand(h.size(0), -1, -1, -1),
    "expand_as": lambda h, c: h - c.view(4, 1).expand_as(h),
    "cat": lambda h, c: torch.cat([h, batch_of(c, h)], 1),
    "stack": lambda h, c: torch.stack([batch_of(c, h), h], 2).flatten(1, 2),
    "a border": lambda h, c: torch.cat([h, h.new_zeros(len(h), 1, 4, 4) + c[0, 0]], 1),
    "choice": lambda h, c: torch.where(batch_of(c, h) > 0.2, h, torch.zeros_like(h)),
    "mask": lambda h, c: h.masked_fill(batch_of(c, h) > 0.2, 0.1),
    "matmul": lambda h, c: h.view(len(h), 16, 2) @ c.expand(len(h), 2, 2),
    "bmm": lambda h, c: h.view(len(h), 16, 2).bmm(c.unsqueeze(0).repeat(len(h), 1, 1)),
    "addmm": lambda h, c: torch.addmm(c.view(1, 4).repeat(len(h), 1), h.flatten(1), c.repeat(16, 2)),
    "subtracted from": lambda h, c: torch.rsub(h, batch_of(c, h)),
}


class Model(nn.Module):
    """A convolution, the function of it and of the constant, and a head."""

    def __init__(self, made: str, use) -> None:
        super().__init__()
        self.made, self.use = made, use
        self.plain, self.wide, self.several = VALUES, VALUES.double() / 3, [VALUES / 3]
        self.register_buffer("buffer", VALUES.double() / 3)
        self.parameter = nn.Parameter(VALUES.double() / 3)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.LazyLinear(3)
            self(torch.zeros(1, *SHAPE))

    def constant(self, h):
        made = MADE[self.made](self, h)
        return made.to(h.dtype) if self.use in SAME_TYPE else made

    def forward(self, x):
        h = self.first(x)
        return self.last(F.relu(self.use(h, self.constant(h)).to(x.dtype)).flatten(1))

    def widened(self, x):
        """The network in float64, with the constants that it has in float32."""
        held = self.constant(self.first(x.float())).double()
        first, last = copy.deepcopy(self.first).double(), copy.deepcopy(self.last).double()
        return last(F.relu(self.use(first(x), held)).flatten(1))


def assert_same_network(model: Model) -> None:
    """What is wrapped, and its copy in float64, compute what the model does; the copy's bounds hold of its constants."""
    images = random_images(SHAPE)
    narrow, rows = images.float(), random_rows(2, 3, 3)
    network = BoundedNetwork(model.eval(), narrow[:1])
    exact = network.double()
    assert exact.double() is exact and exact.single().single().example.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(network(narrow), model(narrow), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(exact(images), model.widened(images), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(exact.single()(narrow), model(narrow), rtol=1e-5, atol=1e-6)
    ball = Ball(images, 0.1)
    points = attack(model.widened, ball, rows, samples=6, steps=3)
    low, high = extremes(model.widened, points, rows)
    for method in ("ibp", "crown"):
        bounds = exact.bounds(ball, specification=rows, method=method)
        assert_between(bounds, low, high, method)
        assert_neurons(exact, points, bounds, method)


@few
@given(st.sampled_from(list(MADE)), st.sampled_from(list(USED)))
def test_constants_are_those_of_the_model_in_every_precision(made, used):
    """Widened, never computed anew: a constant of 0.1 in float32 is no 0.1 in float64."""
    assert_same_network(Model(made, USED[used]))


@pytest.mark.parametrize("used", AS_LARGE_AS_THE_BATCH)
def test_constants_as_large_as_the_batch_serve_every_batch(used):
    assert_same_network(Model("numbers", AS_LARGE_AS_THE_BATCH[used]))


@pytest.mark.parametrize("used", ["kernel", "difference"])
def test_radii_of_networks_with_constants(used):
    model, images = Model("attribute", USED[used]).eval(), random_images(SHAPE).float()
    model.kept = model(images)  # has a history, so that the model cannot be copied
    network, labels = BoundedNetwork(model, images[:1]), model(images).argmax(1)
    found = certified_radius(network, images, labels, method="crown-ibp", tolerance=0.5)
    assert (found.radius > 0).all()
    assert audit(network, images, labels, found.radius, method="crown-ibp").broken == 0


def test_a_copy_in_single_precision_keeps_to_wide_constants_as_long_as_it_can():
    wide = torch.tensor([0.1, -0.3, 0.7], dtype=torch.float64)
    model = Function(lambda m, x: F.linear(x, wide.diag()) + wide)
    images = random_images((3,))
    network = BoundedNetwork(model, images)
    torch.testing.assert_close(network.single()(images.float()), model(images).float())
    assert network.single().double()(images).equal(model(images))


def test_no_change_of_the_model_reaches_a_copy():
    model = Model("attribute", USED["sum"]).eval()
    model.plain, images = VALUES.clone(), random_images(SHAPE)
    exact = BoundedNetwork(model, images.float()).double()
    before = exact(images)
    with torch.no_grad():
        for tensor in (model.plain, model.parameter, model.first.weight):
            tensor.mul_(2)
    model.train()
    assert exact(images).equal(before)
    assert torch.isfinite(exact.bounds(images, 0.1).lower).all()


def by_place(h, x):
    return h + torch.arange(len(h)).view(-1, 1) / 10


def by_count(h, x):
    return h + torch.full((len(h), 1), 1 / len(h))


def for_two(h, x):
    return h + torch.full((2, 1), 0.1)


def for_two_by_place(h, x):
    return torch.where(torch.tensor([[True], [False]]), h, 0.1)


@pytest.mark.parametrize("function", [by_place, by_count, for_two, for_two_by_place])
@pytest.mark.parametrize("train", [False, True])
def test_constants_that_tell_images_apart_are_refused(function, train):
    model = Function(lambda m, x: m.last(function(m.norm(m.first(x)), x)))
    model.first, model.norm, model.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
    with pytest.raises(UnsupportedOperator, match="image|batch size"):
        BoundedNetwork(model.train(train), torch.rand(2, 4))


NORMALISED = {
    "repeated to the batch": lambda m, x: (x - m.mean.repeat(x.shape[0], 1, 1, 1)) / m.std.repeat(len(x), 1, 1, 1),
    "expanded to the batch": lambda m, x: (x - m.mean.expand(x.size(0), 2, 4, 4)) / m.std.expand_as(x),
    "of numbers": lambda m, x: (x - x.new_tensor([0.4, 0.5])[:, None, None]) / x.new_tensor([0.2, 0.3])[:, None, None],
    "of numbers, in place": lambda m, x: x - torch.tensor([[102.0], [127.5]]).view(2, 1, 1).div_(255),
    "checked and in place": lambda m, x: normalise(x, [0.4, 0.5], [0.2, 0.3]),
    "x.float()": lambda m, x: (x.float() - m.mean) / m.std,
    "x.double()": lambda m, x: ((x.double() - m.mean) / m.std).float(),
    "to a type": lambda m, x: ((x.to(torch.float64) - m.mean) / m.std).to(x.dtype),
    "to a device": lambda m, x: (x.to("cpu") - m.mean.to(x.device)) / m.std.to(x.device),
    "to both": lambda m, x: (x.to(device="cpu", dtype=torch.float64).cpu() - m.mean) / m.std,
    "to another's": lambda m, x: (x.to(m.mean) - m.mean) / m.std.to(x),
    "type_as": lambda m, x: (x.type_as(m.std.double()) - m.mean.type_as(x)).type(torch.float32) / m.std,
    "a sum in float64": lambda m, x: x - x.sum(1, keepdim=True, dtype=torch.float64) / m.std,
    "a mean in float64": lambda m, x: (x - x.mean((2, 3), keepdim=True, dtype=torch.float64)).float(),
}


def normalise(x, mean, std):
    """As torchvision's `normalize`, with its check."""
    x = x.clone()
    mean, std = (torch.as_tensor(each, dtype=x.dtype, device=x.device) for each in (mean, std))
    if (std == 0).any():
        raise ValueError("std evaluated to zero")
    return x.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def normalised(function) -> nn.Module:
    """A network, float32, behind a normalisation."""
    model = Function(lambda m, x: m.body(m.normalise(m, x).to(m.body[0].weight.dtype)))
    model.normalise = function
    for name, values in (("mean", [0.4, 0.5]), ("std", [0.2, 0.3])):
        model.register_buffer(name, torch.tensor(values).view(1, 2, 1, 1))
    model.body = randomise(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)))
    return model


@pytest.mark.parametrize("name", NORMALISED)
def test_normalisation_inside_the_model_is_sound(name):
    model, images, rows = normalised(NORMALISED[name]).float(), random_images(SHAPE), random_rows(2, 3, 3)
    exact, ball = BoundedNetwork(model, images.float()).double(), Ball(images, 0.02)
    low, high = extremes(model, attack(exact, ball, rows, samples=6, steps=4).float(), rows.float())
    for method in ("ibp", "crown"):
        bounds = exact.bounds(ball, specification=rows, method=method)
        assert (bounds.lower <= low + 1e-4).all() and (bounds.upper >= high - 1e-4).all()
        assert (bounds.lower < bounds.upper).all() and torch.isfinite(bounds.upper - bounds.lower).all()


@pytest.mark.parametrize("name", NORMALISED)
def test_a_change_of_type_is_none_in_the_copy(name):
    """In float64 nothing is rounded to float32 on the way: no two images as near as 1e-12 are one."""
    model, images = normalised(NORMALISED[name]).float(), random_images(SHAPE)
    exact = BoundedNetwork(model, images.float()).double()
    moved = exact(images + 1e-12) - exact(images)
    torch.testing.assert_close(exact(images), model(images.float()).double(), rtol=1e-4, atol=1e-5)
    if name != "a mean in float64":  # which the move leaves alone
        torch.testing.assert_close(moved * 1e12, (exact(images + 1e-6) - exact(images)) * 1e6, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("version", ["transforms", "transforms.v2"])
def test_torchvisions_normalisation(version):
    try:
        transforms = __import__(f"torchvision.{version}", fromlist=["Normalize"])
    except (ImportError, RuntimeError) as error:  # built for CUDA, beside a CPU torch
        pytest.skip(str(error))
    layer = transforms.Normalize((0.4, 0.5), (0.2, 0.3))
    model = nn.Sequential(layer, nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    assert_sound(randomise(model), SHAPE, methods=("ibp", "crown"), scale=0.1)
    BoundedNetwork(model.float(), torch.rand(1, *SHAPE)).double()


ROUNDING = {
    "half": lambda m, x: x.half().float(),
    "bfloat16": lambda m, x: x.to(torch.bfloat16).to(x.dtype),
    "int": lambda m, x: (9 * x).int().float(),
    "long": lambda m, x: x.long().to(x),
    "bytes": lambda m, x: (255 * x).to(torch.uint8) / 255,
    "bool": lambda m, x: x.bool().float(),
    "complex": lambda m, x: x.to(torch.complex64).real,
    "type_as": lambda m, x: x.type_as(m.order).float(),
    "to another's": lambda m, x: x.to(m.order).float(),
    "sum of integers": lambda m, x: x.sum(1, dtype=torch.int64).float().unsqueeze(1),
    "another device": lambda m, x: x.to("meta").new_zeros(x.shape) + x.to("meta"),
}


@pytest.mark.parametrize("name", ROUNDING)
def test_a_type_that_rounds_is_refused(name):
    model = Function(ROUNDING[name])
    model.register_buffer("order", torch.arange(4))
    with pytest.raises(InputError, match=r"aten\.|meta") as caught:
        BoundedNetwork(model, torch.rand(1, 4))
    assert "\n" not in str(caught.value)


def test_the_value_of_an_image_is_never_taken_for_known():
    """Numbers written over by what depends on an image are not the model's any more."""

    def written(m, x):
        numbers = torch.tensor([1.0, 1.0, 1.0])
        numbers[0] = x.sum()
        return x if (numbers > 0).all() else -x

    def through_a_view(m, x):
        numbers = torch.tensor([1.0, 1.0, 1.0])
        numbers.view(3, 1).mul_(x.sum())
        return x if (numbers > 0).all() else -x

    def through_a_view_of_one(m, x):
        number = torch.tensor(1.0)
        number.view(1).mul_(x.sum())
        return x if number.item() > 0 else -x

    def seen_through_a_view(m, x):
        number = torch.tensor(1.0)
        view = number.view(1)
        number.mul_(x.sum())
        return x if view.item() > 0 else -x

    def compared(m, x):
        numbers = torch.tensor([1.0, 2.0])
        numbers.view(2, 1).mul_((x.sum() > -1).float())
        return x if torch.equal(numbers, torch.tensor([1.0, 2.0])) else -x

    def in_place(m, x):
        numbers = torch.tensor([1.0, 1.0, 1.0]).mul_(x.sum())
        return x if (numbers > 0).all() else -x

    views = (through_a_view, through_a_view_of_one, seen_through_a_view, compared)
    for function in (written, in_place, *views):
        with pytest.raises(UnsupportedOperator):
            BoundedNetwork(Function(function), torch.rand(1, 4))

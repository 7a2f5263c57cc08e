"""Slices, joins, padding and every rearrangement; and that none of them lets images meet."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few, level
from tests.verify.helpers import BALLS, FAST, Function, around, assert_sound, random_images, random_rows, randomise
from verify import METHODS, BoundedNetwork, UnsupportedOperator

SHAPE = (4, 5, 6)


def channel_shuffle(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def factorised(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :2, ::2, ::2], F.pad(x, (0, 1, 0, 1))[:, 2:, 1::2, 1::2]], 1)


REARRANGEMENTS = {
    "slice": lambda m, x: x[:, :, 1:, 2:],
    "slice with a step": lambda m, x: x[:, :, ::2, ::2],
    "slice from the end": lambda m, x: x[:, -3:-1, :, :-1],
    "select": lambda m, x: x[:, 1] - 2 * x[:, :, 1:2, :].select(1, -1),
    "narrow": lambda m, x: x.narrow(2, 1, 3),
    "index_select": lambda m, x: x.index_select(1, m.order),
    "chunk": lambda m, x: (lambda a, b: torch.cat([b, a - b], 1))(*x.chunk(2, 1)),
    "chunk, uneven": lambda m, x: torch.cat(x.chunk(4, 3)[::-1], 3),
    "split": lambda m, x: x.split(2, dim=1)[1] - x.split(2, dim=1)[0],
    "split with sizes": lambda m, x: x.split([1, 3], 1)[1] * x.new_tensor([[[2.0]], [[-1.0]], [[0.5]]]),
    "unbind": lambda m, x: sum((i - 1.5) * part for i, part in enumerate(x.unbind(1))),
    "flip": lambda m, x: x - 0.5 * x.flip((2, -1)),
    "squeeze and unsqueeze": lambda m, x: x[:, :1].squeeze(1).unsqueeze(-1).unsqueeze(1),
    "cat": lambda m, x: torch.cat([x, -x[:, :1], x], 1),
    "cat along width": lambda m, x: torch.cat([x, 2 * x], -1),
    "cat with a constant": lambda m, x: torch.cat([x, m.constant.expand(len(x), -1, -1, -1)], 1),
    "stack": lambda m, x: torch.stack([x, 1 - x, x], 2).flatten(1, 2),
    "stack at the end": lambda m, x: torch.stack([x, -x], -1),
    "stack with a constant": lambda m, x: torch.stack([x[:, :1], m.constant.expand(len(x), 1, 5, 6)], 1),
    "pad with 0": lambda m, x: F.pad(x, (1, 2, 0, 1)),
    "pad with a number": lambda m, x: F.pad(x, (1, 1, 1, 1, 1, 0), value=-0.7),
    "pad by less than nothing": lambda m, x: F.pad(x, (-1, 1, 0, -2), value=0.3),
    "pad by reflection": lambda m, x: F.pad(x, (2, 1, 0, 2), mode="reflect"),
    "pad by replication": lambda m, x: F.pad(x, (1, 1, 2, 0), mode="replicate"),
    "pad every dimension, the batch by 0": lambda m, x: F.pad(x, (1, 0, 0, 2, 0, 0, 0, 0)),
    "pad by 0": lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 0), value=2.0),
    "pad around": lambda m, x: F.pad(x, (1, 1, 2, 0), mode="circular"),
    "ZeroPad2d": lambda m, x: nn.ZeroPad2d((1, 0, 2, 1))(x),
    "view": lambda m, x: x.view(len(x), 2, -1),
    "view from the example's batch": lambda m, x: x.view(-1, 8, 15),
    "reshape": lambda m, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1),
    "flatten": lambda m, x: x.flatten(2).flatten(1),
    "unflatten": lambda m, x: x.flatten(1).unflatten(1, (3, -1)),
    "permute": lambda m, x: x.permute(0, 3, 1, 2),
    "transpose": lambda m, x: x.transpose(-1, 1),
    "expand": lambda m, x: x[:, :1].expand(-1, 3, -1, -1) - x[:, 1:],
    "expand to more dimensions": lambda m, x: x.unsqueeze(1).expand(-1, 2, -1, -1, -1),
    "channel shuffle": channel_shuffle,
    "nn.ChannelShuffle": lambda m, x: channel_shuffle(m, x).contiguous(),
    "factorised reduction": factorised,
    "clone": lambda m, x: x.clone() - 0.3 * x.contiguous(),
    "dropout in evaluation": lambda m, x: F.dropout(nn.Dropout2d(0.3).eval()(x), 0.5, training=False),
    "identity": lambda m, x: x,
    "where": lambda m, x: torch.where(m.constant > 0, x, -0.5 * x),
    "where, or a number": lambda m, x: torch.where(m.constant > 0, 0.3, x),
    "where, or a constant": lambda m, x: torch.where(m.constant > 0, x, m.constant),
    "where, broadcast": lambda m, x: torch.where(m.constant > 0, x[:, :, :1], x[:, :1]),
    "masked_fill": lambda m, x: x.masked_fill(m.constant > 0, -0.4),
    "masked_fill with a constant": lambda m, x: x.masked_fill(m.constant > 0, m.constant.sum()),
}


def operator(name: str) -> nn.Module:
    module = Function(REARRANGEMENTS[name], constant=torch.ones(1, 1, 5, 6))
    module.register_buffer("order", torch.tensor([3, 0, 0]))
    return module


@pytest.mark.parametrize("name", REARRANGEMENTS)
@pytest.mark.parametrize("first", [False, True])
def test_a_rearrangement_is_sound(name, first):
    """In the middle of a network, and as its first operator, where stock auto_LiRPA is wrong in l2 and l1."""
    balls, methods = (BALLS, METHODS) if first else (BALLS[:1], level(FAST, METHODS))
    shape = SHAPE if first else (1, *SHAPE[1:])
    assert_sound(around(operator(name), SHAPE, first=first), shape, balls=balls, methods=methods)


@few
@given(st.data())
def test_any_slice_is_sound(data):
    ends = [st.none() | st.integers(-n, n) for n in SHAPE]
    cuts = tuple(slice(data.draw(end), data.draw(end), data.draw(st.integers(1, 3))) for end in ends)
    if not torch.zeros(SHAPE)[cuts].numel():
        return
    model = around(Function(lambda m, x: x[(slice(None), *cuts)]), SHAPE, first=True)
    assert_sound(model, SHAPE, balls=BALLS[1:2])


@few
@given(
    st.lists(st.integers(-1, 2), min_size=6, max_size=6),
    st.sampled_from([(), (0, 0), (1, 0), (0, -1), (1, -1)]),
    st.sampled_from([0.0, -0.7]),
)
def test_any_border_is_sound_and_none_around_the_batch_is_one(border, around_the_batch, value):
    """As ONNX writes it, with a border for every dimension, of 0 for the batch."""
    border = [*border, *around_the_batch]
    model = Function(lambda m, x: F.pad(x, border, value=value))
    if not model(torch.zeros(2, 2, 3, 3)).numel():
        return
    if any(around_the_batch):
        with pytest.raises(UnsupportedOperator, match="image|batch"):
            BoundedNetwork(nn.Sequential(model, nn.Flatten()), torch.rand(1, 2, 3, 3))
    else:
        assert_sound(around(model, (2, 3, 3), first=True), (2, 3, 3), balls=BALLS[1:2], methods=("ibp", "crown"))


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_detached_is_not_constant(method):
    """`detach` stops gradients in the parameters; the value still varies with the image."""
    images = random_images((4,))
    attached, detached = (
        BoundedNetwork(Function(f), images).bounds(images, 0.1, method=method)
        for f in (lambda m, x: F.relu(x - 0.5) + 2 * x, lambda m, x: F.relu(x - 0.5).detach() + 2 * x.detach())
    )
    torch.testing.assert_close((attached.lower, attached.upper), (detached.lower, detached.upper))


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_channels_may_be_renumbered(method):
    """The same network with the channels of its inner layers permuted has the same bounds."""
    order = torch.tensor([2, 0, 3, 1])
    model = randomise(nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.MaxPool2d(2, 1), nn.Conv2d(4, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(18, 3),
    ))  # fmt: skip
    renumbered = randomise(nn.Sequential(*model))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        state[name] = state[name][order]
    state["4.weight"] = state["4.weight"][:, order]
    images, rows = random_images((1, 8, 8)), random_rows(3, 3, 3)
    before = BoundedNetwork(model, images).bounds(images, 0.05, "l2", rows, method)
    outputs = model(images)
    renumbered.load_state_dict(state)
    torch.testing.assert_close(renumbered(images), outputs)
    after = BoundedNetwork(renumbered, images).bounds(images, 0.05, "l2", rows, method)
    torch.testing.assert_close(before.lower, after.lower)
    torch.testing.assert_close(before.upper, after.upper)


MIXING = {
    "slice": lambda m, x: x[1:],
    "slice that keeps two": lambda m, x: x[0:2],
    "slice backwards": lambda m, x: x[-2:],
    "flip": lambda m, x: x.flip(0),
    "flip of all": lambda m, x: x.flip((0, 1)),
    "roll": lambda m, x: x.roll(1, 0),
    "index": lambda m, x: x[[1, 0]],
    "index_select": lambda m, x: x.index_select(0, torch.tensor([1, 0])),
    "select": lambda m, x: x - x[0],
    "mean": lambda m, x: x - x.mean(0, keepdim=True),
    "cat": lambda m, x: torch.cat([x, x]),
    "stack": lambda m, x: torch.stack([x, x]).flatten(1),
    "chunk": lambda m, x: torch.cat(x.chunk(2)[::-1]),
    "split": lambda m, x: torch.cat(x.split(1)[::-1]),
    "unbind": lambda m, x: torch.stack(x.unbind()[::-1]),
    "transpose": lambda m, x: x.transpose(0, 1).reshape(len(x), -1),
    "permute": lambda m, x: x.permute(1, 0),
    "T": lambda m, x: x.T,
    "view": lambda m, x: x.reshape(-1, 2).flip(1).reshape(len(x), -1),
    "flatten": lambda m, x: x.flatten().unsqueeze(0),
    "unsqueeze": lambda m, x: x.unsqueeze(0).flatten(1),
    "pad": lambda m, x: F.pad(x, (0, 0, 1, 0))[:-1],
    "broadcast": lambda m, x: (x.unsqueeze(1) - x).mean(1),
    "outer sum": lambda m, x: (x[:, None] + x[None]).flatten(1),
    "cumulative": lambda m, x: x.cumsum(0),
    "sort": lambda m, x: x.sort(0).values,
    "matmul": lambda m, x: torch.ones(2, 2) @ x,
    "unbatched convolution": lambda m, x: F.conv1d(x, torch.ones(2, 2, 1)),
}


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("values", ["random", "zeros"])
def test_a_network_that_mixes_images_is_refused(name, values):
    """Whatever the values of the example: among equal images mixing would not show."""
    example = torch.rand(2, 4) if values == "random" else torch.zeros(1, 4)
    with pytest.raises(UnsupportedOperator) as caught:
        BoundedNetwork(Function(MIXING[name]), example)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x + m.two,
        lambda m, x: torch.cat([x, m.two], 1),
        lambda m, x: (x + m.two.unsqueeze(1)).mean(2),
        lambda m, x: x.expand(2, len(x), 4).flatten(1),
        lambda m, x: (x @ m.stack).mean(2),
    ],
)
def test_a_network_that_treats_an_image_by_its_place_is_refused(function):
    """Written for batches of two, which is what the wrapper happens to trace with."""
    model = Function(function, two=torch.randn(2, 4), stack=torch.randn(2, 4, 3))
    with pytest.raises(UnsupportedOperator):
        BoundedNetwork(model, torch.rand(2, 4))


def test_dropout_in_training_mode_is_refused():
    for module in (nn.Dropout(0.5), nn.Dropout(0.0), nn.AlphaDropout(0.2)):
        with pytest.raises(UnsupportedOperator, match="dropout"):
            BoundedNetwork(nn.Sequential(nn.Linear(4, 4), module).train(), torch.rand(1, 4))


def test_an_index_that_depends_on_the_input_is_refused():
    with pytest.raises(UnsupportedOperator):
        BoundedNetwork(Function(lambda m, x: x[:, x[0].argsort()]), torch.rand(1, 4))

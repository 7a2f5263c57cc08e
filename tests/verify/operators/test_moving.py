"""Indices, shuffles, windows, contractions, and calls that torch makes of simpler ones."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few
from tests.verify.helpers import BALLS, Function, around, assert_sound, random_images
from verify import BoundedNetwork, UnsupportedOperator

SHAPE = (4, 4, 6)
MASK = torch.tensor([True, False, True, True])
PIXELS = MASK.view(4, 1) & torch.tensor([True, False] * 3)


def assigned(x, places, value):
    x[(slice(None), *places) if isinstance(places, tuple) else (slice(None), places)] = value
    return x


MOVED = {
    "a list": lambda m, x: x[:, [2, 0]],
    "a list of the last": lambda m, x: x[..., [1, 0, 3, 3]],
    "a buffer": lambda m, x: x[:, m.order] - 0.5 * x[:, :3],
    "two buffers": lambda m, x: x[:, m.order, m.order],
    "a list and a new dimension": lambda m, x: x[:, None, :, [0, 1]],
    "gather": lambda m, x: x.gather(1, m.places.expand(len(x), -1, -1, -1)),
    "take_along_dim": lambda m, x: torch.take_along_dim(x, m.places, 1),
    "repeat": lambda m, x: x.repeat(1, 1, 2, 3),
    "tile": lambda m, x: x.tile(2),
    "repeat_interleave": lambda m, x: x.repeat_interleave(2, 1),
    "hstack": lambda m, x: torch.hstack([x, -x]),
    "dstack": lambda m, x: torch.dstack([x, 2 * x]),
    "column_stack": lambda m, x: torch.column_stack([x.flatten(1), -x.flatten(1)]),
    "movedim": lambda m, x: x.movedim(1, -1),
    "movedim of two": lambda m, x: x.movedim((1, 2), (2, 3)),
    "swapaxes": lambda m, x: x.swapaxes(1, 2),
    "mT": lambda m, x: x.mT - x.adjoint(),
    "tensor_split": lambda m, x: torch.cat([*x.tensor_split(3, 1)[::-1], *x.tensor_split([1], 1)], 1),
    "hsplit": lambda m, x: x.hsplit([1])[1],
    "roll": lambda m, x: x - 0.5 * x.roll((1, -2), (2, 3)),
    "rot90": lambda m, x: x.rot90(1, (2, 3)),
    "fliplr": lambda m, x: x.fliplr(),
    "triangles": lambda m, x: x.tril() - 2 * x.triu(1),
    "diagonal": lambda m, x: x.diagonal(0, 2, 3) - 0.5 * x[:, :, 0, :4],
    "diag_embed": lambda m, x: torch.diag_embed(x[:, 0]),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda m, x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "F.unfold": lambda m, x: F.unfold(x, 2, padding=1),
    "unfold": lambda m, x: x.unfold(3, 2, 1),
    "a mask": lambda m, x: x[:, MASK],
    "a mask of pixels": lambda m, x: x[:, 1:, PIXELS],
    "a mask and a list": lambda m, x: x[:, MASK, [0, 2, 3]],
    "scatter of a number": lambda m, x: x.scatter(1, m.places.expand(len(x), -1, -1, -1), 0.5),
    "scatter": lambda m, x: x.scatter(1, m.places.expand(len(x), -1, -1, -1), 2 * x[:, :2]),
    "scatter into a constant": lambda m, x: m.full.expand(len(x), -1, -1, -1).scatter(1, m.places.expand(len(x), -1, -1, -1), x[:, 1:3]),
    "scatter of a constant": lambda m, x: x.scatter(1, m.places.expand(len(x), -1, -1, -1), m.full[:, :2].expand(len(x), -1, -1, -1)),
    "index_copy": lambda m, x: x.index_copy(2, m.order, x[:, :, 1:] * 2),
    "index_copy of a constant": lambda m, x: x.index_copy(1, m.order, m.full[:, 1:].expand(len(x), -1, -1, -1)),
    "index_fill": lambda m, x: x.index_fill(1, m.order, 0.5),
    "assignment by a list": lambda m, x: assigned(2 * x, [0, 2], 0.5),
    "assignment of what varies": lambda m, x: assigned(2 * x, m.order, x[:, :1]),
    "assignment by two buffers": lambda m, x: assigned(2 * x, (m.order, m.order), m.full[0, 0, 0]),
    "select_scatter": lambda m, x: torch.select_scatter(x, 2 * x[:, 1], 1, 0),
    "slice_scatter": lambda m, x: torch.slice_scatter(x, x[:, :2] * 2, 1, 0, None, 2),
    "slice_scatter of a constant": lambda m, x: torch.slice_scatter(x, m.full[:, :2].expand(len(x), -1, -1, -1), 1, 0, 2),
    "diagonal_scatter": lambda m, x: torch.diagonal_scatter(x, x[:, :, 0, :4], 0, 2, 3),
    "fold": lambda m, x: F.fold(F.unfold(x, 2), (4, 6), 2),
    "squeeze": lambda m, x: x[:, :1, :1].squeeze((1, 2)),
    "broadcast_to": lambda m, x: x[:, :1].broadcast_to(len(x), 3, 4, 6),
    "cumsum": lambda m, x: x.cumsum(1) - x.cumsum(-1),
    "diff": lambda m, x: x.diff(dim=2),
    "trapezoid": lambda m, x: torch.trapezoid(x, dim=3),
    "kron": lambda m, x: torch.kron(x, m.weight[None, None]),
    "words": lambda m, x: torch.multiply(torch.subtract(+x, 0.3), -2).true_divide(3).negative(),
    "alpha dropout in evaluation": lambda m, x: nn.AlphaDropout().eval()(x),
}
WEIGHED = {
    "einsum": lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.weight),
    "einsum from the left": lambda m, x: torch.einsum("d c, b c h w -> b d h w", m.weight, x),
    "einsum with dots": lambda m, x: torch.einsum("...ij,jk->...ik", x, m.right),
    "einsum without a result": lambda m, x: torch.einsum("bchw,hk", x, m.weight),
    "scatter_add": lambda m, x: x.scatter_add(1, m.places.expand(len(x), -1, -1, -1) * 0, 2 * x[:, 1:3]),
    "index_add": lambda m, x: x.index_add(1, m.order * 0, x[:, 1:], alpha=-2),
    "index_add into a constant": lambda m, x: m.full.expand(len(x), -1, -1, -1).index_add(1, m.order, x[:, 1:]),
    "einsum of three": lambda m, x: torch.einsum("bchw,cd,wk->bdhk", x, m.weight, m.right),
    "einsum alone": lambda m, x: torch.einsum("bchw->bwc", x),
    "einsum that sums a weight": lambda m, x: torch.einsum("bchw,cd->bhw", x, m.weight),
    "tensordot": lambda m, x: torch.tensordot(x, m.weight, dims=([1], [0])),
    "tensordot of two": lambda m, x: torch.tensordot(x, m.right[:, :1].expand(6, 4), dims=([3, 2], [0, 1])),
    "bmm": lambda m, x: torch.bmm(x[:, 0], m.right.expand(len(x), -1, -1)),
    "bmm from the left": lambda m, x: torch.bmm(m.weight.expand(len(x), -1, -1), x[:, 0]),
    "matmul": lambda m, x: x @ m.right,
    "matmul from the left": lambda m, x: m.weight @ x,
    "matmul from the left, flat": lambda m, x: m.weight @ x.flatten(2),
    "a vector": lambda m, x: x @ m.right[:, 0] - x.mT @ m.weight[0] @ m.right[:, :1].expand(6, 4),
    "a vector from the left": lambda m, x: m.weight[0] @ x,
    "baddbmm": lambda m, x: torch.baddbmm(m.bias.expand(len(x), -1, -1), x[:, 0], m.right.expand(len(x), -1, -1), beta=2),
    "lerp": lambda m, x: torch.lerp(x, x.flip(1), 0.3) + torch.lerp(x, m.full, -0.5),
    "lerp by a tensor": lambda m, x: torch.lerp(x, x.flip(1), m.full),
    "addcmul": lambda m, x: torch.addcmul(x, m.full, x.flip(2), value=0.5),
    "addcdiv": lambda m, x: torch.addcdiv(m.full, x, m.full.abs() + 1),
    "nearest": lambda m, x: F.interpolate(x, size=(7, 5)),
    "nearest-exact": lambda m, x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "nearest in 1 and 3 dimensions": lambda m, x: F.interpolate(x.flatten(2), scale_factor=2).unflatten(2, (8, 6)) + F.interpolate(
        x[:, None], scale_factor=(1, 2, 1)
    ).squeeze(1),
    "bilinear": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners": lambda m, x: F.interpolate(x, size=(7, 5), mode="bilinear", align_corners=True),
    "bilinear, smaller": lambda m, x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True),
    "linear and trilinear": lambda m, x: F.interpolate(x.flatten(2), size=9, mode="linear")[..., :6] - F.interpolate(
        x[:, None], size=(4, 2, 3), mode="trilinear"
    ).flatten(3).squeeze(1),
    "bicubic": lambda m, x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "bicubic to a size": lambda m, x: F.interpolate(x, size=(7, 5), mode="bicubic", align_corners=True),
    "bicubic, smaller": lambda m, x: F.interpolate(x, size=(3, 3), mode="bicubic", antialias=True),
    "area": lambda m, x: F.interpolate(x, size=(2, 3), mode="area"),
    "grid_sample": lambda m, x: F.grid_sample(x, m.grid.expand(len(x), -1, -1, -1), align_corners=False),
}  # fmt: skip


def operator(function) -> nn.Module:
    parameters = {"weight": (4, 4), "right": (6, 3), "full": (1, *SHAPE), "bias": (1, 4, 3)}
    module = Function(function, **{name: torch.ones(shape) for name, shape in parameters.items()})
    module.register_buffer("order", torch.tensor([2, 0, 1]))
    module.register_buffer("places", torch.tensor([1, 3])[None, :, None, None].expand(1, 2, 4, 6).clone())
    generator = torch.Generator().manual_seed(0)
    module.register_buffer("grid", torch.rand(1, 3, 3, 2, generator=generator, dtype=torch.float64) * 2.4 - 1.2)
    return module


@pytest.mark.parametrize("name", MOVED)
def test_moves_are_sound(name):
    model = around(operator(MOVED[name]), SHAPE, first=True)
    assert_sound(model, SHAPE, balls=BALLS[1:2], methods=("ibp", "crown"))


@pytest.mark.parametrize("name", WEIGHED)
def test_weighed_sums_are_sound(name):
    model = around(operator(WEIGHED[name]), SHAPE)
    assert_sound(model, (1, *SHAPE[1:]), balls=BALLS[:1], methods=("ibp", "affine", "crown"))


@pytest.mark.parametrize("name", [name for name in WEIGHED if "einsum" in name or "bicubic" in name])
def test_intervals_of_weighed_sums_are_exact(name):
    """Their radius is that of the matrix's rows: none of them adds up coefficients of two signs (but one)."""
    model = nn.Sequential(operator(WEIGHED[name]), nn.Flatten()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.linspace(-1, 1, 16).view(4, 4))
        model[0].right.copy_(torch.linspace(-1, 1, 18).view(6, 3))
    images = random_images(SHAPE, 1)
    jacobian = torch.autograd.functional.jacobian(model, images).flatten(2).squeeze(0).flatten(1)
    bounds = BoundedNetwork(model, images).bounds(images, 0.1, domain="free", method="ibp")
    half, expected = (bounds.upper - bounds.lower) / 2, 0.1 * jacobian.abs().sum(1)
    torch.testing.assert_close(half[0], expected)


@few
@given(st.data())
def test_any_index_is_sound(data):
    index = [data.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=4)) for size in SHAPE]
    one, whole = data.draw(st.integers(0, 2)), slice(None)
    places = tuple(numbers if place == one else whole for place, numbers in enumerate(index))
    model = around(Function(lambda m, x: x[(whole, *places)]), SHAPE, first=True)
    assert_sound(model, SHAPE, balls=BALLS[1:2], methods=("ibp",))


MIXING = {
    "index": lambda m, x: x[[0, 1]],
    "index with images": lambda m, x: x[torch.arange(2), [1, 0]].unsqueeze(1),
    "indices apart": lambda m, x: x.view(len(x), 2, 1, 2)[:, [0, 1], :, [0, 0]].flatten(1),
    "gather": lambda m, x: x.gather(0, torch.tensor([[0, 0, 1, 1], [1, 0, 1, 1]])),
    "repeat": lambda m, x: x.repeat(2, 1),
    "repeat and fold": lambda m, x: x.repeat(2, 2)[: len(x)],
    "repeat_interleave": lambda m, x: x.repeat_interleave(2, 0)[: len(x)],
    "roll of all": lambda m, x: x.roll(1),
    "roll": lambda m, x: x.roll(1, 0),
    "rot90": lambda m, x: x.rot90(1, (0, 1)).mT,
    "triangle": lambda m, x: x.tril(),
    "scatter": lambda m, x: x.scatter(0, torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]), x),
    "index_copy": lambda m, x: x.index_copy(0, torch.tensor([1, 0]), x),
    "index_add": lambda m, x: x.index_add(0, torch.tensor([1, 0]), x),
    "diagonal": lambda m, x: torch.diag_embed(x.diagonal()),
    "cumsum": lambda m, x: x.cumsum(0),
    "einsum": lambda m, x: torch.einsum("bi,cb->ci", x, m.two),
    "einsum over images": lambda m, x: torch.einsum("bi->i", x).unsqueeze(0).repeat(2, 1),
    "einsum with images": lambda m, x: torch.einsum("bi,bi->bi", x, m.pair),
    "left": lambda m, x: m.two @ x,
    "a vector from the left": lambda m, x: (m.two[0] @ x).unsqueeze(0).repeat(2, 1),
    "swapaxes": lambda m, x: x.swapaxes(0, 1).reshape(len(x), -1),
}


def test_a_mask_whose_values_are_not_known_is_refused():
    """What it selects, and how much, would be fixed in the graph."""
    module = nn.Sequential(Function(lambda m, x: x[:, m.mask]), nn.Linear(3, 2))
    module[0].register_buffer("mask", MASK)
    for model in (module, Function(lambda m, x: x[:, x[0] > -1])):
        with pytest.raises(UnsupportedOperator, match="an index by a mask .* keep its places, mask.nonzero"):
            BoundedNetwork(model, torch.rand(1, 4))


@pytest.mark.parametrize("name", MIXING)
def test_images_do_not_meet(name):
    with pytest.raises(UnsupportedOperator) as caught:
        BoundedNetwork(Function(MIXING[name], two=torch.ones(2, 2), pair=torch.randn(2, 4)), torch.rand(2, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda m, x: x.roll(1, 0) + x.roll(-1, 0),
        lambda m, x: x.rot90(2, (0, 1)),
        lambda m, x: x.cumsum(0),
        lambda m, x: x.tril(),
        lambda m, x: x[[-1]],
        lambda m, x: torch.einsum("bi,j->ij", x, x.new_ones(4))[:1],
    ],
)
def test_images_do_not_meet_where_a_weight_of_0_hides_it(mixing):
    with pytest.raises(UnsupportedOperator, match=r"^aten\.\w+"):
        BoundedNetwork(Function(lambda m, x: x + m.zero * mixing(m, x), zero=torch.zeros(1)), torch.rand(2, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.gather(1, x.argsort(1)),
        lambda m, x: x[:, x.argmax(1)],
        lambda m, x: x.scatter(1, torch.tensor([[0, 0], [0, 0]]), x[:, :2]),
        lambda m, x: x.scatter_add(1, torch.tensor([[0, 1], [0, 1]]), x),
        lambda m, x: x.index_copy(1, torch.tensor([2, 2]), x[:, :2]),
        lambda m, x: assigned(2 * x, [2, 2], x[:, :2]),
    ],
)
def test_places_that_vary_and_two_elements_at_one_place_are_refused(function):
    with pytest.raises(UnsupportedOperator, match=r"^aten\.\w+"):
        BoundedNetwork(Function(function, w=torch.ones(4)), torch.rand(2, 4))

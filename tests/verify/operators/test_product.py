"""Products of two tensors that both depend on the image: squares, gates, squeeze and excitation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.verify.helpers import BALLS, Function, around, assert_sound, randomise
from verify import BoundedNetwork, UnsupportedOperator
from verify.graph.lirpa import BoundedModule, BoundedTensor, PerturbationLpNorm
from verify.operators import product

SHAPE = (4, 3, 4)
PRODUCTS = {
    "x * x": lambda m, x: x * x,
    "x * y": lambda m, x: x * x.flip(1),
    "x * relu(x)": lambda m, x: (x - 0.3) * F.relu(x - 0.2),
    "itself in two ways": lambda m, x: F.relu(x) * F.relu(x),
    "squeeze and excitation": lambda m, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "broadcast of both": lambda m, x: x[:, :1] * x[:, :, :1],
    "glu": lambda m, x: F.glu(x, 1),
    "swish by hand": lambda m, x: x * torch.sigmoid(x),
    "a product of three": lambda m, x: x * x.flip(2) * F.relu(x.flip(3)),
    "in place": lambda m, x: (x * 1).mul_(x),
    "addcmul": lambda m, x: torch.addcmul(x, x, x.flip(1), value=-0.5),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_sound(name):
    assert_sound(around(Function(PRODUCTS[name]), SHAPE), (1, *SHAPE[1:]), balls=BALLS[:2])
    assert_sound(around(Function(PRODUCTS[name]), SHAPE, first=True), SHAPE, methods=("ibp", "affine", "crown"))


class Recurrent(nn.Module):
    """A cell over three steps, written out."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.last = cell, nn.Linear(4, 3)

    def forward(self, x):
        state = None
        for step in range(3):
            state = self.cell(x[:, step], state)
        return self.last(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize(
    "cell", [nn.RNNCell(2, 4), nn.RNNCell(2, 4, nonlinearity="relu"), nn.LSTMCell(2, 4), nn.GRUCell(2, 4, bias=False)]
)
def test_recurrent_cells_written_out_are_sound(cell):
    model = randomise(Recurrent(cell))  # with ties: torch's cells know no vmap, which the comparison of tiny balls takes
    assert_sound(model, (3, 2), balls=BALLS[:1], methods=("ibp", "crown"), ties=True)


def test_a_product_is_bounded_by_its_planes():
    """In a box of its own: off the middle by the product of the radii, where backward passes add no more."""
    model = Function(lambda m, x: x[:, :2] * x[:, 2:])
    images = torch.tensor([[0.2, -0.5, 0.7, 0.3]], dtype=torch.float64)
    network = BoundedNetwork(model, images)
    for method in ("ibp", "crown"):
        bounds = network.bounds(images, 0.1, domain="free", method=method)
        products = torch.stack([(images[:, :2] + i) * (images[:, 2:] + j) for i in (-0.1, 0.1) for j in (-0.1, 0.1)])
        assert (bounds.lower <= products.amin(0) + 1e-12).all()
        assert (bounds.upper >= products.amax(0) - 1e-12).all()
        assert (products.amin(0) - bounds.lower <= 0.02 + 1e-12).all()
        assert (bounds.upper - products.amax(0) <= 0.02 + 1e-12).all()


def test_images_do_not_meet_in_a_product():
    for function in (lambda m, x: x * x[:1], lambda m, x: (x.unsqueeze(1) * x).flatten(1), lambda m, x: x * x.flip(0)):
        with pytest.raises(UnsupportedOperator):
            BoundedNetwork(Function(function), torch.rand(2, 4))


def matrices(m, x):
    return (x[:, :6].reshape(-1, 2, 3) @ x[:, 6:].reshape(-1, 3, 2)).reshape(-1, 4)


def contracted(m, x):
    return torch.einsum("bij,bikj->bk", x[:, :4].unflatten(1, (2, 2)), x[:, 4:].unflatten(1, (2, 2, 2)))


PRODUCTS_OF_PAIRS = {
    "of elements": (4, lambda m, x: x[:, :2] * x[:, 2:], [[(0, 2)], [(1, 3)]]),
    "quotient": (4, lambda m, x: x[:, :2] / (x[:, 2:] + 9), [[(0, 2)], [(1, 3)]]),
    "of matrices": (12, matrices, [[(3 * i + j, 6 + 2 * j + k) for j in range(3)] for i in range(2) for k in range(2)]),
    "einsum": (12, contracted, [[(2 * i + j, 4 + 4 * i + 2 * k + j) for i in range(2) for j in range(2)] for k in range(2)]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PRODUCTS_OF_PAIRS)
def test_intervals_of_products_are_those_of_their_corners(name, dtype):
    """The least and the largest product of two factors in a box are at its corners; so are those of each sum's terms."""
    size, function, pairs = PRODUCTS_OF_PAIRS[name]
    images = torch.randn(200, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    images = images.masked_fill(images.abs() < 0.2, 0.0)
    network = BoundedNetwork(Function(function), images[:1], confirms=dtype == torch.float64)
    x, signs = images.double(), torch.tensor([[i, j] for i in (-1.0, 1.0) for j in (-1.0, 1.0)]).double()
    for radius in (0.0, 1e-9, 0.01, 0.7, 3.0):
        bounds = network.bounds(images, radius, domain="free", method="ibp")
        low = high = 0.0
        for pair in torch.tensor(pairs).unbind(1):
            ends = [x[:, pair[:, side], None] + radius * signs[:, side] for side in (0, 1)]
            values = ends[0] / (ends[1] + 9) if name == "quotient" else ends[0] * ends[1]
            low, high = low + values.amin(2), high + values.amax(2)
        # Bounds that are confirmed allow for rounding.
        slack, room = (each * (1 + high - low) for each in ((0.0, 1e-8) if dtype == torch.float64 else (1e-5, 1e-4)))
        assert (bounds.lower <= low + slack).all() and (bounds.upper >= high - slack).all()
        assert (low - bounds.lower <= room).all() and (bounds.upper - high <= room).all()
        if radius == 1e-9:  # too small to be seen beside the values, unless it is kept apart
            found = network.single().width_slope(images.float(), domain="free")
            torch.testing.assert_close(found.exp(), ((high - low) / 2e-9).float(), rtol=1e-3, atol=1e-4)


def test_a_product_that_overflows_claims_nothing():
    images = torch.tensor([[1e30, -1e30, 0.0, 1e30]])
    network = BoundedNetwork(Function(lambda m, x: x[:, :2] * x[:, 2:]), images)
    lower = network.bounds(images, 1e30, domain="free", method="ibp").lower
    assert not torch.isfinite(lower).any()


@pytest.mark.parametrize("name", PRODUCTS_OF_PAIRS)
def test_intervals_of_products_are_no_looser_than_those_of_auto_lirpa(name):
    if name == "einsum":
        pytest.skip("auto_LiRPA has none")
    size, function, _ = PRODUCTS_OF_PAIRS[name]
    model, images = Function(function), torch.randn(5, size, generator=torch.Generator().manual_seed(0))
    if name == "quotient":  # its interval is x_l / y_u to x_u / y_l, which holds of no negative x
        images = images.abs() + 0.3
    low, high = BoundedModule(model, images).compute_bounds(
        x=(BoundedTensor(images, PerturbationLpNorm(norm=torch.inf, eps=0.3)),), method="IBP"
    )
    bounds = BoundedNetwork(model, images).bounds(images, 0.3, domain="free", method="ibp")
    assert (bounds.lower >= low - 1e-5).all() and (bounds.upper <= high + 1e-5).all()


def test_products_of_matrices_are_bounded_in_parts(monkeypatch):
    network, images = BoundedNetwork(Function(matrices), torch.rand(1, 12)), torch.randn(3, 12)
    whole = network.bounds(images, 0.3, method="ibp", domain="free")
    monkeypatch.setattr(product, "AT_ONCE", 1)
    assert torch.equal(network.bounds(images, 0.3, method="ibp", domain="free").lower, whole.lower)

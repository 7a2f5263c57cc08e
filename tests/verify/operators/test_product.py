"""Products of two tensors that both depend on the image: squares, gates, squeeze and excitation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.verify.helpers import BALLS, Function, around, assert_sound, randomise
from verify import BoundedNetwork, UnsupportedOperator

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

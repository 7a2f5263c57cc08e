"""An l2 ball may stay one only while no two elements move with the same pixel: attempts to break its intervals."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.verify.helpers import Function
from verify import BoundedNetwork

EPSILON = 0.3
BEFORE = {
    "nothing": lambda x: x,
    "scaled and moved": lambda x: (x - 0.3) / 0.5 * -2.0 + 1.0,
    "padded with zeros": lambda x: F.pad(x, [1, 2]),
    "reshaped": lambda x: x.reshape(len(x), 3, 1).permute(0, 2, 1).flatten(1),
    "padded with itself": lambda x: F.pad(x.reshape(len(x), 1, 1, 3), [2, 2, 0, 0], mode="replicate").flatten(1),
    "mirrored": lambda x: F.pad(x.reshape(len(x), 1, 1, 3), [2, 2, 0, 0], mode="reflect").flatten(1),
    "joined with itself": lambda x: torch.cat([x, x], 1),
    "added to itself": lambda x: x + x.flip(1),
    "added to a copy": lambda x: x + 2 * x,
    "expanded": lambda x: x.reshape(len(x), 3, 1).expand(-1, -1, 4).flatten(1),
    "repeated by index": lambda x: x.index_select(1, torch.tensor([0, 0, 1, 2, 2, 2])),
}


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("before", BEFORE)
def test_the_worst_perturbation_of_a_linear_network_is_within(before, norm):
    """Its change is epsilon times the dual norm of the whole gradient, which reaches every way of a pixel."""
    change, image = BEFORE[before], torch.tensor([[0.2, 0.5, 0.9]], dtype=torch.float64)
    width = change(image).shape[1]
    weight = torch.randn(4, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[0] = 1.0  # of the same sign for all copies
    model = Function(lambda m, x: F.relu(F.linear(change(x), m.weight) + 100.0) @ torch.eye(4).to(x), weight=weight)
    network = BoundedNetwork(model, image)
    gradient = torch.func.jacrev(lambda x: model(x[None])[0])(image[0])
    reach = EPSILON * torch.linalg.vector_norm(gradient, 2 if norm == "l2" else math.inf, dim=1)
    bounds = network.bounds(image, EPSILON, norm, method="ibp", domain="free")
    value = model(image)
    assert (bounds.lower <= value - reach + 1e-9).all()
    assert (bounds.upper >= value + reach - 1e-9).all()


def test_the_first_layer_is_exact_in_l2():
    """Normalisation and padding before it are passed, a rectifier ends the ball."""
    image = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def first(x: Tensor) -> Tensor:
        return F.conv2d((F.pad(x, [1] * 4) - 0.1) / 0.3, weight)

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(first(x) + 50.0).flatten(1) @ torch.eye(48, dtype=x.dtype)

    bounds = BoundedNetwork(Net(), image).bounds(image, EPSILON, "l2", method="ibp", domain="free")
    for number, x in enumerate(image):
        rows = torch.func.jacrev(lambda pixels: first(pixels[None])[0].flatten())(x).flatten(1)
        expected = EPSILON * rows.norm(dim=1)
        torch.testing.assert_close((bounds.upper - bounds.lower)[number] / 2, expected)

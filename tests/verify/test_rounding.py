"""What float64 cannot hold is in the bounds that confirm certificates: against exact rational arithmetic."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.levels import few
from tests.verify.helpers import Function
from verify import METHODS, NORMS, RADIUS_METHODS, Ball, BoundedNetwork, certified_radius, prove
from verify.operators import Operator

Rows = list[list[float]]


def linear(weight: Rows, bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def with_relus(*layers: nn.Linear) -> nn.Sequential:
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))[:-1]


def times(weight: Tensor, x: list[Fraction]) -> list[Fraction]:
    return [sum((Fraction(w) * value for w, value in zip(row, x, strict=True)), Fraction()) for row in weight.tolist()]


def exact(model: nn.Sequential, pixels: list[Fraction]) -> list[Fraction]:
    for layer in model:
        if isinstance(layer, nn.Linear):
            sums = times(layer.weight, pixels)
            pixels = [value + Fraction(b) for value, b in zip(sums, layer.bias.tolist(), strict=True)]
        else:
            pixels = [max(value, Fraction()) for value in pixels]
    return pixels


def bounded(model: nn.Sequential, image: list[float]) -> BoundedNetwork:
    return BoundedNetwork(model, torch.tensor([image], dtype=torch.float64)).double()


def extreme_points(image: list[float], epsilon: float, norm: str) -> list[list[Fraction]]:
    """The image, and the corners of the ball: of the cube, or those on the axes."""
    reach, pixels = Fraction(epsilon), [Fraction(pixel) for pixel in image]
    if norm == "linf":
        return [list(point) for point in product(*({pixel - reach, pixel, pixel + reach} for pixel in pixels))]
    steps = [[step if place == other else Fraction() for other in range(len(pixels))]
             for place in range(len(pixels)) for step in (-reach, Fraction(), reach)]  # fmt: skip
    return [[pixel + part for pixel, part in zip(pixels, step, strict=True)] for step in steps]


def assert_contain(
    network: BoundedNetwork,
    model: nn.Sequential,
    image: list[float],
    epsilon: float,
    rows: Tensor,
    method: str,
    norm: str = "linf",
) -> None:
    """The exact values at the image and at all corners are within the bounds, without any tolerance."""
    x = torch.tensor([image], dtype=torch.float64)
    bounds = network.bounds(x, epsilon, norm, rows, method, "free")
    for point in extreme_points(image, epsilon, norm):
        (value,) = times(rows, exact(model, point))
        assert not bounds.lower.item() > value  # a NaN claims nothing
        assert not bounds.upper.item() < value


CANCELLING = {
    "pixels": ([linear([[1, 1, -1]], [0]), linear([[2.0**70]], [0])], [1, 2.0**-60, 1]),
    "a bias": ([linear([[1]], [2.0**60]), linear([[1]], [-(2.0**60)]), linear([[1]], [0])], [1]),
    "weights": ([linear([[1], [1], [1]], [0, 0, 0]), linear([[2.0**60, 1, -(2.0**60)]], [0])], [1]),
    "no rectifier": ([linear([[2.0**60], [1], [2.0**60]], [0.0, 0.0, 0.0]), linear([[1, 1, -1]], [0])], [0.5]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.0, 2.0**-80])
@pytest.mark.parametrize("case", CANCELLING)
def test_what_cancels_between_layers(case, epsilon, norm, method):
    layers, image = CANCELLING[case]
    model, rows = with_relus(*layers), torch.ones(1, 1, dtype=torch.float64)
    assert_contain(bounded(model, image), model, image, epsilon, rows, method, norm)


class Shifted(nn.Module):
    """Pixels moved far away and back before the first layer: what is still a ball then has lost its last digits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = with_relus(linear([[1, 1]], [0]), linear([[1]], [0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers((x + 2.0**60) - 2.0**60)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
def test_what_cancels_while_it_is_a_ball(norm, method):
    network = BoundedNetwork(Shifted(), torch.zeros(1, 2, dtype=torch.float64)).double()
    image, one = torch.tensor([[0.25, 0.5]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    bounds = network.bounds(image, 2.0**-80, norm, one, method, "free")
    assert not bounds.lower.item() > 0.75
    assert not bounds.upper.item() < 0.75


BIG = 2.0**60
ONE, FAR = torch.ones(1, dtype=torch.float64), torch.tensor([BIG], dtype=torch.float64)
NEAR, LAST = torch.tensor([2.0**33], dtype=torch.float64), 2.0**-19
"""A number and its last digit, which is lost of three times the number."""
IDENTITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "a residual": lambda x: BIG * x + x - BIG * x,
    "batch norm": lambda x: F.batch_norm(x + BIG, FAR, ONE, eps=0.0),
    "batch norm's shift": lambda x: F.batch_norm(x, FAR, ONE, ONE, FAR, eps=0.0),
    "batch norm's constants": lambda x: (F.batch_norm(x, NEAR + LAST, ONE, 3 * ONE, 3 * NEAR + 2 * LAST, eps=0.0) + LAST) / 3,
    "an average pool": lambda x: 3 * F.avg_pool2d(torch.cat([BIG * x, x, -BIG * x], 3), (1, 3)),
    "a mean": lambda x: 3 * torch.cat([BIG * x, x, -BIG * x], 3).mean(3, keepdim=True),
    "max pools": lambda x: F.max_pool2d(torch.cat([BIG + x, BIG + x / 2], 3), (1, 2)) - BIG,
    "a convolution": lambda x: F.conv2d(torch.cat([BIG * x, x, -BIG * x], 1), ONE.expand(1, 3, 1, 1)),
    "slices": lambda x: torch.cat([BIG * x, x], 3)[..., :1] + x - torch.cat([x, BIG * x], 3)[..., 1:],
}
"""All of them x in real arithmetic, for x >= 0."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", IDENTITIES)
def test_what_cancels_in_every_operator(name, method):
    """Between two rectifiers; the second has bounds of its own, the first makes the image's sign one."""

    def function(module: nn.Module, x: Tensor) -> Tensor:
        hidden = IDENTITIES[name](F.relu(x))
        return (F.relu(hidden) + 1e-3 * F.relu(hidden - 0.7)).flatten(1)

    image = torch.full((1, 1, 1, 1), 0.75, dtype=torch.float64)
    network = BoundedNetwork(Function(function), image).double()
    for epsilon in (2.0**-80, 2.0**-10):
        bounds = network.bounds(image, epsilon, "linf", method=method, domain="free")
        for x in (0.75 - epsilon, 0.75 + epsilon):
            assert not bounds.lower.item() > x + 1e-3 * (x - 0.7) * (1 + 1e-12)
            assert not bounds.upper.item() < x + 1e-3 * (x - 0.7) * (1 - 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_what_cancels_in_a_specification(method):
    """Rows are merged with the last layer: 2^60 + 1 - 2^60, of weights and of biases."""
    large, rows = 2.0**60, torch.ones(1, 3, dtype=torch.float64)
    for layer in (linear([[large], [1], [-large]], [0, 0, 0]), linear([[0], [0], [0]], [large, 1, -large])):
        model = nn.Sequential(layer)
        assert_contain(bounded(model, [1.0]), model, [1.0], 0.0, rows, method)


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.slow) if m == "alpha-crown" else m for m in RADIUS_METHODS],
)
def test_a_certificate_that_only_rounding_gives(method):
    """relu(relu(x + 2^60) - 2^60) is x, but 0 in float64, and so below 1/2 in every ball around 1."""
    model = with_relus(linear([[1]], [2.0**60]), linear([[1]], [-(2.0**60)]), linear([[1], [0]], [0, 0.5]))
    image = torch.ones(1, 1, dtype=torch.float64)
    found = certified_radius(BoundedNetwork(model, image), image, torch.tensor([1]), method=method)
    assert found.radius.item() == 0


def grown(gain: float, layers: int) -> nn.Sequential:
    """Logits (x, 1/2) by way of (gain^layers x + x) - gain^layers x, which float64 gets wrong without a trace.

    In two layers, as a library may add three terms in any order.
    """
    first = linear([[1], [1], [1]], [0, 0, 0])
    between = [linear([[gain, 0, 0], [0, gain, 0], [0, 0, 1]], [0, 0, 0]) for _ in range(layers)]
    last = [linear([[gain, 0, 1], [0, gain, 0]], [0, 0]), linear([[1, -1]], [0]), linear([[1], [0]], [0, 0.5])]
    return with_relus(first, *between, *last)


@pytest.mark.parametrize(
    ("gain", "layers", "methods"),
    [(256.0, 6, ("crown-ibp", "affine")), (32.0, 10, ("affine",)), (2.0**60, 1, RADIUS_METHODS)],
)
def test_no_method_proves_what_only_rounding_gives(gain, layers, methods):
    """At .9 the network answers 0; in float64 it answers 1 up to the largest radius there is."""
    model, image, label = grown(gain, layers), torch.tensor([[0.9]], dtype=torch.float64), torch.tensor([1])
    assert exact(model, [Fraction(0.9)]) == [Fraction(0.9), Fraction(1, 2)]
    network = BoundedNetwork(model, image)
    assert network(image).argmax(1).item() == 1
    for method in methods:
        assert certified_radius(network, image, label, method=method).radius.item() == 0, method
    assert prove(network, Ball(image, 0.01), 1).verdict != "proven"


def test_a_sum_of_many_terms():
    """Each of them lost beside the first; and what the sum lacks grows afterwards."""
    model, image = with_relus(linear([[1.0] + [2.0**-53] * 20_000], [0]), linear([[2.0**60]], [0])), [1.0] * 20_001
    (value,) = exact(model, [Fraction(pixel) for pixel in image])
    for method in ("ibp", "block", "crown-ibp"):
        bounds = bounded(model, image).bounds(torch.tensor([image], dtype=torch.float64), 0.0, method=method)
        assert bounds.lower.item() <= value <= bounds.upper.item()


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x + 2 * x.flip(3),
    "product and quotient": lambda x: (2 * x) / torch.arange(1.0, 5.0).double(),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(4).double(), torch.ones(4).double()),
    "relu": F.relu,
    "max pool": lambda x: F.max_pool2d(x, (3, 2), 1, 1),
    "average pool": lambda x: F.avg_pool2d(x, 2, 1, 1),
    "average pool, oblong": lambda x: F.avg_pool2d(x, (3, 2)),
    "average pool of one dimension": lambda x: F.avg_pool1d(x.flatten(2), 5),
    "adaptive average pool": lambda x: F.adaptive_avg_pool2d(x, (3, 1)),
    "mean": lambda x: x.mean((2, 3)),
    "sum over channels": lambda x: x.sum((1,), keepdim=True),
    "convolution": lambda x: F.conv2d(x, torch.ones(2, 4, 3, 3).double(), padding=1),
    "grouped and dilated convolution": lambda x: F.conv2d(x, torch.ones(8, 2, 2, 2).double(), dilation=2, groups=2),
    "transposed convolution": lambda x: F.conv_transpose2d(x, torch.ones(4, 2, 3, 3).double()),
    "linear": lambda x: F.linear(x, torch.ones(3, 4).double()),
    "matmul": lambda x: x @ torch.ones(4, 3).double(),
    "matmul from the left": lambda x: torch.ones(3, 4).double() @ x,
    "einsum": lambda x: torch.einsum("bchw,cd,wk->bdk", x, torch.ones(4, 2).double(), torch.ones(4, 3).double()),
    "einsum with dots": lambda x: torch.einsum("...hw, w -> ...h", x, torch.ones(4).double()),
    "cumsum": lambda x: x.cumsum(2),
    "fold": lambda x: F.fold(F.unfold(x, (2, 3)), (4, 4), (2, 3)),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "moves": lambda x: x.repeat(1, 1, 2, 1).roll(1, 3).tril(),
    "rearrangements": lambda x: F.pad(torch.cat([x[:, 1:], x.transpose(2, 3)[:, :1]], 1), (1, 0)).flatten(1),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_operator_sums_more_terms_than_it_says(name):
    image = torch.rand(1, 4, 4, 4, dtype=torch.float64)
    model = Function(lambda module, x: CALLS[name](x + x.flip(2)).flatten(1).sum(1, keepdim=True))
    graph = BoundedNetwork(model, image).graph
    values = graph.values(image)
    called = [node for node in graph.nodes if node.from_input and node.inputs]
    for node in called:
        inputs = [values[parent.name] for parent in node.inputs]
        columns = torch.autograd.functional.jacobian(node.forward, tuple(inputs))
        read = sum(
            (part.flatten(values[node.name].dim()) != 0).sum(-1)
            for part, parent in zip(columns, node.inputs, strict=True)
            if parent.from_input
        )
        assert read.max() <= node.summands, node.call.name
    assert len(called) > 3


def test_a_network_without_operators():
    image = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64)
    network = BoundedNetwork(nn.Identity(), image)
    for method in RADIUS_METHODS:
        found = certified_radius(network, image, torch.tensor([2]), method=method)
        assert 0.19 < found.radius.item() <= 0.2


def test_a_confirmation_does_without_fourier_transforms(monkeypatch):
    """cuDNN has some in float64; a switch that only a GPU heeds, but any machine shows."""
    seen = set()
    forward = Operator.forward

    def watched(self, *values):
        seen.add(torch.backends.cudnn.enabled)
        return forward(self, *values)

    image = torch.rand(1, 1, 4, 4)
    network = BoundedNetwork(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval(), image)
    exact, before = network.double(), torch.backends.cudnn.enabled
    monkeypatch.setattr(Operator, "forward", watched)
    for method in METHODS:
        exact.bounds(image.double(), 0.1, method=method)
    assert seen == {False}
    assert torch.backends.cudnn.enabled == before
    seen.clear()
    network.bounds(image, 0.1)
    assert seen == {before}


def mixing(pairs: int, between: nn.Module) -> nn.Sequential:
    """The identity, of which intervals see 2^pairs times as much; a rectifier between does nothing to the numbers."""
    there, back = linear([[1, 1], [1, -1]], [2, 2]), linear([[0.5, 0.5], [0.5, -0.5]], [-2, 0])
    return nn.Sequential(*[there, between, back] * pairs, nn.ReLU(), linear([[1, 0], [0, 1]], [0, 0]))


@pytest.mark.parametrize("method", ["affine", "crown"])
@pytest.mark.parametrize(("pairs", "between"), [(36, nn.Identity()), (50, nn.ReLU())])
def test_a_radius_is_not_lost_where_intervals_explode(pairs, between, method):
    """Logits (x, y) at (3/4, 1/4); three trained cells multiply intervals by 1e11, eight by much more."""
    model = mixing(pairs, between)
    image = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    found = certified_radius(BoundedNetwork(model, image), image, torch.tensor([0]), method=method)
    assert 0.2 < found.radius.item() <= 0.25


@pytest.mark.parametrize("epsilon", [0.0, 2.0**-10])
def test_rounding_errors_in_rows_are_in_the_bounds(epsilon):
    """Of a gain that is not a power of two, so that every layer rounds."""
    model, image = mixing(20, nn.ReLU()), [0.7, 0.3]
    with torch.no_grad():
        for layer in model.modules():  # each once
            if isinstance(layer, nn.Linear):
                layer.weight *= 1.1
    for rows in ([[1.0, -1.0]], [[-1.0, 0.1]]):
        assert_contain(
            bounded(model, image), model, image, epsilon, torch.tensor(rows, dtype=torch.float64), "affine"
        )


sizes = st.sampled_from([1.0, -1.0, 2.0**60, -(2.0**60)])


@st.composite
def cancelling_networks(draw: st.DrawFn) -> tuple[nn.Sequential, list[float], Tensor]:
    """Few sizes of weights, so that they cancel often, and so far apart that float64 forgets the smaller."""

    def vector(length: int) -> list[float]:
        return draw(st.lists(sizes, min_size=length, max_size=length))

    widths = draw(st.lists(st.integers(1, 3), min_size=4, max_size=4))
    layers = [linear([vector(before) for _ in range(after)], vector(after)) for before, after in pairwise(widths)]
    rows = torch.tensor([vector(widths[-1])], dtype=torch.float64)
    return with_relus(*layers), vector(widths[0]), rows


@few
@given(cancelling_networks(), st.sampled_from(NORMS), st.sampled_from([0.0, 2.0**-70]))
def test_networks_of_powers_of_two(case, norm, epsilon):
    model, image, rows = case
    network = bounded(model, image)
    for method in METHODS:
        assert_contain(network, model, image, epsilon, rows, method, norm)

"""ReLU: its two lines, in place and out of place, wherever it stands."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.verify.helpers import Function, around, assert_sound, randomise
from verify import BoundedNetwork, UnsupportedOperator
from verify.operators.relaxation import Slopes

FINITE = st.floats(-1e3, 1e3)


RELU = BoundedNetwork(nn.ReLU(), torch.zeros(1, 1)).graph.final_node()
NODE = BoundedNetwork(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.zeros(1, 2, 3)).graph.nodes[1]


@given(FINITE, FINITE, st.floats(0, 1))
def test_the_lines_enclose_relu_on_the_interval(first, second, where):
    lower, upper = sorted((first, second))
    l, u = (torch.tensor([[value]], dtype=torch.float64) for value in (lower, upper))
    lines = RELU.lines(l, u)
    x = l + where * (u - l)
    y = x.clamp(min=0)
    slack = 1e-9
    assert lines.lower_slope * x + lines.lower_intercept <= y + slack
    assert y <= lines.upper_slope * x + lines.upper_intercept + slack


@given(st.integers(0, 1000), st.integers(1, 3), st.booleans())
def test_rows_with_slopes_of_their_own_stay_on_their_side(seed, images, are_innermost):
    """Rows of either sign over neurons of all kinds, of which each row has slopes of its own for some."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    middle, radius, A = normal(images, 2, 3), normal(images, 2, 3).abs(), normal(17, images, 2, 3)
    lower, upper = middle - radius, middle + radius
    if are_innermost:
        A = A.movedim((0, 1), (-1, -2)).contiguous().movedim((-1, -2), (0, 1))
    index = torch.rand(images, 6, generator=generator).argsort(1)[:, :4]
    below, above = torch.rand(2, 17, images, 4, generator=generator)
    [(lA, uA)], low, high = NODE.backward(A, A, [(lower, upper)], slopes=Slopes(index, below, above))
    [(plain, _)], _, _ = NODE.backward(A, A, [(lower, upper)])
    changed = (lA != plain).flatten(2)
    assert not changed.scatter(2, index.expand(17, images, 4), False).any()
    if ((lower < 0) & (upper > 0)).all():
        assert changed.any()
    for where in torch.rand(20, images, 2, 3, generator=generator, dtype=torch.float64).round(decimals=1):
        value = lower + where * (upper - lower)
        y = (A * value.clamp(min=0)).flatten(2).sum(2)
        assert ((lA * value).flatten(2).sum(2) + low <= y + 1e-12).all()
        assert ((uA * value).flatten(2).sum(2) + high >= y - 1e-12).all()


@given(FINITE, FINITE, st.floats(0, 1))
def test_suited_slopes_are_slopes_and_follow_the_value(first, second, where):
    lower, upper = sorted((first, second))
    l, u = (torch.tensor([[value]], dtype=torch.float64) for value in (lower, upper))
    least, somewhere, most = (RELU.suited(l, u, (l + part * (u - l))[None]).item() for part in (0, where, 1))
    assert 0 <= least <= somewhere <= most <= 1


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (1.0, 2.0, (1, 0, 1, 0)),  # active: the identity
        (-2.0, -1.0, (0, 0, 0, 0)),  # inactive
        (0.0, 2.0, (1, 0, 1, 0)),
        (-2.0, 0.0, (0, 0, 0, 0)),
        (-1.0, 3.0, (1, 0, 0.75, 0.75)),  # the chord; below, the line of the smaller triangle
        (-3.0, 1.0, (0, 0, 0.25, 0.75)),
    ],
)
def test_the_lines_of_the_papers(lower, upper, expected):
    l, u = torch.tensor([[lower]]), torch.tensor([[upper]])
    lines = RELU.lines(l, u)
    assert tuple(side.item() for side in lines) == expected


def test_a_nan_interval_gives_nan_lines():
    nan = torch.tensor([[torch.nan]])
    assert RELU.lines(nan, nan).upper_slope.isnan().all()


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.relu(x - 0.5),
        lambda m, x: F.relu(x * m.scale - 0.2, inplace=True),
        lambda m, x: (x - 0.5).relu_() * 2,
        lambda m, x: torch.relu(torch.relu(x - 0.4) - 0.2),
        lambda m, x: F.relu(x - 0.5) - F.relu(0.3 - x),
    ],
)
def test_relu_at_every_place(function):
    """In the middle, at the very beginning (where stock auto_LiRPA is wrong in l2 and l1), and at the end."""
    operator = Function(function, scale=torch.ones(1, 6, 1))
    assert_sound(around(operator, (2, 6, 2)), (1, 6, 2))
    assert_sound(around(operator, (2, 6, 2), first=True), (2, 6, 2))
    before = [nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(4, 6), nn.Unflatten(1, (1, 6, 1))]
    assert_sound(randomise(nn.Sequential(*before, operator, nn.Flatten())), (2, 4, 4))


@pytest.mark.parametrize("left", [0.0, 0.01, 0.5])
def test_leaky_relu(left):
    """Its lines touch it and enclose it, at intervals of all kinds, and bounds hold wherever it stands."""
    node = BoundedNetwork(nn.LeakyReLU(left), torch.zeros(1, 1)).graph.final_node()
    ends = torch.tensor([-1e6, -3.0, -1e-9, 0.0, 1e-9, 2.0, 1e6], dtype=torch.float64)
    l, u = (side[torch.triu(torch.ones(7, 7)).bool()] for side in torch.meshgrid(ends, ends, indexing="ij"))
    least, largest = node.slope_range(l, u)
    x = l + torch.linspace(0, 1, 21, dtype=torch.float64)[:, None] * (u - l)
    value, slack = F.leaky_relu(x, left), 1e-12 * x.abs().amax(0)
    for lines in (node.lines(l, u), node.parallel(l, u)):
        assert (lines.upper_slope * x + lines.upper_intercept >= value - slack).all()
        for slope in (lines.lower_slope, least, largest):
            assert (slope * x + lines.lower_intercept <= value + slack).all()
    assert ((l < 0) & (u > 0)).equal(least < largest)
    assert_sound(around(nn.LeakyReLU(left), (2, 5, 3)), (1, 5, 3))
    assert_sound(around(Function(lambda m, x: F.leaky_relu(x - 0.5, left)), (2, 5, 3), first=True), (2, 5, 3))


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Sequential(nn.Linear(6, 4), nn.ReLU())])
def test_a_network_that_ends_in_relu(model):
    assert_sound(randomise(model), (6,))


def test_relu_of_one_tensor_is_one_node():
    """The relaxations of equal neurons are the same variable, so that what they say of each other counts."""

    def several(m, x):
        h = m.first(x)
        return m.last(F.relu(h)) - m.last(F.relu(h))

    def once(m, x):
        h = F.relu(m.first(x))
        return m.last(h) - m.last(h)

    def apart(m, x):
        # Equal values on nodes of their own: additions of 0 in different places.
        h = m.first(x)
        return m.last(F.relu(h + 0.0)) - m.last(F.relu(h - 0.0))

    x = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    networks = []
    for function in (several, once, apart):
        model = Function(function)
        model.first, model.last = nn.Linear(6, 8), nn.Linear(8, 4)
        networks.append(BoundedNetwork(randomise(model), x))
    counts = [sum("relu" in node.name for node in network.graph.nodes) for network in networks]
    assert counts == [1, 1, 2]
    merged, single, separate = (network.bounds(x, 0.1) for network in networks)
    for bounds in (merged, single):
        assert bounds.lower.abs().max() < 1e-12
        assert bounds.upper.abs().max() < 1e-12
    assert separate.lower.max() < -0.01
    assert separate.upper.min() > 0.01


def test_the_derivative_is_torchs_where_numbers_are_not_finite():
    model, x = nn.Sequential(nn.Flatten(), nn.ReLU()), torch.tensor([[-1.0, 0.0, 2.0, math.nan], [1.0, -2.0, 0.0, -3.0]])
    rows = torch.tensor([[math.inf, math.nan, math.inf, 1.0], [-math.inf, -math.inf, 1.0, 0.0]])
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf), leaf, rows)
    found = BoundedNetwork(model, torch.zeros(1, 4)).vector_jacobian(x, rows[None])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (Function(lambda m, x: x**0), "pow"),
        (Function(lambda m, x: x**-100), "pow"),
        (Function(lambda m, x: torch.digamma(x)), "digamma"),
        (Function(lambda m, x: x.sign()), "sign"),
        (Function(lambda m, x: x.tan()), "tan"),
        (nn.Softplus(beta=-1.0), "softplus"),
        (nn.ELU(-1.0), "elu"),
    ],
)
def test_an_activation_without_a_rule_is_refused_by_name(module, name):
    with pytest.raises(UnsupportedOperator, match=name) as caught:
        BoundedNetwork(nn.Sequential(nn.Linear(4, 4), module), torch.rand(1, 4))
    assert "\n" not in str(caught.value)

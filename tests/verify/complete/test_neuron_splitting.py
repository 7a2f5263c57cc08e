"""Splitting neurons: any weights give a bound, halves make up the whole, nothing is proven that a grid of inputs refutes."""

import math
import time

import pytest
import torch
from torch import Tensor, nn

from tests.verify.helpers import Function, randomise
from verify import BoundedNetwork, Box, Case, Halfspaces
from verify.complete.domains import Domains, Frame
from verify.complete.neuron_splitting import AGAIN, Branching, split_neurons
from verify.complete.splits import Splits, halves
from verify.propagation.alpha import Ascent, Choice, ascended
from verify.propagation.bounds import proven_lower
from verify.propagation.methods import METHODS
from verify.propagation.prior import bound_neurons
from verify.rounding import IGNORED

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.7),
    "hardsigmoid": nn.Hardsigmoid,
    "abs": lambda: Function(lambda module, x: x.abs()),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}
OPERATORS = (*ACTIVATIONS, "max_pool")
BOX = Box(-torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))


def small(operator: str, seed: int) -> nn.Module:
    """A random network of two inputs and three outputs."""
    if operator == "max_pool":
        layers = [nn.Linear(2, 18), nn.Unflatten(1, (2, 3, 3)), nn.MaxPool2d(2, stride=1), nn.Flatten(), nn.Linear(8, 3)]
    else:
        make = ACTIVATIONS[operator]
        layers = [nn.Linear(2, 6), make(), nn.Linear(6, 6), make(), nn.Linear(6, 3)]
    return randomise(nn.Sequential(*layers), seed)


def grid(count: int = 201) -> Tensor:
    side = torch.linspace(-1, 1, count, dtype=torch.float64)
    return torch.cartesian_prod(side, side)


@torch.no_grad()
def framed(network: BoundedNetwork) -> tuple[Frame, Domains]:
    """The whole box, and what its parts share."""
    neurons = bound_neurons(network.graph, BOX, METHODS["crown"], network.memory, network.rounding)
    frame = Frame(network.graph, neurons.intervals)
    return frame, frame.whole(torch.full((1, 1), -math.inf, dtype=torch.float64), frame.first_choice(1))


def random_part(network: BoundedNetwork, seed: int, count: int = 2) -> tuple[Frame, Domains]:
    """What is left of the box after some random splits of neurons, on one side or the other."""
    generator = torch.Generator().manual_seed(seed)
    frame, part = framed(network)
    names = list(frame.neurons)
    for _ in range(count):
        node = int(torch.randint(len(names), (), generator=generator))
        neuron = int(torch.randint(frame.neurons[names[node]].shape[1], (), generator=generator))
        lower, upper = (side[names[node]][0, neuron] for side in (part.lower, part.upper))
        point = lower + (upper - lower) * (0.3 + 0.4 * torch.rand((), generator=generator, dtype=torch.float64))
        split = Splits(torch.tensor([node]), torch.tensor([neuron]), point.view(1), torch.ones(1, dtype=torch.int64))
        part = halves(part, frame, split).take(torch.randint(2, (1,), generator=generator))
    return frame, part


@torch.no_grad()
def members(network: BoundedNetwork, frame: Frame, part: Domains, points: Tensor) -> Tensor:
    """Which points lie in a part: all neurons within their intervals."""
    values, inside = network.graph.values(points), torch.ones(len(points), dtype=torch.bool)
    for name, (lower, upper) in frame.intervals_of(part).items():
        inside &= ((values[name] >= lower) & (values[name] <= upper)).flatten(1).all(1)
    return inside


@pytest.mark.parametrize("operator", ["relu", "leaky_relu", "abs", "sigmoid", "max_pool"])
def test_any_weights_give_a_bound(operator):
    """Of all that lies in a part, whatever is held at its neurons: of either sign, small or large. So do ascended ones."""
    points, tried = grid(), 0
    row = torch.tensor([[[1.0, -1.0, 0.5]]], dtype=torch.float64)
    for seed in range(6):
        network = BoundedNetwork(small(operator, seed), BOX.centre).double()
        frame, part = random_part(network, seed)
        inside = points[members(network, frame, part, points)]
        if not len(inside):
            continue
        tried += 1
        least = float((network(inside) @ row[0, 0]).min())
        within = frame.intervals_of(part)
        with torch.no_grad():
            neurons = bound_neurons(network.graph, BOX, AGAIN, network.memory, network.rounding, within)
            assert not neurons.empty.any()
            neurons.intervals = within
            start = frame.choice_of(part, torch.zeros(1, 1, dtype=torch.int64))
            values = [torch.randn(len(held.neurons[0]), dtype=torch.float64).view(1, 1, -1) for held in start.held.values()]
            for size in (0.0, 0.3, 3.0):
                held = {n: h._replace(weights=size * v) for (n, h), v in zip(start.held.items(), values, strict=True)}
                assert proven_lower(network.graph, neurons, row, Choice(start.slopes, held))[0] <= least
            node, ascent = network.graph.final_node(), Ascent(30)
            raised = ascended(network.graph, neurons, node, row, start, frame.signs(part), math.inf, ascent)
            assert proven_lower(network.graph, neurons, row, raised)[0] <= least
    assert tried >= 2


@pytest.mark.parametrize("operator", OPERATORS)
def test_halves_make_up_the_part(operator):
    """Every input of a part is in one half or in the other, whichever side its neuron is on."""
    points = grid(41)
    for seed in range(3):
        network = BoundedNetwork(small(operator, seed), BOX.centre).double()
        frame, part = framed(network)
        for node, name in enumerate(frame.neurons):
            point = (part.lower[name][:, 0] + part.upper[name][:, 0]) / 2
            one, zero = torch.ones(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
            both = halves(part, frame, Splits(node * one, zero, point, one))
            value = network.graph.values(points)[name].flatten(1)[:, frame.neurons[name][0, 0]]
            below, above = (members(network, frame, both.take(torch.tensor([side])), points) for side in (0, 1))
            assert torch.equal(below, value <= point)
            assert torch.equal(above, value >= point)


def test_a_multiplier_does_what_the_split_says():
    """z + relu(z) / 10 with z >= 0 is at least 0: without a multiplier, the bound is that of all z."""
    model = Function(lambda module, x: (x @ module.w) + 0.1 * torch.relu(x @ module.w), w=torch.ones(2, 1)).double()
    network = BoundedNetwork(model, BOX.centre).double()
    frame, whole = framed(network)
    zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    part = halves(whole, frame, Splits(zero, zero, torch.zeros(1, dtype=torch.float64), one)).take(one)
    row, index = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        neurons = bound_neurons(network.graph, BOX, AGAIN, network.memory, IGNORED, frame.intervals_of(part))
        start = frame.choice_of(part, index)
        node, ascent = network.graph.final_node(), Ascent(40)
        raised = ascended(network.graph, neurons, node, row, start, frame.signs(part), ascent=ascent)
        assert proven_lower(network.graph, neurons, row, start)[0] < -2.1
        assert -0.1 < proven_lower(network.graph, neurons, row, raised)[0] <= 1e-9


def decided(model: nn.Module, row: Tensor, limit: float, most: float) -> Branching:
    """Whether rows y > limit on the box, with counterexamples from the points that branch and bound proposes."""
    case = Case(BOX, (Halfspaces(row, torch.tensor([limit], dtype=torch.float64)),))

    def search(points: Tensor) -> Tensor | None:
        excess = case.unsafe[0].excess(model(points))
        return points[[int(excess.argmin())]] if excess.min() <= 0 else None

    network = BoundedNetwork(model, BOX.centre).double()
    return split_neurons(network, case, search, time.perf_counter() + 600.0, most)


def assert_agrees(operator: str, seed: int, most: float) -> tuple[bool, bool]:
    """With a grid, a little below its minimum and a little above it. Whether it was decided."""
    model = small(operator, seed)
    row = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        values = (model(grid()) @ row.T).flatten()
        least, spread = float(values.min()), float(values.max() - values.min())
        below, above = (decided(model, row, least + share * spread, most) for share in (-0.15, 0.05))
    assert below.counterexample is None
    assert below.lower <= 0.15 * spread * (1 + 1e-9)
    assert above.lower <= 0
    return below.lower > 0, above.counterexample is not None


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_verdict_against_a_grid(operator):
    found = [assert_agrees(operator, seed, 40.0) for seed in range(2)]
    if operator in ("relu", "leaky_relu"):  # others may take more parts
        assert any(proven for proven, _ in found) and any(broken for _, broken in found)


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_no_verdict_against_a_grid_on_many_networks(operator):
    found = [assert_agrees(operator, seed, 1000.0) for seed in range(2, 40)]
    if operator in ("relu", "leaky_relu"):
        assert sum(proven for proven, _ in found) >= 10 and sum(broken for _, broken in found) >= 10


def decided_set(model: nn.Module, unsafe: Halfspaces, most: float) -> Branching:
    """Whether a set of several rows is met on the box, with counterexamples from the points that are proposed."""
    case = Case(BOX, (unsafe,))

    def search(points: Tensor) -> Tensor | None:
        excess = unsafe.excess(model(points))
        return points[[int(excess.argmin())]] if excess.min() <= 0 else None

    network = BoundedNetwork(model, BOX.centre).double()
    return split_neurons(network, case, search, time.perf_counter() + 600.0, most)


def assert_conjunction_agrees(operator: str, seed: int, most: float) -> bool:
    """Sets of two rows, each of which is met somewhere, a little outside of what outputs reach. Whether it was proven."""
    model = small(operator, seed)
    rows = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        values = model(grid()) @ rows.T
    spread = (values.amax(0) - values.amin(0)).clamp(min=1e-9)
    scaled = rows / spread.unsqueeze(1)
    largest = (values / spread).amax(1)  # of both rows at each point; least where the set is nearest to being met
    least = float(largest.min())
    below, above = (
        decided_set(model, Halfspaces(scaled, torch.full((2,), least + share, dtype=torch.float64)), most)
        for share in (-0.1, 0.05)
    )
    assert below.counterexample is None
    assert below.lower <= 0.1 + 1e-9
    assert above.lower <= 0
    return below.lower > 0


def test_a_set_that_no_single_row_excludes():
    """Of r = relu(x) the larger of r and 1/2 - r is at least 1/4, while each alone reaches 0, however r is split."""
    weights = {"w": torch.tensor([[1.0], [0.0]]), "v": torch.tensor([[1.0, -1.0]]), "c": torch.tensor([0.0, 0.5])}
    model = Function(lambda module, x: torch.relu(x @ module.w) @ module.v + module.c, **weights).double()
    rows = torch.eye(2, dtype=torch.float64)
    safe, unsafe = (Halfspaces(rows, torch.full((2,), limit, dtype=torch.float64)) for limit in (0.2, 0.3))
    found = decided_set(model, safe, 100.0)
    assert 0 < found.lower <= 0.05 + 1e-9
    assert decided_set(model, unsafe, 100.0).counterexample is not None


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_no_verdict_on_sets_of_two_rows_against_a_grid(operator):
    found = [assert_conjunction_agrees(operator, seed, 300.0) for seed in range(10)]
    if operator in ("relu", "leaky_relu", "abs"):
        assert all(found)


@pytest.mark.parametrize("operator", ["abs", pytest.param("hardtanh", marks=pytest.mark.slow)])
def test_piecewise_linear_networks_are_decided(operator):
    """Where every neuron is on one piece, linear programs end what slopes and multipliers leave open."""
    assert all(assert_agrees(operator, 0, 150.0))

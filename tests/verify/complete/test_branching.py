"""Branch and bound: exact against MILP and enumeration, no proof above an attack, every counterexample a real one."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from scipy.optimize import LinearConstraint, milp
from torch import nn

from tests.levels import level
from tests.verify.helpers import ORDERS, Function, random_images, randomise
from verify import (
    DOMAINS,
    NORMS,
    Ball,
    BoundedNetwork,
    Bounds,
    InputError,
    attack_radius,
    certified_radius,
    margins,
)
from verify.certify.attack import worst_margin
from verify.complete.branching import Verdict, complete_radius, prove
from verify.complete.linear_program import Program
from verify.complete.round_ball import RoundBall
from verify.propagation.prior import bound_neurons


def dense(seed: int, pixels: int = 6) -> nn.Sequential:
    layers = [nn.Linear(pixels, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)]
    return unsettled(nn.Sequential(nn.Flatten(), *layers), seed)


def convolutional(seed: int) -> nn.Sequential:
    convolutions = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 2, stride=2), nn.ReLU()]
    return unsettled(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(12, 3)), seed)


def unsettled(model: nn.Sequential, seed: int) -> nn.Sequential:
    """Random weights, and biases small enough that many ReLUs can be on either side of 0."""
    randomise(model, seed)
    with torch.no_grad():
        for layer in model:
            if hasattr(layer, "bias"):
                layer.bias.mul_(0.2)
    return model


NETWORKS = {"dense": (dense, (6,)), "convolutional": (convolutional, (1, 4, 4))}


class Cell(nn.Module):
    """A small DARTS-like cell: two operations that read the ReLU of one state, a pool, a skip, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2))
        self.separable = nn.Sequential(
            nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, affine=False)
        )
        self.dilated = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=2, dilation=2, groups=2))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.stem(x)
        first = self.separable(state) + self.pool(state)
        second = self.dilated(state) + first
        return self.head(torch.cat([second, torch.relu(first)], 1).flatten(1))


def case(kind: str, seed: int) -> tuple[nn.Sequential, torch.Tensor, int]:
    """A random network, an image some of whose pixels are at 0 and 1, and its class."""
    make, shape = NETWORKS[kind]
    model, image = make(seed), random_images(shape, 1, seed)
    return model, image, int(model(image).argmax())


def shifted(model: nn.Sequential, label: int, by: float) -> nn.Sequential:
    """All margins of the label raised by a constant."""
    with torch.no_grad():
        model[-1].bias[label] += by
    return model


def assert_broken(found: Verdict, model: nn.Module, ball: Ball, label: int) -> None:
    """With a counterexample that is one: in the ball, in the domain, and the label does not win."""
    assert found.verdict == "broken"
    x = found.counterexample
    assert x.dtype == torch.float64
    assert torch.linalg.vector_norm((x - ball.centre).flatten(), ORDERS[ball.norm]) <= float(ball.epsilon) * (1 + 1e-12)
    assert ball.domain == "free" or (x.min() >= 0 and x.max() <= 1)
    assert worst_margin(model(x), torch.tensor([label])) <= 0


# Against exact optima


def exact_margin(model: nn.Sequential, ball: Ball, label: int) -> float:
    """The smallest margin in an l-infinity ball, by one mixed-integer program for each wrong class (Tjeng et al. 2019).

    Built from the layers, apart from everything in `verify`: big-M constraints with interval bounds.
    """
    low, high = ball.lower.flatten().numpy(), ball.upper.flatten().numpy()
    bounds, integral, rows = [(low, high)], [np.zeros(len(low))], []
    columns, total, shape = np.arange(len(low)), len(low), ball.centre.shape[1:]
    for layer in model:
        if not isinstance(layer, nn.ReLU):
            W, c, shape = affine(layer, shape)
            centre, radius = W @ (low + high) / 2 + c, np.abs(W) @ (high - low) / 2
            low, high = centre - radius, centre + radius
            continue
        y, on = total + np.arange(len(low)), total + len(low) + np.arange(len(low))
        total += 2 * len(low)
        for j, (l, u) in enumerate(zip(low, high.clip(0), strict=True)):
            z = dict(zip(columns, W[j], strict=True))
            minus = {column: -weight for column, weight in z.items()}
            rows.append(({**z, y[j]: -1.0}, -c[j]))  # z + c <= y
            rows.append(({**minus, y[j]: 1.0, on[j]: -l}, c[j] - l))  # y <= z + c - l (1 - on)
            rows.append(({y[j]: 1.0, on[j]: -u}, 0.0))  # y <= u on
        columns, low, high = y, low.clip(0), high.clip(0)
        bounds += [(low * 0, high), (low * 0, low * 0 + 1)]
        integral += [low * 0, low * 0 + 1]
    A, b = np.zeros((len(rows), total)), np.array([limit for _, limit in rows])
    for row, (entries, _) in zip(A, rows, strict=True):
        row[list(entries)] = list(entries.values())
    box = scipy.optimize.Bounds(*(np.concatenate(side) for side in zip(*bounds, strict=True)))
    least = []
    for k in {0, 1, 2} - {label}:
        cost = np.zeros(total)
        cost[columns] = W[label] - W[k]
        constraints, integrality = LinearConstraint(A, ub=b), np.concatenate(integral)
        solved = milp(cost, integrality=integrality, bounds=box, constraints=constraints, options={"mip_rel_gap": 0})
        least.append(solved.fun + c[label] - c[k])
    return min(least)


@torch.no_grad()
def affine(layer: nn.Module, shape: torch.Size) -> tuple[np.ndarray, np.ndarray, torch.Size]:
    """A layer's matrix, offset and output shape. A flattening is one too."""
    zero, eye = torch.zeros(1, *shape).double(), torch.eye(shape.numel()).double().view(-1, *shape)
    offset = layer(zero)
    return (layer(eye) - offset).flatten(1).T.numpy(), offset.flatten().numpy(), offset.shape[1:]


@pytest.mark.parametrize("domain", level(DOMAINS[:1], DOMAINS))
@pytest.mark.parametrize("kind", NETWORKS)
def test_it_decides_what_a_mixed_integer_program_does(kind, domain):
    """The margin's minimum shifted to just above and just below 0: proven and broken, never the other way round."""
    splits = []
    for seed in (1, 2, 3) if kind == "dense" else (0, 1):
        model, image, label = case(kind, seed)
        ball = Ball(image, 0.25, "linf", domain)
        least = exact_margin(model, ball, label)
        above = prove(BoundedNetwork(shifted(model, label, 1e-4 - least), image), ball, label)
        assert above.verdict == "proven"
        assert above.counterexample is None
        below = prove(BoundedNetwork(shifted(model, label, -2e-4), image), ball, label)
        assert_broken(below, model, ball, label)
        splits.append(above.nodes - 2)
    assert sum(count > 4 for count in splits) >= 2, splits


def enumerated_margin(model: nn.Module, ball: Ball, label: int) -> float:
    """The smallest margin in a ball in two dimensions: a grid, refined around its best points."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 201, dtype=torch.float64)] * 2, indexing="ij")
    generator = torch.Generator().manual_seed(0)
    points = ball.centre + ball.epsilon * torch.stack(axes, -1).view(-1, 2)
    for step in range(6):
        inside = ball.repeat(len(points)).project(points)
        with torch.no_grad():
            margin = worst_margin(model(inside), torch.full((len(inside),), label))
        best = inside[margin.argsort()[:20]]
        noise = torch.randn((50, *best.shape), generator=generator, dtype=torch.float64)
        points = torch.cat([best, (best + float(ball.epsilon) * 0.01 * 0.4**step * noise).flatten(0, 1)])
    return float(margin.min())


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("seed", range(level(1, 2)))
def test_it_decides_what_enumeration_does(norm, seed, domain):
    """Round balls in two dimensions, cut by the domain's border: the margin's minimum is met up to 1e-4."""
    model = dense(seed, pixels=2)
    image = torch.tensor([[0.15, 0.5]], dtype=torch.float64)
    label = int(model(image).argmax())
    ball = Ball(image, 0.5 if norm == "l2" else 0.6, norm, domain)
    least = enumerated_margin(model, ball, label)
    above = prove(BoundedNetwork(shifted(model, label, 1e-4 - least), image), ball, label)
    assert above.verdict == "proven"
    below = prove(BoundedNetwork(shifted(model, label, -2e-4), image), ball, label)
    assert_broken(below, model, ball, label)


# Linear programs


def relaxed(model: nn.Module, ball: Ball, label: int) -> tuple[BoundedNetwork, torch.Tensor, Bounds]:
    """The network in float64, the margins' rows and CROWN's bounds of them."""
    network = BoundedNetwork(model, ball.centre).double()
    rows = margins(torch.tensor([label]), 3)[0].double()
    with torch.no_grad():
        return network, rows, network.bounds(ball, specification=rows, method="crown")


def round_ball(ball: Ball) -> RoundBall | None:
    return None if ball.norm == "linf" else RoundBall(ball.norm, ball.centre.numel())


EPSILON = {"linf": 0.2, "l2": 0.5, "l1": 0.8}


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_program_is_no_looser_than_crown(kind, norm, domain):
    """On the same intervals; the l2 ball is refined only as far as it pays. Nor is it above what points reach."""
    gain = 0.0
    for seed in range(3):
        model, image, label = case(kind, seed)
        ball = Ball(image, EPSILON[norm], norm, domain)
        network, rows, crown = relaxed(model, ball, label)
        points = ball.repeat(2000).sample(torch.Generator().manual_seed(1))
        with torch.no_grad():
            reached = (model(points) @ rows.T).amin(0)
        for row, lower, least in zip(rows, crown.lower[0].tolist(), reached.tolist(), strict=True):
            bound = Program(network, ball, crown.intervals, {}, round_ball(ball)).minimise(row).bound
            assert bound > 0 or bound >= lower - (1e-7 if norm != "l2" else 0.02) * (1 + abs(lower))
            assert bound <= least
            gain += bound - lower
    assert gain > 0.05


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(level(1, 3)))
def test_any_multipliers_give_a_bound(norm, seed):
    """Weak duality, on which every proof rests: nothing that the solver returns can make it false."""
    model, image, label = case("dense", seed)
    ball = Ball(image, EPSILON[norm], norm, "unit")
    network, rows, crown = relaxed(model, ball, label)
    program = Program(network, ball, crown.intervals, {}, round_ball(ball))
    points = ball.repeat(3000).sample(torch.Generator().manual_seed(1))
    with torch.no_grad():
        reached = float((model(points) @ rows[0]).min())
    cost, constant = (program.output.rows @ rows[0]).numpy(), float(program.output.offset @ rows[0])
    random = np.random.default_rng(seed)
    solved, on_ball = program._multipliers(program._solve(cost, 10.0))
    best = program.dual_bound(cost, constant, solved, on_ball)
    assert best <= reached
    for size in (1e-6, 1e-3, 0.1, 10.0):
        multipliers = solved + size * random.standard_normal(len(solved))
        carried = None if on_ball is None else on_ball + size * random.standard_normal(len(on_ball))
        assert program.dual_bound(cost, constant, multipliers, carried) <= reached
    assert (solved < 1e-9).any()
    negative = np.where(solved < 1e-9, -1.0, solved)
    assert program.dual_bound(cost, constant, negative, on_ball) == pytest.approx(best, abs=1e-6)
    assert program.dual_bound(cost, constant, solved * math.nan) == -math.inf


@pytest.mark.parametrize("norm", NORMS)
def test_splits(norm):
    """x and -x cannot both be above .1; one of them can, and then the least value is that of this part."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([-0.6, 0.4]))
        model[2].weight.copy_(torch.tensor([[1.0, 3.0], [0.0, 0.0], [0.0, 0.0]]))
        model[2].bias.zero_()
    ball = Ball(torch.tensor([[0.5]], dtype=torch.float64), 0.3, norm)
    network, rows, crown = relaxed(model, ball, 0)
    (name,) = crown.intervals
    least = {}
    for signs in ((1, 1), (1, -1), (-1, 1)):
        cuts = {(name, place): (0.0, math.inf) if sign > 0 else (-math.inf, 0.0) for place, sign in enumerate(signs)}
        least[signs] = Program(network, ball, crown.intervals, cuts, round_ball(ball)).minimise(rows[0]).bound
    assert least[1, 1] == math.inf
    # With x >= .6 the relaxation of the first ReLU still reaches 0; with x <= .4 the second one's too.
    for signs in ((1, -1), (-1, 1)):
        assert -1e-6 <= least[signs] <= 0


# Radii


def test_on_trained_networks_the_radius_meets_the_attack(mlp, digits):
    """Digits: nothing proven above an attack, nothing attacked below a proof, and no more than 1 % between them."""
    images, labels = digits[0][:6], digits[1][:6]
    network = BoundedNetwork(mlp, images)
    certified = certified_radius(network, images, labels, tolerance=0.02).radius
    attacked = attack_radius(network, images, labels).double()
    found = complete_radius(network, images, labels, lower=certified, upper=attacked, tolerance=0.01)
    correct = mlp(images).argmax(1) == labels
    assert correct.sum() >= 4
    assert (found.lower >= certified).all()
    assert (found.upper <= attacked).all()
    assert (found.lower <= found.upper).all()
    assert (found.upper <= found.lower * 1.0101).all()
    assert ((found.lower > 0) == correct).all()
    assert (found.lower > 1.05 * certified)[correct].any()
    assert (found.nodes[correct] > 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_cell_has_its_radius(norm):
    """Separable and dilated convolutions, a pool and a skip: exact up to 5 %; a ReLU read twice is one variable."""
    model, image, label = randomise(Cell(), 1), random_images((1, 3, 3), 1, 1), torch.tensor([1])
    with torch.no_grad():
        model.head.bias.sub_(model(image)[0]).add_(torch.tensor([0.0, 0.8, 0.1]))
    network = BoundedNetwork(model, image)
    certified = certified_radius(network, image, label, norm, method="affine").radius
    attacked = attack_radius(network, image, label, norm)
    found = complete_radius(
        network, image, label, norm, lower=certified, upper=attacked, tolerance=0.05, time_limit=300.0
    )
    assert found.lower > 1.01 * certified
    assert found.lower <= found.upper <= attacked
    assert found.upper <= found.lower * 1.0501
    assert sum("relu" in node.name for node in network.graph.nodes) == 2


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_is_proven_above_an_attack(norm):
    """Whatever the attack finds by itself stays broken, at its own radius and with the seed of another."""
    tried, count = 0, level(2, 4)
    for seed in range(count):
        model, image, label = case("dense", seed)
        network, labels = BoundedNetwork(model, image), torch.tensor([label])
        radius = attack_radius(network, image, labels, norm, seed=7)
        if radius.isinf():
            continue
        tried += 1
        found = prove(network, Ball(image, radius * (1 + 1e-9), norm), label, time_limit=5.0)
        assert found.verdict != "proven"
        if found.verdict == "broken":
            assert_broken(found, model, Ball(image, radius * (1 + 1e-9), norm), label)
    assert tried >= count / 2


def test_a_misclassified_image_is_its_own_counterexample():
    model, image, label = case("dense", 0)
    ball = Ball(image, 0.01)
    found = prove(BoundedNetwork(model, image), ball, (label + 1) % 3)
    assert_broken(found, model, ball, (label + 1) % 3)
    assert found.nodes == 0


def test_a_single_precision_network_is_decided_in_double(mlp, digits):
    found = prove(BoundedNetwork(mlp, digits[0]), Ball(digits[0][2:3], 1e-3), int(digits[1][2]))
    assert found.verdict == "proven"


# Limits


def hard(seed: int = 5) -> tuple[BoundedNetwork, Ball, int]:
    """A margin whose minimum is just above 0: proven, but only after many splits."""
    model, image, label = case("convolutional", seed)
    ball = Ball(image, 0.3, "linf")
    model = shifted(model, label, 1e-4 - exact_margin(model, ball, label))
    return BoundedNetwork(model, image), ball, label


@pytest.mark.parametrize("limits", [{"max_nodes": 3}, {"time_limit": 0.0}])
def test_limits_end_it_without_a_proof(limits):
    network, ball, label = hard()
    whole = prove(network, ball, label)
    assert whole.verdict == "proven"
    assert whole.nodes > 10
    found = prove(network, ball, label, **limits)
    assert found.verdict == "unknown"
    assert found.lower < 0
    assert found.nodes < whole.nodes


@pytest.mark.parametrize("where", [0, -1])
def test_what_is_not_finite_is_unknown(where):
    model, image, label = case("convolutional", 0)
    with torch.no_grad():
        model[where].bias[:] = math.nan
    assert prove(BoundedNetwork(model, image), Ball(image, 0.01), label).verdict == "unknown"


def test_a_max_pool_is_decided():
    """Proven where bounds alone do not do it, and broken a little further out."""
    model = randomise(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)))
    image = random_images((1, 4, 4), 1)
    label = int(model(image).argmax())
    network = BoundedNetwork(model, image)
    attacked = attack_radius(network, image, torch.tensor([label]))
    assert_broken(prove(network, Ball(image, attacked * 1.01), label), model, Ball(image, attacked * 1.01), label)
    found = prove(network, Ball(image, attacked * 0.9), label, time_limit=30.0)
    assert found.verdict == "proven"
    assert found.nodes > 1


def test_bad_arguments_are_refused():
    model, image, label = case("dense", 0)
    network, two = BoundedNetwork(model, image), image.repeat(2, 1)
    with pytest.raises(InputError, match="one image"):
        prove(network, Ball(two, 0.1), label)
    with pytest.raises(InputError, match="labels must be 0 to 2"):
        prove(network, Ball(image, 0.1), 3)
    ends = {"lower": torch.zeros(1), "upper": torch.ones(1)}
    with pytest.raises(InputError, match="tolerance"):
        complete_radius(network, image, torch.tensor([label]), tolerance=0.0, **ends)


@pytest.mark.parametrize("images", level([5], [5, 1]))
def test_halves_are_bounded_as_many_at_once_as_memory_allows(monkeypatch, images):
    network, ball, label = hard()
    expected, sizes = prove(network, ball, label), []

    def counted(graph, region, *more):
        sizes.append(len(region.centre))
        return bound_neurons(graph, region, *more)

    monkeypatch.setattr("verify.complete.neuron_splitting.bound_neurons", counted)
    monkeypatch.setattr("verify.complete.neuron_splitting.images_at_once", lambda network, method: images)
    assert prove(network, ball, label).verdict == expected.verdict
    assert max(sizes) == max(2, images // 2 * 2)


def test_what_is_not_decided_moves_neither_end(monkeypatch):
    """Trials that run out of time end the search, with the certificate and the attack as they were."""
    network, ball, label = hard()
    trials = []

    def undecided(network: BoundedNetwork, ball: Ball, label: int, time_limit: float) -> Verdict:
        trials.append(float(ball.epsilon))
        return Verdict("unknown", -1.0, None, 10, 10, 5, 0.0)

    monkeypatch.setattr("verify.complete.branching.prove", undecided)
    ends = {"lower": torch.tensor([0.1]).double(), "upper": torch.tensor([0.2]).double()}
    found = complete_radius(network, ball.centre, torch.tensor([label]), **ends, tolerance=0.05)
    assert found.lower == ends["lower"]
    assert found.upper == ends["upper"]
    assert trials[0] == pytest.approx(0.2 / 1.05)
    assert trials == sorted(trials, reverse=True)
    assert found.nodes == 10 * len(trials)


def test_a_known_radius():
    """A function with one ReLU: the radius is where it crosses 0, met from both sides."""
    model = Function(lambda m, x: torch.cat([0.3 - torch.relu(x - 0.5) + 0 * m.w, 0 * x], 1), w=torch.zeros(1)).double()
    image, label = torch.tensor([[0.2]], dtype=torch.float64), torch.tensor([0])
    found = complete_radius(
        BoundedNetwork(model, image), image, label, lower=torch.zeros(1), upper=torch.ones(1), tolerance=1e-3
    )
    assert found.lower.item() == pytest.approx(0.6, rel=2e-3)
    assert found.lower <= 0.6 <= found.upper + 1e-12


def test_a_certificate_beyond_an_attack_is_refused(mlp, digits):
    images, labels = (part[:2] for part in digits)
    ends = {"lower": torch.tensor([0.1, 0.5]), "upper": torch.tensor([0.2, 0.3])}
    with pytest.raises(InputError, match=r"images \[1\]: an attack succeeds within the certified radius"):
        complete_radius(BoundedNetwork(mlp, images[:1]), images, labels, **ends)

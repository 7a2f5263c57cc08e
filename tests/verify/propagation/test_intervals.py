"""Interval sweeps: equal to plain interval arithmetic where that works, and exact where it loses everything."""

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import verify.propagation.intervals
from robust_nas.spaces.supernet import Supernet
from tests.levels import level
from tests.verify.helpers import (
    DUALS,
    Function,
    assert_between,
    attack,
    extremes,
    random_images,
    random_rows,
    randomise,
)
from verify import DOMAINS, NORMS, Ball, BoundedNetwork, Box, InputError, margins
from verify.propagation.intervals import IntervalSweep, Result

# Plain interval arithmetic, with lower and upper ends

FORWARD = ("ibp", "block")


class Torch:
    """The operations of a network, on tensors."""

    conv, linear, norm = staticmethod(F.conv2d), staticmethod(F.linear), staticmethod(F.batch_norm)
    relu, max_pool, average_pool = staticmethod(F.relu), staticmethod(F.max_pool2d), staticmethod(F.avg_pool2d)
    add, scale, pad, cat = staticmethod(torch.add), staticmethod(torch.mul), staticmethod(F.pad), staticmethod(torch.cat)

    @staticmethod
    def move(function, x):
        return function(x)


class Ends:
    """The same operations on pairs of lower and upper ends: each end is reached at the ends that suit it."""

    @staticmethod
    def conv(x, weight, bias=None, *rest):
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        low = F.conv2d(x[0], positive, bias, *rest) + F.conv2d(x[1], negative, None, *rest)
        return low, F.conv2d(x[1], positive, bias, *rest) + F.conv2d(x[0], negative, None, *rest)

    @staticmethod
    def linear(x, weight, bias):
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        low = F.linear(x[0], positive, bias) + F.linear(x[1], negative)
        return low, F.linear(x[1], positive, bias) + F.linear(x[0], negative)

    @staticmethod
    def norm(x, *statistics):
        ends = torch.stack([F.batch_norm(end, *statistics) for end in x])
        return ends.amin(0), ends.amax(0)

    @staticmethod
    def scale(x, factor):
        ends = torch.stack([end * factor for end in x])
        return ends.amin(0), ends.amax(0)

    @staticmethod
    def add(x, y):
        return (x[0] + y[0], x[1] + y[1]) if isinstance(y, tuple) else (x[0] + y, x[1] + y)

    @staticmethod
    def cat(parts, dim):
        return tuple(torch.cat([part[end] for part in parts], dim) for end in range(2))

    @staticmethod
    def move(function, x):
        return tuple(function(end) for end in x)

    @staticmethod
    def relu(x):
        return Ends.move(F.relu, x)

    @staticmethod
    def max_pool(x, *rest):
        return Ends.move(lambda end: F.max_pool2d(end, *rest), x)

    @staticmethod
    def average_pool(x, *rest):
        return Ends.move(lambda end: F.avg_pool2d(end, *rest), x)

    @staticmethod
    def pad(x, *rest):
        return Ends.move(lambda end: F.pad(end, *rest), x)


def features(o: type, m: nn.Module, x):
    """Every kind of operator, branches that meet at unlike scales, weights of either sign."""
    h = o.norm(o.conv(x, m.first, m.shift), m.mean, m.variance, m.gamma, m.beta)
    grouped = o.conv(o.relu(h), m.grouped, None, 1, 2, 2, 2)
    pooled = o.max_pool(o.relu(o.scale(h, -1.0)), 3, 1, 1)
    averaged = o.average_pool(h, 3, 1, 1, False, False)
    weights = torch.softmax(m.alpha, 0)
    mixed = o.scale(grouped, 1e3)
    for number, term in enumerate((pooled, averaged, h)):
        mixed = o.add(mixed, o.scale(term, weights[number] * (-1) ** number))
    mixed = o.max_pool(o.add(mixed, m.beta.view(1, -1, 1, 1)), 3, 2, 1)
    corner = o.move(lambda t: t[:, :, ::2, ::2].flip(3), o.pad(h, (1, -1, 1, -1), "constant", 0.7))
    joined = o.cat([mixed, corner], 1)
    return o.move(lambda t: t.flatten(1), o.relu(o.add(joined, -0.1)))


def every_operator(seed: int) -> nn.Module:
    tensors = {
        "first": (4, 2, 3, 3), "shift": (4,), "gamma": (4,), "beta": (4,), "grouped": (4, 2, 3, 3), "alpha": (3,),
        "last": (3, 48), "bias": (3,),
    }  # fmt: skip
    model = Function(
        lambda m, x: F.linear(features(Torch, m, x), m.last, m.bias),
        **{name: torch.zeros(shape) for name, shape in tensors.items()},
    )
    model.register_buffer("mean", torch.tensor([0.3, -0.1, 0.0, 0.2], dtype=torch.float64))
    model.register_buffer("variance", torch.tensor([0.5, 1.5, 0.2, 1.0], dtype=torch.float64))
    return randomise(model, seed)


def from_ball(images: Tensor, reach: Tensor, norm: str) -> type:
    """Ends whose first convolution reads a ball in l2 or l1; its rows are written out by their Jacobian."""

    class FromBall(Ends):
        @staticmethod
        def conv(x, weight, bias, *rest):
            lower, upper = Ends.conv(x, weight, bias, *rest)
            if weight.shape[0] != 4 or rest:
                return lower, upper
            rows = torch.func.jacrev(lambda image: F.conv2d(image[None], weight)[0])(images[0])
            radius = reach.view(-1, 1, 1, 1) * rows.flatten(3).norm(p=DUALS[norm], dim=3)
            narrower = radius < (upper - lower) / 2
            centre = F.conv2d(images, weight, bias)
            return torch.where(narrower, centre - radius, lower), torch.where(narrower, centre + radius, upper)

    return FromBall


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("seed", range(level(1, 3)))
def test_ibp_is_plain_interval_arithmetic(seed, norm, domain):
    """Written out with both ends; from the box around the ball, the specification merged with the last layer.

    In l2 and l1 the first convolution has the dual norms of its rows as radii, where they are smaller.
    """
    model, images, rows = every_operator(seed), random_images((2, 8, 6), seed=seed), random_rows(4, 3, 3, seed)
    network = BoundedNetwork(model, images)
    reach = torch.tensor([0.1, 1e-3, 0.0], dtype=torch.float64)
    box = images - reach.view(-1, 1, 1, 1), images + reach.view(-1, 1, 1, 1)
    if domain == "unit":
        box = box[0].clamp(min=0), box[1].clamp(max=1)
    found = network.bounds(images, reach, norm, rows, "ibp", domain)
    ends = features(Ends if norm == "linf" else from_ball(images, reach, norm), model, box)
    for i in range(3):
        expected = Ends.linear([end[i : i + 1] for end in ends], rows[i] @ model.last, rows[i] @ model.bias)
        torch.testing.assert_close(torch.stack([found.lower[i], found.upper[i]]), torch.cat(expected))


PREFIXES = {
    "normalisation": lambda m, x: (x - m.mean) / m.deviation,
    "padding": lambda m, x: F.pad(x, (1, 0, 2, 1), value=0.3),
    "cropping": lambda m, x: F.pad(x, (-1, 0, 0, -1)),
    "a slice": lambda m, x: x[:, :, 1:, ::2],
    "a channel": lambda m, x: x[:, 1:2],
    "flipped": lambda m, x: x.flip(3, 1),
    "turned": lambda m, x: x.transpose(2, 3),
    "unshuffled": lambda m, x: F.pixel_unshuffle(x, 2),
    "masked": lambda m, x: x.masked_fill(m.mask > 0, 0.5),
}
"""What keeps a ball of perturbations one, stretched along the axes."""
REPEATS = {
    "reflection": lambda m, x: F.pad(x, (1, 1, 0, 0), mode="reflect"),
    "twice": lambda m, x: x.repeat(1, 2, 1, 1),
    "joined": lambda m, x: torch.cat([x, 1 - x], 1),
    "windows": lambda m, x: x.unfold(2, 2, 1).flatten(3),
    "none": lambda m, x: x,
}
LAYERS = {
    "conv": lambda c, s: nn.Sequential(nn.Conv2d(c, 2 * c, 3, (2, 1), 1), nn.ReLU(), nn.Flatten()),
    "grouped": lambda c, s: nn.Sequential(nn.Conv2d(c, 2 * c, 2, 1, 0, 2, c), nn.ReLU(), nn.Flatten()),
    "dense": lambda c, s: nn.Sequential(nn.Flatten(), nn.Linear(s, 3), nn.ReLU()),
    "matmul": lambda c, s: nn.Sequential(nn.Flatten(), Function(lambda m, x: x @ m.w, w=torch.ones(s, 3)), nn.ReLU()),
}


def first_radii(draw: st.DrawFn, prefix: Callable, layer: str, norm: str) -> tuple[Tensor, Tensor]:
    """Half the widths of what the first ReLU reads, by the bounds and by the Jacobian; over the radius of the ball."""
    steps = Function(prefix, mean=torch.ones(2, 1, 1), deviation=torch.ones(2, 1, 1), mask=torch.ones(6, 8))
    images = random_images((2, 6, 8), 2, seed=draw(st.integers(0, 99)))
    before = steps.double()(images)
    model = nn.Sequential(steps, *LAYERS[layer](before.shape[1], before[0].numel()))
    model = randomise(model, draw(st.integers(0, 99)))
    linear = nn.Sequential(*(module for module in model if not isinstance(module, nn.ReLU)))
    method = draw(st.sampled_from(["ibp", "crown-ibp"]))
    ball = Ball(images, torch.tensor([0.1, 0.3], dtype=torch.float64), norm, "free")
    found = BoundedNetwork(model, images).bounds(ball, method=method, keep_intervals=True)
    ((lower, upper),) = found.intervals.values()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda image: linear(image[None])[0].flatten()))(images)
    exact = jacobian.detach().flatten(2).norm(p=DUALS[norm], dim=2)
    return ((upper - lower) / 2).flatten(1) / ball.epsilon.view(-1, 1).double(), exact


@given(
    st.data(),
    st.lists(st.sampled_from(["normalisation", "masked"]), max_size=2, unique=True),
    st.lists(st.sampled_from([name for name in PREFIXES if name not in ("normalisation", "masked")]), max_size=2),
    st.sampled_from(list(LAYERS)),
    st.sampled_from(NORMS),
)
def test_the_first_layer_is_exact(data, scaled, moved, layer, norm):
    """In every norm, whatever of normalisation, padding and slicing comes before it."""

    def prefix(m, x):
        for name in (*scaled, *moved):
            # Once only one row is left there is nothing to cut, and odd sizes have no blocks of two.
            short = min(x.shape[2:]) < 4 or name == "unshuffled" and any(side % 2 for side in x.shape[2:])
            x = x if short else PREFIXES[name](m, x)
        return x

    found, exact = first_radii(data.draw, prefix, layer, norm)
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("name", REPEATS)
@given(st.data(), st.sampled_from(list(LAYERS)), st.sampled_from(NORMS))
def test_a_pixel_that_is_read_twice_counts_twice(name, data, layer, norm):
    found, exact = first_radii(data.draw, REPEATS[name], layer, norm)
    assert (found >= exact * (1 - 1e-9)).all()


# Sound, and the block's composition never tighter


@st.composite
def fully_connected(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """A network of four pixels, and an image of which some sit at 0 or 1."""
    widths = [4, *draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)), 2]
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())][:-1]
    pixels = draw(st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0, 1), min_size=4, max_size=4))
    model = randomise(nn.Sequential(*layers), draw(st.integers(0, 10**6)))
    return model, torch.tensor([pixels], dtype=torch.float64)


@given(fully_connected(), st.floats(1e-6, 2), st.sampled_from(NORMS), st.sampled_from(DOMAINS))
def test_corners_and_samples_stay_within(case, epsilon, norm, domain):
    model, image = case
    network, ball, rows = BoundedNetwork(model, image), Ball(image, epsilon, norm, domain), random_rows(2, 2, 1)
    ends = torch.stack([ball.lower[0], ball.upper[0]])
    corners = torch.stack([ends[list(choice), range(4)] for choice in itertools.product((0, 1), repeat=4)])
    points = torch.cat([attack(model, ball, rows, samples=20), ball.project(corners).unsqueeze(1)])
    low, high = extremes(model, points, rows)
    ibp, block = (network.bounds(ball, specification=rows, method=method) for method in FORWARD)
    for bounds in (ibp, block):
        assert_between(bounds, low, high)
    slack = 1e-12 * (1 + block.upper.abs())
    assert (block.lower <= ibp.lower + slack).all()
    assert (block.upper >= ibp.upper - slack).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("train", [False, True])
def test_block_is_looser_on_a_supernet(norm, train):
    images = random_images((1, 7, 6), 3)
    model = randomise(Supernet(1, 3, channels=1, cells=2, nodes=1, mean=[0.3], std=[0.4])).train(train)
    network = BoundedNetwork(model, images)
    network.freeze(images)
    ibp, block = (network.bounds(images, 0.01, norm, method=method) for method in FORWARD)
    assert (block.lower < ibp.lower).all()
    assert (block.upper > ibp.upper).all()


def test_block_is_the_composition_of_the_paper():
    """Blocks ReLU - depthwise - pointwise - batch norm with the two lines of each neuron (eqs. 9 and 10): a linear
    function of the block's input from either side, where the input's interval is worst for it."""
    blocks = [
        [nn.ReLU(), nn.Conv2d(2, 2, 3, padding=2, dilation=2, groups=2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)],
        [nn.ReLU(), nn.Conv2d(3, 3, 3, stride=2, groups=3, bias=False), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)],
    ]
    model = randomise(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), *blocks[0], *blocks[1], nn.Flatten()), 3)
    images = random_images((1, 4, 5))
    found = BoundedNetwork(model, images).bounds(images, 0.3, domain="free", method="block")
    low, high = Ends.conv((images - 0.3, images + 0.3), model[0].weight, model[0].bias, 1, 1)
    for block in blocks:
        shape, linear = low.shape[1:], nn.Sequential(*block[1:])
        low, high = low.flatten(1), high.flatten(1)
        slope = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low)))
        rise = torch.where((low < 0) & (high > 0), -slope * low, 0.0)  # of the upper line; the lower one meets 0
        offset = linear(torch.zeros(1, *shape, dtype=low.dtype))
        columns = linear(torch.eye(low.shape[1], dtype=low.dtype).view(-1, *shape)) - offset
        weight = columns.flatten(1).T
        A, A_rise = weight * slope.unsqueeze(1), rise.unsqueeze(1) * weight
        low, high = (
            (A * torch.where((A > 0) == upwards, high.unsqueeze(1), low.unsqueeze(1))).sum(2)
            + A_rise.clamp(min=0 if upwards else None, max=None if upwards else 0).sum(2) + offset.flatten(1)
            for upwards in (False, True)
        )  # fmt: skip
        low, high = (end.view(-1, *offset.shape[1:]) for end in (low, high))
    torch.testing.assert_close((found.lower, found.upper), (low.flatten(1), high.flatten(1)))


def test_block_takes_a_max_pool_by_its_upper_line():
    """Eq. 11 with CNN-Cert's weights: what the line reaches where all elements are at their upper ends."""
    images = random_images((1, 4, 4)) / 2
    network = BoundedNetwork(Function(lambda m, x: F.max_pool2d(x, 2).flatten(1)), images)
    bounds = network.bounds(images, 0.2, domain="free", method="block")
    lines = network.graph.nodes[-2].relax(images - 0.2, images + 0.2)
    windows = F.unfold(images + 0.2, 2, stride=2).unflatten(1, (1, 4))
    torch.testing.assert_close(bounds.upper, ((lines.upper * windows).sum(2) + lines.intercept).flatten(1))
    torch.testing.assert_close(bounds.lower, F.max_pool2d(images - 0.2, 2).flatten(1))
    assert (bounds.upper > F.max_pool2d(images + 0.2, 2).flatten(1) + 0.01).any()


# Any depth, and any epsilon


def supernet(cells: int, channels: int = 2, nodes: int = 2) -> tuple[BoundedNetwork, Tensor]:
    """In float32, as a search has it at its start, with the statistics of its images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Supernet(1, 10, channels=channels, cells=cells, nodes=nodes, mean=[0.13], std=[0.31]).train()
    images = random_images((1, 8, 8), 3).float()
    network = BoundedNetwork(model, images)
    network.freeze(images)
    return network, images


@pytest.fixture(scope="module")
def five_cells() -> tuple[BoundedNetwork, Tensor]:
    return supernet(5)


def swept(network: BoundedNetwork, ball: Ball) -> Result:
    """With radii that a sum with their centres would lose."""
    rows = torch.eye(network.classes).to(ball.centre).expand(len(ball.centre), -1, -1)
    return IntervalSweep(ball).run(network.graph.nodes, rows)


@torch.no_grad()
def test_a_vanishing_ball_in_single_precision(five_cells):
    """Radii are proportional to epsilon, by the width slope; per image, and far below what float32 holds."""
    network, images = five_cells
    slope = network.width_slope(images)
    for epsilon in (1e-20, 1e-30):
        wide, narrow = (swept(network, Ball(images, size)).radius for size in (epsilon, epsilon / 1000))
        torch.testing.assert_close(wide.log() - math.log(epsilon), slope, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(wide / narrow, torch.full_like(wide, 1000.0), rtol=1e-4, atol=0)
    for epsilon in (1e-50, 1e-300):
        torch.testing.assert_close(swept(network, Ball(images, epsilon)).log_slope, slope, rtol=1e-5, atol=1e-5)
    mixed = torch.tensor([1e-50, 0.0, 1e-3], dtype=torch.float64)
    found = swept(network, Ball(images, mixed))
    torch.testing.assert_close(found.log_slope[:2], slope[:2], rtol=1e-5, atol=1e-5)
    assert (found.radius[1] == 0).all()
    alone = swept(network, Ball(images[2:], 1e-3))
    torch.testing.assert_close(found.radius[2:], alone.radius, rtol=1e-5, atol=0)


def in_double(network: BoundedNetwork, images: Tensor) -> BoundedNetwork:
    """The same in float64, without the widening of a confirmation."""
    twin = BoundedNetwork(copy.deepcopy(network.model).double(), images.double())
    twin.freeze(images.double())
    return twin


@torch.no_grad()
def test_single_precision_is_as_good_as_double(five_cells):
    """Where widths are about a logit: lower and upper ends in float32 could not tell such a ball from its centre."""
    network, images = five_cells
    exact, epsilon = in_double(network, images), 1e-12
    torch.testing.assert_close(
        network.width_slope(images).double(), exact.width_slope(images.double()), rtol=1e-3, atol=0.05
    )
    for method in FORWARD:
        found = network.bounds(images, epsilon, method=method)
        expected = exact.bounds(images.double(), epsilon, method=method)
        width = expected.upper - expected.lower
        assert ((width > 1e-3) & (width < 1e3)).all()
        torch.testing.assert_close((found.upper - found.lower).double() / width, torch.ones_like(width), rtol=0, atol=0.05)


@pytest.mark.slow
@torch.no_grad()
def test_twenty_cells_in_single_precision():
    """Widths grow beyond what float32 holds: in a ball of a size that it does not hold either, they are bounds."""
    network, images = supernet(20)
    slope, outputs = network.width_slope(images), network(images)
    assert torch.isfinite(slope).all()
    assert (slope > 80).all()
    bounds = network.bounds(images, 1e-42, method="ibp")
    assert 1e-4 < (bounds.upper - bounds.lower).mean() < 1e4
    assert ((bounds.lower < outputs) & (outputs < bounds.upper)).all()
    large = network.bounds(images, 1e4, method="ibp", domain="free")
    assert large.lower.isnan().all()  # an overflow is not a bound


def chain(gain: float, depth: int) -> nn.Module:
    """Layers that map 1 to 1 and stretch what is around it, each with a ReLU that stays active."""
    layers = [layer for _ in range(depth) for layer in (nn.Linear(1, 1), nn.ReLU())]
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.fill_(gain)
            layer.bias.fill_(1 - gain)
    return nn.Sequential(*layers, nn.Linear(1, 1, bias=False))


@torch.no_grad()
@pytest.mark.parametrize("gain", [10.0, 0.01, -7.0])
def test_a_chain_of_two_hundred_layers_is_exact(gain):
    model = chain(gain, 200)
    model[-1].weight.fill_(2.0)
    one = torch.ones(1, 1)
    network = BoundedNetwork(model, one)
    slope = 200 * math.log(abs(gain)) + math.log(2)
    assert network.width_slope(one, domain="free").item() == pytest.approx(slope, rel=1e-6)
    epsilon = 0.1 * math.exp(-max(slope, 0))  # no more than .1 anywhere: all stay active
    bounds = network.bounds(one, epsilon, method="ibp", domain="free")
    reach = epsilon * math.exp(slope)
    assert (bounds.lower.item(), bounds.upper.item()) == pytest.approx((2 - reach, 2 + reach), rel=1e-5)


def test_branches_of_unlike_scales_meet():
    """A sum and a concatenation of what is stretched 1e40-fold and what is not, in one image and across images."""

    def forward(m, x):
        far = x
        for _ in range(4):
            far = F.linear(far, m.weight)
        return torch.cat([x, far, x + far, (far + x) * 0 + x, (x @ m.weight[0]).unsqueeze(1)], 1)

    model = Function(forward, weight=1e10 * torch.eye(2))
    images = torch.zeros(2, 2)
    epsilon = torch.tensor([1e-3, 1e-30], dtype=torch.float64)
    network = BoundedNetwork(model, images)
    expected = torch.tensor([1, 1, 1e40, 1e40, 1e40, 1e40, 1, 1, 1e10], dtype=torch.float64).log()
    found = network.width_slope(images, domain="free")
    torch.testing.assert_close(found, expected.float().expand(2, -1), rtol=1e-6, atol=1e-5)
    bounds = network.bounds(images, epsilon, method="ibp", domain="free")
    torch.testing.assert_close(bounds.upper.double().log(), expected + epsilon.log().unsqueeze(1), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(bounds.lower, -bounds.upper)


@pytest.mark.parametrize("window", [(0.5, 1.0), (1e-300, 1e300)])
def test_scaling_radii_anew_changes_nothing(window, monkeypatch):
    """Powers of two are exact: whether radii are scaled at every layer or never, to the bit."""
    images = random_images((2, 8, 6))
    network = BoundedNetwork(every_operator(1), images)
    before = network.bounds(images, 0.01, method="ibp")
    monkeypatch.setattr(verify.propagation.intervals, "NEAR_ONE", window)
    after = network.bounds(images, 0.01, method="ibp")
    assert torch.equal(before.lower, after.lower)
    assert torch.equal(before.upper, after.upper)


# Kinks in the limit


def test_a_relu_at_zero():
    """In every ball half of what surrounds 0 is lost: [0, epsilon], and a slope of one half."""
    images = torch.tensor([[0.5]])
    network = BoundedNetwork(Function(lambda m, x: F.relu(x - 0.5)), images)
    assert network.width_slope(images).item() == pytest.approx(math.log(0.5), rel=1e-6)
    bounds = network.bounds(images, 1e-20, method="ibp")
    assert bounds.lower.item() == 0
    assert bounds.upper.item() == pytest.approx(1e-20, rel=1e-5)
    block = network.bounds(images, 1e-20, method="block")  # slope 1/2, from -epsilon / 2
    assert (block.lower.item(), block.upper.item()) == pytest.approx((-0.5e-20, 1e-20), rel=1e-5)


def test_equal_centres_of_a_max_pool():
    """max(d, 3 d) for d in -+ epsilon is in [-epsilon, 3 epsilon]; what is smaller does not count, however wide."""

    def forward(m, x):
        d = x - 0.5
        image = torch.stack([d, 3 * d, 50 * d - 1e-3, -d - 1e3], 2).view(-1, 1, 2, 2)
        return F.max_pool2d(image, 2).flatten(1)

    images = torch.tensor([[0.5]])
    network = BoundedNetwork(Function(forward), images)
    assert network.width_slope(images).item() == pytest.approx(math.log(2), rel=1e-6)
    # The upper line of a block: gamma = (1/2 + 3/6 - 1) / (1/2 + 1/6) = 0, and so 1 + 3 at the upper ends.
    for method, high in (("ibp", 3.0), ("block", 4.0)):
        bounds = network.bounds(images, 1e-20, method=method)
        assert (bounds.lower.item(), bounds.upper.item()) == pytest.approx((-1e-20, high * 1e-20), rel=1e-5)


# The slope of the width


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_the_width_slope_is_that_of_the_bounds(norm, domain):
    """Of the interval bounds in float64 at a small epsilon; a third of the pixels sit at 0, a third at 1."""
    model, images, rows = every_operator(2), random_images((2, 8, 6)), random_rows(3, 3, 3)
    network = BoundedNetwork(model, images)
    slope = network.width_slope(images, norm, rows, domain)
    bounds = network.bounds(images, 1e-9, norm, rows, "ibp", domain)
    torch.testing.assert_close(((bounds.upper - bounds.lower) / 2e-9).log(), slope, rtol=0, atol=1e-4)
    free = network.width_slope(images, norm, rows, "free")
    assert (slope[0] < free[0] - 0.1).all() == (domain == "unit" and norm == "linf")  # elsewhere the ball's rows count


def test_the_width_slope_of_what_does_not_depend_on_the_image():
    model = Function(lambda m, x: torch.cat([x * 0 + m.w, x * m.w], 1), w=torch.ones(1))
    slope = BoundedNetwork(model, torch.rand(1, 1)).width_slope(torch.rand(1, 1))
    assert slope.tolist() == [[-math.inf, 0.0]]
    slope[:, 1].sum().backward()
    assert model.w.grad.item() == pytest.approx(1)


@pytest.mark.parametrize("where", range(8))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_width_slope_of_what_is_not_finite_is_nan(where, value):
    model = every_operator(0).float()
    parameters = list(model.parameters())
    with torch.no_grad():
        parameters[where].view(-1)[0] = value
    images = random_images((2, 8, 6)).float()
    network = BoundedNetwork(model, images)
    assert network.width_slope(images, specification=margins(torch.tensor([0, 1, 2]), 3)).isnan().any(1).all()


def test_bad_arguments_of_the_width_slope():
    images = torch.rand(1, 2, 8, 6)
    network = BoundedNetwork(every_operator(0).float(), images)
    for arguments in ({"norm": "l7"}, {"domain": "cube"}, {"specification": torch.ones(1, 4)}, {"images": images + 1}):
        with pytest.raises(InputError):
            network.width_slope(**({"images": images} | arguments))
    network.model.train()
    with pytest.raises(InputError, match="changed since it was wrapped, between train and eval"):
        network.width_slope(images)
    network.model.eval()


def test_boxes_of_any_size():
    """Pixel by pixel, of unlike widths, and with pixels that are held."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[2].weight.fill_(1.0)
    lower = torch.tensor([[-0.5, 1.0, 0.0], [-1e-200, 0.0, 0.0]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 1.0, 2e-30], [3e-200, 0.0, 0.0]], dtype=torch.float64)
    bounds = BoundedNetwork(model, lower).bounds(Box(lower, upper), method="ibp")
    torch.testing.assert_close(bounds.lower, torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    torch.testing.assert_close(bounds.upper, torch.tensor([[2.0], [3e-200]], dtype=torch.float64), rtol=1e-12, atol=0)


# Gradients


def gradient(network: BoundedNetwork, images: Tensor) -> Tensor:
    """Of the metric of a search, in both alphas, at an epsilon where the bounds are about a logit apart."""
    network.freeze(images)
    network.model.zero_grad()
    rows = margins(torch.arange(len(images)), 10)
    slope = network.width_slope(images, specification=rows).mean().item()
    bounds = network.bounds(images, math.exp(-slope), specification=rows, method="ibp")
    assert 0.2 < (bounds.upper - bounds.lower).mean() < 20
    bounds.lower.amin(1).mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.model.parameters())
    return torch.cat([alpha.grad.double().flatten() for alpha in network.model.architecture_parameters()])


@pytest.mark.parametrize("nodes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_gradient_in_alpha_of_a_deep_supernet(nodes):
    """Eight cells in float32."""
    assert (gradient(*supernet(8, channels=4, nodes=nodes)).abs() > 1e-6).float().mean() > 0.9


def test_the_gradient_in_alpha_is_that_of_double_precision(five_cells):
    network, images = five_cells
    single, double = gradient(network, images), gradient(in_double(network, images), images.double())
    assert F.cosine_similarity(single, double, dim=0) > 0.99


def test_the_gradient_of_overlapping_pools():
    """The largest centre of a window is where it is, whatever the scale: a pool of filters widens as they do."""
    model = Function(lambda m, x: F.max_pool2d(F.conv2d(x, m.weight), 3, 1, 1).flatten(1), weight=torch.ones(1, 1, 2, 2))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[[[1.0, -2.0], [0.5, 3.0]]]]))
    images = 0.1 + 0.8 * torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    network = BoundedNetwork(model, images)
    slope = network.width_slope(images)
    torch.testing.assert_close(slope, torch.full_like(slope, math.log(6.5)))
    bounds = network.bounds(images, 1e-6, method="ibp")
    for width in (slope.mean(), ((bounds.upper - bounds.lower) / 2e-6).mean().log()):
        model.zero_grad()
        width.backward()
        torch.testing.assert_close(model.weight.grad, model.weight.sign() / 6.5, rtol=1e-2, atol=1e-2)


def test_a_dead_neuron_passes_no_gradient():
    """It stays at exactly 0 in the ball, and so does its radius: neither grows with a bias over a tiny epsilon."""
    model = Function(lambda m, x: F.relu(F.relu(x - 5) + m.bias) + x, bias=torch.zeros(1))
    images = torch.rand(1, 3)
    network = BoundedNetwork(model, images)
    bounds = network.bounds(images, 1e-20, method="ibp")
    for width in (network.width_slope(images), bounds.upper - bounds.lower):
        model.zero_grad()
        width.sum().backward()
        assert model.bias.grad.item() == 0


@pytest.mark.parametrize("epsilon", [1e-30, 1e-12])
def test_a_neuron_at_its_kink_does_not_drown_the_gradient(epsilon):
    """A neuron whose centre is 0 to the last digit, widened by the layers after it as by those of a deep network."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model[1].bias.zero_()
        model[3].weight.fill_(1 / epsilon)
    x = torch.full((1, 1, 1, 2), 0.5)
    bounds = BoundedNetwork(model, x).bounds(x, epsilon, "linf", None, "ibp", "free")
    width = IntervalSweep(Ball(x, epsilon, "linf", "free")).run(BoundedNetwork(model, x).graph.nodes, torch.eye(2)[None])
    assert torch.isfinite(bounds.lower).all()
    gradients = torch.autograd.grad(width.radius.sum(), [model[1].weight, model[1].bias])
    assert all(gradient.abs().max() < 10 for gradient in gradients)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_gradient_in_the_weights_of_the_first_layer(norm):
    """By differences in float64, along a random direction."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).double().eval()
    images, weight = torch.rand(2, 2, 4, 4).double(), model[0].weight
    network, rows = BoundedNetwork(model, images[:1]), margins(torch.tensor([0, 1]), 4).double()

    def lower() -> Tensor:
        return network.bounds(images, 0.1, norm, rows, "ibp", "free").lower.sum()

    (found,) = torch.autograd.grad(lower(), weight)
    direction, start, step = torch.randn_like(weight), weight.detach().clone(), 1e-6
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            weight.copy_(start + sign * step * direction)
            ends.append(lower())
    torch.testing.assert_close((found * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)

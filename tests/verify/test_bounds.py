"""Exactness of bounds against closed forms, linear and mixed-integer programs; contracts of `bounds`."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds as Limits
from scipy.optimize import LinearConstraint, milp
from torch import nn

import verify
import verify.propagation.prior
from tests.levels import few, level
from tests.verify.helpers import (
    DUALS,
    Function,
    apply,
    assert_between,
    assert_neurons,
    attack,
    extremes,
    random_images,
    random_rows,
    randomise,
)
from verify import METHODS, NORMS, Ball, BoundedNetwork, Box, InputError, margins

FORWARD = ("ibp", "block")
CROWN = [method for method in METHODS if method not in FORWARD]


def convnet(seed: int = 0) -> nn.Module:
    return randomise(
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3),
        ),
        seed,
    )  # fmt: skip


IMAGE = (1, 6, 6)


# Exact where it can be


def linear_network(seed: int) -> nn.Module:
    """Many operators, none of them nonlinear."""

    def forward(m, x):
        h = F.avg_pool2d(m.first(F.pad(x, (1, 0, 1, 0), value=0.3)), 3, 2, 1, count_include_pad=False)
        h = torch.cat([h[:, :1] * -0.7, h[:, 1:] - m.norm(h)[:, 1:], h.flip(1)], 1)
        return m.last((h + h.transpose(2, 3)).flatten(1))

    model = Function(forward)
    model.first, model.norm, model.last = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(54, 4)
    return randomise(model, seed)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", CROWN)
def test_linear_networks_are_exact(norm, method):
    """The extremes of an affine function on a ball are value -+ epsilon ||gradient||_q."""
    model, images = linear_network(1), random_images((1, 5, 5))
    rows = random_rows(4, 4, 3)
    zero = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    weights = torch.autograd.functional.jacobian(lambda x: model(x)[0], zero).flatten(1)
    gradient = torch.einsum("bsk,kn->bsn", rows, weights)
    epsilon = torch.tensor([0.3, 2.0, 0.0], dtype=torch.float64)
    spread = epsilon.unsqueeze(1) * torch.linalg.vector_norm(gradient, DUALS[norm], dim=-1)
    value = apply(rows, model(images))
    bounds = BoundedNetwork(model, images).bounds(images, epsilon, norm, rows, method, "free")
    torch.testing.assert_close(bounds.lower, value - spread)
    torch.testing.assert_close(bounds.upper, value + spread)


@pytest.mark.parametrize("method", CROWN)
def test_linear_networks_are_exact_on_boxes(method):
    """Clipped l-infinity balls and boxes given pixel by pixel: each pixel goes to one of its ends."""
    model, images = linear_network(2), random_images((1, 5, 5))
    network, zero = BoundedNetwork(model, images), torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    weights = torch.autograd.functional.jacobian(lambda x: model(x)[0], zero).flatten(1)
    uneven = Box(images - 0.3 * images, images + 0.1 + images**2)
    for region in (Ball(images, 0.4, "linf", "unit"), uneven):
        lower, upper = region.lower.flatten(1), region.upper.flatten(1)
        positive, negative = weights.clamp(min=0), weights.clamp(max=0)
        expected = model(zero) + lower @ positive.T + upper @ negative.T
        torch.testing.assert_close(network.bounds(region, method=method).lower, expected)
        expected = model(zero) + upper @ positive.T + lower @ negative.T
        torch.testing.assert_close(network.bounds(region, method=method).upper, expected)


one_unit = st.tuples(*[st.floats(-2, 2)] * 4, st.floats(0.01, 1), st.sampled_from(NORMS))


@few
@given(one_unit)
def test_one_unit_networks_against_brute_force(case):
    """c relu(w x + b): its extremes are those of relu at the ends of what w x + b reaches; IBP finds both, and
    CROWN the one at which its lines touch relu."""
    w1, w2, b, c, epsilon, norm = case
    w = torch.tensor([[w1, w2]], dtype=torch.float64)
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (w, [b], [[c]], [0.5]), strict=True):
            parameter.copy_(torch.as_tensor(value, dtype=torch.float64))
    x = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    z = (w @ x[0] + b).item()
    reach = epsilon * w.norm(p=DUALS[norm]).item()
    ends = [0.5 + c * max(z + sign * reach, 0) for sign in (-1, 1)]
    network = BoundedNetwork(model, x)
    for method in METHODS:
        bounds = network.bounds(Ball(x, epsilon, norm, "free"), method=method)
        assert bounds.lower.item() <= min(ends) + 1e-9
        assert bounds.upper.item() >= max(ends) - 1e-9
        if norm == "linf" or method not in (*FORWARD, "crown-ibp"):  # those start from the box around the ball
            # The chord is exact at both ends, so one side is exact at once; intersected with the interval both are.
            far = max(ends) if c > 0 else min(ends)
            assert (bounds.upper if c > 0 else bounds.lower).item() == pytest.approx(far, abs=1e-9)
        if norm == "linf" and method != "block":  # whose other side is the lower line's
            assert bounds.lower.item() == pytest.approx(min(ends), abs=1e-9)
            assert bounds.upper.item() == pytest.approx(max(ends), abs=1e-9)


def exact_minimum(layers: list[tuple[np.ndarray, np.ndarray]], c: np.ndarray, box: Box, integral: bool) -> float:
    """min c^T f(x) over a box by HiGHS: big-M for every ReLU (or, if not `integral`, the triangle relaxation).

    Variables: x, then for each hidden layer z, a = relu(z) and an indicator d.
    """
    low, high = box.lower[0].numpy(), box.upper[0].numpy()
    widths = [len(low), *(len(b) for _, b in layers[:-1])]
    starts = np.cumsum([0, widths[0], *np.repeat(widths[1:], 3)])
    total = starts[-1]
    floors, ceilings, whole = np.full(total, -np.inf), np.full(total, np.inf), np.zeros(total)
    floors[: len(low)], ceilings[: len(low)] = low, high
    matrix, lows, highs = [], [], []

    def add(terms, least, most):
        row = np.zeros(total)
        for position, coefficient in terms:
            row[position] += coefficient
        matrix.append(row)
        lows.append(least)
        highs.append(most)

    before = 0
    for number, (W, b) in enumerate(layers[:-1]):
        centre, half = (low + high) / 2, (high - low) / 2
        l, u = W @ centre + b - np.abs(W) @ half, W @ centre + b + np.abs(W) @ half
        z, a, d = starts[1 + 3 * number : 4 + 3 * number]
        for i in range(len(b)):
            add([(z + i, 1), *((before + j, -W[i, j]) for j in range(W.shape[1]))], b[i], b[i])
            floors[a + i], floors[d + i], ceilings[d + i], whole[d + i] = 0, 0, 1, integral
            add([(a + i, 1), (z + i, -1)], 0, np.inf)
            add([(a + i, 1), (z + i, -1), (d + i, -min(l[i], 0))], -np.inf, -min(l[i], 0))
            add([(a + i, 1), (d + i, -max(u[i], 0))], -np.inf, 0)
        low, high, before = np.maximum(l, 0), np.maximum(u, 0), a
    W, b = layers[-1]
    objective = np.zeros(total)
    objective[before : before + W.shape[1]] = c @ W
    constraints = LinearConstraint(np.array(matrix), lows, highs)
    solved = milp(objective, integrality=whole, bounds=Limits(floors, ceilings), constraints=constraints)
    assert solved.status == 0
    return solved.fun + c @ b


@pytest.mark.parametrize("seed", range(level(2, 4)))
@pytest.mark.parametrize("widths", [(3, 6, 3), (3, 3, 3, 2)])
def test_bounds_against_a_mixed_integer_program(seed, widths):
    """CROWN <= exact optimum <= what an attack reaches; one hidden layer: CROWN <= the linear program's optimum."""
    pairs = list(itertools.pairwise(widths))
    modules = [module for pair in pairs for module in (nn.Linear(*pair), nn.ReLU())][:-1]
    model = randomise(nn.Sequential(*modules), seed)
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in modules if isinstance(m, nn.Linear)]
    images, rows = random_images((3,), 1, seed), random_rows(3, widths[-1], 1, seed)
    ball = Ball(images, 0.35, "linf", "free")
    low, high = extremes(model, attack(model, ball, rows, samples=300, steps=20), rows)
    network = BoundedNetwork(model, images)
    bounds = {method: network.bounds(ball, specification=rows, method=method) for method in METHODS}
    gap = 0.0
    for row in range(3):
        c = rows[0, row].numpy()
        least = exact_minimum(layers, c, Box(ball.lower, ball.upper), True)
        most = -exact_minimum(layers, -c, Box(ball.lower, ball.upper), True)
        relaxed = exact_minimum(layers, c, Box(ball.lower, ball.upper), False)
        assert least <= low[0, row] + 1e-6
        assert most >= high[0, row] - 1e-6
        for method in METHODS:
            assert bounds[method].lower[0, row] <= least + 1e-6, method
            assert bounds[method].upper[0, row] >= most - 1e-6, method
        if len(layers) == 2:  # with intervals of the only hidden layer exact, the triangle is the best of its kind
            assert bounds["crown"].lower[0, row] <= relaxed + 1e-6
        gap = max(gap, (least - bounds["crown"].lower[0, row].item()) / (most - least))
    assert gap < 1.5  # and not far below


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_radius_of_zero_gives_the_output(norm, method):
    model, images = convnet(), random_images(IMAGE)
    bounds = BoundedNetwork(model, images).bounds(images, 0.0, norm, method=method)
    torch.testing.assert_close(bounds.lower, model(images))
    torch.testing.assert_close(bounds.upper, model(images))


@pytest.mark.parametrize("method", CROWN)
def test_no_method_is_looser_than_intervals(method):
    """Which CROWN alone can be: every result is intersected with the intervals."""
    widths = {"ibp": 0.0, method: 0.0}
    for seed in range(level(2, 6)):
        network = BoundedNetwork(convnet(seed), torch.zeros(1, *IMAGE).double())
        for epsilon in (0.05, 0.5):
            images = random_images(IMAGE, seed=seed)
            ibp, other = (network.bounds(images, epsilon, method=name) for name in widths)
            assert (other.lower >= ibp.lower - 1e-12).all()
            assert (other.upper <= ibp.upper + 1e-12).all()
            widths["ibp"] += (ibp.upper - ibp.lower).mean().item()
            widths[method] += (other.upper - other.lower).mean().item()
    assert widths[method] < 0.95 * widths["ibp"]


# The linear function and the intervals that come with CROWN


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", CROWN)
def test_the_line_bounds_from_below_all_over_the_ball(norm, method):
    model, images, rows = convnet(3), random_images(IMAGE), random_rows(3, 3, 3)
    network = BoundedNetwork(model, images)
    ball = Ball(images, {"linf": 0.05, "l2": 0.2, "l1": 0.7}[norm], norm)
    bounds = network.bounds(ball, specification=rows, method=method)
    line = bounds.line
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, 1.0, 1.0, 0.7, 0.3, 0.01, 0.0):
        x = ball.with_epsilon(ball.epsilon * factor).sample(generator)
        below = torch.einsum("bsn,bn->bs", line.coefficients, x.flatten(1)) + line.intercept
        assert (below <= apply(rows, model(x)) + 1e-9).all()
    assert (ball.least(line.coefficients) + line.intercept <= bounds.lower + 1e-9).all()


def test_ibp_has_no_line():
    images = random_images(IMAGE)
    assert BoundedNetwork(convnet(), images).bounds(images, 0.1, method="ibp").line is None


@pytest.mark.parametrize("method", CROWN)
def test_intervals_hold_for_the_neurons(method):
    """Every relaxed neuron stays within, at the ball's points and at those of every part of it."""
    model, images = convnet(1), random_images(IMAGE)
    network = BoundedNetwork(model, images)
    ball = Ball(images, 0.05)
    bounds = network.bounds(ball, method=method)
    assert len(bounds.intervals) == 4  # three ReLUs and the max pool
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, 0.5, 0.0):
        part = ball.with_epsilon(ball.epsilon * factor)
        assert_neurons(network, torch.stack([part.sample(generator) for _ in range(30)]), bounds)


def test_within_larger_intervals_bounds_are_as_sound_and_as_tight():
    model, images, rows = convnet(4), random_images(IMAGE), random_rows(3, 3, 3)
    network = BoundedNetwork(model, images)
    large = network.bounds(Ball(images, 0.08), specification=rows)
    small = Ball(images, 0.04)
    alone = network.bounds(small, specification=rows)
    helped = network.bounds(small, specification=rows, within=large.intervals)
    points = attack(model, small, rows)
    assert_between(helped, *extremes(model, points, rows))
    assert_neurons(network, points, helped)
    torch.testing.assert_close(helped.lower, alone.lower, rtol=0.05, atol=0.05)
    for name, (lower, upper) in helped.intervals.items():
        assert (lower >= large.intervals[name][0] - 1e-12).all()
        assert (upper <= large.intervals[name][1] + 1e-12).all()
    again = network.bounds(small, specification=rows)
    torch.testing.assert_close(again.lower, alone.lower, rtol=0, atol=0)  # nothing is left over


# Each image for itself


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_images_are_bounded_each_for_itself(norm, method):
    """A batch with a radius for each image equals image by image, whatever the others need."""
    model, images = convnet(2), random_images(IMAGE, 5)
    rows = random_rows(3, 3, 5)
    epsilon = torch.tensor([0.0, 0.01, 0.03, 0.2, 1.0], dtype=torch.float64)
    network = BoundedNetwork(model, images)
    together = network.bounds(images, epsilon, norm, rows, method)
    for i in range(5):
        alone = network.bounds(images[i : i + 1], epsilon[i].item(), norm, rows[i : i + 1], method)
        torch.testing.assert_close(together.lower[i : i + 1], alone.lower, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.upper[i : i + 1], alone.upper, rtol=1e-12, atol=1e-12)


def test_spare_rows_of_a_backward_pass_are_not_used():
    """A batch has as many rows as its neediest image: the others must not be bounded better for that."""
    model = randomise(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)), 5)
    images = random_images((6,), 4)
    network = BoundedNetwork(model, images)
    epsilon = torch.tensor([0.05, 0.3, 0.9, 2.0], dtype=torch.float64)
    together = network.bounds(images, epsilon, domain="free").intervals
    for i in range(4):
        alone = network.bounds(images[i : i + 1], epsilon[i].item(), domain="free").intervals
        for name, sides in alone.items():
            for one, many in zip(sides, together[name], strict=True):
                torch.testing.assert_close(many[i : i + 1], one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 50, 500])
def test_a_backward_pass_may_be_split(rows, monkeypatch):
    images = random_images(IMAGE)
    network = BoundedNetwork(convnet(), images)
    whole = network.bounds(images, 0.1)
    monkeypatch.setattr(verify.propagation.prior, "ROWS_AT_ONCE", {"cpu": rows})
    split = network.bounds(images, 0.1)
    torch.testing.assert_close((split.lower, split.upper), (whole.lower, whole.upper), rtol=1e-12, atol=1e-12)


def test_calls_leave_nothing_behind():
    """Forward passes, other methods and other regions in between change no later result."""
    images = random_images(IMAGE)
    network = BoundedNetwork(convnet(), images)
    first = {method: network.bounds(images, 0.1, method=method) for method in METHODS}
    network(images[:1])
    network.bounds(Box(images[:1], images[:1] + 0.1), method="ibp")
    network.double()
    for method in reversed(METHODS):
        again = network.bounds(images, 0.1, method=method)
        assert torch.equal(again.lower, first[method].lower)
        assert torch.equal(again.upper, first[method].upper)


# Specifications and regions


def test_margins():
    rows = margins(torch.tensor([1, 2]), 3)
    expected = [[[-1, 1, 0], [0, 1, -1]], [[-1, 0, 1], [0, -1, 1]]]
    assert torch.equal(rows, torch.tensor(expected, dtype=rows.dtype))


@pytest.mark.parametrize("method", METHODS)
def test_specifications(method):
    """One for all images, one for each; none is the outputs; rows are merged with the last layer."""
    images = random_images(IMAGE)
    network, rows = BoundedNetwork(convnet(), images), random_rows(2, 3, 3)
    same = rows[:1].expand(3, -1, -1)
    one, each = (network.bounds(images, 0.05, specification=s, method=method) for s in (rows[0], same))
    torch.testing.assert_close(one.lower, each.lower)
    plain = network.bounds(images, 0.05, method=method)
    identity = network.bounds(images, 0.05, specification=torch.eye(3), method=method)
    torch.testing.assert_close((plain.lower, plain.upper), (identity.lower, identity.upper))
    negative = network.bounds(images, 0.05, specification=-rows, method=method)
    positive = network.bounds(images, 0.05, specification=rows, method=method)
    if method == "alpha-crown":  # it optimises lower bounds only
        assert (positive.lower >= -negative.upper - 1e-9).all()
        assert (positive.upper >= -negative.lower - 1e-9).all()
    else:
        torch.testing.assert_close((positive.lower, positive.upper), (-negative.upper, -negative.lower))
    # Row by row from the bounds of the outputs would be looser.
    difference = network.bounds(images, 0.05, specification=margins(torch.tensor([0, 0, 0]), 3), method=method)
    assert (difference.lower >= plain.lower[:, :1] - plain.upper[:, 1:] - 1e-9).all()
    assert (difference.lower > plain.lower[:, :1] - plain.upper[:, 1:] + 1e-6).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_box_of_a_ball_is_that_ball(method):
    images = random_images(IMAGE)
    network, ball = BoundedNetwork(convnet(), images), Ball(images, 0.1)
    box = network.bounds(Box(ball.lower, ball.upper), method=method)
    expected = network.bounds(images, 0.1, method=method)
    torch.testing.assert_close((box.lower, box.upper), (expected.lower, expected.upper))


@pytest.mark.parametrize("method", METHODS)
def test_domains_and_norms_are_nested(method):
    """A subset of a region never has looser bounds in these cases, where the relaxations are the same."""
    model, images = linear_network(0), random_images((1, 5, 5))
    network = BoundedNetwork(model, images)
    unit, free = (network.bounds(images, 0.5, method=method, domain=domain) for domain in ("unit", "free"))
    assert (unit.lower >= free.lower - 1e-12).all()
    assert (unit.lower > free.lower + 1e-3).any()
    l1, l2, linf = (network.bounds(images, 0.2, norm, method=method, domain="free") for norm in ("l1", "l2", "linf"))
    assert (l1.lower >= l2.lower - 1e-12).all()
    assert (l2.lower >= linf.lower - 1e-12).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": None}, "epsilon is missing"),
        ({"epsilon": -1.0}, "epsilon must be finite and not negative"),
        ({"epsilon": torch.nan}, "epsilon must be finite and not negative"),
        ({"norm": "l7"}, "norm 'l7' is not one of"),
        ({"domain": "cube"}, "domain 'cube' is not one of"),
        ({"method": "alpha"}, "method 'alpha' is not one of ibp, block, crown-ibp"),
        ({"specification": torch.ones(1, 4)}, "specification has 4 columns, the network 3 outputs"),
        ({"x": Ball(torch.rand(1, *IMAGE), 0.1)}, "give either a region or images with epsilon"),
        ({"x": torch.full((1, *IMAGE), 1.5)}, "the unit domain needs images in [0, 1]"),
        ({"x": torch.full((1, *IMAGE), torch.nan)}, "the images hold values that are not finite"),
        ({"x": torch.rand(1, *IMAGE, 1)}, f"the network takes images of shape {IMAGE}, one or more; given is (1, "),
        ({"x": torch.rand(0, *IMAGE)}, f"the network takes images of shape {IMAGE}, one or more; given is (0, "),
        ({"x": torch.rand(1, *IMAGE).double()}, "the images are torch.float64, the network torch.float32; convert"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    network = BoundedNetwork(convnet().float(), torch.rand(1, *IMAGE))
    with pytest.raises(InputError) as caught:
        network.bounds(**({"x": torch.rand(1, *IMAGE), "epsilon": 0.1} | arguments))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "targets", "message"),
    [
        (torch.tensor([0, 3]), None, "labels must be 0 to 2, the network's classes"),
        (torch.tensor([-1, 0]), None, "labels must be 0 to 2, the network's classes"),
        (torch.tensor([0, 1]), torch.tensor([1, 5]), "targets must be 0 to 2, the network's classes"),
        (torch.tensor([0, 1]), torch.tensor([2, 1]), "a target is the label of its image; take another class"),
    ],
)
def test_labels_are_classes(labels, targets, message):
    network, images = BoundedNetwork(convnet().float(), torch.rand(1, *IMAGE)), torch.rand(2, *IMAGE)
    network.check(images, torch.tensor([0, 1]), torch.tensor([1, 2]))
    with pytest.raises(InputError) as caught:
        network.check(images, labels, targets)
    assert str(caught.value) == message


# Nothing that is not finite is a bound


def broken(where: int, value: float) -> nn.Module:
    """A convnet in float32 one of whose weights or biases is not what it should be."""
    model = convnet().float()
    parameters = list(model.parameters())
    with torch.no_grad():
        parameters[where].view(-1)[0] = value
    return model


@pytest.mark.parametrize("where", range(8))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_parameter_that_is_not_finite_bounds_nothing(where, value):
    """Stock auto_LiRPA takes a NaN bias for 0, which makes a false proof. Every bias is tried here."""
    images = random_images(IMAGE).float()
    network = BoundedNetwork(broken(where, value), images)
    labels = torch.tensor([0, 1, 2])
    for method in METHODS:
        for rows in (None, margins(labels, 3)):
            bounds = network.bounds(images, 0.01, specification=rows, method=method)
            assert bounds.lower.isnan().any(1).all(), method
            assert bounds.upper.isnan().any(1).all(), method
        assert not verify.verified(network, images, labels, 0.0, method=method).any()


@pytest.mark.parametrize("where", range(8))
def test_a_parameter_of_minus_infinity_bounds_nothing_or_is_a_dead_neuron(where):
    images = random_images(IMAGE).float()
    model = broken(where, -torch.inf)
    network = BoundedNetwork(model, images)
    for method in METHODS:
        bounds = network.bounds(images, 0.01, method=method)
        for output, lower, upper in zip(model(images), bounds.lower, bounds.upper, strict=True):
            dead = torch.isfinite(output).all() and (lower <= output).all() and (output <= upper).all()
            assert dead or (lower.isnan().all() and upper.isnan().all())


@pytest.mark.parametrize("where", [0, 2, 4, 6])
def test_overflow_bounds_nothing(where):
    images = random_images(IMAGE).float()
    model = convnet().float()
    with torch.no_grad():
        list(model.parameters())[where].mul_(1e30)
        list(model.parameters())[(where + 2) % 8].mul_(1e30)
    network = BoundedNetwork(model, images)
    for method in METHODS:
        bounds = network.bounds(images, 0.01, method=method)
        assert not torch.isinf(bounds.lower).any()
        assert bounds.lower.isnan().any(1).all()
        assert not verify.verified(network, images, torch.tensor([0, 1, 2]), 0.01, method=method).any()


def test_an_infinite_running_mean_bounds_nothing():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3)).eval()
    model[1].running_mean[3] = torch.nan
    images = random_images(IMAGE).float()
    for method in METHODS:
        assert BoundedNetwork(model, images).bounds(images, 0.0, method=method).lower.isnan().all()


def test_one_image_that_overflows_leaves_the_others_alone():
    """float32 overflows where the perturbation is large, and only there."""
    model = randomise(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))).float()
    with torch.no_grad():
        model[0].weight.mul_(1e30)
    images = torch.tensor([[0.0] * 4, [1e8] * 4])
    for method in METHODS:
        bounds = BoundedNetwork(model, images).bounds(images, torch.tensor([0.0, 1e10]), domain="free", method=method)
        assert torch.isfinite(bounds.lower[0]).all()
        assert bounds.lower[1].isnan().all()


# The confirmation in float64


@pytest.mark.parametrize("method", METHODS)
def test_double_widens_outward_and_hardly(method):
    model, images = convnet().float(), random_images(IMAGE).float()
    single = BoundedNetwork(model, images)
    exact = single.double()
    plain = BoundedNetwork(convnet().float().double(), images.double())
    wide, narrow = (n.bounds(images.double(), 0.1, method=method) for n in (exact, plain))
    assert (wide.lower <= narrow.lower).all()
    assert (wide.upper >= narrow.upper).all()
    torch.testing.assert_close(wide.lower, narrow.lower, rtol=1e-6, atol=1e-6)
    narrow = single.bounds(images, 0.1, method=method)
    torch.testing.assert_close(wide.lower.float(), narrow.lower, rtol=1e-3, atol=1e-3)
    if method not in FORWARD:
        assert (wide.lower < narrow.lower).any()


def test_a_network_made_exact_is_what_double_gives():
    images = random_images(IMAGE).float()
    made = BoundedNetwork(convnet().float().double(), images.double(), confirms=True)
    copied = BoundedNetwork(convnet().float(), images).double()
    assert made.double() is made
    torch.testing.assert_close(*(each.bounds(images.double(), 0.1).lower for each in (made, copied)), rtol=0, atol=0)


def test_single_precision_cannot_pass_for_exact():
    with pytest.raises(InputError, match="confirmed in float64"):
        BoundedNetwork(convnet().float(), torch.zeros(1, *IMAGE), confirms=True)


def test_double_is_a_copy():
    model, images = convnet().float(), random_images(IMAGE)
    network = BoundedNetwork(model, images.float())
    exact = network.double()
    before = exact.bounds(images, 0.1).lower
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert torch.equal(exact.bounds(images, 0.1).lower, before)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_single_precision_is_sound_up_to_rounding():
    model, images, rows = convnet(7), random_images(IMAGE), random_rows(3, 3, 3)
    single = BoundedNetwork(convnet(7).float(), images.float())
    low, high = extremes(model, attack(model, Ball(images, 0.05), rows), rows)
    for method in METHODS:
        bounds = single.bounds(images.float(), 0.05, specification=rows.float(), method=method)
        assert (bounds.lower <= low + 1e-4).all()
        assert (bounds.upper >= high - 1e-4).all()

"""Balls and boxes: the least value of a linear function on them, their points, and what they refuse."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from verify import DOMAINS, NORMS, Ball, Box, InputError
from verify.regions import largest_epsilon

DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}

pixels = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0]))  # many of a data set's pixels sit at the ends
vectors = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        st.lists(pixels, min_size=n, max_size=n),
        st.lists(st.floats(-3, 3), min_size=n, max_size=n),
        st.floats(0, 2),
    )
)


def tensors(case: tuple[list[float], list[float], float]) -> tuple[torch.Tensor, torch.Tensor, float]:
    centre, coefficients, epsilon = case
    return torch.tensor([centre], dtype=torch.float64), torch.tensor([[coefficients]], dtype=torch.float64), epsilon


def least(ball: Ball, A: torch.Tensor) -> float:
    return ball.least(A).item()


@given(vectors, st.sampled_from(NORMS))
def test_free_balls_have_the_dual_norm(case, norm):
    centre, A, epsilon = tensors(case)
    expected = (A[0, 0] @ centre[0]).item() - epsilon * A[0, 0].norm(p=DUALS[norm]).item()
    assert least(Ball(centre, epsilon, norm, "free"), A) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(vectors, st.sampled_from(NORMS), st.sampled_from(DOMAINS))
def test_extremes_are_points_of_the_region_where_a_linear_function_ends(case, norm, domain):
    centre, A, epsilon = tensors(case)
    ball = Ball(centre, epsilon, norm, domain)
    middle, half = ball.extremes(A)
    ends = [(middle + sign * half).expand(A.shape)[0] for sign in (-1, 1)]
    for x, sign in zip(ends, (1, -1), strict=True):
        torch.testing.assert_close(ball.project(x), x, rtol=1e-9, atol=1e-9)
        value, bound = (A[0] * x).sum().item(), sign * ball.least(sign * A).item()
        if norm == "linf" or domain == "free":
            assert value == pytest.approx(bound, rel=1e-9, abs=1e-9)
        else:
            assert sign * (value - bound) >= -1e-9
            assert sign * (value - (A[0] * centre).sum().item()) <= 1e-9
    torch.testing.assert_close(torch.stack(ball.ends(A)), torch.stack([ball.least(A), -ball.least(-A)]))


@given(vectors)
def test_l_infinity_in_the_unit_domain_is_exact(case):
    """The least value is at a corner of the clipped box: try all of them."""
    centre, A, epsilon = tensors(case)
    ends = [(max(c - epsilon, 0), min(c + epsilon, 1)) for c in centre[0].tolist()]
    corners = [sum(a * x for a, x in zip(A[0, 0].tolist(), corner, strict=True)) for corner in itertools.product(*ends)]
    assert least(Ball(centre, epsilon, "linf", "unit"), A) == pytest.approx(min(corners), rel=1e-12, abs=1e-12)


@given(vectors)
def test_l1_in_the_unit_domain_is_never_above_the_optimum(case):
    """The optimum is a linear program in the rise and the fall of every pixel."""
    centre, A, epsilon = tensors(case)
    c, a = centre[0].numpy(), A[0, 0].numpy()
    best = linprog(
        np.concatenate([a, -a]), A_ub=np.ones((1, 2 * len(a))), b_ub=[epsilon],
        bounds=[(0, 1 - x) for x in c] + [(0, x) for x in c],
    ).fun + a @ c  # fmt: skip
    ours = least(Ball(centre, epsilon, "l1", "unit"), A)
    assert ours <= best + 1e-9
    assert ours >= least(Ball(centre, epsilon, "l1", "free"), A) - 1e-12
    if epsilon <= 1e-3:  # no pixel strictly inside reaches an end: only those at the ends are held
        inside = all(x in (0, 1) or 1e-3 <= x <= 1 - 1e-3 for x in c)
        assert not inside or ours == pytest.approx(best, abs=1e-9)


@given(vectors)
def test_l2_in_the_unit_domain_is_never_above_the_optimum(case):
    """The optimum by convex programming, and by its dual: clip(c - t a) with the right t."""
    centre, A, epsilon = tensors(case)
    c, a = centre[0].numpy(), A[0, 0].numpy()
    ours = least(Ball(centre, epsilon, "l2", "unit"), A)
    low, high = 0.0, 1e6
    for _ in range(200):  # the distance from c of the minimiser for multiplier t grows with t
        t = (low + high) / 2
        low, high = (t, high) if np.linalg.norm(np.clip(c - t * a, 0, 1) - c) <= epsilon else (low, t)
    best = a @ np.clip(c - low * a, 0, 1)
    assert ours <= best + 1e-9
    assert ours >= least(Ball(centre, epsilon, "l2", "free"), A) - 1e-12
    assert ours >= least(Ball(centre, epsilon, "linf", "unit"), A) - 1e-12


def test_l2_in_the_unit_domain_against_a_solver():
    generator = np.random.default_rng(0)
    for _ in range(10):
        c, a, epsilon = generator.random(4).round(), generator.normal(size=4), 0.7
        solved = minimize(
            lambda x, a=a: a @ x, c.clip(0.1, 0.9), jac=lambda x, a=a: a, bounds=[(0, 1)] * 4, method="SLSQP",
            constraints={"type": "ineq", "fun": lambda x, c=c, r=epsilon: r**2 - ((x - c) ** 2).sum()},
        )  # fmt: skip
        ball = Ball(torch.tensor(c)[None], epsilon, "l2", "unit")
        # All pixels at an end: what they may not do is exactly what the dual norm leaves out.
        assert least(ball, torch.tensor(a)[None, None]) == pytest.approx(solved.fun, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_points_lie_inside(norm, domain):
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(4, 3, 5, generator=generator, dtype=torch.float64).mul(1.6).sub(0.3).clamp(0, 1)
    epsilon = torch.tensor([0.0, 1e-3, 0.2, 3.0], dtype=torch.float64)
    ball = Ball(centre, epsilon, norm, domain)
    far = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64) * 5
    for x in (*(ball.sample(generator) for _ in range(200)), ball.project(far), ball.project(centre + 1e-5 * far)):
        distance = torch.linalg.vector_norm((x - centre).flatten(1), ORDERS[norm], dim=1)
        assert (distance <= epsilon + 1e-12).all()
        assert (x >= ball.lower - 1e-12).all()
        assert (x <= ball.upper + 1e-12).all()
        if domain == "unit":
            assert ((x >= 0) & (x <= 1)).all()
    # Samples reach out: not all of them sit at the centre.
    reach = torch.linalg.vector_norm((ball.sample(generator) - centre).flatten(1), ORDERS[norm], dim=1)
    assert (reach > epsilon / 9)[1:].all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_point_inside_stays_where_it_is(norm, domain):
    centre = torch.full((1, 6), 0.4, dtype=torch.float64)
    ball = Ball(centre, 0.3, norm, domain)
    x = centre + 0.04 * torch.tensor([[1.0, -1.0, 1.0, 0.0, 0.5, -0.5]])
    torch.testing.assert_close(ball.project(x), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
def test_the_box_around_a_ball_is_the_smallest(norm):
    centre = torch.tensor([[0.0, 0.1, 0.5, 1.0]], dtype=torch.float64)
    free, unit = (Ball(centre, 0.2, norm, domain) for domain in ("free", "unit"))
    torch.testing.assert_close(free.lower, centre - 0.2)
    torch.testing.assert_close(free.upper, centre + 0.2)
    torch.testing.assert_close(unit.lower, torch.tensor([[0.0, 0.0, 0.3, 0.8]], dtype=torch.float64))
    torch.testing.assert_close(unit.upper, torch.tensor([[0.2, 0.3, 0.7, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [0.2, 1e-9, 1e-50, 1e-300, 0.0])
def test_the_box_in_units_of_epsilon(epsilon, dtype):
    """Of any size, or none: then it is the limit. Half of the box is lost where a pixel sits at an end."""
    centre = torch.tensor([[0.0, 0.1, 0.5, 0.95, 1.0]], dtype=dtype)
    for norm in NORMS:
        middle, radius, size = Ball(centre, epsilon, norm, "free").box()
        assert torch.equal(middle, centre)
        assert torch.equal(radius, torch.ones_like(centre))
        assert size.dtype == torch.float64
        assert size.tolist() == [epsilon]
        middle, radius, size = Ball(centre, epsilon, norm, "unit").box()
        assert size.tolist() == [epsilon]
        half, shift = [0.5, 1, 1, 1, 0.5], [0.5, 0, 0, 0, -0.5]
        if epsilon == 0.2:  # ends within reach: [0, .2], [0, .3], [.3, .7], [.75, 1], [.8, 1]
            half, shift = [0.5, 0.75, 1, 0.625, 0.5], [0.5, 0.25, 0, -0.375, -0.5]
        torch.testing.assert_close(radius, torch.tensor([half], dtype=dtype))
        expected = centre.double() + epsilon * torch.tensor([shift], dtype=torch.float64)
        torch.testing.assert_close(middle, expected.to(dtype), rtol=1e-6, atol=0)


def test_epsilon_is_kept_below_the_range_of_the_images():
    """One or one an image, through every way of making another ball; points and least values keep their type."""
    images = torch.rand(2, 3)
    for epsilon in (1e-60, torch.tensor([1e-60, 1e-50], dtype=torch.float64)):
        ball = Ball(images, epsilon, "l2")
        for other in (ball, ball.take(torch.tensor([0, 1])), ball.repeat(2), ball.to(torch.float64).to(torch.float32)):
            assert other.epsilon[0].item() == 1e-60
        assert ball.least(torch.ones(2, 1, 3)).dtype == ball.project(images).dtype == torch.float32
    with pytest.raises(InputError, match="epsilon must be finite"):
        Ball(images, 1e60)  # infinite in the images' type


def test_samples_repeat():
    ball = Ball(torch.full((2, 4), 0.5), 0.3, "l2")
    first, second = (ball.sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 2), st.floats(-3, 3)), min_size=1, max_size=5))
def test_a_box_is_exact(sides):
    lower = torch.tensor([[side[0] for side in sides]], dtype=torch.float64)
    upper = lower + torch.tensor([[side[1] for side in sides]], dtype=torch.float64)
    a = torch.tensor([[[side[2] for side in sides]]], dtype=torch.float64)
    corners = itertools.product(*zip(lower[0].tolist(), upper[0].tolist(), strict=True))
    values = [sum(c * x for c, x in zip(a[0, 0].tolist(), corner, strict=True)) for corner in corners]
    box = Box(lower, upper)
    assert box.least(a).item() == pytest.approx(min(values), rel=1e-9, abs=1e-9)
    assert [end.item() for end in box.ends(a)] == pytest.approx([min(values), max(values)], rel=1e-9, abs=1e-9)
    for x in (box.sample(torch.Generator().manual_seed(0)), box.project(lower - 1), box.project(upper + 1), box.centre):
        assert ((x >= lower) & (x <= upper)).all()


def test_largest_epsilon_covers_the_unit_box():
    shape = torch.Size((2, 3))
    for norm in NORMS:
        ball = Ball(torch.zeros(1, *shape), largest_epsilon(norm, shape), norm)
        assert (ball.project(torch.ones(1, *shape)) - 1).abs().max() < 1e-6


NAN, INFINITY = torch.nan, torch.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l3"}, "norm 'l3' is not one of linf, l2, l1"),
        ({"domain": "box"}, "domain 'box' is not one of unit, free"),
        ({"epsilon": -0.1}, "epsilon must be finite and not negative"),
        ({"epsilon": NAN}, "epsilon must be finite and not negative"),
        ({"epsilon": INFINITY}, "epsilon must be finite and not negative"),
        ({"epsilon": torch.tensor([0.1, -0.1])}, "epsilon must be finite and not negative"),
        ({"centre": torch.tensor([[0.5], [NAN]])}, "the images hold values that are not finite"),
        ({"centre": torch.tensor([[0.5], [INFINITY]]), "domain": "free"}, "the images hold values that are not finite"),
        ({"centre": torch.tensor([[0.5], [1.01]])}, "the unit domain needs images in [0, 1]"),
        ({"centre": torch.tensor([[0.5], [-0.01]])}, "the unit domain needs images in [0, 1]"),
    ],
)
def test_bad_balls_are_refused(arguments, message):
    with pytest.raises(InputError) as caught:
        Ball(**({"centre": torch.full((2, 1), 0.5), "epsilon": 0.1} | arguments))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (torch.zeros(1, 2), torch.tensor([[1.0, -1e-3]]), "box: bounds must be finite with lower <= upper"),
        (torch.zeros(1, 2), torch.tensor([[1.0, NAN]]), "box: bounds must be finite"),
        (torch.full((1, 2), -INFINITY), torch.zeros(1, 2), "box: bounds must be finite"),
    ],
)
def test_bad_boxes_are_refused(lower, upper, message):
    with pytest.raises(InputError) as caught:
        Box(lower, upper)
    assert str(caught.value).startswith(message)

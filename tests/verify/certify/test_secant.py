"""What failing bounds prove, and where they make the search look next."""

import pytest
import torch

from verify import Ball
from verify.certify.secant import Secant, closed_form
from verify.propagation.bounds import Line


def test_the_closed_form_of_a_line():
    """The radius at which a line meets 0, from the line of a larger ball."""
    line = Line(torch.tensor([[[3.0, -4.0]]], dtype=torch.float64), torch.tensor([[1.0]]).double())
    centre = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    for norm, slope in (("linf", 7.0), ("l2", 5.0), ("l1", 4.0)):
        radius = closed_form(Ball(centre, 0.4, norm, "free"), line).item()
        assert radius == pytest.approx(0.5 / slope, rel=1e-5)
        assert radius <= 0.5 / slope
        assert closed_form(Ball(centre, 0.01, norm, "free"), line).item() <= 0.01
    negative = line._replace(intercept=torch.tensor([[-1.0]]).double())
    assert closed_form(Ball(centre, 0.4, "linf", "free"), negative).item() == 0


@pytest.mark.parametrize("power", [1.0, 2.5, 5.0])
def test_the_root_of_a_power_is_found_from_two_points(power):
    """margin - c radius^p, another c for every class; the second image has no trial."""
    clean, factor = torch.tensor([[2.0, 3.0], [1.0, 1.0]]), torch.tensor([[40.0, 500.0]])
    secant, index = Secant(clean), torch.tensor([0])
    assert secant.root.isinf().all()
    for radius in (0.1, 0.15):
        secant.update(index, torch.tensor([radius]), clean[:1] - factor * radius**power)
    assert secant.root[0].item() == pytest.approx((clean[0] / factor[0]).pow(1 / power).min().item(), rel=1e-4)
    assert secant.root[1].isinf()
    assert secant.trials.tolist() == [2, 0]


def test_tighter_bounds_start_from_what_looser_ones_showed():
    """Both lose by the same power: one trial of the tighter ones is enough. The second image had one trial before."""
    clean, power = torch.tensor([[2.0], [2.0]]), 4.0
    loose, index = Secant(clean), torch.tensor([0, 1])
    loose.update(index, torch.tensor([0.1, 0.1]), clean - 2e3 * torch.tensor([[0.1], [0.1]]) ** power)
    loose.update(index[:1], torch.tensor([0.15]), clean[:1] - 2e3 * torch.tensor([[0.15]]) ** power)
    assert loose.measured.tolist() == [True, False]
    tight = Secant(clean, loose, 1.1)
    torch.testing.assert_close(tight.first, loose.root * 1.1)
    assert tight.root.isinf().all() and tight.measured.tolist() == [True, False]
    tight.update(index, torch.tensor([0.2, 0.2]), clean - 1e3 * torch.tensor([[0.2], [0.2]]) ** power)
    assert tight.root[0].item() == pytest.approx((2 / 1e3) ** (1 / power), rel=1e-4)
    assert loose.trials.tolist() == [2, 1]  # nothing of the new one's is written into the old one


def test_nothing_is_expected_where_bounds_overflowed():
    secant = Secant(torch.tensor([[1.0]]))
    secant.update(torch.tensor([0]), torch.tensor([0.5]), torch.tensor([[torch.nan]]))
    assert secant.root.item() == 0
    secant.update(torch.tensor([0]), torch.tensor([0.1]), torch.tensor([[0.5]]))
    assert 0.1 < secant.root.item() < 0.3

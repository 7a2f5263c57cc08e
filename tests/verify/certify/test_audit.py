"""The audit finds nothing wrong with honest certificates, and everything wrong with others."""

import itertools

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.helpers import BALLS, random_images, randomise
from verify import DOMAINS, NORMS, Ball, BoundedNetwork, InputError, attack_radius, audit, certified_radius, verified
from verify.operators import RULES

FEW = {"samples": 20, "starts": 3, "steps": 15}


def deep(seed: int) -> nn.Module:
    layers = [layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.ReLU())]
    return randomise(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *layers, nn.Linear(8, 3)), seed)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "affine", "crown"])
def test_honest_certificates_stand(method):
    for seed in range(level(1, 4)):
        model, images = deep(seed), random_images((4,), 10, seed)
        labels = model(images).argmax(1)
        network = BoundedNetwork(model, images)
        for norm in ("linf", "l2"):
            radius = certified_radius(network, images, labels, norm, method=method).radius
            result = audit(network, images, labels, radius, norm, method=method, **FEW)
            assert result.broken == 0, (seed, norm)
            assert torch.equal(result.checked, radius > 0)
            assert (result.bound[result.checked] > 0).all()
            assert (result.bound <= result.margin).all()


@pytest.mark.parametrize(("norm", "domain"), level(BALLS, list(itertools.product(NORMS, DOMAINS))))
def test_certificates_of_trained_networks_stand(norm, domain, mlp, digits):
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    radius = certified_radius(network, images, labels, norm, domain, "affine").radius
    result = audit(network, images, labels, radius, norm, domain, "affine", **FEW)
    assert result.broken == 0
    assert result.checked.sum() >= 8


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inflated_radii_are_broken_by_attacks(norm, mlp, digits):
    """At twice the radius of a successful attack there is a point that the audit's own attack has to find."""
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    attacked = attack_radius(network, images, labels, norm)
    result = audit(network, images, labels, 2 * attacked, norm, method="affine", **FEW)
    correct = attacked > 0
    assert result.broken == correct.sum()
    assert torch.equal(result.failures, correct)
    assert (result.margin[correct] <= 0).all()
    assert torch.isinf(result.margin[~correct]).all()


def test_a_radius_that_is_true_but_not_proven_is_broken(mlp, digits):
    """Just above what the method proves, no attack succeeds: what fails is the proof."""
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    radius = certified_radius(network, images, labels, "l2", method="ibp", tolerance=0.01).radius * 1.1
    result = audit(network, images, labels, radius, "l2", method="ibp", **FEW)
    assert result.broken == (radius > 0).sum()
    assert (result.margin[result.checked] > 0).all()
    assert (result.bound[result.checked] <= 0).all()


def test_a_relaxation_that_is_wrong_is_found_out(monkeypatch):
    """Unstable ReLUs that are said to give nothing at all: an attack passes the bound, or breaks the certificate."""
    relu = RULES["aten.relu.default"]
    honest = relu.lines

    def unsound(self, lower, upper):
        lines = honest(self, lower, upper)
        stable = (lower >= 0) | (upper <= 0)
        return lines._replace(upper_slope=lines.upper_slope * stable, upper_intercept=lines.upper_intercept * stable)

    broken = exceeded = 0
    for seed in range(4):
        model, images = deep(seed), random_images((4,), 10, seed)
        labels = model(images).argmax(1)
        network = BoundedNetwork(model, images)
        right = certified_radius(network, images, labels, method="crown-ibp").radius
        with monkeypatch.context() as patch:
            patch.setattr(relu, "lines", unsound)
            wrong = certified_radius(network, images, labels, method="crown-ibp").radius
            result = audit(network, images, labels, wrong, method="crown-ibp", **FEW)
        broken += result.broken
        exceeded += int((result.failures & (result.margin > 0) & (result.bound > result.margin)).sum())
        assert audit(network, images, labels, right, method="crown-ibp", **FEW).broken == 0
    assert broken >= 5
    assert exceeded >= 1


def test_a_region_that_is_too_small_is_found_out(monkeypatch, mlp, digits):
    """A dual norm that is wrong by a factor of 3, as stock auto_LiRPA's can be: the radii are three times too large."""
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    honest = Ball.least
    monkeypatch.setattr(Ball, "least", lambda self, A: honest(self.with_epsilon(self.epsilon / 3), A))
    radius = certified_radius(network, images, labels, "l2", method="affine").radius
    result = audit(network, images, labels, radius, "l2", method="affine", **FEW)
    assert result.broken >= 0.7 * (radius > 0).sum()
    assert verified(network, images, labels, radius.float() * 0.999, "l2", method="affine").sum() >= 8


def test_a_network_that_is_not_finite_fails(mlp, digits):
    images, labels = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].bias[3] = torch.nan
    result = audit(BoundedNetwork(model, images), images, labels, torch.full((12,), 0.01), **FEW)
    assert result.broken == 12


def test_nothing_certified_is_nothing_to_check(mlp, digits):
    images, labels = digits
    result = audit(BoundedNetwork(mlp, images), images, labels, torch.zeros(12), **FEW)
    assert result.broken == 0
    assert not result.checked.any()


def test_a_certificate_for_another_label_fails(mlp, digits):
    images, labels = digits
    radius = certified_radius(BoundedNetwork(mlp, images), images, labels, method="affine").radius
    result = audit(BoundedNetwork(mlp, images), images, (labels + 1) % 10, radius, method="affine", **FEW)
    assert result.broken == (radius > 0).sum()


def test_batches_progress_and_repetition(mlp, digits):
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    radius = torch.full((12,), 0.02)
    radius[3] = 0
    done: list[int] = []
    first = audit(network, images, labels, radius, method="affine", batch_size=4, progress=done.append, **FEW)
    assert done == [4, 8, 11]
    again = audit(network, images, labels, radius, method="affine", batch_size=4, **FEW)
    assert torch.equal(first.margin, again.margin)
    assert torch.equal(first.bound, again.bound)
    other = audit(network, images, labels, radius, method="affine", batch_size=32, **FEW)
    torch.testing.assert_close(first.bound, other.bound, rtol=1e-9, atol=1e-12)


def test_frozen_statistics_come_along():
    """In training mode the audit attacks the network of the clean batch, not another one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).train()
    images = random_images((1, 4, 4), 8).float()
    network = BoundedNetwork(model, images)
    labels = network.freeze(images).argmax(1)
    radius = certified_radius(network, images, labels, method="affine").radius
    assert (radius > 0).all()
    assert audit(network, images, labels, radius, method="affine", **FEW).broken == 0


@pytest.mark.parametrize("radius", [torch.nan, torch.inf, -0.1])
def test_radii_that_are_none_are_refused(radius, mlp, digits):
    network, (images, labels) = BoundedNetwork(mlp, digits[0][:1]), (part[:1] for part in digits)
    with pytest.raises(InputError, match="finite and not negative"):
        audit(network, images, labels, torch.tensor([radius]))

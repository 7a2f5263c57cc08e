"""Certified radii: exact where they can be, below every attack, and 0 wherever nothing is proven."""

import copy
import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

import verify.certify.search
import verify.certify.trials
from tests.levels import level
from tests.verify.helpers import FAST, random_images, randomise
from tests.verify.networks import classifier, closed_form
from verify import (
    DOMAINS,
    METHODS,
    NORMS,
    BoundedNetwork,
    InputError,
    attack_radius,
    audit,
    certified_radius,
    verified,
)
from verify.certify.radius import images_at_once
from verify.certify.search import Narrowed
from verify.propagation.affine import row_size
from verify.propagation.batches import CACHED
from verify.propagation.methods import METHODS as METHOD_RECORDS
from verify.regions import largest_epsilon

FORWARD = ("ibp", "block")
CROWN = [method for method in METHODS if method not in FORWARD]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_linear_classifier_has_its_exact_radius(norm, method):
    model, images, labels = classifier(0)
    exact = closed_form(model, images, labels, norm)
    assert exact.min() > 1e-4
    found = certified_radius(BoundedNetwork(model, images), images, labels, norm, "free", method, tolerance=0.01)
    assert (found.radius <= exact * (1 + 1e-9)).all()
    if norm == "linf" or method not in FORWARD:
        assert (found.radius >= exact.clamp(max=largest_epsilon(norm, images[0].shape)) * 0.985).all()
    assert found.status == ["certified"] * 8
    assert (found.norm, found.domain, found.method) == (norm, "free", method)


@pytest.mark.parametrize("tolerance", [0.3, 0.05, 1e-3])
def test_the_tolerance_is_kept(tolerance):
    model, images, labels = classifier(1)
    exact = closed_form(model, images, labels, "l2")
    found = certified_radius(BoundedNetwork(model, images), images, labels, "l2", "free", tolerance=tolerance)
    assert (found.radius <= exact).all()
    assert (found.radius * (1 + tolerance) >= exact * 0.999).all()


def test_a_network_in_single_precision_is_confirmed_in_double():
    """Radii never exceed the exact ones of the stored weights, although float32 cannot tell them apart."""
    for seed in range(3):
        model, images, labels = classifier(seed)
        model, images = model.float(), images.float()
        exact = closed_form(copy.deepcopy(model).double(), images.double(), labels, "linf")
        found = certified_radius(BoundedNetwork(model, images), images, labels, domain="free", tolerance=1e-5)
        assert found.radius.dtype == torch.float64
        assert (found.radius <= exact).all()
        assert (found.radius >= exact * 0.998).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_no_radius_exceeds_an_attack(kind, norm, domain, digits, request):
    """On trained networks, every method; misclassified images have radius 0 and say so."""
    model, (images, labels) = request.getfixturevalue(kind), digits
    network = BoundedNetwork(model, images)
    attacked = attack_radius(network, images, labels, norm, domain)
    correct = model(images).argmax(1) == labels
    assert 8 <= correct.sum() <= 12
    assert ((attacked > 0) == correct).all()
    share = {}
    for method in level(FAST, METHODS) if kind == "mlp" else ("ibp", "affine"):
        found = certified_radius(network, images, labels, norm, domain, method)
        assert (found.radius <= attacked).all(), method
        assert ((found.radius > 0) == correct).all()
        assert found.status == ["certified" if right else "misclassified" for right in correct]
        assert ((found.evaluations > 0) == correct).all()
        share[method] = (found.radius / attacked)[correct].median().item()
    assert share["affine"] > 2 * share["ibp"] if kind == "convnet" else share["affine"] > 1.2 * share["ibp"]
    assert share["affine"] > 0.2


@pytest.mark.parametrize("method", METHODS)
def test_each_certificate_is_one_that_bounds_repeat(method):
    """The radius is one at which bounds, computed anew, prove the label: CROWN can be looser in a smaller ball."""
    for seed in range(level(1, 6)):
        layers = [layer for _ in range(3) for layer in (nn.Linear(6, 6), nn.ReLU())]
        model = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), *layers, nn.Linear(6, 3)), seed)
        images = random_images((4,), 6, seed)
        labels = model(images).argmax(1)
        network = BoundedNetwork(model, images)
        found = certified_radius(network, images, labels, "l2", method=method)
        proven = verified(network.double(), images, labels, found.radius, "l2", method=method)
        assert (proven | (found.radius == 0)).all()
        assert (found.radius > 0).sum() >= 5


def test_the_unit_domain_is_worth_something():
    """A pixel at 1 cannot rise: what only such pixels could do wrong is never wrong."""
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.5], [1.0, 0.0]]))
    images, labels = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([0])
    network = BoundedNetwork(model, images)
    for norm, free, unit in (("linf", 1 / 3, 1 / 3), ("l2", 1 / 5**0.5, 1 / 5**0.5), ("l1", 0.5, 0.5)):
        for domain, exact in (("free", free), ("unit", unit)):
            radius = certified_radius(network, images, labels, norm, domain, tolerance=1e-3).radius.item()
            assert exact * 0.998 <= radius <= exact
    held = torch.tensor([[0.0, 0.0]], dtype=torch.float64)  # nothing can fall; only the rival's pixel can rise
    model.bias = None
    shifted = nn.Sequential(model, _Shift()).double()
    bounded = BoundedNetwork(shifted, held)
    for norm in NORMS:
        free, unit = (
            certified_radius(bounded, held, labels, norm, domain, tolerance=1e-3).radius.item() for domain in DOMAINS[::-1]
        )
        assert unit > free * 1.05 or norm == "l1"
        assert unit == pytest.approx(0.3, rel=2e-3)


class _Shift(nn.Module):
    """Makes class 0 the winner at the origin, by 0.3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tensor([0.3, 0.0], dtype=x.dtype)


def test_a_network_that_never_errs_is_certified_to_the_ceiling():
    """A constant prediction: up to the radius beyond which nothing changes, or the ceiling that is given."""
    model = randomise(nn.Linear(4, 3))
    with torch.no_grad():
        model.weight.mul_(1e-6)
        model.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    images, labels = random_images((4,)), torch.zeros(3, dtype=torch.long)
    network = BoundedNetwork(model, images)
    for norm in NORMS:
        found = certified_radius(network, images, labels, norm, tolerance=0.05)
        largest = largest_epsilon(norm, images[0].shape)
        assert (found.radius >= largest / 1.06).all()
        assert (found.radius <= largest).all()


def test_the_ceiling_bounds_the_radius_and_saves_work():
    model, images, labels = classifier(2)
    network = BoundedNetwork(model, images)
    exact = closed_form(model, images, labels, "linf")
    free = certified_radius(network, images, labels, domain="free")
    ceiling = torch.where(torch.arange(8) < 4, exact / 3, torch.full_like(exact, torch.inf))
    limited = certified_radius(network, images, labels, domain="free", ceiling=ceiling)
    assert (limited.radius <= ceiling).all()
    assert (limited.radius[:4] >= ceiling[:4] / 1.06).all()
    torch.testing.assert_close(limited.radius[4:], free.radius[4:], rtol=0.06, atol=0)
    zero = certified_radius(network, images, labels, ceiling=torch.zeros(8))
    assert (zero.radius == 0).all()
    assert (zero.evaluations == 0).all()


def test_batches_and_progress():
    """The result does not depend on what is bounded together, up to rounding in float32; progress counts images."""
    model, images, labels = classifier(3)
    network = BoundedNetwork(model, images)
    whole = certified_radius(network, images, labels)
    done: list[int] = []
    parts = certified_radius(network, images, labels, batch_size=3, progress=done.append)
    torch.testing.assert_close(parts.radius, whole.radius, rtol=1e-5, atol=0)
    assert done == [3, 6, 8]
    assert parts.seconds.shape == (8,)
    assert (parts.seconds > 0).all()


def test_misclassified_images_cost_nothing():
    model, images, labels = classifier(4)
    wrong = (labels + 1) % 4
    found = certified_radius(BoundedNetwork(model, images), images, wrong)
    assert (found.radius == 0).all()
    assert found.status == ["misclassified"] * 8
    assert (found.evaluations == 0).all()


def test_a_tie_is_not_correct():
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.fill_(0)
    images = random_images((2,))
    for label in (0, 1):
        found = certified_radius(BoundedNetwork(model, images), images, torch.full((3,), label))
        assert (found.radius == 0).all()
        assert found.status == ["misclassified"] * 3


# Nothing not finite is ever certified


def network_with(change: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network in float32 that classifies all images as 0 by far, but for what was done to it."""
    model = randomise(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))).float()
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
        first, last = model[0], model[2]
        {
            "NaN weight": lambda: first.weight[0].fill_(torch.nan),
            "NaN first bias": lambda: first.bias[:1].fill_(torch.nan),
            "NaN last bias of a rival": lambda: last.bias[2:].fill_(torch.nan),
            "NaN last bias of the label": lambda: last.bias[:1].fill_(torch.nan),
            "infinite bias of the label": lambda: last.bias[:1].fill_(torch.inf),
            "infinite weights": lambda: first.weight.fill_(torch.inf),
            "negative infinite bias of the rivals": lambda: last.bias[1:].fill_(-torch.inf),
            "overflowing weights": lambda: (first.weight.fill_(1e200), last.weight.fill_(1e200)),
        }[change]()
    return model, random_images((4,)).float(), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    "change",
    [
        "NaN weight", "NaN first bias", "NaN last bias of a rival", "NaN last bias of the label",
        "infinite bias of the label", "infinite weights", "negative infinite bias of the rivals",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", level(FAST, METHODS))
def test_what_is_not_finite_is_never_certified(change, method):
    """A NaN bias in particular must not become 0: the network without it is certified at once."""
    model, images, labels = network_with(change)
    network = BoundedNetwork(model, images)
    found = certified_radius(network, images, labels, method=method)
    assert (found.radius == 0).all()
    assert found.status == ["overflow"] * 3
    for epsilon in (0.0, 1e-6, 0.1):
        assert not verified(network, images, labels, epsilon, method=method).any()
        assert not verified(network.double(), images.double(), labels, epsilon, method=method).any()


@pytest.mark.parametrize("method", METHODS)
def test_overflow_is_never_certified(method):
    """Weights of 1e200, in float64: intervals overflow, and so does the clean output."""
    model, images, labels = network_with("NaN weight")
    with torch.no_grad():
        model.double()[0].weight.fill_(1e200)
        model[2].weight.fill_(1e200)
        model[2].weight[0].mul_(2)
    found = certified_radius(BoundedNetwork(model, images.double()), images.double(), labels, method=method)
    assert (found.radius == 0).all()
    assert found.status == ["overflow"] * 3


@pytest.mark.parametrize("method", METHODS)
def test_without_the_defect_it_is_certified(method):
    model, images, labels = network_with("NaN last bias of a rival")
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
    found = certified_radius(BoundedNetwork(model, images), images, labels, method=method)
    assert (found.radius > 0.05).all()


# Arguments


@pytest.mark.parametrize("tolerance", [0.0, -1.0, torch.nan, 1e-17])  # the last would never end
def test_a_bad_tolerance_is_refused(tolerance):
    model, images, labels = classifier(0)
    with pytest.raises(InputError, match="tolerance must be at least 1e-06"):
        certified_radius(BoundedNetwork(model, images), images, labels, tolerance=tolerance)


@pytest.mark.parametrize("arguments", [{"norm": "l0"}, {"domain": "cube"}, {"method": "magic"}, {"batch_size": 0}])
def test_bad_arguments_are_refused(arguments):
    model, images, labels = classifier(0)
    with pytest.raises(InputError):
        certified_radius(BoundedNetwork(model, images), images, labels, **arguments)


@pytest.mark.parametrize(
    "prove", [certified_radius, partial(verified, epsilon=0.01), partial(audit, radius=torch.ones(3))]
)
def test_classes_that_the_network_does_not_know_are_refused(prove):
    model, images, labels = classifier(0)
    network = BoundedNetwork(model, images)
    with pytest.raises(InputError, match="^labels must be 0 to 3, the network's classes$"):
        prove(network, images[:3], labels[:3] + 3)


def test_images_outside_the_unit_box_are_refused():
    model, images, labels = classifier(0)
    with pytest.raises(InputError, match="unit domain needs images"):
        certified_radius(BoundedNetwork(model, images), images * 3, labels)


# Verified accuracy at a radius


def test_verified_at_given_radii():
    model, images, labels = classifier(5)
    network, exact = BoundedNetwork(model, images), closed_form(model, images, labels, "l2")
    assert verified(network, images, labels, exact * 0.999, "l2", "free").all()
    assert not verified(network, images, labels, exact * 1.001, "l2", "free").any()
    middle = exact.median().item()
    assert torch.equal(verified(network, images, labels, middle * (1 + 1e-9), "l2", "free"), exact > middle * (1 + 1e-9))
    assert not verified(network, images, (labels + 1) % 4, 0.0).any()



def test_a_second_search_in_float64_keeps_the_images_of_a_batch_apart(mlp, digits, monkeypatch):
    """Bounds in float32 that claim too much, so that nothing is confirmed; the second search starts from nothing."""
    images, labels = digits
    network, bounds = BoundedNetwork(mlp, images), BoundedNetwork.bounds

    def boastful(self, *args, **kwargs):
        found, double = bounds(self, *args, **kwargs), self.example.dtype == torch.float64
        return found if double else dataclasses.replace(found, lower=1 + found.lower.abs())

    within_of, empty = verify.certify.trials.Trials.within, []

    def watched(self, index, trial):
        within = within_of(self, index, trial)
        empty.extend((low == high).flatten(1).all(1).any().item() for low, high in within.values())
        return within

    monkeypatch.setattr(BoundedNetwork, "bounds", boastful)
    monkeypatch.setattr(verify.certify.trials.Trials, "within", watched)
    together = certified_radius(network, images, labels, method="crown")
    assert (together.radius > 0).sum() >= 8
    assert empty and not any(empty)  # no image has intervals that were never computed


@pytest.mark.parametrize("method", ["affine", "crown"])
@pytest.mark.parametrize("factor", [0.8, 1.15, 1.5])
def test_a_proof_mends_what_the_search_expected(mlp, digits, factor, method, monkeypatch):
    """Whether it is left too small a radius or one that is too large, it ends within the tolerance."""
    images, labels = digits
    network, narrow = BoundedNetwork(mlp, images), verify.certify.search.narrow
    plain = certified_radius(network, images, labels, method=method)

    def wrong(*args):
        proven, aim, late = narrow(*args)
        return Narrowed(proven * factor if factor < 1 else proven, aim * factor, late)

    monkeypatch.setattr(verify.certify.search, "narrow", wrong)
    found = certified_radius(network, images, labels, method=method)
    torch.testing.assert_close(found.radius, plain.radius, rtol=0.05, atol=0)
    proven = verified(network.double(), images.double(), labels, found.radius, method=method)
    assert proven[found.radius > 0].all()


def test_the_last_trial_is_the_proof(mlp, digits, monkeypatch):
    """Float64 tries where the bounds are expected to fail, a little below, and not what float32 has tried."""
    images, labels = digits
    network, bounds = BoundedNetwork(mlp, images), BoundedNetwork.bounds
    tried: dict[torch.dtype, list[float]] = {torch.float32: [], torch.float64: []}

    def noted(self, x, **options):
        tried[self.example.dtype] += x.epsilon.tolist()
        return bounds(self, x, **options)

    monkeypatch.setattr(BoundedNetwork, "bounds", noted)
    found = certified_radius(network, images, labels, method="affine", tolerance=0.1)
    proven = found.radius[found.radius > 0].tolist()
    assert set(proven) <= set(tried[torch.float64])
    assert len(set(proven) & set(tried[torch.float32])) < len(proven) / 2
    assert len(tried[torch.float64]) <= 1.2 * len(proven)


# Time


def test_auto_is_no_worse_than_what_it_climbs_over(mlp, digits):
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    for tolerance in (0.05, 0.001):
        crown, auto, alpha = (
            certified_radius(network, images, labels, method=method, tolerance=tolerance).radius
            for method in ("crown", "auto", "alpha-crown")
        )
        assert (auto >= crown * (1 - tolerance)).all()
    assert auto.sum() > crown.sum()
    torch.testing.assert_close(auto, alpha, rtol=tolerance, atol=0)


@pytest.mark.parametrize(("tolerance", "last"), [(0.3, "affine"), (0.05, "crown"), (0.001, "alpha-crown")])
def test_auto_leaves_out_what_gains_less_than_the_tolerance(mlp, digits, tolerance, last, monkeypatch):
    used = set()
    bounds = BoundedNetwork.bounds

    def noted(self, *args, method, **options):
        used.add(method)
        return bounds(self, *args, method=method, **options)

    monkeypatch.setattr(BoundedNetwork, "bounds", noted)
    images, labels = digits
    certified_radius(BoundedNetwork(mlp, images), images, labels, method="auto", tolerance=tolerance)
    methods = ("affine", "crown", "alpha-crown")
    assert used == set(methods[: methods.index(last) + 1])


@pytest.mark.parametrize("method", ["affine", "alpha-crown"])
def test_when_the_time_is_up_the_best_radius_so_far_counts(mlp, digits, method):
    """The first evaluation is always made, and what it found is proven."""
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    found = certified_radius(network, images, labels, method=method, tolerance=1e-4, time_limit=1e-9)
    correct = mlp(images).argmax(1) == labels
    assert found.status == ["timeout" if right else "misclassified" for right in correct]
    assert ((found.radius > 0) == correct).all()
    assert verified(network.double(), images.double(), labels, found.radius, method="affine")[correct].all()
    whole = certified_radius(network, images, labels, method=method, tolerance=1e-4)
    assert (whole.radius >= found.radius).all()
    assert (whole.evaluations > found.evaluations)[correct].all()


def test_a_large_tolerance_climbs_as_well(mlp, digits):
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    coarse = {m: certified_radius(network, images, labels, method=m, tolerance=0.2).radius for m in ("affine", "crown")}
    assert coarse["crown"].sum() > coarse["affine"].sum()


def test_auto_that_ran_out_of_time_for_more_is_no_timeout(mlp, digits, monkeypatch):
    dear = {**METHOD_RECORDS, "crown": dataclasses.replace(METHOD_RECORDS["crown"], cost=1e9)}
    monkeypatch.setattr(verify.certify.search, "METHODS", dear)
    images, labels = digits
    network = BoundedNetwork(mlp, images)
    found = certified_radius(network, images, labels, method="auto")
    assert "timeout" not in found.status
    below = certified_radius(network, images, labels, method="affine")
    torch.testing.assert_close(found.radius, below.radius, rtol=0.05, atol=0)


@pytest.mark.parametrize("limit", [0.0, -1.0, torch.nan])
def test_a_bad_time_limit_is_refused(limit):
    model, images, labels = classifier(0)
    with pytest.raises(InputError, match="time_limit must be positive"):
        certified_radius(BoundedNetwork(model, images), images, labels, time_limit=limit)


def test_images_share_the_memory_with_room_for_the_errors_of_each(monkeypatch):
    """4 pixels and 120 neurons, a quarter of them unstable: 34 rows an image."""
    layers = (nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 3))
    model, images = randomise(nn.Sequential(*layers), 1), random_images((4,), 1, 2)
    graph = BoundedNetwork(model, images).graph
    row = row_size([node for node in graph.nodes if node.from_input], 8)
    for memory, expected in ((33 * row, 1), (67 * row, 1), (69 * row, 2), (341 * row, 10)):
        assert images_at_once(BoundedNetwork(model, images, memory), "affine") == expected
    network = BoundedNetwork(model, images, 341 * row)
    monkeypatch.setitem(CACHED, "cpu", 69 * row)
    assert [images_at_once(network, method) for method in ("affine", "crown", "auto")] == [2, 2, 2]
    assert [images_at_once(network, method) for method in ("ibp", "crown-ibp")] == [113, 113]  # 3 rows, for 3 classes

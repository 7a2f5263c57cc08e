"""Attacks against linear networks: what they find is known in closed form."""

import csv
import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

from robust_nas.attacks import ATTACKS, Threat, evaluate, under_attack
from robust_nas.attacks.base import Counted
from robust_nas.attacks.carlini_wagner import CarliniWagner
from robust_nas.attacks.choosing import choose
from robust_nas.attacks.gradient import FastGradient, ProjectedGradient
from robust_nas.attacks.outcomes import Attacked, Outcome, read_rows
from robust_nas.attacks.radii import smallest_perturbations
from robust_nas.registry import DATASETS
from tests.robust_nas.attacks.helpers import Linear, attacked_by, interior_images, outcome, target_of
from verify.checks.errors import InputError

DUAL = {"linf": 1, "l2": 2}


@pytest.fixture
def network():
    return Linear()


@pytest.fixture
def images(network):
    """Not so near the boundary that an attack, which begins far off, has no time to come as near."""
    candidates = interior_images(60)
    return candidates[distances(network, candidates, "linf") > 0.004][:12]


def distances(network, images, norm):
    """Of the images from the boundary: |w.x + b| / ||w||_q."""
    return (network.score(images).abs() / network.w.norm(DUAL[norm])).detach()


def run(network, attack, threat, images, **options):
    return evaluate(target_of(network, images, **options), attack, threat, seed=0)


def perturb(network, attack, threat, images, labels):
    with under_attack(network):
        (stage,) = attack.stages(network, threat, 2, 0).values()
        return stage(images, labels)


def test_fgsm_steps_against_the_sign_of_the_weights(network, images):
    labels = network(images).argmax(1)
    away = torch.where(labels == 1, -1.0, 1.0).view(-1, 1, 1, 1) * network.w.detach().sign().view(1, 1, 4, 4)
    found = perturb(network, FastGradient(), Threat("linf", 0.02), images, labels)
    torch.testing.assert_close(found, images + 0.02 * away, rtol=0, atol=1e-6)


def test_fgsm_in_l2_steps_against_the_weights(network, images):
    labels = network(images).argmax(1)
    unit = (network.w / network.w.norm()).detach().view(1, 1, 4, 4)
    away = torch.where(labels == 1, -1.0, 1.0).view(-1, 1, 1, 1) * unit
    found = perturb(network, FastGradient(), Threat("l2", 0.05), images, labels)
    torch.testing.assert_close(found, images + 0.05 * away, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attack", [FastGradient(), ProjectedGradient(10), ProjectedGradient(100)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_succeeds_just_where_epsilon_reaches_the_boundary(network, images, attack, norm):
    wanted = distances(network, images, norm)
    threat = Threat(norm, wanted.median().item() * 1.0001)
    outcomes = run(network, attack, threat, images)
    clear = (wanted / threat.epsilon - 1).abs() > 0.02  # PGD in l2 comes within this of the best direction
    assert clear.sum() >= len(images) - 3
    for found, distance, decided in zip(outcomes, wanted.tolist(), clear.tolist(), strict=True):
        if decided:
            assert found.success == (distance < threat.epsilon)
        if found.success:
            assert distance * (1 - 1e-5) <= found.distance <= threat.epsilon + 1e-5
    assert 0 < sum(found.success for found in outcomes) < len(images)


@pytest.mark.parametrize(("searches", "slack"), [(1, 1.8), (6, 1.1)])
def test_cw_finds_the_smallest_perturbation(network, images, searches, slack):
    """With its plain c = 1 it comes near; a search over c, given time, comes nearer."""
    wanted = distances(network, images, "l2")
    attack = CarliniWagner(searches=searches, steps=60 if searches == 1 else 300)
    found = torch.tensor([each.distance for each in run(network, attack, Threat("l2", 1.0), images)])
    assert (found >= wanted * (1 - 1e-4)).all()
    assert (found <= wanted * slack).all()


def test_cw_that_finds_nothing_gives_the_image_back(network, images):
    """And not foolbox's mark for that, a black image, which may well be of another class."""
    labels = network(images).argmax(1)
    found = perturb(network, CarliniWagner(step_size=1e-9), Threat("l2", 10.0), images, labels)
    assert torch.equal(found, images)


def test_cw_counts_what_lies_within_epsilon(network, images):
    free = run(network, ATTACKS["cw"], Threat("l2", 10.0), images)
    epsilon = sorted(each.distance for each in free)[5] + 1e-4
    held = run(network, ATTACKS["cw"], Threat("l2", epsilon), images)
    assert [each.success for each in held] == [each.distance <= epsilon for each in free]
    assert [each.distance for each in held] == [each.distance if each.distance <= epsilon else math.inf for each in free]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_smallest_perturbations_are_the_distances_from_the_boundary(network, images, norm):
    wanted = distances(network, images, norm).tolist()
    radii = smallest_perturbations(target_of(network, images, batch_size=5), norm, seed=0)
    assert [each.index for each in radii] == list(range(len(images)))
    for found, distance in zip(radii, wanted, strict=True):
        assert distance * (1 - 1e-5) <= found.radius <= distance * 1.03
        assert found.radius == min(found.pgd, found.ddn)
        assert math.isinf(found.ddn) == (norm == "linf")


def test_images_that_are_wrong_before_are_not_attacked(network, images):
    labels = network(images).argmax(1)
    labels[:3] = 1 - labels[:3]
    target = target_of(network, images, labels)
    outcomes = evaluate(target, ATTACKS["pgd-10"], Threat("linf", 1e-6), seed=0)
    assert [(each.correct, each.success, each.distance, each.queries) for each in outcomes[:3]] == [
        (False, True, 0.0, 0.0)
    ] * 3
    assert all(each.correct and not each.success and math.isinf(each.distance) for each in outcomes[3:])
    assert [each.radius for each in smallest_perturbations(target, "l2", seed=0)[:3]] == [0.0] * 3


def test_a_network_that_is_never_right_is_not_attacked(network, images):
    labels = 1 - network(images).argmax(1)
    assert all(not each.correct and each.success for each in run(network, ATTACKS["cw"], Threat("l2", 1.0), images, labels=labels))


@pytest.mark.parametrize("name", ["fgsm", "pgd-20", "cw"])
def test_batches_and_what_ran_before_do_not_matter(network, images, name):
    """PGD's random start is drawn batch by batch, so for it only the run before counts."""
    attack = ATTACKS[name]
    threat = Threat("l2" if name == "cw" else "linf", 0.03)
    first = run(network, attack, threat, images)
    torch.rand(7)
    again = run(network, attack, threat, images, batch_size=128 if name == "pgd-20" else 5)
    assert [each.distance for each in first] == pytest.approx([each.distance for each in again], rel=1e-5)


def test_queries_are_the_images_passed_forward(network, images):
    for name, queries in (("fgsm", 1), ("pgd-10", 10), ("pgd-100", 100)):
        outcomes = run(network, ATTACKS[name], Threat("linf", 0.01), images, batch_size=5)
        assert [each.queries for each in outcomes] == [queries] * len(images), name


def test_a_counted_network_counts_images_and_changes_nothing(network, images):
    counted = Counted(network)
    torch.testing.assert_close(counted(images[:5]), network(images[:5]), rtol=0, atol=0)
    counted(images)
    assert counted.images == 5 + len(images)


def test_a_success_that_is_too_far_is_none(network, images):
    target = target_of(network, images)
    other_side = images - 3 * (network.score(images) / network.w.norm() ** 2).detach().view(-1, 1, 1, 1) * network.w.detach().view(1, 1, 4, 4)
    size = (other_side - images).double().flatten(1).norm(dim=1)
    labels = target.examples.labels
    assert target.distance(images, labels, other_side, Threat("l2", 10.0)).tolist() == pytest.approx(size.tolist())
    assert target.distance(images, labels, other_side, Threat("l2", size.min().item() / 2)).isinf().all()
    assert target.distance(images, labels, images, Threat("l2", 10.0)).isinf().all()


class Coarse(nn.Module):
    """Logits 1e9 and 1e9 + 100 x: float32 has steps of 64 there, so that 20 more is no more."""

    def forward(self, x):
        score = 100 * x.flatten(1).sum(1)
        return torch.stack([torch.full_like(score, 1e9), 1e9 + score], 1)


def test_what_only_rounding_changes_is_no_success():
    image, found = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.2)
    target = target_of(Coarse(), image)
    assert target.predicted.tolist() == [1]
    assert target.network(found).argmax(1).tolist() == [0]
    assert target.distance(image, torch.tensor([1]), found, Threat("linf", 1.0)).tolist() == [math.inf]


def test_under_attack_leaves_a_network_as_it_was():
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3))
    network[1].eval()
    network[0].bias.requires_grad_(False)
    with under_attack(network) as was_training:
        assert was_training
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False, True, True]
    with under_attack(network.eval()) as was_training:
        assert not was_training


def test_accuracy_after_each_part():
    rows = [
        outcome(correct=False, success=True),
        outcome(success=True, by="apgd-ce"),
        outcome(success=True, by="fab-t"),
        outcome(),
    ]
    attacked = Attacked(ATTACKS["autoattack"], Threat("linf", 0.1), rows)
    assert attacked.accuracy_after == {"apgd-ce": 0.5, "apgd-t": 0.5, "fab-t": 0.25, "square": 0.25}
    assert attacked.accuracy == 0.25
    assert attacked_by(ATTACKS["fgsm"], 30).accuracy == 0.7


def test_every_data_set_has_epsilons():
    assert all(data.attacks and set(data.trainings) == {"adversarial", "certified", "tangent"} for data in DATASETS.values())


def test_by_default_every_attack_runs_as_in_the_paper():
    chosen = [(attack.name, threat.norm, threat.epsilon) for attack, threat in choose(None, None, None, "mnist")]
    assert list(dict.fromkeys(name for name, _, _ in chosen)) == list(ATTACKS)
    assert chosen[:7] == [
        ("fgsm", "linf", 2 / 255),
        ("pgd-10", "linf", 0.3),
        ("pgd-20", "linf", 0.3),
        ("pgd-100", "linf", 0.3),
        ("cw", "l2", 1.0),
        ("autoattack", "linf", 0.3),
        ("autoattack", "l2", 1.0),
    ]
    for norm in ("linf", "l2"):
        knowing = [name for name, attack in ATTACKS.items() if norm in attack.norms]
        assert [attack.name for attack, _ in choose(None, norm, 0.1, "mnist")] == knowing
    assert ATTACKS["cw"].norms == ("l2",)


def test_pgd_comes_as_far_as_a_given_epsilon():
    """The paper's step is for the paper's epsilons."""
    for norm, epsilon in (("linf", 0.2), ("l2", 3.0)):
        for attack, threat in choose(["pgd-10", "pgd-20", "pgd-100"], norm, epsilon, "mnist"):
            assert attack.reach(threat) == pytest.approx(2.5 * epsilon)
    ((attack, threat),) = choose(["pgd-10"], None, None, "cifar10")
    assert attack.step_in(threat) == 2 / 255


def test_pgd_is_the_strongest_and_runs_once():
    assert [(attack.name, threat.epsilon) for attack, threat in choose(["pgd", "pgd-100"], None, None, "cifar10")] == [
        ("pgd-100", 8 / 255)
    ]


@pytest.mark.parametrize(
    ("names", "norm", "epsilon", "line"),
    [
        (["deepfool"], None, None, "unknown attack 'deepfool'; known: fgsm, pgd-10"),
        ([], None, None, "no attack is named"),
        (["cw"], "linf", None, "cw is an l2 attack; leave out --norm linf, or cw"),
        (["fgsm", "cw"], None, 0.1, "--epsilon is one number, and these attacks are of two norms"),
        (["autoattack"], None, 0.1, "--epsilon is one number, and these attacks are of two norms"),
        (["fgsm"], "linf", 0.0, "epsilon must be above 0, not 0.0"),
        (["fgsm"], "linf", math.nan, "epsilon must be above 0, not nan"),
        (["fgsm"], "linf", 1e300, "epsilon must be at most 1e.06, not 1e.300"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(names, norm, epsilon, line):
    with pytest.raises(InputError, match=line):
        choose(names, norm, epsilon, "digits")


def test_rows_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "attacks.csv"
    rows = [outcome(distance=0.1 + 0.2, success=True, by="fgsm"), outcome(index=1, correct=False)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(map(asdict, rows))
    assert read_rows(path, Outcome) == rows
    assert read_rows(tmp_path / "none.csv", Outcome) == []
    path.write_text("index,label\n1,2\n")
    with pytest.raises(InputError, match="start again without --resume"):
        read_rows(path, Outcome)

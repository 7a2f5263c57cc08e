"""Every guard has a network that trips it and one that does not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_nas.attacks import Threat, evaluate
from robust_nas.attacks.autoattack import AutoAttack
from robust_nas.attacks.guards import (
    FEW_STEPS,
    MANY_STEPS,
    Finding,
    black_box_finding,
    check_images,
    check_network,
    gradient_finding,
    look_for_signs,
    steps_finding,
    sweep_finding,
    verdict,
)
from robust_nas.attacks.outcomes import Attacked
from robust_nas.attacks.sweep import sweep
from tests.robust_nas.attacks.helpers import Linear, Staircase, attacked_by, interior_images, target_of
from verify.checks.errors import InputError


def classifier(seed=0, scale=1.0):
    """Four classes, linear."""
    torch.manual_seed(seed)
    layer = nn.Linear(16, 4)
    layer.weight.data *= scale
    layer.bias.data *= scale
    return nn.Sequential(nn.Flatten(), layer)


class Then(nn.Module):
    """A network, and a function of its logits."""

    def __init__(self, function):
        super().__init__()
        self.network, self.function = classifier(), function

    def forward(self, x):
        return self.function(self.network(x))


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda logits: logits.softmax(1), "outputs are probabilities; attacks need logits"),
        (lambda logits: F.dropout(logits, 0.5, training=True), "two passes of the same images give different outputs"),
        (lambda logits: logits + 0.01 * torch.randn_like(logits), "two passes of the same images give different outputs"),
        (lambda logits: logits.argmax(1, keepdim=True).float(), "have no gradient"),
        (lambda logits: logits / 0.0, "hold NaN or infinity"),
    ],
)
def test_networks_that_attacks_cannot_judge_are_refused(function, line):
    with pytest.raises(InputError, match=line):
        check_network(Then(function).eval(), interior_images())


@pytest.mark.parametrize("function", [lambda logits: logits, torch.relu, lambda logits: logits.log_softmax(1)])
def test_networks_with_logits_pass(function):
    check_network(Then(function).eval(), interior_images())


def test_dropout_in_evaluation_mode_passes():
    check_network(nn.Sequential(classifier(), nn.Dropout()).eval(), interior_images())


@pytest.mark.parametrize(("images", "line"), [(2 * torch.rand(2, 1, 3, 3) - 1, "values from -"), (torch.full((1, 1, 2, 2), 255.0), "to 255")])
def test_images_outside_of_0_to_1_are_refused(images, line):
    with pytest.raises(InputError, match=line):
        check_images(images)


def test_images_from_0_to_1_pass():
    check_images(torch.tensor([0.0, 0.3, 1.0]).view(1, 1, 1, 3))


@pytest.mark.parametrize(
    ("network", "sign", "words"),
    [
        (classifier(), False, "exactly 0 for 0 and tiny (< 1e-08) for 0 of 12 images"),
        (Staircase(classifier(scale=30.0)), True, "exactly 0 for 12 and"),  # logits that are rounded
        (Linear(scale=1e6), True, "exactly 0 for"),  # logits so large that the softmax is 0 or 1
    ],
)
def test_a_loss_without_gradient_is_a_sign(network, sign, words):
    finding = gradient_finding(target_of(network, interior_images()))
    assert finding.sign == sign
    assert finding.words.startswith(words)


@pytest.mark.parametrize(("masked", "sign"), [(True, True), (False, False)])
def test_a_black_box_that_breaks_more_is_a_sign(masked, sign):
    """AutoAttack on a staircase: it has no gradient, so only Square finds a way."""
    network = classifier(scale=30.0)
    target = target_of(Staircase(network) if masked else network, interior_images(5))
    threat, attack = Threat("linf", 0.1), AutoAttack(200)
    finding = black_box_finding(Attacked(attack, threat, evaluate(target, attack, threat, seed=0)))
    assert finding.sign == sign
    assert finding.words.startswith("broke none") != sign


class Hidden(nn.Module):
    """Half of the square lies on the other side of a boundary; where the images are, nothing tells the way."""

    def forward(self, x):
        score = F.relu(x.flatten(1).mean(1) - 0.9) * 1e3
        return torch.stack([torch.ones_like(score), score], 1)


@pytest.mark.parametrize(("network", "sign"), [(Hidden(), True), (Linear(), False)])
def test_an_accuracy_that_does_not_fall_to_0_is_a_sign(network, sign):
    """A random start is never so bright on average, so PGD finds no gradient at any epsilon."""
    points = sweep(target_of(network, interior_images()), Threat("linf", 0.1), seed=0)
    epsilons, accuracies = [point.epsilon for point in points], [point.accuracy for point in points]
    assert epsilons == sorted(epsilons) and epsilons[0] == pytest.approx(0.05) and epsilons[-1] == 1.0
    assert accuracies == sorted(accuracies, reverse=True)
    finding = sweep_finding(points)
    assert finding.sign == sign
    assert f"accuracy {100 if sign else 0}.0% at epsilon 1," in finding.words


@pytest.mark.parametrize(("few", "many", "sign"), [(30, 32, False), (30, 60, True)])
def test_much_more_by_more_steps_is_a_sign(few, many, sign):
    finding = steps_finding(attacked_by(FEW_STEPS, few), attacked_by(MANY_STEPS, many))
    assert (finding.sign, finding.words) == (sign, f"accuracy falls by {many - few:.1f}%")


def test_steps_that_cannot_cross_the_ball_say_nothing():
    few, many = (attacked_by(attack, broken, epsilon=0.3) for attack, broken in ((FEW_STEPS, 30), (MANY_STEPS, 90)))
    finding = steps_finding(few, many)
    assert not finding.sign
    assert finding.words == "not compared: pgd-10 reaches 0.0784, not epsilon 0.3"


def test_a_verdict_names_its_signs():
    assert verdict([Finding("one", "fine"), Finding("two", "fine")]) == "no sign of masked gradients"
    assert verdict([]) == "not looked for"
    assert verdict([Finding("one", "fine"), Finding("two", "bad", True)]).startswith("gradients look masked (two)")


def test_every_guard_runs_that_has_what_it_needs():
    target = target_of(Linear(), interior_images())
    attacked = [attacked_by(FEW_STEPS, 3), attacked_by(MANY_STEPS, 3), attacked_by(AutoAttack(), 3, norm="l2", by="apgd-ce")]
    assert [finding.name for finding in look_for_signs(target, attacked, [])] == [
        "input gradients",
        "pgd-10 to pgd-100, linf",
        "Square, a black box, l2",
    ]
    assert [finding.name for finding in look_for_signs(target, attacked[:1], [])] == ["input gradients"]

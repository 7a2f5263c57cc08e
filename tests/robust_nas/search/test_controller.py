"""The controller against all architectures of a space so small that they can be listed."""

import itertools
import math

import pytest
import torch
from torch import nn

from robust_nas.search.controller import TANH, Controller, reinforce

OPERATIONS = 2
# One node: two of the inputs 0 and 1, two of two operations, in both cells.
ARCHITECTURES = torch.tensor(list(itertools.product(range(2), repeat=8))).view(-1, 2, 1, 2, 2)
WEIGHT = 0.3


@pytest.fixture
def controller():
    torch.manual_seed(0)
    controller = Controller(1, OPERATIONS).double()
    for parameter in controller.parameters():  # as it starts, all architectures are about equally likely
        nn.init.normal_(parameter, std=0.5)
    return controller


def gradient(loss, controller):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, controller.parameters())])


def test_probabilities_add_up_to_1(controller):
    probabilities = controller.score(ARCHITECTURES).log_probability.exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    assert probabilities.max() > 10 * probabilities.min()  # else the tests below show nothing


def test_entropies_are_on_average_that_of_the_architecture(controller):
    scores = controller.score(ARCHITECTURES)
    probabilities = scores.log_probability.exp()
    assert torch.allclose((probabilities * scores.entropy).sum(), -(probabilities * probabilities.log()).sum())


def test_samples_are_drawn_with_their_probabilities(controller):
    count = 5000
    drawn = controller.sample(count, torch.Generator().manual_seed(0))
    places = drawn.flatten(1) @ 2 ** torch.arange(7, -1, -1)
    probabilities = controller.score(ARCHITECTURES).log_probability.exp()
    expected = count * probabilities
    deviation = (torch.bincount(places, minlength=len(expected)) - expected) / (expected * (1 - probabilities)).sqrt()
    likely = expected > 5
    assert likely.sum() > 50
    assert deviation[likely].abs().max() < 4.5
    assert deviation[likely].square().mean().item() == pytest.approx(1, abs=0.35)


def test_a_generator_decides_what_is_drawn(controller):
    samples = [controller.sample(9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


def test_inputs_are_those_that_a_node_can_read():
    controller = Controller(3, 5)
    drawn = controller.sample(300, torch.Generator().manual_seed(0))
    assert drawn.shape == (300, 2, 3, 2, 2)
    assert drawn[..., 1, :].unique().tolist() == list(range(5))
    for node in range(3):
        assert drawn[:, :, node, 0].unique().tolist() == list(range(2 + node))
    assert torch.isfinite(controller.score(drawn).log_probability).all()


def test_no_choice_becomes_certain():
    controller = Controller(1, 5)
    for parameter in controller.parameters():
        nn.init.normal_(parameter, std=100)
    drawn = controller.sample(50, torch.Generator().manual_seed(0))
    most = math.log(1 / (1 + 4 * math.exp(-2 * TANH))) + math.log(1 / (1 + math.exp(-2 * TANH)))
    assert controller.score(drawn).log_probability.max() <= 4 * most + 1e-4


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_reinforce_is_unbiased(controller, baseline):
    """Its mean over all architectures is the gradient of the expected reward, entropy included."""
    rewards = torch.rand(len(ARCHITECTURES), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = controller.score(ARCHITECTURES)
    losses = reinforce(scores, rewards, torch.tensor(baseline).double(), WEIGHT)
    found = gradient((scores.log_probability.exp().detach() * losses).sum(), controller)
    probabilities = controller.score(ARCHITECTURES).log_probability.exp()
    entropy = -(probabilities * probabilities.log()).sum()
    expected = gradient(-(probabilities * rewards).sum() - WEIGHT * entropy, controller)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert expected.norm() > 1e-3


def test_a_baseline_changes_single_estimates(controller):
    """Else the test above could not tell it from none."""
    scores = controller.score(ARCHITECTURES[:1])
    losses = [reinforce(scores, torch.ones(1).double(), torch.tensor(b).double(), 0.0) for b in (0.0, 1.0)]
    assert losses[0] == -scores.log_probability and losses[1] == 0

"""SNAS: samples of the concrete distribution, one for both steps, and the price of operations."""

import math
from dataclasses import replace
from unittest import mock

import pytest
import torch
from scipy import stats

from robust_nas.distributed import Processes
from robust_nas.metrics import IntervalSlope
from robust_nas.search.bilevel import AlphaStep
from robust_nas.search.strategies.base import Strategy
from robust_nas.search.strategies.snas import PRICE, Stochastic, expected_cost, operation_costs, temperature
from robust_nas.spaces.cells import KINDS
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Supernet
from tests.robust_nas.search.helpers import TINY, small_data, step_at, tiny_search
from verify.bounds import BoundedNetwork

SHAPE = (1, 6, 6)


def supernet(nodes=1, cells=3, operations=None):
    torch.manual_seed(0)
    model = Supernet(1, 3, channels=4, cells=cells, nodes=nodes, mean=[0.3], std=[0.4], operations=operations).double()
    with torch.no_grad():
        for alpha in model.alphas.values():
            alpha.normal_()
    return model


def samples(alpha, done, names=PRIMITIVES):
    """2600 of the weights of an edge that has this alpha: of all edges in some steps."""
    model = supernet(10, 1, dict.fromkeys(KINDS, [names] * 65))
    strategy, step, found = Stochastic(), step_at(done=done), []
    for each in model.alphas.values():
        each.data.copy_(alpha.expand_as(each))
    for _ in range(20):
        with strategy.around_step(model, step):
            found += [model.mixture(kind)[0].detach() for kind in KINDS]
    return torch.cat(found)


@pytest.mark.parametrize("done", [0.0, 0.9])
def test_each_operation_is_the_largest_as_often_as_softmax_says(done):
    """Proposition 1 of Maddison et al. (ICLR 2017), at any temperature."""
    alpha = torch.linspace(-1.5, 1.0, 8).double()
    drawn = samples(alpha, done).argmax(1)
    found, expected = torch.bincount(drawn, minlength=8), len(drawn) * torch.softmax(alpha, 0)
    assert stats.chisquare(found.numpy(), expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize("done", [0.0, 0.6])
def test_of_two_operations_the_log_ratio_is_logistic(done):
    """The concrete distribution in closed form: T log(z1 / z2) - (alpha1 - alpha2) is standard logistic."""
    found = samples(torch.tensor([0.3, -0.5]).double(), done, ["max_pool_3x3", "sep_conv_3x3"])
    assert torch.allclose(found.sum(1), torch.ones(()).double())
    rest = (1 - 0.97 * done) * (found[:, 0].log() - found[:, 1].log()) - 0.8
    assert stats.kstest(rest.numpy(), "logistic").pvalue > 0.01


def test_the_temperature_falls_to_its_end():
    assert [temperature(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.515, 0.03])
    model = supernet()
    with Stochastic().around_step(model, step_at(done=0.5)):
        assert model.relaxation("reduce").temperature.item() == pytest.approx(0.515)


class Recorded(Stochastic):
    """Notes the noise of both steps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def around_alpha_step(self, model, step):
        self.seen.append({kind: model.relaxation(kind).noise.clone() for kind in model.alphas})
        return super().around_alpha_step(model, step)

    def around_weight_step(self, model, step, loss):
        self.seen.append({kind: model.relaxation(kind).noise.clone() for kind in model.alphas})
        return super().around_weight_step(model, step, loss)


def test_alpha_and_weights_step_with_one_sample_on_one_batch():
    strategy = Recorded()
    search = tiny_search(strategy=strategy, metric=IntervalSlope("linf"), gamma=1.0, watch_every=1)
    rows = list(search.steps())
    assert len(strategy.seen) == 2 * len(rows) == 8  # no image is held out
    for train, held_out in search._pairs(6):
        assert torch.equal(train.images, held_out.images)
    for row in rows:  # bounds of the sample have a gradient
        assert row["finite"] == 1
        assert 0 < row["robustness_gradient"] < math.inf
    for alphas, weights in zip(strategy.seen[::2], strategy.seen[1::2], strict=True):
        assert all(noise.any() and torch.equal(noise, weights[kind]) for kind, noise in alphas.items())
    assert not torch.equal(strategy.seen[0]["normal"], strategy.seen[2]["normal"])
    for kind in search.model.alphas:
        assert not search.model.relaxation(kind).noise.any()
        assert search.model.relaxation(kind).temperature == 1


def separable(channels, kernel):
    """Multiply-adds of a depthwise and a pointwise convolution, for one element of the output."""
    return kernel**2 * channels + channels**2


def test_costs_are_multiply_adds_by_hand():
    """Three cells: a normal one of 4 channels at 6x6, reductions to 8 at 3x3 and to 16 at 2x2."""
    costs = operation_costs(supernet(), SHAPE)
    shapes = {"normal": [(4, 36)], "reduce": [(8, 9), (16, 4)]}
    expected = {}
    for kind, cells in shapes.items():
        rows = [
            [0, 0, 0, c * c * (kind == "reduce"), *(n * separable(c, k) for n, k in [(2, 3), (2, 5), (1, 3), (1, 5)])]
            for c, _ in cells
        ]
        expected[kind] = sum(pixels * torch.tensor(row).double() for row, (_, pixels) in zip(rows, cells, strict=True))
    mean = torch.cat(list(expected.values())).mean()
    for kind, cost in costs.items():
        assert torch.allclose(cost, (expected[kind] / mean).expand(2, 8))


def test_gradient_of_the_penalty_is_the_closed_form():
    model = supernet()
    costs = operation_costs(model, SHAPE)
    expected_cost(model, costs).backward()
    for kind, alpha in model.alphas.items():
        p = alpha.detach().softmax(1)
        mean = (p * costs[kind]).sum(1, keepdim=True)
        assert torch.allclose(alpha.grad, PRICE * p * (costs[kind] - mean))


def test_where_only_the_price_decides_the_search_prefers_what_is_cheap():
    still = replace(TINY, cells=3, epochs=2, learning_rate=0.0, last_learning_rate=0.0, alpha_weight_decay=0.0)
    search = tiny_search(replace(still, alpha_learning_rate=1.0), strategy=Stochastic())
    with torch.no_grad():
        search.model.classifier.weight.zero_()  # the loss does not depend on alpha, nor ever will
    rows = list(search.steps())
    assert 0 < rows[-1]["penalty"] < 0.1 * rows[0]["penalty"]
    found = search.genotype()
    assert all("conv" not in name for name, _ in found.normal + found.reduce)
    assert {name for name, _ in found.reduce} <= {"max_pool_3x3", "avg_pool_3x3"}  # a skip that halves has a cost


def test_the_penalty_counts_once_however_many_processes_there_are():
    class Two(Processes):
        """What another process with an equal share would add."""

        def weight(self, own):
            return 0.5

        def total(self, figures):
            return [2 * figure for figure in figures]

        def add_up(self, tensors):
            return tuple(2 * tensor for tensor in tensors)

    model, batch = supernet(), small_data().train
    alphas = model.architecture_parameters()
    network = mock.create_autospec(BoundedNetwork, instance=True, model=model, example=batch.images[:2])
    network.freeze.return_value = 0 * alphas[0].sum() + torch.zeros(24, 3)
    steepest = torch.optim.SGD(alphas, lr=1.0)
    step = Stochastic().alpha_step(AlphaStep(network, steepest, None, 0.0, None, Two()))
    expected = torch.autograd.grad(expected_cost(model, operation_costs(model, SHAPE)), alphas)
    before = [alpha.detach().clone() for alpha in alphas]
    value = expected_cost(model, operation_costs(model, SHAPE)).item()
    assert step(batch, batch)["penalty"] == value
    for old, alpha, gradient in zip(before, alphas, expected, strict=True):
        assert torch.allclose(old - alpha, gradient)


def test_without_a_penalty_there_is_no_column_of_it():
    network = mock.create_autospec(BoundedNetwork, instance=True)
    steepest = torch.optim.SGD(supernet().architecture_parameters(), lr=1.0)
    assert "penalty" not in Strategy().alpha_step(AlphaStep(network, steepest, None, 0.0)).columns

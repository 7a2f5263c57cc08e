"""PC-DARTS: partial channels and edge normalisation against computations by hand, and its certified bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from robust_nas.spaces.cells import KINDS, MixedOperation
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.partial import PartialMixedOperation, PartialSupernet, shuffle
from robust_nas.spaces.supernet import derive
from tests.levels import few
from tests.verify.helpers import assert_sound, random_images, random_rows, randomise
from verify import BoundedNetwork
from verify.checks.errors import InputError


def supernet(**options) -> PartialSupernet:
    torch.manual_seed(0)
    return PartialSupernet(1, 3, **{"channels": 4, "cells": 3, "nodes": 2, "mean": [0.3], "std": [0.4], **options})


def test_shuffle_deals_the_groups_out_in_turn():
    x = torch.arange(12.0).view(1, 12, 1, 1).expand(2, 12, 2, 3)
    assert shuffle(x, 4)[1, :, 1, 2].tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


@given(
    parts=st.integers(2, 4),
    width=st.integers(2, 3),
    stride=st.sampled_from([1, 2]),
    height=st.integers(1, 7),
    columns=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_mixed_operation_by_hand(parts, width, stride, height, columns, seed):
    """Channels g * width + i of [mixed, the rest] arrive at i * parts + g; the rest untouched, or pooled."""
    torch.manual_seed(seed)
    partial = PartialMixedOperation(parts * width, stride, PRIMITIVES, parts).eval()
    plain = MixedOperation(width, stride, PRIMITIVES).eval()
    plain.load_state_dict(partial.state_dict())
    x, weights = torch.randn(2, parts * width, height, columns), torch.rand(len(PRIMITIVES))
    out = partial(x, weights)
    assert out.shape == (2, parts * width, math.ceil(height / stride), math.ceil(columns / stride))
    mixed = plain(x[:, :width], weights)
    for group in range(parts):
        for i in range(width):
            arrived, sent = out[:, i * parts + group], x[:, group * width + i]
            assert torch.equal(arrived, mixed[:, i] if group == 0 else pooled(sent, stride))


def pooled(x: torch.Tensor, stride: int) -> torch.Tensor:
    """The largest of disjoint 2x2 windows; on an odd side the first window has one row (or column) alone."""
    for dimension in (1, 2) if stride == 2 else ():
        first = x.shape[dimension] % 2
        head, pairs = x.split([first, x.shape[dimension] - first], dimension)
        x = torch.cat([head, pairs.unflatten(dimension, (-1, 2)).amax(dimension + 1)], dimension)
    return x


@few
@given(
    partial=st.sampled_from([2, 4]),
    cells=st.integers(1, 3),
    nodes=st.integers(1, 3),
    size=st.integers(7, 10),
    stem_stride=st.sampled_from([1, 2]),
)
def test_shape(partial, cells, nodes, size, stem_stride):
    network = supernet(partial=partial, cells=cells, nodes=nodes, stem_stride=stem_stride).eval()
    assert network(torch.rand(2, 1, size, size)).shape == (2, 3)


def test_architecture_parameters_are_alphas_and_then_betas():
    network = supernet()
    parameters, weights = network.architecture_parameters(), network.weights()
    assert [parameter.shape for parameter in parameters] == [(5, 8), (5, 8), (5,), (5,)]
    assert all(0 < parameter.abs().max() < 0.01 for parameter in parameters)
    assert {id(p) for p in parameters} | {id(p) for p in weights} == {id(p) for p in network.parameters()}
    assert len(parameters) + len(weights) == len(list(network.parameters()))


def test_edge_strengths_sum_to_one_at_every_node():
    network = supernet(nodes=3)
    for kind in KINDS:
        network.betas[kind].data = torch.tensor([1.0, 2, 3, 4, 5, -6, 7, 8, 9])
        operations, edges = network.mixture(kind)
        assert torch.allclose(operations.sum(1), torch.ones(9))
        assert [part.sum().item() for part in edges.split([2, 3, 4])] == pytest.approx([1, 1, 1])
        assert (edges[8] / edges[7]).item() == pytest.approx(math.e)


def test_a_cell_weighs_its_edges():
    network = supernet(cells=1).eval()
    network.betas["reduce"].data.normal_()
    (cell,) = network.cells
    assert cell.reduction
    before, last = torch.rand(2, 2, 12, 7, 7)
    alpha, beta = network.alphas["reduce"].softmax(1), network.betas["reduce"].exp()
    states = cell.inputs(before, last)
    for first, node in ((0, 2), (2, 3)):
        terms = [beta[e] * cell.edges[e](states[e - first], alpha[e]) for e in range(first, first + node)]
        states.append(sum(terms) / beta[first : first + node].sum())
    assert torch.allclose(cell(before, last, *network.mixture("reduce")), torch.cat(states[2:], 1), atol=1e-5)


def test_genotype_comes_from_the_product():
    network = supernet()
    skip, pool = PRIMITIVES.index("skip_connect"), PRIMITIVES.index("max_pool_3x3")
    for kind in KINDS:
        network.alphas[kind].data.zero_()
        network.alphas[kind].data[:, skip] = torch.tensor([1.0, 1, 1, 2, 3])
        network.betas[kind].data = torch.tensor([0.0, 0, 5, 5, 0])
    network.alphas["reduce"].data[:, pool] = 4
    # By alpha alone node 3 would read inputs 1 and 2; by beta it reads 0 and 1.
    assert network.genotype().normal == tuple(("skip_connect", source) for source in (0, 1, 0, 1))
    assert network.genotype().reduce == tuple(("max_pool_3x3", source) for source in (0, 1, 0, 1))
    alpha, beta = network.alphas["normal"].softmax(1), network.betas["normal"].exp()
    product = alpha * torch.cat([beta[:2] / beta[:2].sum(), beta[2:] / beta[2:].sum()]).unsqueeze(1)
    assert torch.allclose(network.probabilities()["normal"], product)
    assert derive(alpha, network.operations["normal"])[2:] == (("skip_connect", 1), ("skip_connect", 2))
    # The skip limit goes by the product, too: by alpha alone the first three are equal, and the first would go.
    limited = network.genotype(skip_limit=3).normal
    assert [name == "skip_connect" for name, _ in limited] == [True, True, False, True]


def test_gradients_reach_alphas_and_betas():
    network = supernet()
    network(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.architecture_parameters())


def test_operations_and_skip_dropout_as_in_any_supernet():
    operations = dict.fromkeys(KINDS, [("skip_connect", "sep_conv_3x3")] * 5)
    network = supernet(operations=operations, cells=1)
    assert network.alphas["normal"].shape == (5, 2)
    x = torch.rand(4, 1, 8, 8)
    clean = network(x)
    with network.skip_dropout(0.5):
        assert not torch.equal(network(x), clean)
    assert torch.equal(network(x), clean)


@pytest.mark.parametrize("training", [True, False])
def test_can_be_traced(training):
    network = supernet(pad=1, cells=1).train(training)
    x, y = torch.rand(2, 2, 1, 7, 7)
    traced = make_fx(network, pre_dispatch=True)(x)
    assert torch.equal(traced(y), network(y))


@pytest.mark.parametrize(("channels", "partial"), [(6, 4), (2, 4), (4, 3)])
def test_channels_that_do_not_divide(channels, partial):
    with pytest.raises(InputError, match=f"channels must be a multiple of {partial} .* not {channels}"):
        supernet(channels=channels, partial=partial)


@pytest.mark.parametrize("partial", [0, 1, -4])
def test_a_supernet_without_partial_channels_is_another(partial):
    with pytest.raises(InputError, match=f"partial must be at least 2, not {partial}"):
        supernet(partial=partial)


def tiny() -> PartialSupernet:
    """A reduction cell, edges of stride 2 and 1, in float64 with random weights, alphas and betas."""
    return randomise(supernet(channels=2, partial=2, cells=1), 1)


@pytest.mark.parametrize("size", [pytest.param(5, marks=pytest.mark.slow), 6])
def test_bounds_are_sound(size):
    """Batch norm on the statistics of the batch; an odd side has cut-off windows."""
    balls = [("linf", "unit"), ("l2", "unit")]
    methods = ["ibp", "crown-ibp", "affine", "crown"]
    assert_sound(tiny(), (1, size, size), train=True, balls=balls, methods=methods, scale=0.2, ties=True)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", *(pytest.param(m, marks=pytest.mark.slow) for m in ("affine", "crown"))])
def test_gradient_of_a_lower_bound_in_beta(method):
    """Against a central difference in a random direction; the statistics are frozen anew each time."""
    network, images = tiny().train(), random_images((1, 5, 5), 3, seed=1)[1:]
    bounded, rows, beta = BoundedNetwork(network, images), random_rows(2, 3, 2), network.betas["reduce"]

    def lower() -> torch.Tensor:
        bounded.freeze(images)
        return bounded.bounds(images, 1e-3, "linf", rows, method).lower.sum()

    (gradient,) = torch.autograd.grad(lower(), beta)
    assert gradient.abs().min() > 1e-3
    direction, values, start = torch.randn_like(beta), [], beta.detach().clone()
    for step in (1e-6, -1e-6):
        beta.data = start + step * direction
        values.append(lower().item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx((gradient @ direction).item(), rel=1e-4)

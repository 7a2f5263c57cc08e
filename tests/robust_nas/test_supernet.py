"""Supernet and final network: shapes, tracing, the genotype that alpha prefers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from robust_nas.genotype import Genotype
from robust_nas.spaces.backbone import InputLayer
from robust_nas.spaces.network import Network
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Supernet, derive


def supernet(**options) -> Supernet:
    torch.manual_seed(0)
    return Supernet(1, 10, **{"channels": 2, "cells": 3, "nodes": 2, "mean": [0.3], "std": [0.4], **options})


@settings(max_examples=20)
@given(
    in_channels=st.integers(1, 3),
    channels=st.integers(1, 3),
    cells=st.integers(1, 4),
    nodes=st.integers(1, 3),
    size=st.integers(7, 12),
    pad=st.integers(0, 2),
    stem_stride=st.sampled_from([1, 2]),
)
def test_shapes_of_supernet_and_of_its_network(in_channels, channels, cells, nodes, size, pad, stem_stride):
    options = {"channels": channels, "cells": cells, "pad": pad, "stem_stride": stem_stride}
    options |= {"mean": [0.3] * in_channels, "std": [0.4] * in_channels}
    network = Supernet(in_channels, 4, nodes=nodes, **options).eval()
    x = torch.rand(2, in_channels, size, size)
    assert network(x).shape == (2, 4)
    assert Network(network.genotype(), in_channels, 4, **options).eval()(x).shape == (2, 4)


def test_reductions_are_at_a_third_and_two_thirds():
    network = supernet(cells=8)
    assert [i for i, cell in enumerate(network.cells) if cell.reduction] == [2, 5]
    assert [cell.out_channels for cell in network.cells] == [4, 4, 8, 8, 8, 16, 16, 16]


def test_padding_is_black_and_inside():
    out = InputLayer([0.5], [0.25], pad=1)(torch.ones(1, 1, 1, 1))
    assert out[0, 0].tolist() == [[-2, -2, -2], [-2, 2, -2], [-2, -2, -2]]


def test_images_do_not_mix_in_evaluation():
    network = supernet(pad=2).double().eval()
    x = torch.rand(3, 1, 9, 9, dtype=torch.float64)
    assert torch.allclose(network(x), torch.cat([network(image) for image in x.split(1)]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["supernet", "network"])
def test_can_be_traced(training, kind):
    network = supernet(pad=1)
    if kind == "network":
        network = Network(network.genotype(), 1, 10, channels=2, cells=3, mean=[0.3], std=[0.4], pad=1)
    network.train(training)
    x, y = torch.rand(2, 2, 1, 8, 8)
    traced = make_fx(network, pre_dispatch=True)(x)
    assert torch.equal(traced(y), network(y))


def test_every_parameter_is_a_weight_or_an_alpha():
    network = supernet()
    alphas, weights = network.architecture_parameters(), network.weights()
    assert [alpha.shape for alpha in alphas] == [(5, len(PRIMITIVES))] * 2
    assert max(alpha.abs().max().item() for alpha in alphas) < 0.01
    assert {id(p) for p in alphas} | {id(p) for p in weights} == {id(p) for p in network.parameters()}
    assert len(alphas) + len(weights) == len(list(network.parameters()))


def test_gradients_reach_both_alphas():
    network = supernet()
    network(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert all(alpha.grad is not None and alpha.grad.any() for alpha in network.architecture_parameters())


def test_derives_the_strongest_edges_and_operations():
    weights = torch.zeros(5, len(PRIMITIVES))
    weights[:, PRIMITIVES.index("none")] = 9  # never chosen, and lends an edge no strength
    weights[0, PRIMITIVES.index("skip_connect")] = 1
    weights[1, PRIMITIVES.index("dil_conv_5x5")] = 2
    weights[2, PRIMITIVES.index("max_pool_3x3")] = 2
    weights[3, PRIMITIVES.index("sep_conv_3x3")] = 1
    weights[4, PRIMITIVES.index("sep_conv_5x5")] = 3
    expected = (("skip_connect", 0), ("dil_conv_5x5", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 2))
    assert derive(weights, nodes=2) == expected


def test_genotype_reads_each_cell_from_its_own_alpha():
    network = supernet(nodes=1)
    with torch.no_grad():
        network.alphas["normal"][:, PRIMITIVES.index("skip_connect")] = 5
        network.alphas["reduce"][:, PRIMITIVES.index("avg_pool_3x3")] = 5
    genotype = network.genotype({"seed": 3})
    assert genotype == Genotype(
        normal=(("skip_connect", 0), ("skip_connect", 1)),
        normal_concat=(2,),
        reduce=(("avg_pool_3x3", 0), ("avg_pool_3x3", 1)),
        reduce_concat=(2,),
        nodes=1,
    )
    assert genotype.meta == {"seed": 3}


def test_network_settings_rebuild_it():
    options = {"channels": 3, "cells": 3, "mean": (0.3,), "std": (0.4,), "pad": 1, "stem_stride": 2}
    network = Network(supernet().genotype(), 1, 10, **options, drop_path=0.2)
    again = Network(network.genotype, **network.settings)
    again.load_state_dict(network.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(network.eval()(x), again.eval()(x))

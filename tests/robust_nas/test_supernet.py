"""Supernet and final network: shapes, tracing, the genotype that alpha prefers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from robust_nas.genotype import Genotype
from robust_nas.spaces.backbone import InputLayer
from robust_nas.spaces.cells import KINDS
from robust_nas.spaces.network import Network
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Supernet, derive, limit_skips
from tests.levels import few
from verify.checks.errors import InputError


def supernet(**options) -> Supernet:
    torch.manual_seed(0)
    return Supernet(1, 10, **{"channels": 2, "cells": 3, "nodes": 2, "mean": [0.3], "std": [0.4], **options})


@few
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
    assert derive(weights, [PRIMITIVES] * 5) == expected


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


def test_probabilities_are_the_softmax_of_alpha():
    network = supernet()
    for kind, alpha in network.alphas.items():
        expected = alpha.exp() / alpha.exp().sum(1, keepdim=True)
        assert torch.allclose(network.probabilities()[kind], expected)
    network.probabilities()["normal"][0, 0].backward()
    assert network.alphas["normal"].grad.any()


def test_the_whole_space_is_the_default():
    plain, named = supernet(), supernet(operations=dict.fromkeys(KINDS, [PRIMITIVES] * 5))
    x = torch.rand(2, 1, 8, 8)
    assert plain.operations == named.operations == dict.fromkeys(KINDS, (PRIMITIVES,) * 5)
    assert torch.equal(plain(x), named(x))


@st.composite
def operation_sets(draw: st.DrawFn, edges: int) -> dict[str, list[list[str]]]:
    """Two or more operations on every edge, in any order; their number differs between the kinds of cell."""
    sets = {}
    for kind in KINDS:
        count = draw(st.integers(2, 8))
        names = st.lists(st.sampled_from(PRIMITIVES), min_size=count, max_size=count, unique=True)
        sets[kind] = [draw(names) for _ in range(edges)]
    return sets


@few
@given(operations=operation_sets(edges=5), seed=st.integers(0, 9))
def test_operations_by_edge(operations, seed):
    network = supernet(operations=operations).eval()
    generator = torch.Generator().manual_seed(seed)
    for kind, alpha in network.alphas.items():
        assert alpha.shape == (5, len(operations[kind][0]))
        alpha.data.normal_(generator=generator)
    assert network(torch.rand(2, 1, 7, 7)).shape == (2, 10)
    genotype = network.genotype()
    for kind in KINDS:
        # Node 2 takes both of its edges; of node 3's three, the weakest is left out.
        best = [
            max((weight, name) for weight, name in zip(row, names, strict=True) if name != "none")
            for row, names in zip(network.probabilities()[kind].tolist(), operations[kind], strict=True)
        ]
        kept = sorted(range(5), key=lambda edge: (edge < 2, best[edge][0]))[1:]
        expected = [(best[edge][1], edge - 2 * (edge >= 2)) for edge in sorted(kept)]
        assert list(getattr(genotype, kind)) == expected


def test_pruning_keeps_the_strongest():
    """8 -> 5 -> 3 operations an edge, each stage a supernet of what the last one left."""
    network = supernet(nodes=1)
    values = {"none": 9, "max_pool_3x3": 1, "avg_pool_3x3": 8, "skip_connect": 2}
    values |= {"sep_conv_3x3": 7, "sep_conv_5x5": 3, "dil_conv_3x3": 6, "dil_conv_5x5": 5}

    def set_alphas() -> None:
        """The first edge as above, the second the other way round."""
        for kind, alpha in network.alphas.items():
            edges = zip((1.0, -1.0), network.operations[kind], strict=True)
            alpha.data = torch.tensor([[sign * values[name] for name in names] for sign, names in edges])

    set_alphas()
    five = network.strongest(5)
    first = ("none", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5")
    second = ("max_pool_3x3", "skip_connect", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    assert five == dict.fromkeys(KINDS, (first, second))
    network = supernet(nodes=1, operations=five)
    set_alphas()
    three = network.strongest(3)
    assert three == dict.fromkeys(KINDS, (("none", "avg_pool_3x3", "sep_conv_3x3"), second[:3]))
    network = supernet(nodes=1, operations=three)
    set_alphas()
    assert network.genotype().normal == (("avg_pool_3x3", 0), ("max_pool_3x3", 1))


@pytest.mark.parametrize("keep", [0, 9])
def test_pruning_to_what_is_not_there(keep):
    with pytest.raises(InputError, match=f"keep: must be 1 to 8, .* not {keep}"):
        supernet().strongest(keep)


def test_skip_limit_drops_the_weakest_skips_of_the_normal_cell():
    network = supernet()
    for alpha in network.alphas.values():
        alpha.data.zero_()
        alpha.data[:, PRIMITIVES.index("skip_connect")] = torch.tensor([4.0, 2.0, 3.0, 1.0, 5.0])
        alpha.data[:, PRIMITIVES.index("max_pool_3x3")] = 0.1
    cells = {
        limit: [name[:4] + str(source) for name, source in network.genotype(skip_limit=limit).normal]
        for limit in (None, 4, 3, 2, 1, 0)
    }
    assert cells == {
        None: ["skip0", "skip1", "skip0", "skip2"],
        4: ["skip0", "skip1", "skip0", "skip2"],
        3: ["skip0", "max_1", "skip0", "skip2"],
        # Without the skip from input 0, node 3 first takes that from input 1, which is then the next to go.
        2: ["skip0", "max_1", "max_1", "skip2"],
        1: ["max_0", "max_1", "max_1", "skip2"],
        0: ["max_0", "max_1", "max_0", "max_1"],
    }
    assert network.genotype(skip_limit=0).reduce == network.genotype().reduce


def test_skip_limit_that_no_cell_meets():
    only = [("none", "skip_connect")] * 2
    weights = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    assert torch.equal(limit_skips(weights, only, 2), weights)
    with pytest.raises(InputError, match="no cell of these operations has 1 skip connections or fewer"):
        limit_skips(weights, only, 1)


def test_skip_dropout_is_on_inside_its_context_alone():
    network = supernet().train()
    x = torch.rand(4, 1, 8, 8)
    clean, state = network(x), torch.get_rng_state()
    with network.skip_dropout(0.0):
        assert torch.equal(network(x), clean)
    assert torch.equal(torch.get_rng_state(), state)
    with network.skip_dropout(0.5):
        dropped = network(x)
    torch.set_rng_state(state)
    with pytest.raises(KeyError), network.skip_dropout(0.5):
        assert torch.equal(network(x), dropped)  # the global generator decides
        raise KeyError
    assert not torch.equal(dropped, clean)
    assert torch.equal(network(x), clean)
    with network.skip_dropout(0.5):
        assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_skip_dropout_that_is_no_probability(probability):
    with pytest.raises(InputError, match="skip-dropout"), supernet().skip_dropout(probability):
        pass


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ({"normal": [PRIMITIVES] * 2}, "operations: must be given for normal and reduce, not for normal"),
        ({"normal": [PRIMITIVES] * 2, "reduce": [PRIMITIVES] * 3}, "reduce: the cell has 2 edges, not 3"),
        ({"normal": [PRIMITIVES, PRIMITIVES[1:]], "reduce": [PRIMITIVES] * 2}, "normal: every edge must have as many"),
        ({"normal": [["none", "conv"]] * 2, "reduce": [PRIMITIVES] * 2}, r"normal\[0\]: unknown operation 'conv'"),
        ({"normal": [["max_pool_3x3"] * 2] * 2, "reduce": [PRIMITIVES] * 2}, r"normal\[0\]: names an operation twice"),
        ({"normal": [["none"]] * 2, "reduce": [PRIMITIVES] * 2}, r"normal\[0\]: needs an operation other than none"),
        ({"normal": [[]] * 2, "reduce": [PRIMITIVES] * 2}, r"normal\[0\]: needs an operation other than none"),
    ],
)
def test_operations_that_are_not_those_of_the_cells(operations, message):
    with pytest.raises(InputError, match=message):
        supernet(nodes=1, operations=operations)


def test_network_settings_rebuild_it():
    options = {"channels": 3, "cells": 3, "mean": (0.3,), "std": (0.4,), "pad": 1, "stem_stride": 2}
    network = Network(supernet().genotype(), 1, 10, **options, drop_path=0.2)
    again = Network(network.genotype, **network.settings)
    again.load_state_dict(network.state_dict())
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(network.eval()(x), again.eval()(x))

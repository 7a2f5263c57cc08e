"""RobNet's supernet: at an architecture's gates it is that network, and trains nothing else."""

import random

import pytest
import torch
import torch.nn.functional as F

from robust_nas.genotype import RobNetGenotype
from robust_nas.search.bilevel import weight_step
from robust_nas.spaces.network import Network
from robust_nas.spaces.robnet import RobNetSupernet
from robust_nas.spaces.sampling import sample_robnet
from verify import BoundedNetwork

CELLS, NODES = 5, 2
OPTIONS = {"channels": 2, "cells": CELLS, "pad": 1}


def supernet() -> RobNetSupernet:
    """In evaluation mode, with statistics of batch norms unlike those at first."""
    torch.manual_seed(0)
    model = RobNetSupernet(1, 3, nodes=NODES, **OPTIONS).double().train()
    for _ in range(3):
        model(torch.rand(8, 1, 8, 8).double())
    return model.eval()


@pytest.mark.parametrize("lists", [1, CELLS])
@pytest.mark.parametrize("training", [False, True])
def test_a_network_with_the_supernets_weights_is_the_supernet_at_its_gates(lists, training):
    model, images, kinds = supernet(), torch.rand(4, 1, 8, 8).double(), set()
    for seed in range(4):
        architecture = sample_robnet(NODES, lists, random.Random(seed))
        network = Network(architecture, 1, 3, mean=[0.0], std=[1.0], **OPTIONS).double().train(training)
        model.give(network)
        with model.train(training).at(architecture):
            assert torch.allclose(model(images), network(images), atol=1e-5, rtol=0)
        kinds |= {type(operation) for cell in network.cells for operation in cell.operations}
    assert len(kinds) == 5  # also identities, and skip connections that halve the resolution


def test_gates_are_those_of_the_codes_and_come_back():
    model = supernet()
    architecture = RobNetGenotype((("00", "01", "10", "11", "01"),), NODES)
    everywhere = model(x := torch.rand(2, 1, 8, 8).double())
    with model.at(architecture):
        assert model.gates[3].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [1, 0]]
        assert model.genotype() == RobNetGenotype(architecture.cells * CELLS, NODES)
        assert not torch.allclose(model(x), everywhere)
    assert torch.equal(model.gates, torch.ones(CELLS, 5, 2).double())
    assert torch.equal(model(x), everywhere)
    assert model.genotype().cells[0] == ("11",) * 5


def test_a_traced_supernet_follows_the_gates_with_its_bounds():
    model, x = supernet(), torch.rand(2, 1, 8, 8).double()
    bounded = BoundedNetwork(model, x[:1])
    with model.at(sample_robnet(NODES, CELLS, random.Random(1))):
        assert torch.allclose(bounded(x), model(x))
        found = bounded.bounds(x, 1e-3, "linf", method="ibp")
        for _ in range(20):
            logits = model((x + 1e-3 * (2 * torch.rand_like(x) - 1)).clamp(0, 1))
            assert (found.lower <= logits).all() and (logits <= found.upper).all()


def test_a_cell_without_operations_gives_zeros():
    model = supernet()
    with model.at(RobNetGenotype((("00",) * 5,), NODES)):
        out = model(torch.rand(2, 1, 8, 8).double())
    assert torch.allclose(out, model.classifier.bias.expand_as(out))


def test_a_step_of_the_weights_trains_what_the_gates_use_and_nothing_else():
    model = supernet().train()
    optimiser = torch.optim.SGD(model.weights(), lr=0.1, momentum=0.9, weight_decay=0.1)
    images, labels = torch.rand(6, 1, 8, 8).double(), torch.arange(6) % 3

    def loss():
        return F.cross_entropy(model(images), labels)

    weight_step(model, loss, optimiser, clip=5.0)  # all have momentum now
    architecture = sample_robnet(NODES, CELLS, random.Random(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with model.at(architecture):
        weight_step(model, loss, optimiser, clip=5.0)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    closed, opened = 0, 0
    for i, codes in enumerate(architecture.cells):
        for j, code in enumerate(codes):
            for k, bit in enumerate(reversed(code)):
                operation = model.cells[i].edges[j].operations[k]
                names = {f"cells.{i}.edges.{j}.operations.{k}.{name}" for name in operation.state_dict()}
                assert names <= moved if bit == "1" else not names & moved
                opened, closed = opened + (bit == "1"), closed + (bit == "0")
    assert opened and closed
    assert {"stem.0.weight", "classifier.weight"} <= moved

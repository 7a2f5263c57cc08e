"""Random networks of cells: all operations, both spaces and kinds of cell, l-infinity and l2, train and eval."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from robust_nas.genotype import CODES, Genotype, RobNetGenotype
from robust_nas.spaces.network import Network
from robust_nas.spaces.operations import OPERATIONS, PRIMITIVES, Style
from robust_nas.spaces.supernet import Supernet
from tests.levels import few
from tests.verify.helpers import (
    around,
    assert_between,
    assert_exact_when_tiny,
    assert_neurons,
    assert_sound,
    attack,
    extremes,
    frozen,
    random_images,
    random_rows,
    randomise,
)
from verify import METHODS, Ball, BoundedNetwork

NODES = 2
SETTINGS = {"channels": 1, "cells": 3, "mean": [0.3], "std": [0.4]}
RADII = {"linf": 0.02, "l2": 0.08}


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    """Any operations at any inputs, `none` included, and any of the nodes in the output."""
    cells = {}
    for kind in ("normal", "reduce"):
        cells[kind] = tuple(
            (draw(st.sampled_from(sorted(OPERATIONS))), draw(st.integers(0, 1 + node)))
            for node in range(NODES)
            for _ in range(2)
        )
        concat = draw(st.lists(st.integers(2, 1 + NODES), min_size=1, max_size=NODES, unique=True))
        cells[f"{kind}_concat"] = tuple(concat)
    return Genotype(**cells, nodes=NODES)


def only(operation: str) -> Genotype:
    """A genotype of one operation, at every input."""
    edges = ((operation, 0), (operation, 1), (operation, 2), (operation, 1))
    return Genotype(normal=edges, normal_concat=(2, 3), reduce=edges, reduce_concat=(2, 3), nodes=NODES)


def check(
    network: BoundedNetwork, images: torch.Tensor, norm: str, methods: tuple[str, ...] = METHODS
) -> tuple[torch.nn.Module, torch.Tensor]:
    """Samples and gradient attacks on random specifications stay within the bounds, neurons within theirs.

    Returns the network of torch's modules that was attacked, and the specification.
    """
    function, rows = network.model, random_rows(2, 3, len(images))
    if function.training:
        function = frozen(function, images)
        torch.testing.assert_close(network.freeze(images), function(images))
    ball = Ball(images, RADII[norm] * torch.tensor([1.0, 0.1]), norm)
    points = attack(function, ball, rows, samples=10, steps=4)
    low, high = extremes(function, points, rows)
    for method in methods:
        with torch.no_grad():
            bounds = network.bounds(ball, specification=rows, method=method)
        assert_between(bounds, low, high, method)
        assert_neurons(network, points, bounds, method)
    return function, rows


@few
@given(genotypes(), st.sampled_from(["linf", "l2"]), st.booleans(), st.integers(6, 8), st.integers(0, 1), st.integers(0, 99))
@example(only("none"), "linf", False, 6, 0, 0)
def test_random_networks_are_sound(genotype, norm, train, size, pad, seed):
    model, images = randomise(Network(genotype, 1, 3, pad=pad, **SETTINGS), seed), random_images((1, size, size), 2, seed)
    check(BoundedNetwork(model.train(train), images), images, norm)


@pytest.mark.parametrize(
    "operation",
    # slow: a larger kernel of the same class
    [pytest.param(name, marks=pytest.mark.slow) if name.endswith(("conv_5x5", "conv_7x7")) else name for name in OPERATIONS],
)
def test_all_that_holds_for_any_network_holds_for_each_operation(operation):
    """Small balls as well: CROWN equals the output -+ radius times the dual norm of the gradient."""
    model = randomise(Network(only(operation), 1, 3, stem_stride=2, **SETTINGS | {"channels": 2}), 1)
    for train, ball in ((False, ("linf", "unit")), (True, ("l2", "free"))):
        ties = operation.startswith("max_pool")  # pools of pools
        assert_sound(model, (1, 8, 8), train=train, balls=[ball], scale=0.2, methods=["crown"], ties=ties)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - set(PRIMITIVES)))
def test_operations_of_published_cells_are_sound_by_themselves(operation, stride):
    """All norms and methods, on odd and even sides; those of the DARTS space have their tests in operators/."""
    for size, train in ((5, False), (6, True)):
        model = around(OPERATIONS[operation](2, stride, Style()), (2, size, size + 1))
        assert_sound(model, (1, size, size + 1), train=train)


@few
@given(st.data(), st.sampled_from(["linf", "l2"]), st.booleans(), st.booleans(), st.integers(0, 99))
def test_random_networks_of_robnets_space_are_sound(data, norm, train, shared, seed):
    """Every node reads all states; all cells share one list of codes, or each has its own."""
    codes = st.lists(st.sampled_from(sorted(CODES)), min_size=5, max_size=5).map(tuple)
    count = 1 if shared else SETTINGS["cells"]
    genotype = RobNetGenotype(tuple(data.draw(st.lists(codes, min_size=count, max_size=count))), nodes=NODES)
    images = random_images((1, 6, 6), 2, seed)
    model = randomise(Network(genotype, 1, 3, **SETTINGS), seed).train(train)
    check(BoundedNetwork(model, images), images, norm)


@pytest.mark.parametrize(("train", "nodes"), [(False, 1), pytest.param(True, 2, marks=pytest.mark.slow)])
def test_supernets_are_sound(train, nodes):
    """Every mixed operation at once, with nearly equal and with very unequal weights."""
    images = random_images((1, 6, 6), 2)
    model = randomise(Supernet(1, 3, nodes=nodes, **SETTINGS), 3).train(train)
    network = BoundedNetwork(model, images)
    for norm, spread in (("linf", 0.01), ("l2", 2.0)):
        with torch.no_grad():
            for alpha in model.architecture_parameters():
                alpha.copy_(spread * alpha / alpha.std())
        function, rows = check(network, images, norm, METHODS if nodes == 1 else ("ibp", "affine"))
        assert_exact_when_tiny(network, function, images[1:], rows[1:], norm, "affine")


def test_every_state_has_one_relu():
    """All operations of a cell that apply a ReLU to one state share its relaxation."""
    images = random_images((1, 6, 6), 2)
    model = randomise(Network(only("dil_conv_3x3"), 1, 3, **SETTINGS))
    relus = [node for node in BoundedNetwork(model, images).graph.nodes if "relu" in node.name]
    assert len(relus) == len({node.input_name[0] for node in relus})
    # One for each of the states 0, 1 and 2 of three cells, of which 1 is read twice; and one for what cells align:
    # the stem, which is both inputs of the first cell and one of the second, and the outputs of two cells.
    assert len(relus) == 3 * 3 + 3


def test_the_same_network_by_other_names():
    """A genotype whose nodes are listed in another order computes the same; so do its bounds."""
    one = Genotype(
        normal=(("max_pool_3x3", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("avg_pool_3x3", 1)),
        normal_concat=(2,), reduce=(("skip_connect", 0), ("max_pool_3x3", 1)) * 2, reduce_concat=(3,), nodes=2,
    )  # fmt: skip
    other = Genotype(
        normal=(*one.normal[2:], *one.normal[:2]), normal_concat=(3,),
        reduce=(*one.reduce[2:], *one.reduce[:2]), reduce_concat=(2,), nodes=2,
    )  # fmt: skip
    images, rows = random_images((1, 6, 6), 2), random_rows(2, 3, 2)
    first = randomise(Network(one, 1, 3, **SETTINGS), 6)
    second = Network(other, 1, 3, **SETTINGS).double().eval()
    state = {}
    for name, value in first.state_dict().items():
        parts = name.split(".")
        if parts[2:3] == ["operations"]:
            parts[3] = str((int(parts[3]) + 2) % 4)
        state[".".join(parts)] = value
    second.load_state_dict(state)
    torch.testing.assert_close(first(images), second(images))
    for method in METHODS:
        ours, theirs = (BoundedNetwork(m, images).bounds(images, 0.01, specification=rows, method=method) for m in (first, second))
        torch.testing.assert_close((ours.lower, ours.upper), (theirs.lower, theirs.upper))

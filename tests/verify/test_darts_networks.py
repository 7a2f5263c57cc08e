"""Random networks of the search space and its supernet: nothing met in a ball leaves the bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_nas.genotype import Genotype
from robust_nas.spaces.network import Network
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Supernet
from tests.verify.helpers import assert_sound, randomise

SIZES = {"channels": 2, "cells": 3, "mean": (0.3,), "std": (0.4,)}
"""Three cells: a normal one and two reductions, each after another kind of cell."""


@st.composite
def genotypes(draw: st.DrawFn, nodes: int = 2) -> Genotype:
    """Any operations on any inputs."""

    operation = st.sampled_from(PRIMITIVES)
    edges = [st.tuples(operation, st.integers(0, node - 1)) for node in range(2, 2 + nodes) for _ in range(2)]
    concat = tuple(range(2, 2 + nodes))
    normal, reduction = draw(st.tuples(*edges)), draw(st.tuples(*edges))
    return Genotype(normal, concat, reduction, concat, nodes)


@settings(max_examples=6)
@given(genotype=genotypes(), train=st.booleans(), size=st.sampled_from([6, 7, 8]), seed=st.integers(0, 99))
def test_networks_of_random_genotypes_are_sound(genotype: Genotype, train: bool, size: int, seed: int) -> None:
    network = randomise(Network(genotype, 1, 3, **SIZES), seed)
    balls = (("linf", "unit"), ("l2", "free"))
    assert_sound(network, (1, size, size), train=train, balls=balls, scale=0.05, seed=seed)


# Not the max pool: stacked, neighbours are equal to the digit, where it has no gradient to compare with. The random
# genotypes above have it.
@pytest.mark.parametrize("operation", [name for name in PRIMITIVES if name != "max_pool_3x3"])
def test_a_network_of_each_operation_is_sound_in_training_mode(operation: str) -> None:
    cell = tuple((operation, source) for source in (0, 1, 1, 2))
    network = Network(Genotype(cell, (2, 3), cell, (2, 3), 2), 1, 3, **SIZES)
    assert_sound(randomise(network), (1, 7, 7), train=True, balls=(("linf", "unit"),), scale=0.05)


@pytest.mark.parametrize("train", [False, True])
def test_the_supernet_is_sound(train: bool) -> None:
    supernet = randomise(Supernet(1, 3, nodes=2, **(SIZES | {"channels": 1, "cells": 2})))
    with torch.no_grad():
        for alpha in supernet.alphas.values():
            alpha.copy_(torch.randn(alpha.shape, generator=torch.Generator().manual_seed(1), dtype=alpha.dtype))
    assert_sound(supernet, (1, 6, 6), train=train, balls=(("linf", "unit"), ("l2", "unit")), scale=0.02)

"""Random architectures: what they are drawn from."""

import math
import random
from collections import Counter

import pytest
import torch

from robust_nas.genotype import CODES, Genotype, RobNetGenotype
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.sampling import depth, sample, sample_genotype, sample_robnet


def is_uniform(counts: Counter, values) -> bool:
    """Whether the counts of these values are within five standard deviations of equal ones."""
    total, share = counts.total(), 1 / len(list(values))
    spread = 5 * math.sqrt(total * share * (1 - share))
    return set(counts) == set(values) and all(abs(count - total * share) < spread for count in counts.values())


def test_every_bit_of_a_code_is_a_fair_coin():
    genotype = sample_robnet(4, 200, random.Random(0))
    edges = [code for codes in genotype.cells for code in codes]
    assert len(edges) == 200 * 14
    assert is_uniform(Counter(edges), CODES)
    assert is_uniform(Counter(zip(edges[::2], edges[1::2], strict=True)), [(a, b) for a in CODES for b in CODES])


def test_a_node_has_two_different_inputs_and_any_operation():
    genotypes = [sample_genotype(3, random.Random(index)) for index in range(500)]
    edges = [edge for genotype in genotypes for edge in genotype.normal + genotype.reduce]
    assert is_uniform(Counter(name for name, _ in edges), set(PRIMITIVES) - {"none"})
    pairs = Counter((g.normal[4][1], g.normal[5][1]) for g in genotypes)
    assert is_uniform(pairs, [(a, b) for a in range(4) for b in range(a + 1, 4)])


@pytest.mark.parametrize(("space", "lists"), [("robnet", 1), ("robnet-free", 7)])
def test_a_robnet_has_one_list_of_codes_or_one_a_cell(space, lists):
    genotype = sample(space, 2, 7, torch.Generator().manual_seed(0))
    assert isinstance(genotype, RobNetGenotype)
    assert (genotype.nodes, len(genotype.cells)) == (2, lists)


def test_the_generator_decides():
    first, second = (torch.Generator().manual_seed(1) for _ in range(2))
    drawn = [sample("darts", 2, 8, first) for _ in range(3)]
    assert isinstance(drawn[0], Genotype)
    assert drawn == [sample("darts", 2, 8, second) for _ in range(3)] and drawn[0] != drawn[1]


def test_cells_of_robnet_free_are_those_of_the_final_network():
    assert (depth("robnet-free", 8), depth("robnet", 8), depth("darts", 8)) == (20, 8, 8)

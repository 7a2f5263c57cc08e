"""Random architectures."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from robust_nas.genotype import CODES, Architecture, Edge, Genotype, RobNetGenotype
from robust_nas.spaces.operations import PRIMITIVES

FREE_DEPTH = 20 / 8
"""Cells of a final network where a search's preset has one: 20 where DARTS searches with 8."""


def depth(space: str, cells: int) -> int:
    """Cells of the networks of a search.

    In RobNet-free each cell has an architecture of its own, so that only a network as deep as the final one will do.

    Args:
        space: "darts", "robnet" or "robnet-free".
        cells: of the search's preset.
    """
    return round(FREE_DEPTH * cells) if space == "robnet-free" else cells


def sample(
    space: str, nodes: int, cells: int, generator: torch.Generator, activation: str = "relu"
) -> Architecture:
    """An architecture of a space, drawn from a generator of the CPU.

    Args:
        space: "darts", "robnet" or "robnet-free".
        nodes: intermediate nodes of a cell.
        cells: of the network; see `depth`.
        activation: of the architecture; none of what is drawn.
    """
    draws = random.Random(int(torch.randint(2**62, (), generator=generator)))
    if space == "darts":
        return replace(sample_genotype(nodes, draws), activation=activation)
    return replace(sample_robnet(nodes, cells if space == "robnet-free" else 1, draws), activation=activation)


def sample_genotype(nodes: int, generator: random.Random, shallow: bool = False) -> Genotype:
    """Two different inputs a node, uniformly, and operations uniform over `PRIMITIVES` but `none`.

    Args:
        nodes: intermediate nodes of a cell.
        generator: to draw with.
        shallow: whether nodes read the two inputs of the cell, and no other node.
    """
    operations = [name for name in PRIMITIVES if name != "none"]

    def cell() -> tuple[Edge, ...]:
        return tuple(
            (generator.choice(operations), source)
            for node in range(2, 2 + nodes)
            for source in sorted(generator.sample(range(2 if shallow else node), 2))
        )

    concat = tuple(range(2, 2 + nodes))
    return Genotype(cell(), concat, cell(), concat, nodes)


def sample_robnet(nodes: int, lists: int, generator: random.Random) -> RobNetGenotype:
    """Codes uniform over the four of `CODES`: every bit is a fair coin.

    Args:
        nodes: intermediate nodes of a cell; the authors have 4.
        lists: of codes: one that all cells share, or one for each cell.
    """
    edges = sum(range(2, 2 + nodes))
    return RobNetGenotype(tuple(tuple(generator.choices(list(CODES), k=edges)) for _ in range(lists)), nodes)

"""The zoo as a table."""

from __future__ import annotations

from collections.abc import Iterator

from robust_nas.genotype import Architecture
from robust_nas.spaces.operations import count
from robust_nas.spaces.size import size_on_cifar10
from robust_nas.zoo import find, names


def listing() -> Iterator[dict[str, str]]:
    """A row for every published architecture: name, space, nodes, operations of all its cells, source, and in millions
    parameters and multiply-adds as `size_on_cifar10` gives them.
    """
    for name in names():
        architecture = find(name)
        found = size_on_cifar10(architecture)
        yield {
            "name": name,
            "space": architecture.space,
            "nodes": str(architecture.nodes),
            "operations": operations(architecture),
            "parameters": f"{found.parameters / 1e6:.2f} M",
            "multiply-adds": f"{found.multiply_adds / 1e6:.0f} M",
            "source": str(architecture.meta["source"]),
        }


def operations(architecture: Architecture) -> str:
    """How many operations of every family its cells have, in words."""
    found = count(operation for plan in architecture.plans().values() for operation, _ in plan.edges)
    words = {"convolution": "conv", "pool": "pool", "skip": "skip", "none": "none"}
    return ", ".join(f"{found[family]} {word}" for family, word in words.items() if found[family])

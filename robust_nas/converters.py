"""Genotypes written in the notations of others: DARTS' namedtuples, RobNet's codes, ENAS' arcs.

`robust_nas.notations` reads them all.
"""

from __future__ import annotations

from robust_nas.genotype import AnyArchitecture, Architecture, Genotype, RobNetGenotype
from robust_nas.notations import ENAS_OPERATIONS, FIELDS, loose_ends
from verify.checks.errors import InputError


def to_json(architecture: Architecture) -> str:
    """Our own notation."""
    return architecture.to_json()


def to_darts(architecture: Architecture) -> str:
    """A line as in DARTS' genotypes.py: `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`.

    Raises:
        InputError: the architecture is not of the DARTS space, or has another activation than ReLU.
    """
    genotype = _sayable(architecture, Genotype, "DARTS' notation")
    return f"Genotype({', '.join(f'{name}={list(getattr(genotype, name))!r}' for name in FIELDS)})"


def to_robnet(architecture: Architecture) -> str:
    """Lists of codes as in RobNet's architecture_code.py: `[['11', '01', ...], ...]`.

    Raises:
        InputError: the architecture is not of RobNet's space, or has another activation than ReLU.
    """
    genotype = _sayable(architecture, RobNetGenotype, "a list of RobNet's codes")
    return repr([list(codes) for codes in genotype.cells])


def to_enas(architecture: Architecture) -> str:
    """A fixed arc of ENAS' micro search space: `0 2 0 0 0 4 0 1 ...`.

    Raises:
        InputError: the architecture is not of the DARTS space, has another activation than ReLU or an operation that
            ENAS has not, or does not join exactly the nodes that no other reads.
    """
    genotype = _sayable(architecture, Genotype, "an ENAS arc")
    numbers: list[int] = []
    for kind, edges, concat in (
        ("normal", genotype.normal, genotype.normal_concat),
        ("reduce", genotype.reduce, genotype.reduce_concat),
    ):
        sources = [source for _, source in edges]
        if list(concat) != loose_ends(kind, sources):
            raise InputError(f"{kind}_concat: ENAS joins just the nodes that no other reads, in order; not so here")
        for i, (operation, source) in enumerate(edges):
            if operation not in ENAS_OPERATIONS:
                raise InputError(f"{kind}[{i}]: ENAS has no {operation}; it has {', '.join(ENAS_OPERATIONS)}")
            numbers += (source, ENAS_OPERATIONS.index(operation))
    return " ".join(map(str, numbers))


def _sayable(architecture: Architecture, kind: type[AnyArchitecture], notation: str) -> AnyArchitecture:
    if not isinstance(architecture, kind):
        raise InputError(f"{notation} cannot say an architecture of space {architecture.space!r}")
    if architecture.activation != "relu":
        raise InputError(f"{notation} cannot say the activation {architecture.activation}; --to json can")
    return architecture

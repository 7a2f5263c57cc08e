"""Notations of others: there and back is the same architecture."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robust_nas.converters import to_darts, to_enas, to_robnet
from robust_nas.genotype import CODES, Architecture, Genotype, RobNetGenotype
from robust_nas.notations import ENAS_OPERATIONS
from robust_nas.registry import NOTATIONS
from robust_nas.spaces.operations import OPERATIONS
from robust_nas.zoo import find, names
from verify.checks.errors import InputError

ENAS_RELEASED = (
    "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 "  # fixed_arc of the authors' cifar10_micro_final.sh
    "1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
)

parse = Architecture.from_text


@st.composite
def genotypes(draw: st.DrawFn, operations: tuple[str, ...] = tuple(OPERATIONS)) -> Genotype:
    nodes = draw(st.integers(1, 6))
    cells = {}
    for kind in ("normal", "reduce"):
        cells[kind] = tuple(
            (draw(st.sampled_from(operations)), draw(st.integers(0, 1 + node))) for node in range(nodes) for _ in range(2)
        )
        cells[f"{kind}_concat"] = tuple(draw(st.lists(st.integers(2, 1 + nodes), min_size=1, unique=True)))
    return Genotype(**cells, nodes=nodes)


@st.composite
def arcs(draw: st.DrawFn) -> str:
    """Arcs whose first node reads both inputs, so that none is left over."""
    nodes = draw(st.integers(1, 6))
    numbers = []
    for _ in ("normal", "reduce"):
        for node in range(nodes):
            for place in range(2):
                numbers += [place if node == 0 else draw(st.integers(0, 1 + node)), draw(st.integers(0, 4))]
    return " ".join(map(str, numbers))


@st.composite
def robnets(draw: st.DrawFn) -> RobNetGenotype:
    nodes = draw(st.integers(1, 6))
    edges = sum(range(2, 2 + nodes))
    codes = st.lists(st.sampled_from(sorted(CODES)), min_size=edges, max_size=edges).map(tuple)
    return RobNetGenotype(tuple(draw(st.lists(codes, min_size=1, max_size=4))), nodes)


@given(genotypes())
def test_darts_there_and_back(genotype):
    assert parse(to_darts(genotype)) == genotype


@given(robnets())
def test_robnet_there_and_back(genotype):
    assert parse(to_robnet(genotype)) == genotype


@given(arcs())
@example(ENAS_RELEASED)
def test_enas_there_and_back(arc):
    assert to_enas(parse(arc)) == arc
    assert parse(to_enas(parse(arc))) == parse(arc)


@given(genotypes() | robnets())
def test_json_there_and_back(architecture):
    assert parse(NOTATIONS["json"](architecture)) == architecture


@pytest.mark.parametrize("name", names())
def test_the_whole_zoo_there_and_back(name):
    architecture = find(name)
    notation = {"darts": to_darts, "robnet": to_robnet}[architecture.space]
    assert parse(notation(architecture)) == architecture


def test_enas_released_arc():
    assert to_enas(find("ENAS-released")) == ENAS_RELEASED


@pytest.mark.parametrize(
    ("write", "name", "words"),
    [
        (to_darts, "RobNet-free", "DARTS' notation cannot say an architecture of space 'robnet'"),
        (to_enas, "RobNet-large", "an ENAS arc cannot say"),
        (to_robnet, "DARTS-V1", "RobNet's codes cannot say an architecture of space 'darts'"),
        (to_enas, "AmoebaNet-B", "ENAS has no nor_conv_1x1"),
        (to_enas, "DARTS-V1", "normal_concat: ENAS joins just the nodes that no other reads"),
    ],
)
def test_what_a_notation_cannot_say_is_refused(write, name, words):
    with pytest.raises(InputError) as caught:
        write(find(name))
    assert words in str(caught.value)


def test_enas_has_these_operations():
    assert set(ENAS_OPERATIONS) <= set(OPERATIONS)

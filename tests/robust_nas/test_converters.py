"""Notations of others: there and back is the same architecture, and nothing that is read is run."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from robust_nas.converters import ENAS_OPERATIONS, NOTATIONS, parse, read, to_darts, to_enas, to_robnet
from robust_nas.genotype import CODES, Genotype, RobNetGenotype
from robust_nas.spaces.operations import OPERATIONS
from robust_nas.zoo import find, names
from verify.errors import InputError

DARTS_V1 = """DARTS_V1 = Genotype(
  normal=[
    ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
    ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)
  ], normal_concat=range(2, 6),  # as DARTS' repository has it
  reduce=[
    ('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
    ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)
  ], reduce_concat=range(2, 6))
"""
ENAS_RELEASED = (
    "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 "  # fixed_arc of the authors' cifar10_micro_final.sh
    "1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
)
PAIRS = "[('none', 0), ('none', 1)]"
SMALL = f"Genotype({PAIRS}, [2], {PAIRS}, [2])"


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


def test_what_others_published_reads_as_the_zoo_has_it():
    assert parse(DARTS_V1) == find("DARTS-V1")
    assert parse(ENAS_RELEASED) == find("ENAS-released")
    assert to_enas(find("ENAS-released")) == ENAS_RELEASED


def test_an_enas_arc_by_hand():
    arc = parse("0 0 1 1 2 2 0 3 " + "1 4 0 0 0 1 1 1")
    assert arc.normal == (("sep_conv_3x3", 0), ("sep_conv_5x5", 1), ("avg_pool_3x3", 2), ("max_pool_3x3", 0))
    assert arc.normal_concat == (3,)
    assert arc.reduce == (("skip_connect", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 0), ("sep_conv_5x5", 1))
    assert arc.reduce_concat == (2, 3)


@pytest.mark.parametrize("concat", ["range(2, 3)", "[2]", "(2,)", "list(range(2, 3))", "range(2, 3, 1)"])
def test_the_ways_to_write_a_concat(concat):
    text = f"Genotype(normal={PAIRS}, normal_concat={concat}, reduce={PAIRS}, reduce_concat=range(2, 3))"
    assert parse(text) == parse(SMALL)


CODE = "__import__('pathlib').Path('ran').touch()"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing else"),
        ("Genotype", "nothing else"),
        ("PC_DARTS", "nothing else"),
        ("Genotype(", "in no notation known"),
        ("\0", "in no notation known"),
        ("[" * 10_000, "in no notation known"),
        (CODE, "nothing else"),
        (f"{SMALL}; {CODE}", "nothing else"),
        (f"x = y = {CODE}", "nothing else"),
        (f"{SMALL}\n{SMALL}", "nothing else"),
        (f"Genotype({CODE}, [2], {PAIRS}, [2])", "normal: must be a list of plain values"),
        (f"Genotype({PAIRS}, range({CODE}), {PAIRS}, [2])", "normal_concat: must be a list of plain values"),
        (f"[['11', {CODE}]]", "codes: must be a list of plain values"),
        (f"Genotype({PAIRS}, range(2, 10**9), {PAIRS}, [2])", "normal_concat: must be a list of plain values"),
        (f"Genotype({PAIRS}, range(2, {10**9}), {PAIRS}, [2])", "normal_concat: a range of more than 100 nodes"),
        (f"Genotype({PAIRS}, range(1, 2, 0), {PAIRS}, [2])", "normal_concat: not a range"),
        (f"Genotype({PAIRS}, range(2.0), {PAIRS}, [2])", "normal_concat: not a range"),
        (f"Genotype({PAIRS}, [2], {PAIRS})", "Genotype takes normal, normal_concat, reduce, reduce_concat"),
        (f"Genotype({PAIRS}, [2], {PAIRS}, [2], [2])", "Genotype takes normal"),
        (f"Genotype({PAIRS}, [2], {PAIRS}, [2], normal=[])", "Genotype takes normal"),
        (f"Genotype(**{{'normal': {PAIRS}}})", "Genotype takes normal"),
        (f"Genotype(*{PAIRS}, [2], {PAIRS}, [2])", "normal: must be a list of plain values"),
        (f"Genotype({PAIRS}, [3], {PAIRS}, [2])", "normal_concat[0]: must be a node, 2 to 2, not 3"),
        (f"Genotype('none', [2], {PAIRS}, [2])", "normal: must be a list, not 'none'"),
        (f"Genotype([], [2], {PAIRS}, [2])", "nodes: must be at least 1"),
        (f"Genotype({PAIRS}, 2, {PAIRS}, [2])", "normal_concat: must be a list"),
        (f"Genotype({PAIRS.replace('none', 'conv')}, [2], {PAIRS}, [2])", "normal[0]: unknown operation 'conv'"),
        ("[]", "cells: is empty"),
        ("['11', '00']", "cells[0]: must be a list, not '11'"),
        ("[['11', '02']]", "cells[0][1]: unknown code '02'"),
        ("[['11', '00', '01']]", "cells[0]: 2 nodes have 5 edges, one code each, not 3"),
        ("0 2 0", "8 numbers a node"),
        ("0 1 1 1 0 1 1 1.0", "small whole numbers"),
        ("0 -1 1 1 0 1 1 1", "small whole numbers"),
        ("0 5 1 1 0 1 1 1", "normal: ENAS has operations 0 to 4, not 5"),
        ("0 1 1 1 0 1 2 1", "reduce: nothing reads input 1"),
        ("0 1 1 1 0 1 0 1", "reduce: nothing reads input 1"),
        ("{}", "format: must be"),
    ],
)
def test_anything_else_is_refused_in_one_line_and_never_run(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        parse(text, "there")
    assert str(caught.value).startswith("there: ") and words in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("ran").exists()


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


def test_reads_files_of_every_notation_names_and_standard_input(tmp_path, monkeypatch):
    genotype = parse(DARTS_V1)
    for text in (DARTS_V1, genotype.to_json()):
        (tmp_path / "cell").write_text(text)
        assert read(str(tmp_path / "cell")) == genotype
    assert read("DARTS-V1") == genotype
    monkeypatch.setattr("sys.stdin", (tmp_path / "cell").open())
    assert read("-") == genotype


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such genotype file"):
        read("nowhere")
    path = tmp_path / "cell"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cell: cannot read the genotype"):
        read(str(path))
    path.write_text(json.dumps({"nodes": math.nan}))
    with pytest.raises(InputError, match="cell: not JSON"):
        read(str(path))

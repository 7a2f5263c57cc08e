"""Genotypes as people post them: read the same in every wrapping, and nothing that is read is run."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_nas.converters import to_darts
from robust_nas.genotype import Architecture, Genotype
from robust_nas.zoo import find, names
from verify.checks.errors import InputError

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
OTHER = "[('none', 0), ('skip_connect', 1)]"
SMALL = f"Genotype({PAIRS}, [2], {PAIRS}, [2])"
LARGE = f"Genotype({OTHER}, [2], {PAIRS}, [2])"
PUBLISHED = [genotype for genotype in map(find, names()) if isinstance(genotype, Genotype)]
parse = Architecture.from_text


def test_what_others_published_reads_as_the_zoo_has_it():
    assert parse(DARTS_V1) == find("DARTS-V1")
    assert parse(ENAS_RELEASED) == find("ENAS-released")


def test_an_enas_arc_by_hand():
    arc = parse("0 0 1 1 2 2 0 3 " + "1 4 0 0 0 1 1 1")
    assert arc.normal == (("sep_conv_3x3", 0), ("sep_conv_5x5", 1), ("avg_pool_3x3", 2), ("max_pool_3x3", 0))
    assert arc.normal_concat == (3,)
    assert arc.reduce == (("skip_connect", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 0), ("sep_conv_5x5", 1))
    assert arc.reduce_concat == (2, 3)


@st.composite
def wrapped(draw: st.DrawFn) -> tuple[Genotype, str]:
    """A published genotype, and its text as people post it: in a log, under a name, in a file, one list a node."""
    genotype = draw(st.sampled_from(PUBLISHED))
    text = to_darts(genotype)
    if draw(st.booleans()):
        wrap = draw(st.sampled_from(["[{}, {}]", "({}, {})"]))
        for edges in (genotype.normal, genotype.reduce):
            groups = [wrap.format(*pair) for pair in zip(edges[::2], edges[1::2], strict=True)]
            text = text.replace(repr(list(edges)), draw(st.sampled_from(["[{}]", "({})"])).format(", ".join(groups)), 1)
    if list(genotype.normal_concat) == list(range(2, 2 + genotype.nodes)):
        span = f"range(2, {2 + genotype.nodes})"
        concat = draw(st.sampled_from([span, f"list({span})", f"tuple({span})", repr(genotype.normal_concat)]))
        text = text.replace(repr(list(genotype.normal_concat)), concat)
    around = draw(
        st.sampled_from(
            [
                "{}",
                "PC_DARTS = {}",
                "cell: Genotype = genotypes.{}",
                "A = B = {}",
                "07/20 08:55:01 PM genotype = {}",
                "2019-07-20 20:55:01,123 genotype = {}",
                "2019 INFO {} after 50 epochs (gpu day = 0.1)",
                "epoch 3 lr 1e-3\n07/20 08:55:01 PM {}\nvalid_acc 97.3",
                "from collections import namedtuple\n\nGenotype = namedtuple('Genotype', 'normal')\n"
                "PRIMITIVES = ['none', 'skip_connect']\nLAYERS = [[1, 2]]\n\nV2 = {}\nDARTS = V2\n",
                "def show(V2):\n    V2 = None\n\nV2 = {}\n",
            ]
        )
    )
    return genotype, around.format(text)


@given(wrapped())
def test_what_is_around_a_genotype_does_not_matter(posted):
    genotype, text = posted
    assert parse(text) == genotype
    assert parse(text.replace("\n", "\r\n")) == genotype


@pytest.mark.parametrize(
    ("text", "name", "first"),
    [
        (f"A = {SMALL}\nB = {LARGE}", "A", True),
        (f"A = {SMALL}\nB = {LARGE}", "B", False),
        (f"A = {SMALL}\nB = {LARGE}\nC = A", "C", True),
        (f"A = {SMALL}\nB = {LARGE}\nA = B", "A", False),
        (f"{SMALL}\n\n{LARGE}", "3", False),
        (f"A = {SMALL}\nif True:\n    B = {LARGE}", "A", True),
        (f"01 epoch\n02 genotype = {SMALL}\n03 genotype = {LARGE}", "2", True),
        (f"A = {SMALL}\nB = [['11', '01']]", "A", True),
    ],
)
def test_a_name_chooses_one_of_several(text, name, first):
    assert parse(text, name=name) == parse(SMALL if first else LARGE)


def test_of_robnets_codes_too():
    assert parse("A = [['11', '01']]\nB = [['10', '01']]", name="B").cells == (("10", "01"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"A = {SMALL}\nB = {LARGE}", "holds several genotypes, A, B; say which, as in FILE:B"),
        (f"A = {SMALL}\nB = [['11', '01']]\nC = A", "holds several genotypes, A, B, C;"),
        (f"10 genotype = {SMALL}\n11 genotype = {LARGE}", "holds several genotypes, 1, 2;"),
        ("".join(f"{n} {SMALL}\n" for n in range(1000)), "holds several genotypes, ..., 981, 982,"),
    ],
)
def test_without_a_name_the_candidates_are_named(text, words):
    with pytest.raises(InputError) as caught:
        parse(text, "there")
    assert str(caught.value).startswith("there: ") and words in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (f"A = {SMALL}\nB = {LARGE}", "C", "holds no genotype C; it has A, B"),
        (f"A = {SMALL}\nB = {LARGE}\nA = None", "A", "holds no genotype A; it has B"),
        (f"A = {SMALL}\nB = {LARGE}\nA += 1", "A", "holds no genotype A; it has B"),
        (f"A = {SMALL}\nB = {LARGE}\ndel A", "A", "holds no genotype A; it has B"),
        (f"A = {SMALL}\nB = {LARGE}\nfor A in B: pass", "A", "holds no genotype A; it has B"),
        (f"A = {SMALL}\nB = {LARGE}\nimport x as A", "A", "holds no genotype A; it has B"),
        (f"A = {SMALL}\nB = {LARGE}\ndef A(): pass", "A", "holds no genotype A; it has B"),
        (f"A = {SMALL}\nB = {LARGE}\nA, B = B, A", "A", "holds no genotype"),
        (Genotype.to_json(find("PNAS")), "A", "holds one genotype, which has no name; leave out :A"),
        (ENAS_RELEASED, "A", "holds one genotype, which has no name; leave out :A"),
    ],
)
def test_a_name_that_stands_for_no_genotype(text, name, words):
    """Above all where a variable has got another value since: taken for the genotype, it would be the wrong one."""
    with pytest.raises(InputError, match=words):
        parse(text, name=name)


CODE = "__import__('pathlib').Path('ran').touch()"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("Genotype", "holds no genotype"),
        ("PC_DARTS", "holds no genotype"),
        ("PRIMITIVES = ['none']", "holds no genotype"),
        ("Genotype(", "in no notation known"),
        ("\0", "in no notation known"),
        ("[" * 10_000, "in no notation known"),
        (CODE, "holds no genotype"),
        (f"{SMALL}; {CODE}", "holds no genotype"),
        (f"x = y = {CODE}", "holds no genotype"),
        (f"{SMALL}\n{SMALL}", "holds several genotypes, 1, 2;"),
        ("12 epochs: Genotype(normal=[('none', 0", "in no notation known"),
        ("07/20 08:55:01 PM epoch 3 lr 1e-3", "in no notation known"),
        (f"12 epochs: {SMALL}, then {LARGE}", "in no notation known"),
        (f"{SMALL}; {LARGE}", "holds no genotype"),
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
        (f"Genotype([[('none', 0)], [('none', 1)]], [2], {PAIRS}, [2])", "normal[0]: a node adds up two operations, not 1"),
        (f"Genotype({PAIRS}, [2], [{PAIRS[:-1]}, ('none', 1)]], [2])", "reduce[0]: a node adds up two operations, not 3"),
        ("Genotype(recurrent=[('tanh', 0)], concat=range(1, 9))", "Genotype takes normal, normal_concat"),
        (f"Genotype({PAIRS}, 2, {PAIRS}, [2])", "normal_concat: must be a list"),
        (f"Genotype({PAIRS.replace('none', 'conv')}, [2], {PAIRS}, [2])", "normal[0]: unknown operation 'conv'"),
        ("[]", "holds no genotype"),
        ("['11', '00']", "holds no genotype"),
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
        Architecture.from_text(text, "there")
    assert str(caught.value).startswith("there: ") and words in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("ran").exists()


def test_reads_files_of_every_notation_names_and_standard_input(tmp_path, monkeypatch):
    genotype = parse(DARTS_V1)
    path = tmp_path / "cell:1"
    for text in (DARTS_V1, genotype.to_json(), "\ufeff" + genotype.to_json(), f"X = {SMALL}\n{DARTS_V1}"):
        path.write_text(text, encoding="utf-8")
        name = ":DARTS_V1" if "X =" in text else ""
        assert find(f"{path}{name}") == Genotype.load(path, name[1:] or None) == genotype
        monkeypatch.setattr("sys.stdin", path.open(encoding="utf-8"))
        assert find(f"-{name}") == genotype
    assert find("DARTS-V1") == find(genotype) == genotype


def test_standard_input_that_is_no_text(tmp_path, monkeypatch):
    (tmp_path / "cell").write_bytes(b"\xff\xfe")
    monkeypatch.setattr("sys.stdin", (tmp_path / "cell").open())
    with pytest.raises(InputError, match="^standard input: not a text: "):
        find("-")

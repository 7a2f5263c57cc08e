"""The genotype schema: what it accepts comes back, and every mistake is one line with file and field."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_nas.genotype import CODES, Architecture, CellPlan, Genotype, RobNetGenotype
from robust_nas.spaces.operations import OPERATIONS, Style
from verify.checks.errors import InputError


def valid() -> dict:
    return {
        "format": "dsrna-genotype",
        "version": 1,
        "space": "darts",
        "nodes": 2,
        "normal": [["sep_conv_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 2], ["none", 0]],
        "normal_concat": [2, 3],
        "reduce": [["avg_pool_3x3", 0], ["avg_pool_3x3", 0], ["dil_conv_5x5", 1], ["skip_connect", 2]],
        "reduce_concat": [3],
        "meta": {"dataset": "digits", "seed": 0},
    }


@st.composite
def genotype_data(draw: st.DrawFn) -> dict:
    nodes = draw(st.integers(1, 5))
    data = {**valid(), "nodes": nodes}
    operations = st.sampled_from(sorted(OPERATIONS))
    for cell in ("normal", "reduce"):
        inputs = [draw(st.integers(0, 1 + node)) for node in range(nodes) for _ in range(2)]
        data[cell] = [[draw(operations), source] for source in inputs]
        data[f"{cell}_concat"] = draw(st.lists(st.integers(2, nodes + 1), min_size=1, unique=True))
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    data["meta"] = draw(st.dictionaries(st.text(), scalars | st.text() | st.lists(scalars), max_size=3))
    return data


@given(genotype_data())
def test_round_trip(tmp_path_factory, data):
    genotype = Genotype.from_dict(data)
    assert genotype.to_dict() == data
    path = tmp_path_factory.mktemp("genotype") / "genotype.json"
    genotype.save(path)
    loaded = Genotype.load(path)
    assert loaded == genotype
    assert loaded.meta == data["meta"]


def test_meta_is_optional_and_no_part_of_equality():
    data = valid()
    first = Genotype.from_dict(data)
    del data["meta"]
    second = Genotype.from_dict(data)
    assert first == second and hash(first) == hash(second)
    assert second.meta == {}


def test_meta_that_json_cannot_hold_leaves_no_file(tmp_path):
    genotype = Genotype.from_dict({**valid(), "meta": {"accuracy": math.nan}})
    with pytest.raises(ValueError, match="JSON"):
        genotype.save(tmp_path / "genotype.json")
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    ({"format": "darts"}, "format: must be 'dsrna-genotype', not 'darts'"),
    ({"version": 2}, "version: this program reads version 1, not 2"),
    ({"version": True}, "version: must be a whole number, not True"),
    ({"space": "macro"}, "space: unknown search space 'macro'; known: darts, robnet"),
    ({"space": "robnet"}, "cells: missing"),
    ({"cells": []}, "cells: unknown field; known: format, version, space, normal"),
    ({"space": ["darts"]}, r"space: must be text, not \['darts'\]"),
    ({"nodes": 0}, "nodes: must be at least 1, not 0"),
    ({"nodes": True}, "nodes: must be a whole number, not True"),
    ({"nodes": 2.0}, "nodes: must be a whole number, not 2.0"),
    ({"nodes": 3}, r"normal: 3 nodes need 6 \[operation, input\] pairs, not 4"),
    ({"normal": "sep_conv_3x3"}, "normal: must be a list, not 'sep_conv_3x3'"),
    ({"normal": [["skip_connect", 0, 1]] * 4}, r"normal\[0\]: must be a pair \[operation, input\]"),
    ({"normal": ["skip_connect"] * 4}, r"normal\[0\]: must be a list, not 'skip_connect'"),
    (
        {"reduce": [["conv_9x9", 0]] * 4},
        r"reduce\[0\]: unknown operation 'conv_9x9'; known: none, max_pool_3x3",
    ),
    ({"reduce": [[["none"], 0]] * 4}, r"reduce\[0\]: operation: must be text, not \['none'\]"),
    ({"reduce": [["none", 2]] * 4}, r"reduce\[0\]: the input of node 2 must be 0 to 1, not 2"),
    ({"reduce": [["none", -1]] * 4}, r"reduce\[0\]: the input of node 2 must be 0 to 1, not -1"),
    ({"reduce": [["none", True]] * 4}, r"reduce\[0\]: input: must be a whole number, not True"),
    ({"reduce": [["none", "0"]] * 4}, r"reduce\[0\]: input: must be a whole number, not '0'"),
    ({"normal_concat": []}, "normal_concat: is empty"),
    ({"normal_concat": [2, 4]}, r"normal_concat\[1\]: must be a node, 2 to 3, not 4"),
    ({"normal_concat": [1]}, r"normal_concat\[0\]: must be a node, 2 to 3, not 1"),
    ({"normal_concat": [2, 2]}, "normal_concat: names a node twice"),
    ({"reduce_concat": {"2": 3}}, "reduce_concat: must be a list"),
    ({"meta": [1]}, r"meta: must be an object, not \[1\]"),
    ({"metadata": {}}, "metadata: unknown field; known: format, version"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_every_mistake_names_source_and_field(change, message):
    with pytest.raises(InputError, match=f"^cell.json: {message}") as caught:
        Genotype.from_dict({**valid(), **change}, source="cell.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(valid().keys() - {"meta", "format", "version"}))
def test_missing_field(name):
    data = valid()
    del data[name]
    with pytest.raises(InputError, match=f"^genotype: {name}: missing$"):
        Genotype.from_dict(data)


@pytest.mark.parametrize("name", ["format", "version"])
def test_missing_format_or_version(name):
    data = valid()
    del data[name]
    with pytest.raises(InputError, match=f"^genotype: {name}: .*not None$"):
        Genotype.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "genotype", 1])
def test_not_an_object(data):
    with pytest.raises(InputError, match="^genotype: must be a JSON object$"):
        Genotype.from_dict(data)


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), (json.dumps({"nodes": math.nan}), "not JSON"), (b"\xff\xfe", "not a text")])
def test_not_json(tmp_path, text, words):
    path = tmp_path / "genotype.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"genotype.json: {words}: "):
        Genotype.load(path)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="missing.json: cannot read the genotype: No such file"):
        Genotype.load(tmp_path / "missing.json")
    with pytest.raises(InputError, match="cannot read the genotype: Is a directory"):
        Genotype.load(tmp_path)


CELL = ["11", "10", "01", "00", "11"]
ROBNET = {"format": "dsrna-genotype", "version": 1, "space": "robnet", "nodes": 2, "cells": [CELL], "meta": {}}


@st.composite
def robnet_data(draw: st.DrawFn) -> dict:
    nodes = draw(st.integers(1, 5))
    codes = st.lists(st.sampled_from(sorted(CODES)), min_size=(edges := sum(range(2, 2 + nodes))), max_size=edges)
    return {**ROBNET, "nodes": nodes, "cells": draw(st.lists(codes, min_size=1, max_size=3))}


@given(robnet_data())
def test_robnet_round_trip(tmp_path_factory, data):
    architecture = RobNetGenotype.from_dict(data)
    assert architecture.to_dict() == data
    path = tmp_path_factory.mktemp("genotype") / "genotype.json"
    architecture.save(path)
    assert Architecture.load(path) == architecture
    assert architecture.depth == (len(data["cells"]) if len(data["cells"]) > 1 else None)


ROBNET_MISTAKES = [
    ({"cells": []}, "cells: is empty"),
    ({"cells": CELL}, r"cells\[0\]: must be a list, not '11'"),
    ({"cells": [CELL, [11] * 5]}, r"cells\[1\]\[0\]: must be text, not 11"),
    ({"cells": [CELL, CELL[1:]]}, r"cells\[1\]: 2 nodes have 5 edges, one code each, not 4"),
    ({"cells": [[*CELL[1:], "12"]]}, r"cells\[0\]\[4\]: unknown code '12'; known: 00, 01, 10, 11"),
    ({"nodes": 0}, "nodes: must be at least 1, not 0"),
    ({"normal": []}, "normal: unknown field; known: format, version, space, cells"),
]


@pytest.mark.parametrize(("change", "message"), ROBNET_MISTAKES)
def test_every_mistake_in_robnets_space_names_source_and_field(change, message):
    with pytest.raises(InputError, match=f"^cell.json: {message}"):
        Architecture.from_dict({**ROBNET, **change}, source="cell.json")


def test_the_other_space_is_refused_where_one_is_asked_for():
    with pytest.raises(InputError, match="^cell.json: space: must be 'darts' here, not 'robnet'$"):
        Genotype.from_dict(ROBNET, source="cell.json")
    with pytest.raises(InputError, match="^cell.json: space: must be 'robnet' here, not 'darts'$"):
        RobNetGenotype.from_dict(valid(), source="cell.json")


def test_the_cells_of_a_genotype():
    genotype = Genotype.from_dict(valid())
    normal = CellPlan(((("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 2), ("none", 0))), (2, 3))
    assert genotype.plans()["normal"] == genotype.plan(7, reduction=False) == normal
    assert genotype.plans()["reduce"] == genotype.plan(0, reduction=True)
    assert genotype.plan(0, reduction=True).concat == (3,)
    assert list(normal.edges) == [tuple(edge) for edge in valid()["normal"]]


def test_the_cells_of_robnet():
    """A code an edge, by node and then by input; every node is in the output; batch norms are not affine."""
    other = ["00"] * 5
    architecture = RobNetGenotype.from_dict({**ROBNET, "cells": [CELL, other]})
    first = (("res_sep_conv_3x3", 0), ("skip_connect", 1))
    second = (("sep_conv_3x3", 0), ("none", 1), ("res_sep_conv_3x3", 2))
    assert architecture.plan(0, reduction=True) == CellPlan((first, second), (2, 3), Style(affine=False))
    assert {operation for operation, _ in architecture.plan(1, reduction=False).edges} == {"none"}
    assert list(architecture.plans()) == ["cell_01", "cell_02"]
    shared = RobNetGenotype.from_dict(ROBNET)
    assert shared.plan(9, reduction=False) == shared.plans()["cell"] == architecture.plan(0, reduction=False)

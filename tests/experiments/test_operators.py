"""docs/operators.md: as the results say, with a row for every rule and every refusal as it is."""

import pytest

from experiments.operators import activations, table
from experiments.operators.idioms import FAMILIES, REFUSED
from experiments.operators.stock import STOCK
from verify.graph import lirpa
from verify.operators import RULES


@pytest.fixture(scope="module")
def rows():
    return table.read("operators.csv")


@pytest.fixture(scope="module")
def refusals():
    return table.read("operators_refused.csv")


def test_the_page_is_that_of_the_results(rows, refusals):
    assert table.PAGE.read_text(encoding="utf-8") == table.page(rows, refusals, table.read("networks.csv"))


def test_every_rule_has_a_row_and_every_idiom_one(rows, refusals):
    used = {name for row in rows for name in row["rules"].split()}
    assert used >= {table.rule(kind) for kind in RULES.values()}
    idioms = [(family, idiom) for family, (_, each) in FAMILIES.items() for idiom in each]
    measured = {(row["family"], row["idiom"]) for row in rows}
    refused = {row["idiom"] for row in refusals}
    assert all(((family, idiom) in measured) != (idiom in refused) for family, idiom in idioms)
    assert len(rows) + len(refusals) == len(idioms)
    assert refused >= set(REFUSED)


@pytest.mark.parametrize("idiom", ["sign", "round", "fft", "a branch on values", "sort, median, topk", "Hardshrink"])
def test_refusals_are_those_of_the_page(idiom, refusals):
    assert table.refusal(REFUSED[idiom]) == next(row["refusal"] for row in refusals if row["idiom"] == idiom)


@pytest.mark.parametrize("idiom", ["index_copy", "MaxPool2d, ceil_mode", "GELU"])
def test_figures_are_those_of_the_page(idiom, rows):
    """To a hundredth: another processor rounds otherwise."""
    row = next(row for row in rows if row["idiom"] == idiom)
    found = table.measure(row["family"], idiom, FAMILIES[row["family"]][1][idiom])
    assert found["rules"] == row["rules"]
    for method in table.METHODS:
        assert abs(float(found[method]) - float(row[method])) <= 0.011


def test_all_operators_of_auto_lirpa_have_a_row():
    assert lirpa.VERSION == "0.3"
    operators = __import__("auto_LiRPA.bound_ops", fromlist=["Bound"])
    theirs = {name for name in dir(operators) if name.startswith("Bound") and name != "Bound"}
    assert set(STOCK) == theirs


def test_networks_of_every_activation_were_certified_and_none_was_broken():
    found = table.read("activations.csv")
    assert tuple(row["activation"] for row in found) == activations.ACTIVATIONS
    assert all(float(row["mean_radius"]) > 0 and row["broken"] == "0" for row in found)

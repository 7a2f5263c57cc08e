"""The table of sizes: the committed one is of today's code, and every figure that is off has its reason."""

import csv

import pytest

from experiments.studies import zoo_sizes
from experiments.studies.zoo_sizes import REASONS, RESULTS, TABLE_2, TOLERANCE, Reason, enas, explained, reasons
from robust_nas.spaces.size import Size, size_on_cifar10
from robust_nas.zoo import find, names


def committed():
    with (RESULTS / "zoo_sizes.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_committed_table_covers_the_zoo():
    assert list(dict.fromkeys(row["name"] for row in committed())) == names()
    assert set(REASONS) <= set(TABLE_2) <= set(names())


@pytest.mark.parametrize("name", ["RACL", "PC-DARTS"])
def test_the_committed_figures_are_those_of_the_code(name):
    (row,) = (row for row in committed() if row["name"] == name)
    found = size_on_cifar10(find(name))
    assert (int(row["parameters"]), int(row["multiply_adds"])) == (found.parameters, found.multiply_adds)


def test_what_is_off_has_a_reason_and_nothing_else_has():
    for row in committed():
        off = abs(int(row["parameters"]) / 1e6 / float(row["table_2_millions"] or "inf") - 1)
        assert bool(row["why"]) is bool(row["table_2_millions"] and off > TOLERANCE)
        assert row["why_status"] in (("computed", "refuted", "likely") if row["why"] else ("",))


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason("so", lambda: 2_050_000), "computed"),
        (Reason("so", lambda: 2_070_000), "refuted"),
        (Reason("so", lambda: 1_930_000), "refuted"),
        (Reason("so"), "likely"),
    ],
)
def test_a_reason_is_computed_only_if_the_count_under_it_fits(reason, status):
    assert explained(reason, 2.0)["why_status"] == status


def test_only_figures_that_are_off_are_explained():
    assert reasons("PNAS", 0.4) == REASONS["PNAS"]
    assert reasons("PNAS", -0.02) == reasons("RACL", None) == [None]


def test_enas_adds_a_convolution_a_cell(monkeypatch):
    """17 cells: 5 of 36 channels, 6 of 72 (the first a reduction), 6 of 144."""
    monkeypatch.setattr(zoo_sizes, "size_on_cifar10", lambda architecture, cells: Size(0, 0))
    assert enas("ENAS-released", 17) == 5 * (36 * 38) + 6 * (72 * 74) + 6 * (144 * 146)

"""The table of baselines covers every search method, and is what its CSV says."""

import csv

import pytest

from experiments.studies.baselines import BASELINES, RESULTS, Baseline, markdown, row, searched
from robust_nas.search import run as search_run
from robust_nas.search.presets import PRESETS
from robust_nas.search.strategies import STRATEGIES
from robust_nas.spaces.size import size_on_cifar10
from robust_nas.zoo import find, names
from tests.robust_nas.search.helpers import TINY, small_data

BY_EVOLUTION_OR_LEARNING = {"NASNet-A", "AmoebaNet-B", "PNAS"}


def test_every_method_has_a_row_and_every_row_an_architecture():
    assert {(each.search or {}).get("method", "darts") for each in BASELINES} <= set(STRATEGIES)
    assert {each.row for each in BASELINES if each.search is None} == BY_EVOLUTION_OR_LEARNING
    assert {each.zoo for each in BASELINES} - {None} <= set(names())


def test_a_row_is_of_its_search(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], TINY))
    monkeypatch.setattr(search_run, "load", lambda *_: small_data())
    baseline = Baseline("DARTS (1st)", {"method": "darts", "metric": "none"}, "DARTS-V1")
    found = row(baseline, tmp_path)
    assert found["search"] == "dsrna search --method darts --metric none"
    assert found["paper_parameters"] == 3.3
    assert found["published_parameters"] == size_on_cifar10(find("DARTS-V1")).parameters / 1e6
    assert found["quick_parameters"] == size_on_cifar10(find(tmp_path / "darts--1st-" / "genotype.json")).parameters / 1e6
    monkeypatch.setattr("experiments.studies.baselines.run_search", lambda **_: pytest.fail("searched again"))
    assert searched(baseline, tmp_path)[0] == found["quick_seconds"] > 0


def test_the_committed_table_is_that_of_its_csv():
    with (RESULTS / "baselines.csv").open(encoding="utf-8") as file:
        rows = [{name: number(value) for name, value in each.items()} for each in csv.DictReader(file)]
    assert [each["row"] for each in rows] == [each.row for each in BASELINES]
    assert [each["search"] for each in rows] == [each.command for each in BASELINES]
    assert (RESULTS / "baselines.md").read_text(encoding="utf-8") == markdown(rows)
    assert all(each["quick_seconds"] for each in rows if each["search"])


def number(value):
    try:
        return float(value)
    except ValueError:
        return value

"""The evidence: its rows, its tests, its report, and that it goes on where it was stopped."""

import json
import math
import random
from dataclasses import replace

import click
import pandas as pd
import pytest

from experiments.evidence import judging, repeats, report, shapes, study, widths
from experiments.evidence.found import chosen
from experiments.evidence.rows import ROWS, SIZES, Row
from robust_nas.metrics import LogRadius
from robust_nas.search.stage import Plan
from robust_nas.spaces.sampling import sample_genotype
from tests.robust_nas.search.helpers import TINY, small_data

SEEDS = range(10, 18)


def runs(**rows) -> pd.DataFrame:
    """Verified accuracies by row, as after certified training."""
    return pd.DataFrame(
        [
            {"row": row, "recipe": "certified", "seed": seed, "accuracy": 0.7, "verified_05": value, "trainings": 1}
            for row, values in rows.items()
            for seed, value in zip(SEEDS, values, strict=False)
        ]
    )


def test_rows_search_under_what_they_are_for():
    assert set(SIZES.__dict__) == set(TINY.__dict__)
    for name, row in ROWS.items():
        certified, standard = row.plan("certified", 3), row.plan("standard", 3)
        assert isinstance(certified, Plan) and certified.seed == standard.seed == 3, name
        assert (certified.trial is None) == row.blind
        if certified.trial:
            assert (certified.trial.recipe, certified.trial.settings.epsilon) == ("certified", 0.05)
            assert standard.trial.recipe == "standard"
    mended = ROWS["mended"].plan("certified", 0)
    assert (mended.recipe, mended.settings.epsilon, mended.metric) == ("certified", 0.05, None)
    assert isinstance(ROWS["mended"].plan("standard", 0).metric, LogRadius)


def test_rows_that_share_trials_choose_differently():
    tries = [[[0.3, None, 0.5], [0.3, None, 0.1]], [[0.9, None, 0.1]], [[0.2, None, 0.4], [0.2, None, 0.4]]]
    cells = [sample_genotype(1, random.Random(seed)) for seed in range(len(tries))]
    trials = [{"genotype": cell.to_dict(), "scores": scores} for cell, scores in zip(cells, tries, strict=True)]
    found = {"genotype": cells[2].to_dict(), "trials": trials}
    assert chosen("raced", found) == cells[2]
    assert chosen("screened", found) == cells[0]
    assert chosen("random-accuracy", found) == cells[1]


def test_holm_is_the_textbooks():
    assert report.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert report.holm([0.6, 0.9]) == [1.0, 1.0]
    assert report.holm([]) == []


def test_comparisons_are_exact_paired_and_corrected_for_the_rivals_of_a_claim():
    best, worse, third = ([0.1 * place + step for place in range(8)] for step in (0.02, 0.0, 0.03))
    found = report.comparisons(runs(raced=best, darts=worse, cb=third))
    pairs = {(test["better"], test["worse"]): test for test in found}
    assert set(pairs) == {("raced", "darts"), ("cb", "raced")}
    test = pairs["raced", "darts"]
    assert (test["p"], test["p_holm"], test["n"]) == (pytest.approx(2 / 256), pytest.approx(4 / 256), 8)
    assert test["difference"] == pytest.approx(0.02)
    assert pairs["cb", "raced"]["difference"] == pytest.approx(0.01)
    assert test["interval"][0] <= 0.0200001 and test["interval"][1] >= 0.0199999


def test_only_seeds_that_both_have_are_compared():
    (test,) = report.comparisons(runs(raced=[0.5, 0.6, 0.9], cb=[0.4, 0.5]))
    assert (test["better"], test["n"], test["difference"]) == ("raced", 2, pytest.approx(0.1))


def test_a_correction_takes_out_what_accuracy_does_to_the_radius():
    cells = pd.DataFrame({"accuracy": [0.90, 0.92, 0.95], "radius": [0.008, 0.006, 0.004]})
    table = cells.rename(columns={"radius": "radius_linf"})
    assert report.with_corrections(table, cells)["corrected_linf"].sum() == pytest.approx(0, abs=1e-9)
    larger = table.assign(radius_linf=2 * table["radius_linf"])
    assert report.with_corrections(larger, cells)["corrected_linf"].mean() == pytest.approx(math.log(2), abs=1e-9)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3"])
def test_parts_that_are_none_are_refused(text):
    with pytest.raises(click.UsageError, match="--part"):
        study.part_of(text)


def test_a_study_goes_on_where_it_was_stopped_and_reports_what_there_is(tmp_path, monkeypatch):
    calls = []

    def judged(genotype, recipe, data, training, norms):
        calls.append(training)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"accuracy": 0.5, "verified_05": 0.25, "radius_linf": 0.01}

    monkeypatch.setattr(study, "judged", judged)
    preset = replace(TINY, candidates=1, trial_epochs=1)
    monkeypatch.setitem(study.ROWS, "darts", Row("darts", lambda recipe, seed: Plan(preset, seed=seed), blind=True))
    with pytest.raises(KeyboardInterrupt):
        study.run("darts", "certified", 13, 2, ("linf",), small_data(), tmp_path)
    search = tmp_path / "darts.any.13.json"
    before = search.read_text()
    study.run("darts", "certified", 13, 2, ("linf",), small_data(), tmp_path)
    assert calls == [1300, 1301, 1301] and search.read_text() == before
    study.run("darts", "standard", 13, 1, ("linf",), small_data(), tmp_path)  # of the same search
    assert calls == [1300, 1301, 1301, 1300] and search.read_text() == before
    text = report.write(tmp_path, tmp_path / "results")
    found = json.loads((tmp_path / "results" / "report.json").read_text())
    figures = {"n": 1, "accuracy_median": 0.5, "radius_linf_median": 0.01, "verified_05_median": 0.25}
    assert found["rows"] == {"darts": {"certified": figures, "standard": figures}}
    assert len(found["random"]["standard"]["radius_linf_quantiles"]) == 11 and found["tests"] == []
    assert "| darts | 1 | 2 |" in text and (tmp_path / "results" / "front.png").exists()


@pytest.mark.parametrize("recipe", ["standard", "certified"])
def test_final_networks_are_judged(recipe, monkeypatch):
    monkeypatch.setattr(judging, "SHAPE", {"channels": 2, "cells": 2, "stem_stride": 1})
    monkeypatch.setattr(judging, "VERIFIED_IMAGES", 12)
    monkeypatch.setattr(judging, "WIDE_IMAGES", 4)
    monkeypatch.setattr(judging, "build", lambda genotype, data: judging.trained(genotype, "certified", data, 0))
    found = judging.judged(sample_genotype(1, random.Random(0)), recipe, small_data(), 0, ("linf",))
    assert 0 <= found["accuracy"] <= 1
    names = {"verified_05", "verified_10", "radius_linf"} if recipe == "certified" else {"radius_linf", "attack_linf"}
    assert set(found) == {"accuracy", "training_seconds", *names}
    if recipe == "certified":
        assert found["verified_10"] <= found["verified_05"] <= found["accuracy"]


RESULTS = study.RESULTS


def test_the_committed_reports_are_those_of_the_committed_runs():
    runs, cells = pd.read_csv(RESULTS / "runs.csv"), pd.read_csv(report.FIDELITY)
    found = json.loads((RESULTS / "report.json").read_text())
    tests = report.comparisons(report.with_corrections(runs, cells))
    assert found["rows"] == report.medians(runs)
    assert [test["p_holm"] for test in found["tests"]] == [test["p_holm"] for test in tests]
    assert (RESULTS / "report.md").read_text() == report.markdown(runs, tests)
    table = pd.read_csv(RESULTS / "widths.csv").merge(cells, on="index")
    assert (RESULTS / "widths.md").read_text() == widths.markdown(table)
    cells_again = pd.read_csv(RESULTS / "repeats.csv")
    assert (RESULTS / "repeats.md").read_text() == repeats.summary(cells, cells_again)


def test_shapes_read_the_inputs_alone_and_their_table_is_that_of_the_file():
    table = pd.read_csv(RESULTS / "shapes.csv")
    assert shapes.markdown(table) == (RESULTS / "shapes.md").read_text()
    assert set(zip(table["normal"], table["reduce"], strict=True)) == set(shapes.SHAPES)
    for shape in shapes.SHAPES:
        found = shapes.genotype(*shape)
        assert {source for _, source in (*found.normal, *found.reduce)} == {0, 1}
        assert [operation for operation, _ in found.normal] == [shapes.LETTERS[each] for each in shape[0].split()]

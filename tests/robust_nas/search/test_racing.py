"""Successive halving: which candidate is tried again, and which wins."""

import random
from dataclasses import replace

import pandas as pd
import pytest

from robust_nas.options import SearchOptions
from robust_nas.search import judges
from robust_nas.search.judges import Score, mean
from robust_nas.search.racing import again, winner
from robust_nas.search.run import run_search
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.trials import Trials, trial_at
from tests.robust_nas.search.helpers import TINY, tiny_search


def race(candidates: int, trainings: int, score) -> list[list[Score]]:
    """All tries, the first ones in order, with the score of a candidate's next try."""
    tries = [[Score(score(place))] for place in range(candidates)]
    for _ in range(trainings - candidates):
        place = again(tries)
        tries[place].append(Score(score(place)))
    return tries


def test_the_better_half_is_tried_a_second_time_and_the_better_half_of_it_a_third():
    tries = race(8, 14, lambda place: place / 10)
    assert [len(each) for each in tries] == [1, 1, 1, 1, 2, 2, 3, 3]
    assert winner(tries) == 7
    assert [len(each) for each in race(3, 6, lambda place: -place)] == [4, 1, 1]  # one is left, and takes the rest


def test_a_lucky_first_try_does_not_win_a_race():
    lucky = iter([0.8, 0.1])
    tries = race(4, 6, lambda place: next(lucky) if place == 0 else 0.2 + place / 10)
    assert [len(each) for each in tries] == [2, 1, 1, 2]
    assert winner(tries) == 3


def test_under_noise_a_race_finds_better_candidates_than_as_many_single_tries():
    draws = random.Random(0)

    def found(candidates: int) -> float:
        worth = [draws.gauss(0, 1) for _ in range(candidates)]
        return worth[winner(race(candidates, 14, lambda place: worth[place] + draws.gauss(0, 1.5)))]

    times = 400
    assert sum(found(8) for _ in range(times)) / times > sum(found(14) for _ in range(times)) / times


def test_a_mean_score_is_of_what_was_asked_for():
    assert mean([Score(0.2, None, 0.1), Score(0.4, None, 0.5)]) == Score(pytest.approx(0.3), None, pytest.approx(0.3))
    assert mean([Score(0.2, 1.0), Score(0.4, 2.0)]) == Score(pytest.approx(0.3), 1.5, None)


def test_a_search_trains_its_better_candidates_again_from_other_weights(monkeypatch):
    scores, seen = iter([Score(0.2), Score(0.6), Score(0.7), Score(0.1), Score(0.5), Score(0.3)]), []

    def score(self, network):
        seen.append(sum(float(weight.sum()) for weight in network.parameters()))
        return next(scores)

    monkeypatch.setattr(Trials, "_score", score)
    trial = replace(trial_at(replace(TINY, candidates=6, trial_epochs=1), "standard", "digits"), repeated=2)
    search = tiny_search(TINY, strategy=STRATEGIES["random"](), trial=trial)
    rows = list(search.steps())
    assert len(rows) == search.length and search.finished and len(search.trials.candidates) == 4
    ends = [row["candidate"] for row in rows if row["trial_accuracy"] is not None]
    assert ends == [1, 2, 3, 4, 3, 2]
    assert seen[4] != seen[2] and seen[5] != seen[1]
    assert search.genotype() == search.trials.candidates[2]


def test_the_method_has_as_many_trainings_as_random_search_and_finds_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(judges, "BOUNDED", 1)
    sizes = replace(TINY, candidates=14)
    raced, plain = (STRATEGIES[name]().trial(sizes, "digits") for name in ("raced", "random"))
    assert (raced.count, raced.repeated, raced.judge, plain.count) == (14, 6, "radius", 14)
    options = {"method": "raced", "trials": 3, "screen": 2, "repeat": 1, "recipe": "certified", "epsilon": 0.05}
    run_search(SearchOptions(**options, nodes=1, batch_size=256, dataset="digits", out=tmp_path))
    rows = pd.read_csv(tmp_path / "search.csv").dropna(subset="trial_accuracy")
    first = rows["trial_verified"].tolist()[:2]
    assert rows["candidate"].tolist() == [1, 2, 1 + (first[1] > first[0])]
    assert (tmp_path / "genotype.json").exists()

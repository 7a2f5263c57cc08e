"""A search that is killed at any step and resumed ends as one that was left alone, to the byte."""

from dataclasses import asdict, replace
from itertools import product

import pytest
import torch
from safetensors.torch import load_file

from robust_nas import checkpoint
from robust_nas.genotype import Genotype
from robust_nas.options import SearchOptions
from robust_nas.registry import STOPPING_RULES, STRATEGIES
from robust_nas.search import run as search_run
from robust_nas.search import run_search
from robust_nas.search.presets import PRESETS
from robust_nas.search.stopping import Stop, StoppingRule
from tests.robust_nas import killing
from tests.robust_nas.search.helpers import TINY, planned, small_data, tiny_search
from verify.checks.errors import InputError

PRESET = replace(TINY, channels=4, epochs=4)
OPTIONS = {"metric": "combined", "method": "darts", "dataset": "digits", "preset": "quick", "gamma": 5.0, "device": "cpu"}

SETUP = f"""
from robust_nas.options import SearchOptions
from robust_nas.search import run as search_run, run_search
from robust_nas.search.presets import PRESETS, SearchPreset
from tests.robust_nas.search.helpers import small_data

PRESETS["quick"] = dict.fromkeys(PRESETS["quick"], SearchPreset(**{asdict(PRESET)!r}))
search_run.load = lambda *_: small_data()
"""


def go(options, deadly=0):
    killing.run(SETUP, "run_search(SearchOptions(**options))", "search.csv", options, deadly)


@pytest.mark.slow  # in one process, every strategy is stopped and resumed by the next test
@pytest.mark.parametrize(
    ("method", "order", "deaths"), [("darts", "second", (3,)), ("p-darts", "first", (4, 3))]
)
def test_killed_and_resumed_is_the_same_to_the_byte(tmp_path, method, order, deaths):
    options = {**OPTIONS, "method": method, "order": order}
    go({**options, "out": str(tmp_path / "whole")})
    go({**options, "out": str(tmp_path / "killed")}, deaths[0])
    for death in deaths[1:]:
        go({**options, "out": str(tmp_path / "killed"), "resume": True}, death)
    go({**options, "out": str(tmp_path / "killed"), "resume": True})
    for name in ("genotype.json", "search.csv", "alphas.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


FEW = [("p-darts", 3), ("snas", 3)]
"""In every run of the tests; test_trials stops and resumes random search and RobNet. The others are like one of these."""


@pytest.mark.parametrize(
    ("method", "place"),
    [
        case if case in FEW else pytest.param(*case, marks=pytest.mark.slow)
        for case in product(STRATEGIES, (2, 3))  # the end of an epoch, and within one
    ],
)
def test_a_state_taken_between_any_two_steps_continues_bit_for_bit(tmp_path, method, place):
    preset = replace(PRESET, epochs=2)

    def fresh():
        metric = planned(preset, metric="combined").metric if STRATEGIES[method].metrics else None
        stopping = STOPPING_RULES["plateau"]() if STRATEGIES[method].metrics else None
        return tiny_search(preset, strategy=STRATEGIES[method](), metric=metric, gamma=5.0, stopping=stopping)

    whole, rows = fresh(), []
    for row in whole.steps():
        rows.append(row)
        if len(rows) == place:
            checkpoint.save(tmp_path, whole.state_dict())
    resumed = fresh()
    torch.rand(7)
    resumed.load_state_dict(checkpoint.load(tmp_path).state)
    assert resumed.done == place
    assert repr(list(resumed.steps())) == repr(rows[place:])  # repr: a NaN equals itself
    if whole.stage is not None:
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.genotype() == whole.genotype()


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], TINY))
    monkeypatch.setattr(search_run, "load", lambda *_: small_data())
    return {**OPTIONS, "metric": "none", "out": tmp_path / "run"}


def test_a_finished_run_resumes_to_itself(options):
    path = run_search(SearchOptions(**options)).genotype_path
    before = path.read_bytes()
    assert run_search(SearchOptions(**options, resume=True)).genotype_path.read_bytes() == before


def test_a_damaged_checkpoint_falls_back_and_says_so(options, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], replace(TINY, epochs=2)))
    path = run_search(SearchOptions(**options)).genotype_path
    before = path.read_bytes()
    newest = options["out"] / checkpoint.NEWEST
    newest.write_bytes(newest.read_bytes()[:-3])
    run_search(SearchOptions(**options, resume=True))
    shown = capsys.readouterr().err
    assert "checkpoint.safetensors is damaged; going on from the one before" in shown
    assert "resumed after 2 of 4 steps" in shown
    assert path.read_bytes() == before


@pytest.mark.parametrize("method", [pytest.param("darts", marks=pytest.mark.slow), "pc-darts"])
def test_a_rule_that_goes_back_gives_the_alphas_of_its_epoch(options, monkeypatch, method):
    """The files belong together: alphas of the epoch whose genotype is the result, in a run that was resumed too."""

    class Back(StoppingRule):
        def _judge(self, epoch, val_loss):
            return Stop("enough", 2) if epoch.number == 3 else None

    monkeypatch.setitem(STOPPING_RULES, "plateau", Back)
    sizes = replace(TINY, channels=4, epochs=4, alpha_learning_rate=0.5)
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], sizes))
    run_search(SearchOptions(**{**options, "method": method}, stop="plateau"))
    newest, previous = (options["out"] / name for name in (checkpoint.NEWEST, checkpoint.PREVIOUS))
    before = (options["out"] / "alphas.safetensors").read_bytes()
    previous.replace(newest)  # of the end of epoch 2
    path = run_search(SearchOptions(**{**options, "method": method}, stop="plateau", resume=True)).genotype_path
    assert (options["out"] / "alphas.safetensors").read_bytes() == before

    saved = load_file(options["out"] / "alphas.safetensors")
    search = tiny_search(sizes, strategy=STRATEGIES[method]())
    for name, value in search.model.named_parameters():
        if name.startswith(("alphas.", "betas.")):
            value.data = saved[name.removeprefix("alphas.")]
    assert search.model.genotype() == replace(Genotype.load(path), meta={})
    state = checkpoint.load(options["out"]).state
    chosen, last = state["parameters"], state["stage"]["model"]
    assert all(torch.equal(saved[name], chosen[1][name]) for name in saved)
    assert not torch.equal(saved["normal"], last["alphas.normal"])


def test_resume_needs_the_same_run(options):
    with pytest.raises(InputError, match=r"no run to resume here; start it without --resume$"):
        run_search(SearchOptions(**options, resume=True))
    run_search(SearchOptions(**options))
    with pytest.raises(InputError, match=r"was started with seed 0, not 1; resume it with the same options"):
        run_search(SearchOptions(**options, resume=True, seed=1))
    (options["out"] / "search.csv").write_text("epoch,step\n1,1\n")
    with pytest.raises(InputError, match="has lost rows of the run"):
        run_search(SearchOptions(**options, resume=True))


def test_a_new_run_takes_nothing_from_an_old_one(options, monkeypatch):
    def diverge(search):
        raise InputError("the search diverged")

    run_search(SearchOptions(**options))
    monkeypatch.setattr(search_run.Search, "steps", diverge)
    with pytest.raises(InputError, match="diverged"):
        run_search(SearchOptions(**options))
    assert sorted(path.name for path in options["out"].iterdir()) == ["config.json"]

"""Several processes with a share of each batch do what one process with the whole batch does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robust_nas.data import Examples
from robust_nas.distributed import ALONE, Processes, processes
from robust_nas.genotype import Genotype
from robust_nas.metrics import METRICS, MetricSettings
from robust_nas.options import SearchOptions
from robust_nas.search import run as search_run
from robust_nas.search import run_search
from robust_nas.search.planning import check_team
from robust_nas.search.presets import PRESETS
from robust_nas.search.strategies import STRATEGIES
from robust_nas.training.recipes import RECIPES, RecipeSettings
from tests.robust_nas.search.helpers import TINY, planned, small_data, tiny_search
from tests.robust_nas.training.helpers import BOUNDED, training
from verify.checks.errors import InputError

STEPS = 3


def search(method, order, metric, recipe="standard", steps=STEPS, *, processes):
    """Architecture parameters and figures after some steps; batches of 6 images, the last of 5."""
    settings = MetricSettings("l2", bound_images=5, jacobian="sampled", jacobian_images=5)
    preset = replace(TINY, channels=4, epochs=3, batch_size=5)
    found = tiny_search(
        preset,
        processes=processes,
        strategy=STRATEGIES[method](),
        metric=METRICS[metric](settings) if STRATEGIES[method].metrics else None,
        gamma=3.0,
        recipe=recipe,
        settings=RecipeSettings("l2", 0.01, attack_steps=2),
        order=order,
    )
    rows = list(islice(found.steps(), int(steps)))
    figures = {name: torch.tensor([float(row[name] or 0) for row in rows]).nan_to_num() for name in rows[0]}
    return {**figures, **{name: value.detach() for name, value in found.model.named_parameters()}}


@pytest.mark.parametrize(
    ("method", "order", "metric", "recipe"),
    [
        ("darts", "second", "combined", "standard"),
        pytest.param("darts", "first", "log-radius", "certified", marks=pytest.mark.slow),
        pytest.param("darts", "first", "ibp-slope", "adversarial", marks=pytest.mark.slow),
        pytest.param("pc-darts", "first", "ibp-slope", "standard", marks=pytest.mark.slow),
        pytest.param("enas", "first", "none", "standard", marks=pytest.mark.slow),
        pytest.param("snas", "first", "ibp-slope", "standard", marks=pytest.mark.slow),
        pytest.param("sdarts-adv", "first", "ibp-slope", "standard", marks=pytest.mark.slow),
    ],
)
def test_two_processes_do_what_one_does(tmp_path, method, order, metric, recipe):
    expected = search(method, order, metric, recipe, processes=ALONE)
    torchrun("search", tmp_path, method, order, metric, recipe)
    both = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for name, value in expected.items():
        assert torch.equal(both[0][name], both[1][name]), name
        tolerance = 1e-6 if value.dtype == torch.float32 else 1e-9
        assert torch.allclose(both[0][name], value, rtol=tolerance, atol=tolerance), name


def train(processes):
    """With every recipe."""
    return {f"{recipe} {name}": value for recipe in RECIPES for name, value in trained(recipe, processes).items()}


def trained(recipe, processes):
    """Weights and figures after some steps; batches of 5 images."""
    found = training(recipe, RecipeSettings("l2", 0.2, attack_steps=2), processes, **UNLIKE[recipe])
    steps = found.steps()
    rows = [next(steps) for _ in range(STEPS)]
    figures = {name: torch.tensor([float(row[name] or 0) for row in rows]) for name in rows[0]}
    return {**figures, **{name: value.detach() for name, value in found.learner.state_dict().items()}}


# Drop-path is drawn by each process for its own images.
UNLIKE = {recipe: {} if recipe in BOUNDED else {"drop_path": 0.0} for recipe in RECIPES}


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    expected = train(processes=ALONE)
    torchrun("train", tmp_path)
    both = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for name, value in expected.items():
        assert torch.equal(both[0][name], both[1][name]), name
        assert torch.allclose(both[0][name].double(), value.double(), rtol=1e-3, atol=1e-4), name


@pytest.mark.slow
def test_a_run_of_two_processes_is_written_once_and_resumes(tmp_path):
    whole, both = tmp_path / "whole", tmp_path / "both"
    run(whole)
    torchrun("run", both)
    torchrun("run", both, "--resume")
    assert Genotype.load(both / "genotype.json") == Genotype.load(whole / "genotype.json")
    expected, found = (pd.read_csv(folder / "search.csv") for folder in (whole, both))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6, atol=1e-9)
    assert json.loads((both / "config.json").read_text())["options"]["processes"] == 2
    with pytest.raises(InputError, match="started with processes 2, not 1"):
        run(both, resume=True)


@pytest.mark.slow
def test_dropout_leaves_no_process_ahead(tmp_path):
    """Each drops other elements, of batches of 3 and 2 images; the next stage's fresh weights are the same."""
    torchrun("search", tmp_path, "p-darts", "first", "ibp-slope", 7)  # one of the second stage
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_random_numbers_of_a_step_are_each_process_own():
    def drawn(rank, size, step=3, count=4):
        torch.manual_seed(0)
        with Processes(rank, size).own_random_numbers(1, step, torch.device("cpu")):
            inside = torch.rand(count)
        return inside, torch.rand(4)

    own, after = drawn(0, 2)
    assert torch.equal(own, drawn(0, 2)[0])
    assert not torch.equal(own, drawn(1, 2)[0]) and not torch.equal(own, drawn(0, 2, step=4)[0])
    assert torch.equal(after, drawn(1, 2, count=7)[1])
    alone = torch.rand(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(drawn(0, 1)), alone)


@pytest.fixture
def one_of_two(tmp_path):
    """Processes of which there is one in truth: sums over all are its own."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield Processes(0, 2)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_is_torchs_in_full_and_in_half_precision(one_of_two, dtype):
    """Under autocast x is of half precision, the statistics are not."""
    torch.manual_seed(0)
    x = (3 + torch.randn(5, 4, 3, 3)).to(dtype)
    ours, theirs = (nn.BatchNorm2d(4) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        with one_of_two.synchronised(ours):
            found = ours(x)
        expected = theirs(x)
    assert found.dtype == expected.dtype == dtype
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_a_sum_over_processes_has_gradients_of_any_order(one_of_two):
    x = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(one_of_two.sum, x) and torch.autograd.gradgradcheck(lambda x: one_of_two.sum(x**3), x)


def test_something_else_than_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    words = "WORLD_SIZE is 2 without RANK, LOCAL_RANK.*: start with torchrun"
    with pytest.raises(InputError, match=words), processes(torch.device("cpu")):
        pass


def test_shares_make_up_the_batch_and_its_first_images():
    batch = Examples(torch.rand(7, 1, 2, 2), torch.arange(7))
    team = [Processes(rank, 3) for rank in range(3)]
    labels = [one.share(batch).labels for one in team]
    assert sorted(torch.cat(labels).tolist()) == list(range(7))
    first = [own[: one.count(5)] for own, one in zip(labels, team, strict=True)]
    assert sorted(torch.cat(first).tolist()) == list(range(5))


@pytest.mark.parametrize(
    ("metric", "bound", "most"), [("cb", "affine", 2), ("ibp-slope", "affine", 6), ("none", "affine", 6), ("combined", "crown", 1)]
)
def test_more_processes_than_images_are_refused(metric, bound, most):
    plan = planned(metric=metric, bound=bound)
    check_team(Processes(0, most), plan)
    with pytest.raises(InputError, match=f"{most + 1} processes have only {most} images a step"):
        check_team(Processes(0, most + 1), plan)


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *map(str, arguments)], env=environment, check=True, capture_output=True)


def run(out, resume=False):
    """A whole run of a tiny search, through the function behind the command."""
    with (
        mock.patch.dict(PRESETS, quick=dict.fromkeys(PRESETS["quick"], TINY)),
        mock.patch.object(search_run, "load", lambda *_: small_data()),
    ):
        run_search(SearchOptions(metric="jacobian", gamma=3.0, device="cpu", out=out, resume=resume))


def main():
    what, folder, *choices = sys.argv[1:]
    if what == "run":
        run(folder, resume=bool(choices))
        return
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    work = {"search": search, "train": train}[what]
    save_file(work(*choices, processes=Processes(rank, 2)), Path(folder) / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""The door to auto_LiRPA: it changes nothing it need not, refuses what it does not know, and stock runs beside us."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.helpers import random_images, random_rows, randomise
from verify import BoundedNetwork, InputError
from verify.graph import lirpa
from verify.graph.lirpa import BoundedModule, BoundedTensor, PerturbationLpNorm
from verify.propagation.worst_points import WorstPoints

ROOT = Path(__file__).parents[3]

UNTOUCHED = """
import logging, sys, warnings
import numpy, scipy.optimize, scipy.sparse, torch, torch.onnx, torch.onnx.symbolic_helper, torch.onnx.utils

def look():
    root = logging.getLogger()
    return {
        "filters": list(warnings.filters),
        "handlers": list(root.handlers), "level": root.level,
        "arraysetops": "numpy.lib.arraysetops" in sys.modules,
        "onnx": sorted(vars(torch.onnx.utils)), "helper": sorted(vars(torch.onnx.symbolic_helper)),
        "bool": hasattr(numpy, "bool_"), "random": torch.get_rng_state().sum().item(),
        "default": torch.get_default_dtype(), "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(), "printing": numpy.get_printoptions(),
        "module": sorted(vars(torch.nn.Module)), "recursion": sys.getrecursionlimit(),
    }

before = look()
import verify
after = look()
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
print("untouched")
"""


def test_importing_verify_changes_nothing_else():
    """Of warnings, logging, numpy, torch and its ONNX exporter; in a process of its own, without our test hooks."""
    done = subprocess.run([sys.executable, "-c", UNTOUCHED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "untouched"
    # What a CUDA build of torch says where it finds a toolkit and no GPU, as soon as auto_LiRPA asks for its compiler.
    assert [line for line in done.stderr.splitlines() if "No CUDA runtime is found" not in line] == []


@pytest.mark.parametrize("version", [None, "0.2", "0.7.0"])
def test_another_auto_lirpa_is_refused_in_one_line(version, monkeypatch):
    def installed(name: str) -> str:
        assert name == "auto-LiRPA"
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with pytest.raises(InputError) as caught:
        lirpa.check_installed()
    assert str(caught.value) == (
        f"auto-LiRPA {'is not installed' if version is None else f'{version} is installed, dsrna needs 0.3'}; "
        "install it with: pip install --no-deps auto-LiRPA==0.3"
    )


def test_the_version_that_is_installed_is_accepted():
    lirpa.check_installed()


def plain(seed: int) -> nn.Module:
    """Operators for which the stock library is sound in matrix mode: plain convolutions, ReLU, fully connected."""
    return randomise(
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3),
        ),
        seed,
    ).float()  # fmt: skip


def stock(model: nn.Module, images: torch.Tensor, epsilon: float, norm: float, rows: torch.Tensor, method: str):
    bounded = BoundedModule(model, torch.zeros_like(images), bound_opts={"conv_mode": "matrix"})
    region = BoundedTensor(images, PerturbationLpNorm(norm=norm, eps=epsilon))
    return bounded.compute_bounds(x=(region,), C=rows, method=method)


@pytest.mark.parametrize("seed", range(level(1, 2)))
@pytest.mark.parametrize(("name", "norm", "epsilon"), [("linf", torch.inf, 0.03), ("l2", 2.0, 0.15)])
def test_ibp_equals_stock(seed, name, norm, epsilon):
    """For l2 the stock library bounds the first convolution by the dual norm, which is tighter than a box."""
    model, images, rows = plain(seed), random_images((1, 6, 6), seed=seed).float(), random_rows(3, 3, 3, seed).float()
    lower, upper = stock(model, images, epsilon, norm, rows, "IBP")
    ours = BoundedNetwork(model, images).bounds(images, epsilon, name, rows, "ibp", "free")
    if name == "linf":
        torch.testing.assert_close((ours.lower, ours.upper), (lower, upper), rtol=1e-4, atol=1e-4)
    else:
        assert (ours.lower <= lower + 1e-4).all()
        assert (ours.upper >= upper - 1e-4).all()


@pytest.mark.parametrize("seed", range(level(1, 3)))
@pytest.mark.parametrize(
    ("method", "name", "norm", "epsilon"),
    [("CROWN", "linf", torch.inf, 0.03), ("CROWN", "l2", 2.0, 0.15), ("CROWN-IBP", "linf", torch.inf, 0.03)],
)
def test_crown_is_never_looser_than_stock(seed, method, name, norm, epsilon, monkeypatch):
    """The same relaxation, on intervals at least as tight. (On l2 balls our CROWN-IBP starts from a box.)

    With the slopes that stock has: those of `worst_points` are better mostly, not always.
    """
    monkeypatch.setattr(WorstPoints, "__call__", lambda points, activation: None)
    model, images, rows = plain(seed), random_images((1, 6, 6), seed=seed).float(), random_rows(3, 3, 3, seed).float()
    lower, upper = stock(model, images, epsilon, norm, rows, method)
    ours = BoundedNetwork(model, images).bounds(images, epsilon, name, rows, method.lower(), "free")
    assert (ours.lower >= lower - 1e-4).all()
    assert (ours.upper <= upper + 1e-4).all()
    # And hardly tighter: the same but for what we intersect.
    torch.testing.assert_close(ours.upper - ours.lower, upper - lower, rtol=0.35, atol=1e-3)


def test_slopes_of_our_own_gain_on_stock():
    gains = []
    for seed in range(level(2, 5)):
        model, images, rows = plain(seed), random_images((1, 6, 6), seed=seed).float(), random_rows(3, 3, 3, seed).float()
        lower, upper = stock(model, images, 0.1, torch.inf, rows, "CROWN")
        ours = BoundedNetwork(model, images).bounds(images, 0.1, specification=rows, domain="free")
        gains.append(1 - ((ours.upper - ours.lower).mean() / (upper - lower).mean()).item())
    assert min(gains) > -0.01
    assert sum(gains) / len(gains) > 0.02


def test_stock_runs_beside_a_bounded_network():
    """Neither disturbs the other: the mends of the parser are in memory and in use by both."""
    model, images, rows = plain(5), random_images((1, 6, 6)).float(), random_rows(3, 3, 3).float()
    network = BoundedNetwork(model, images)
    before = network.bounds(images, 0.03, specification=rows, domain="free")
    first = stock(model, images, 0.03, torch.inf, rows, "CROWN")
    after = network.bounds(images, 0.03, specification=rows, domain="free")
    assert torch.equal(before.lower, after.lower)
    again = stock(model, images, 0.03, torch.inf, rows, "CROWN")
    assert torch.equal(first[0], again[0])

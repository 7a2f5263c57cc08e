"""The fidelity study: its architectures, their places in a supernet, its correlations."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.benchmarks.search_step import summarise
from experiments.fidelity.networks import NODES, sample
from experiments.fidelity.report import correlations, markdown, plot
from experiments.fidelity.shared import one_hot
from experiments.fidelity.study import NETWORKS
from robust_nas.spaces.network import Network
from robust_nas.spaces.supernet import Supernet

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
OPTIONS = {"channels": 2, "cells": 3, "mean": [0.3], "std": [0.4]}


def test_architectures_differ_and_come_back():
    genotypes = [sample(index) for index in range(NETWORKS)]
    assert genotypes == [sample(index) for index in range(NETWORKS)]
    assert len({(genotype.normal, genotype.reduce) for genotype in genotypes}) == NETWORKS
    for genotype in genotypes:
        sources = [source for _, source in genotype.normal]
        assert all(first < second for first, second in zip(sources[::2], sources[1::2], strict=True))


def test_architectures_are_those_of_the_committed_results():
    """Read off the file; the sampler has to go on giving them."""
    first, last = sample(0), sample(63)
    assert first.normal == (
        ("max_pool_3x3", 0), ("skip_connect", 1), ("sep_conv_3x3", 1), ("dil_conv_5x5", 2), ("skip_connect", 1),
        ("sep_conv_5x5", 2),
    )
    assert first.reduce == (
        ("skip_connect", 0), ("avg_pool_3x3", 1), ("sep_conv_5x5", 0), ("dil_conv_3x3", 1), ("max_pool_3x3", 1),
        ("dil_conv_3x3", 3),
    )
    assert last.normal == (
        ("skip_connect", 0), ("skip_connect", 1), ("sep_conv_3x3", 0), ("dil_conv_3x3", 1), ("dil_conv_3x3", 0),
        ("avg_pool_3x3", 3),
    )
    table = pd.read_csv(RESULTS / "fidelity.csv")
    for row in table.to_dict("records"):
        cells = [tuple((name, source) for name, source in json.loads(text)) for text in (row["normal"], row["reduce"])]
        assert cells == [sample(row["index"]).normal, sample(row["index"]).reduce]


@pytest.mark.parametrize("index", range(4))
def test_a_sharpened_supernet_is_that_architecture(index):
    torch.manual_seed(0)
    model, genotype = Supernet(1, 10, nodes=NODES, **OPTIONS), sample(index)
    with torch.no_grad():
        for kind, edges in (("normal", genotype.normal), ("reduce", genotype.reduce)):
            model.alphas[kind].copy_(one_hot(model, kind, edges))
    assert model.genotype() == genotype
    network = Network(genotype, 1, 10, **OPTIONS)
    x = torch.rand(4, 1, 8, 8)
    spread = (model(x) - model(x.flip(0)).flip(0)).abs().max()
    assert spread < 1e-4  # nothing but the images decides
    weights = torch.softmax(model.alphas["normal"], 1).detach()
    assert sorted(weights.amax(1).tolist()) == pytest.approx([1.0] * len(weights))
    assert network(x).shape == model(x).shape


def test_correlations_are_spearmans_with_an_interval(tmp_path):
    generator = np.random.default_rng(1)
    radius = generator.random(30)
    table = pd.DataFrame(
        {
            "radius": radius,
            "pgd_accuracy": generator.random(30),
            "jacobian": -radius,
            "good": np.exp(5 * radius),
            "noisy": radius + 0.3 * generator.random(30),
        }
    )
    found = correlations(table, ["good", "noisy"]).set_index("metric")
    assert found.loc["good", "radius"] == 1 and found.loc["good", "jacobian"] == -1
    assert found.loc["noisy", "radius low"] < found.loc["noisy", "radius"] < found.loc["noisy", "radius high"] <= 1
    assert "| good | 1.00 (1.00 to 1.00) |" in markdown(found.reset_index())
    plot(table, ["good", "noisy"], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_search_step_ratios():
    rows = {
        "none": {"seconds": 2.0, "memory_mb": 10.0, "finite": True},
        "cb ibp": {"seconds": 5.0, "memory_mb": 30.0, "finite": True},
        "jacobian": {"seconds": 3.0, "memory_mb": 20.0, "finite": True},
        "combined": {"seconds": 6.0, "memory_mb": 40.0, "finite": True},
    }
    found = summarise(rows)
    assert (found["ratio_cb"], found["memory_ratio_cb"], found["finite"]) == (2.5, 3.0, True)
    assert (found["ratio_jacobian"], found["ratio_combined"]) == (1.5, 3.0)
    assert found["memory_ratios"]["combined"] == 4.0

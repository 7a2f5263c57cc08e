"""What a GPU is measured by, on a CPU and in small: every part gives finite figures."""

import math
from dataclasses import replace

import torch

from experiments.benchmarks import gpu
from tests.robust_nas.search.helpers import TINY

CPU = torch.device("cpu")


def test_steps_of_a_search():
    found = gpu.search_steps(replace(TINY, epochs=2), gpu.data(24, 8), CPU, False, gpu.WARM_UP + 1)
    assert 0 < found["seconds"] < math.inf and math.isfinite(found["train_loss"]) and found["memory_mb"] > 0


def test_batches_of_certificates():
    found = gpu.batches(CPU, (1, 2))
    assert list(found["seconds_an_image"]) == ["1", "2"] and found["relative_difference"] == 0


def test_a_search_repeats_itself():
    assert gpu.repeated(CPU, replace(TINY, epochs=2))["same"]
    assert not torch.are_deterministic_algorithms_enabled()

"""Work spread over processes: the same results in the same order, errors, and no process that outlives the first."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import joblib
import pytest
import torch

from robust_nas.workers import spread, workers_for

CPU = torch.device("cpu")


def square(number: int) -> tuple[int, int]:
    time.sleep(0.05 * (number % 3))  # later items may be done earlier
    return number**2, torch.get_num_threads()


def sums(numbers: torch.Tensor) -> float:
    return numbers.sum().item()


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_by_one_thread_each(workers):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert list(spread(square, range(7), workers)) == [(number**2, 1) for number in range(7)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_sums_are_the_same_bit_for_bit():
    items = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))
    alone, both = (list(spread(sums, items, workers)) for workers in (1, 2))
    assert alone == both


def refuse(number: int) -> int:
    if number == 2:
        raise ValueError("not this one")
    return number


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_is_raised_where_its_result_would_be(workers):
    results, found = spread(refuse, range(5), workers), []
    with pytest.raises(ValueError, match="not this one"):
        for each in results:
            found.append(each)
    assert found == [0, 1]


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_is_killed_is_want_of_memory():
    with pytest.raises(MemoryError, match="take fewer --workers"):
        list(spread(die, range(2), 2))


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from robust_nas.workers import spread

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background takes away

def wait(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

list(spread(wait, [sys.argv[1]] * 2, 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    )
    while len(started := list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(60)
    deadline = time.monotonic() + 60
    while any(alive(int(path.name)) for path in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(int(path.name)) for path in started)


def test_as_many_as_cores_but_one_for_a_gpu_and_none_without_work(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    count = partial(workers_for, items=20)
    assert (count(CPU, None), count(torch.device("cuda"), None), count(CPU, 3)) == (6, 1, 3)
    assert workers_for(CPU, None, 2) == 2

"""Threads: as many as cores are free, asleep while they wait, and the same number when a run goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cli
from robust_nas import threads
from robust_nas.runs import Run

LINE = "cpu{} {} 0 0 {} 0 0 0 0 0 0\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Four cores that this process may use, of five; what each does in the time that is watched, in ticks of work."""

    def set_up(*busy, quota=4):
        stat = tmp_path / "stat"
        stat.write_text("cpu  9 9 9 9\n" + "".join(LINE.format(core, 100, 100) for core in range(5)) + "intr 5\n")

        def pass_time(seconds):
            cores = [LINE.format(core, 100 + ticks, 100 + 20 - ticks) for core, ticks in enumerate((*busy, 20))]
            stat.write_text("cpu  9 9 9 9\n" + "".join(cores))

        monkeypatch.setattr(threads, "TIMES", stat)
        monkeypatch.setattr(threads.time, "sleep", pass_time)
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
        monkeypatch.setattr("joblib.cpu_count", lambda: quota)

    return set_up


@pytest.mark.parametrize(
    ("busy", "quota", "free"),
    [((0, 0, 0, 0), 4, 4), ((20, 20, 0, 0), 4, 2), ((20, 20, 20, 20), 4, 1), ((10, 10, 0, 0), 4, 3), ((0, 20, 0, 0), 2, 2)],
)
def test_free_is_what_others_leave_idle_and_the_control_group_grants(machine, busy, quota, free):
    machine(*busy, quota=quota)
    assert threads.free_cores() == free


def test_where_nobody_knows_what_is_idle_every_core_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "TIMES", tmp_path / "none")
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    assert threads.free_cores() == 3


def test_on_this_machine_there_is_at_least_one():
    assert 1 <= threads.free_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("policy", "number", "expected"), [(None, None, ["passive", "1"]), ("active", "3", ["active", "3"])]
)
def test_torch_finds_them_set_and_what_the_user_set_stays(policy, number, expected, monkeypatch):
    """In a process of its own, as torch reads them once; the environment of a command, asked when torch is imported."""
    for name, value in ((threads.WAITING, policy), (threads.NUMBER, number)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    program = (
        "import os, sys, cli\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('OMP_NUM_THREADS')); os._exit(0)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "cli.main(['search', '--metric', 'none'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(cli.__file__).parents[1]
    )
    assert done.stdout.split() == expected


def test_a_run_goes_on_with_the_threads_it_began_with(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        Run.start(tmp_path, "train", {}, torch.device("cpu"))
        torch.set_num_threads(1)
        Run.resume(tmp_path, {})
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)

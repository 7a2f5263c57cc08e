"""Jobs spread over processes: order, failures, stops, and who may work in a folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.tables import pool
from experiments.tables.jobs import Job
from experiments.tables.pool import alone, carry_out
from tests.experiments.tables_helpers import idle_job, launcher
from verify.checks.errors import InputError


def two_lines():
    """a -> a2, b -> b2 -> b3."""
    a, b = idle_job("a"), idle_job("b")
    b2 = idle_job("b2", b)
    return [a, idle_job("a2", a), b, b2, idle_job("b3", b2)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_job_runs_once_and_after_what_it_needs(tmp_path, workers):
    log = []
    checks = "assert name != 'a2' or all_done('a'); open(result, 'w').write('{}')"
    script = checks.replace("all_done('a')", "any(f.startswith('a_') for f in os.listdir(result.split('/train')[0] + '/search'))")
    assert carry_out(two_lines(), tmp_path, workers, launcher(tmp_path, log, script)) == {}
    order = [name for name, _ in log]
    assert sorted(order) == ["a", "a2", "b", "b2", "b3"]
    assert order.index("b") < order.index("b2") < order.index("b3") and order.index("a") < order.index("a2")
    assert {worker for _, worker in log} <= set(range(workers))


def test_workers_run_at_the_same_time(tmp_path):
    """Two jobs that wait for each other can only end together."""
    script = "open(result, 'w').write('{}')\nwhile len([1 for d in os.listdir(base) if 'result.json' in os.listdir(base + '/' + d)]) < 2: time.sleep(.01)"
    script = f"base = os.path.dirname(os.path.dirname(result)); exec({script!r})"
    assert carry_out([idle_job("a"), idle_job("b")], tmp_path, 2, launcher(tmp_path, [], script)) == {}


def test_finished_jobs_are_not_run_again(tmp_path):
    jobs, log = two_lines(), []
    carry_out(jobs[:3], tmp_path, 1, launcher(tmp_path, []))
    carry_out(jobs, tmp_path, 1, launcher(tmp_path, log))
    assert [name for name, _ in log] == ["b2", "b3"]


def test_a_failure_is_one_line_and_the_others_go_on(tmp_path, capsys):
    script = "name == 'b' and sys.exit('first\\n  no such data  \\n'); open(result, 'w').write('{}')"
    jobs, log = two_lines(), []
    failed = carry_out(jobs, tmp_path, 1, launcher(tmp_path, log, script))
    assert failed == {
        jobs[2].name: "no such data",
        jobs[3].name: f"not run, because {jobs[2].name} failed",
        jobs[4].name: f"not run, because {jobs[3].name} failed",
    }
    assert [name for name, _ in log] == ["a", "b", "a2"] and all(job.done(tmp_path) for job in jobs[:2])
    assert f"failed: {jobs[2].name}: no such data" in capsys.readouterr().err
    carry_out(jobs, tmp_path, 1, launcher(tmp_path, log))
    assert all(job.done(tmp_path) for job in jobs)


@pytest.mark.parametrize(
    ("script", "words"),
    [("os.kill(os.getpid(), 9)", "killed by signal 9, maybe for want of memory"), ("sys.exit(3)", "exit code 3"), ("0", "exit code 0")],
)
def test_a_process_that_says_nothing_has_failed_all_the_same(tmp_path, script, words):
    assert list(carry_out([idle_job("a")], tmp_path, 1, launcher(tmp_path, [], script)).values()) == [words]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_asks_all_processes_to_end(tmp_path, number):
    """They end by SIGTERM, in which they may save something first."""
    script = (
        "import signal; signal.signal(15, lambda *_: (open(result + '.saved', 'w'), sys.exit(1))); "
        "open(result + '.ready', 'w'); time.sleep(60)"
    )

    def stop():
        while len(list(tmp_path.glob("*/*/*.ready"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop).start()
    log = []
    with pytest.raises(KeyboardInterrupt):
        carry_out([idle_job("a"), idle_job("b"), idle_job("c")], tmp_path, 2, launcher(tmp_path, log, script))
    assert len(log) == 2 and len(list(tmp_path.glob("*/*/*.saved"))) == 2


def test_a_second_stop_does_not_wait(tmp_path):
    script = "import signal; signal.signal(15, lambda *_: open(result + '.told', 'w')); open(result + '.ready', 'w'); time.sleep(60); time.sleep(60)"

    def stop_twice():
        for sign in ("ready", "told"):
            while not list(tmp_path.glob(f"*/*/*.{sign}")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop_twice).start()
    processes = []
    launch = launcher(tmp_path, [], script)

    def launch_and_keep(job, worker):
        processes.append(launch(job, worker))
        return processes[-1]

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        carry_out([idle_job("a")], tmp_path, 1, launch_and_keep)
    assert time.monotonic() - started < 30 and processes[0].exitcode == -9


def test_a_folder_is_for_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "LOCK_SECONDS", 0.1)
    with alone(tmp_path), pytest.raises(InputError, match="another run is at work here"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_process_that_outlives_its_parent_keeps_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "LOCK_SECONDS", 0.1)
    with alone(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with pytest.raises(InputError), alone(tmp_path):
        pass
    child.communicate(b"\n")
    with alone(tmp_path):
        pass


@pytest.mark.parametrize(("gpus", "method", "given"), [([], "forkserver", [None] * 3), (["5", "7"], "spawn", ["5", "7", "5"])])
def test_gpus_are_given_out_in_turn_and_never_to_forks(tmp_path, monkeypatch, gpus, method, given):
    started = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    class Context:
        set_forkserver_preload = staticmethod(lambda modules: None)

        def __init__(self, name):
            self.name = name

        def Process(self, target, args):
            return SimpleNamespace(start=lambda: started.append((self.name, os.environ.get("CUDA_VISIBLE_DEVICES"))))

    monkeypatch.setattr(pool, "get_context", Context)
    launch = pool.Launcher(tmp_path, 3, gpus, "auto", {"digits": Path("data")}, 0)
    for worker in range(3):
        launch(idle_job(str(worker)), worker)
    assert started == [(method, gpu) for gpu in given] and "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.fixture
def broken_job():
    """Needs an architecture that there is none of."""
    options = {"seed": 0, "dataset": "digits", "arch": "nowhere", "recipe": "standard", "preset": "quick"}
    return Job("train", "nowhere", "digits", options)


def test_what_is_wrong_with_a_job_is_one_line_in_its_log(tmp_path, broken_job):
    with alone(tmp_path) as lock:
        launch = pool.Launcher(tmp_path, 1, [], "cpu", {"digits": tmp_path}, lock)
        failed = carry_out([broken_job], tmp_path, 1, launch)
    log = (tmp_path / broken_job.name / "log.txt").read_text()
    assert log.startswith("nowhere: no such genotype file") and log.count("\n") == 1
    assert failed == {broken_job.name: log.strip()}


PARENT = """
import os, sys, time
from pathlib import Path
from experiments.tables import pool
from tests.experiments.tables_helpers import idle_job

def idle(task, log, threads, lock):
    pool.Thread(target=pool.die_with_parent, daemon=True).start()
    log.write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    pool.PRELOADED, pool.work = (), idle
    root = Path(sys.argv[1])
    with pool.alone(root) as lock:
        pool.Launcher(root, 1, [], "cpu", {"digits": root}, lock)(idle_job("a"), 0)
        time.sleep(600)
"""


def test_a_killed_parent_takes_its_processes_along_and_they_hold_the_folder_until_then(tmp_path):
    """`idle` in place of `work`, which would take seconds to start."""
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    log = tmp_path / "root" / idle_job("a").name / "log.txt"
    environment = {**os.environ, "PYTHONPATH": str(Path(pool.__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(program), str(tmp_path / "root")], env=environment)
    while not (log.exists() and log.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    child = int(log.read_text())
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError):
        patch.setattr(pool, "LOCK_SECONDS", 0.1)
        with alone(tmp_path / "root"):
            pass
    os.kill(child, signal.SIGCONT)
    with alone(tmp_path / "root"):
        pass

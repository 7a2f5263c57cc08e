"""A table from nothing to its CSV: a dry run, its estimates, and whole runs that are killed, shared and spread."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import cli
from experiments.tables import estimates, run
from experiments.tables.cells import cells, gather
from experiments.tables.estimates import Estimates, Measured, listing, update
from experiments.tables.options import TableOptions
from experiments.tables.run import run_table
from tests.experiments.tables_helpers import idle_job, tiny
from verify.checks.errors import InputError

COLUMNS = "table,scale,protocol,row,seed,dataset,channels,column,domain,value,images,seconds,device"
SCALE = """
seeds = [0]
threads = 1
[search]
preset = "quick"
epochs = 1
batch_size = 324
[train]
preset = "quick"
epochs = 1
batch_size = 400
[attack]
attacks = ["fgsm"]
images = 4
guards = false
[certify]
method = "ibp"
images = 3
[protocols.paper]
recipe = "standard"
[rows]
"PC-DARTS" = { zoo = "PC-DARTS" }
"DARTS (1st)" = { method = "darts", metric = "none" }
"Broken" = { method = "nowhere", metric = "none" }
[tables.2]
images = [{ search = "digits", train = "digits" }]
rows = ["PC-DARTS", "DARTS (1st)"]
[tables.4]
images = [{ search = "digits", train = "digits" }]
rows = ["PC-DARTS", "DARTS (1st)"]
[tables.5]
images = [{ search = "digits", train = "digits" }]
rows = ["DARTS (1st)", "Broken"]
"""


@pytest.fixture
def scale(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(SCALE)
    return path


@pytest.fixture(autouse=True)
def plain_report(monkeypatch):
    """What is made of the figures is tested elsewhere."""
    monkeypatch.setattr(run, "report", lambda results, table, out: results.read_text())


def finish(root, job, figures, **more):
    folder = root / job.name
    folder.mkdir(parents=True)
    about = {"kind": job.kind, "subject": job.subject, "setting": job.setting}
    result = {**about, "figures": figures, "seconds": 60.0, "memory_mb": 500.0, "device": "a CPU, 1 threads", **more}
    (folder / "result.json").write_text(json.dumps(result))


def figure(value, images=0, seconds=0.0):
    return {"value": value, "images": images, "seconds": seconds}


def test_cells_take_their_figures_from_finished_jobs(tmp_path):
    scale = tiny()
    found = cells(scale, 2, scale.tables[2], "paper", [0], False)
    jobs = {job.kind: job for cell in found if cell.row == "DARTS (1st)" for job in cell.job.line}
    finish(tmp_path, jobs["search"], {"Search cost (s)": figure(7.5, seconds=7.5)})
    finish(
        tmp_path,
        jobs["train"],
        {"Test accuracy": figure(90.0, 500, 3.0), "Params (M) on CIFAR-10": figure(3.3), "Params (M) on ImageNet": figure(5.0)},
    )
    common = {"row": "DARTS (1st)", "seed": 0, "dataset": "digits", "channels": None, "device": "a CPU, 1 threads"}
    common["domain"] = ""
    assert gather(found, tmp_path) == [
        {**common, "column": "Test accuracy", "value": 90.0, "images": 500, "seconds": 3.0},
        {**common, "column": "Params (M)", "value": 3.3, "images": 0, "seconds": 0.0},
        {**common, "column": "Search cost (s)", "value": 7.5, "images": 0, "seconds": 7.5},
    ]


def test_networks_of_other_widths_are_cells_of_their_own(tmp_path):
    scale = tiny()
    table = replace(scale.tables[5].only(["DARTS (1st)"], []), channels=(2,))
    found = cells(scale, 5, table, "paper", [0], False)
    assert [(cell.channels, cell.column.name) for cell in found] == [
        (channels, column) for channels in (None, 2) for column in ("Test accuracy", "Certified linf")
    ]
    for cell in found:
        finish(tmp_path, cell.job, {cell.column.name: figure(float(cell.channels or 4))})
    assert [(row["channels"], row["value"]) for row in gather(found, tmp_path)] == [(None, 4.0)] * 2 + [(2, 2.0)] * 2


def test_a_published_architecture_has_no_search_cost():
    scale = tiny()
    columns = {cell.column.name for cell in cells(scale, 2, scale.tables[2].only(["PC-DARTS"], []), "paper", [0], False)}
    assert columns == {"Test accuracy", "Params (M)"}


def test_estimates_are_those_of_the_same_subject_or_the_mean_of_the_setting():
    known = Estimates(
        [
            Measured("search", "a", "idle", 2, 10.0, 100.0, "here"),
            Measured("search", "b", "idle", 1, 20.0, 300.0, "here"),
            Measured("search", "b", "busy", 1, 99.0, None, "there"),
        ]
    )
    expected = {"a": (10.0, 100.0), "b": (20.0, 300.0), "c": (15.0, 300.0)}
    for subject, (seconds, memory) in expected.items():
        found = known.of(idle_job(subject))
        assert (found.seconds, found.memory_mb) == (seconds, memory)
    assert known.of(idle_job("a", idle_job("b"))) is None


def test_a_subject_new_to_a_setting_is_judged_by_its_ratio_to_others_elsewhere():
    known = [
        Measured("search", "a", "idle", 1, 10.0, 100.0, "here"),
        Measured("search", "b", "idle", 1, 30.0, 300.0, "here"),
        Measured("search", "a", "paper", 1, 1.0, None, "published"),
        Measured("search", "c", "paper", 1, 100.0, None, "published"),
        Measured("search", "a", "small", 1, 100.0, None, "here"),
        Measured("search", "b", "small", 1, 300.0, None, "here"),
        Measured("search", "c", "small", 1, 500.0, None, "here"),
    ]
    assert Estimates(known).of(idle_job("c")) == Measured("search", "c", "idle", 2, 50.0, 300.0, "here")
    alone = [known[0], *known[2:5], known[6]]  # as many subjects are shared with either setting: devices decide
    assert Estimates(alone).of(idle_job("c")).seconds == 50.0


def test_a_listing_adds_up_what_is_left(tmp_path):
    a, b = idle_job("a"), idle_job("b")
    finish(tmp_path, a, {})
    jobs = [a, b, idle_job("c"), idle_job("d", b)]
    text = listing(jobs, tmp_path, 2, Estimates([Measured("search", "b", "idle", 1, 3600.0, 700.0, "here")]))
    lines = text.splitlines()
    assert [line.split()[:-1] for line in lines[1:5]] == [
        ["done", "3600", "700"], ["to", "do", "3600", "700"], ["to", "do", "3600", "700"], ["to", "do", "?", "?"]
    ]  # fmt: skip
    assert lines[5] == "3 of 4 jobs to do: about 2.0 hours of device time, with 2 at a time 60.0 minutes and 1400 MiB"
    assert lines[6].startswith("that is without 1 jobs") and lines[7] == "as such jobs took before (here)"


def test_where_nothing_is_known_no_time_is_given(tmp_path):
    last = listing([idle_job("a"), idle_job("b")], tmp_path, 2, Estimates([])).splitlines()[-1]
    assert last == "2 of 2 jobs to do, of kinds that have never finished (?): no estimate"


def test_finished_jobs_become_estimates(tmp_path):
    path = tmp_path / "measured.csv"
    path.write_text("kind,subject,setting,jobs,seconds,memory_mb,source\nsearch,a,idle,1,5.0,1,before\nsearch,z,idle,1,6.0,,before\n")
    finish(tmp_path, idle_job("a"), {})
    finish(tmp_path, idle_job("a", nodes=2), {}, seconds=70.0, memory_mb=400.0)
    update(tmp_path, path)
    known = Estimates.read(path)
    assert known.of(idle_job("a")) == Measured("search", "a", "idle", 2, 65.0, 500.0, "a CPU, 1 threads")
    assert known.of(idle_job("z")) == Measured("search", "z", "idle", 1, 6.0, None, "before")


def test_the_committed_estimates_can_be_read():
    Estimates.read(estimates.MEASURED)


def test_a_dry_run_lists_the_jobs_and_touches_nothing(tmp_path, scale, capsys):
    out = tmp_path / "out"
    assert cli.main(["table", "5", "--scale", str(scale), "--seeds", "0,1", "--row", "DARTS (1st)", "--dry-run", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1].partition("/")[0] for line in lines[1:7]] == ["search", "train", "certify"] * 2
    assert "6 of 6 jobs to do" in lines[7] and not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": 1}, "no table 1 at this scale; known: 2, 4, 5"),
        ({"table": 2, "protocol": "other"}, "unknown protocol 'other'"),
        ({"table": 2, "rows": ["Nobody"]}, "unknown row 'Nobody'"),
        ({"table": 2, "datasets": ["mnist"]}, "unknown data set of this table 'mnist'; known: digits"),
        ({"table": 2, "workers": 0}, "workers must be at least 1"),
        ({"table": 2, "device": "tpu"}, "unknown device"),
    ],
)
def test_what_cannot_run_is_one_line(options, words, tmp_path, scale):
    with pytest.raises(InputError, match=words):
        run_table(TableOptions(scale=scale, out=tmp_path / "out", **options))


@pytest.mark.parametrize(("gpus", "cores", "threads", "workers"), [([], 5, 2, 2), ([], 1, 4, 1), (["0", "1", "2"], 8, 1, 3)])
def test_without_a_number_of_workers_there_is_one_for_each_gpu_or_for_all_cores(
    tmp_path, scale, monkeypatch, gpus, cores, threads, workers
):
    asked = []
    monkeypatch.setattr(run, "usable_cores", lambda: cores)
    monkeypatch.setattr(run, "visible_gpus", lambda device: gpus)
    monkeypatch.setattr(run, "carry_out", lambda jobs, root, workers, launch: asked.append(workers) or {})
    scale.write_text(scale.read_text().replace("threads = 1", f"threads = {threads}"))
    assert run_table(TableOptions(table=2, scale=scale, out=tmp_path / "out")).text == "no figure yet"
    assert asked == [workers]


def test_torchruns_first_process_has_a_worker_for_each_and_the_others_nothing_to_do(tmp_path, scale, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(run, "carry_out", lambda jobs, root, workers, launch: asked.append(workers) or {})
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert cli.main(["table", "2", "--scale", str(scale), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert asked == [3] and capsys.readouterr().out == "no figure yet\n"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a table runs on one machine"):
        run_table(TableOptions(table=2, scale=scale, out=tmp_path / "out"))


def table_process(scale, out, *options):
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    program = "import sys, cli, experiments.tables.run as run; run.report = lambda *_: ''; sys.exit(cli.main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", program, "table", *options, "--scale", str(scale), "--out", str(out), "--device", "cpu"],
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def figures_of(path):
    """All that is not a measured time."""
    table = pd.read_csv(path)
    return table[table.column != "Search cost (s)"].drop(columns="seconds")


@pytest.mark.slow
def test_killed_at_random_moments_with_two_workers_it_ends_as_undisturbed_with_one(tmp_path, scale):
    moments = random.Random(0)
    for table in (2, 4):
        assert table_process(scale, tmp_path / "one", str(table), "--workers", "1").wait() == 0
        for _ in range(5):
            process = table_process(scale, tmp_path / "two", str(table), "--workers", "2")
            time.sleep(moments.uniform(3, 15))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert table_process(scale, tmp_path / "two", str(table), "--workers", "2").wait() == 0
        paths = [tmp_path / out / f"table{table}-tiny-paper" / "results.csv" for out in ("one", "two")]
        one, two = map(figures_of, paths)
        assert len(one) >= 4 and one.to_csv() == two.to_csv()
        again = paths[1].read_bytes()
        assert table_process(scale, tmp_path / "two", str(table)).wait() == 0
        assert paths[1].read_bytes() == again
    assert len(list((tmp_path / "two" / "jobs" / "train").iterdir())) == 2  # shared by both tables


@pytest.mark.slow
def test_under_torchrun_the_figures_are_the_same(tmp_path, scale):
    assert table_process(scale, tmp_path / "one", "2", "--workers", "1").wait() == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli", "table", "2"]
    options = ["--scale", str(scale), "--out", str(tmp_path / "two"), "--device", "cpu"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=Path(cli.__file__).parents[1])
    assert done.returncode == 0 and "another run is at work" not in done.stderr, done.stderr
    one, two = (figures_of(tmp_path / out / "table2-tiny-paper" / "results.csv") for out in ("one", "two"))
    assert len(one) >= 4 and one.to_csv() == two.to_csv()


@pytest.mark.slow
def test_a_row_that_fails_leaves_its_cells_empty_and_exit_code_1(tmp_path, scale, capsys):
    out = tmp_path / "out"
    assert cli.main(["table", "5", "--scale", str(scale), "--out", str(out), "--device", "cpu"]) == 1
    assert "no result: search/" in capsys.readouterr().err
    config = json.loads((out / "table5-tiny-paper" / "config.json").read_text())
    assert config["options"] == {"table": 5, "scale": "tiny", "protocol": "paper", "targeted": False, "rows": [], "datasets": [], "seeds": []}
    assert config["versions"]["torch"] == torch.__version__
    with (out / "table5-tiny-paper" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == COLUMNS
    assert [(row["row"], row["column"]) for row in rows] == [("DARTS (1st)", name) for name in ("Test accuracy", "Certified linf")]
    radii = pd.read_csv(next((out / "jobs" / "certify").iterdir()) / "certify.csv")
    assert float(rows[1]["value"]) == pytest.approx(radii.radius.mean(), abs=1e-9)


@pytest.mark.slow
def test_a_fork_computes_what_any_process_does(tmp_path, scale):
    """Forked from a server that has loaded torch with as many threads as it likes: the bytes must not depend on that."""
    run_table(TableOptions(table=5, scale=scale, rows=["DARTS (1st)"], device="cpu", out=tmp_path))
    (search,), (train,) = ((tmp_path / "jobs" / kind).iterdir() for kind in ("search", "train"))
    options = ["--recipe", "standard", "--epochs", "1", "--batch-size", "400", "--device", "cpu", "--out", str(tmp_path / "alone")]
    command = [sys.executable, "-m", "cli", "train", "--arch", str(search / "genotype.json"), *options]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(cli.__file__).parents[1])
    assert (tmp_path / "alone" / "model.safetensors").read_bytes() == (train / "model.safetensors").read_bytes()

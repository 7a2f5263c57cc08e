"""Run folders, seeds, devices and progress."""

import json
import random
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from robust_nas import runs
from robust_nas.runs import Run, choose_device, progress, read_rows, seed_everything
from verify.checks.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path):
    return Run.start(tmp_path / "a" / "run", "search", {"seed": 3, "out": tmp_path}, CPU)


def test_start_writes_the_configuration(run, tmp_path):
    config = json.loads((run.folder / "config.json").read_text())
    assert config["command"] == "search"
    assert config["options"] == {"seed": 3, "out": str(tmp_path)}
    assert "CPU" in config["device"]
    assert set(config["versions"]) == {"python", "torch", "numpy", "auto-LiRPA", "dsrna"}


def test_a_second_run_overwrites_the_files_of_the_first(run):
    run.csv("steps.csv").append({"step": 1})
    again = Run.start(run.folder, "train", {}, CPU)
    assert json.loads((run.folder / "config.json").read_text())["command"] == "train"
    assert not again.csv("steps.csv").path.exists()


@pytest.mark.parametrize("name", ["taken", "taken/deeper"])
def test_start_refuses_a_file(tmp_path, name):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="file is in the way"):
        Run.start(tmp_path / name, "search", {}, CPU)


def test_other_options_are_named_one_by_one(tmp_path):
    """Not the whole of what holds them; an option that an older run did not have is None."""
    options = {"seed": 0, "sizes": {"cells": 2, "stem": {"stride": 1}}}
    Run.start(tmp_path, "train", options, torch.device("cpu"))
    Run.resume(tmp_path, {**options, "norm": None})
    for changes, line in (
        ({"seed": 1}, "seed 0, not 1"),
        ({"sizes": {"cells": 2, "stem": {"stride": 2}}}, "sizes.stem.stride 1, not 2"),
        ({"sizes": None}, "sizes {'cells': 2, 'stem': {'stride': 1}}, not None"),
    ):
        with pytest.raises(InputError, match=f"the run was started with {line}; resume it"):
            Run.resume(tmp_path, {**options, **changes})


def test_csv_has_each_row_on_disk_at_once(run):
    log = run.csv("steps.csv")
    log.append({"step": 1, "note": "a,b"})
    assert log.path.read_text() == 'step,note\n1,"a,b"\n'
    log.append({"note": None, "step": 2})
    assert log.path.read_text() == 'step,note\n1,"a,b"\n2,\n'


def test_csv_refuses_other_columns_and_writes_nothing(run):
    log = run.csv("steps.csv")
    log.append({"step": 1})
    with pytest.raises(ValueError, match="columns"):
        log.append({"step": 2, "loss": 0.1})
    assert log.path.read_text() == "step\n1\n"


@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"a\n1\n", b"a\n1\n2"[:3]])
def test_a_log_that_lost_rows_is_not_resumed(run, content):
    (run.folder / "log.csv").write_bytes(content)
    with pytest.raises(InputError, match="log.csv: has lost rows of the run"):
        run.csv("log.csv", 2)


@pytest.mark.parametrize("content", [b"a\nx\n", b"a,b\n1,2,3\n", bytes(range(256)), b"a\n" + b"1" * 200_000])
def test_a_log_of_something_else_is_no_numbers(run, content):
    (run.folder / "log.csv").write_bytes(content)
    with pytest.raises(InputError, match="log.csv: not what a run wrote"):
        read_rows(run.folder / "log.csv")


@pytest.mark.parametrize(("value", "error"), [({"a": object()}, TypeError), ([float("nan")], ValueError)])
def test_json_that_cannot_be_written_leaves_the_old_file(run, value, error):
    path = run.write_json("result.json", {"radius": 0.1})
    with pytest.raises(error):
        run.write_json("result.json", value)
    assert json.loads(path.read_text()) == {"radius": 0.1}


def test_tensors_come_back_even_from_shared_memory(run):
    weight = torch.arange(6.0).reshape(2, 3)
    path = run.save_tensors("model.safetensors", {"a": weight, "b": weight.T}, {"arch": "x"})
    loaded = load_file(path)
    assert torch.equal(loaded["a"], weight)
    assert torch.equal(loaded["b"], weight.T)


def test_seeding_repeats_every_generator():
    def draw():
        seed_everything(5)
        return random.random(), np.random.rand(), torch.rand(()).item()

    assert draw() == draw()


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(InputError, match="--device cpu"):
        choose_device("cuda")
    with pytest.raises(InputError, match="unknown device"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == CPU
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_progress_prints_the_first_line_the_last_and_few_between(capsys):
    with progress("search", 50) as step:
        for epoch in range(50):
            step(f"epoch {epoch}")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "search 1/50  epoch 0"
    assert lines[-1] == "search 50/50  epoch 49"
    assert len(lines) < 10


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress("[search]", 2) as step:
        step("one")
        step("[two]")
    err = capsys.readouterr().err
    assert "[search]" in err and "2/2" in err and "[two]" in err


def test_versions_of_a_missing_package_are_none(monkeypatch):
    monkeypatch.setattr(runs, "PACKAGES", ("no-such-package",))
    assert runs.versions()["no-such-package"] is None

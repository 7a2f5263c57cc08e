"""`--tensorboard`: every figure of the rows, under its name and number, once; or one line where the package is missing."""

import sys

import pytest

from robust_nas.resumable import follow
from robust_nas.runs import Run, read_rows
from robust_nas.tensorboard import FOLDER
from tests.cli_helpers import LINES, refused


class Counting:
    """Work of six steps, three an epoch, that a test may stop."""

    def __init__(self, done=0, until=6):
        import torch

        from robust_nas.distributed import Processes

        self.device, self.processes, self.done, self.until = torch.device("cpu"), Processes(), done, until
        self.length = 6

    @property
    def step(self):
        return 1  # never saved: that is tested elsewhere

    def state_dict(self):
        raise NotImplementedError

    def load_state_dict(self, state):
        raise NotImplementedError

    def steps(self):
        for number in range(self.done, self.until):
            self.done += 1
            yield {"epoch": number // 3, "step": number % 3, "loss": 10.0 - number, "epsilon": None}


def figures(folder):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(folder / FOLDER)).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_each_row_is_there_once_also_after_a_stop(tmp_path):
    pytest.importorskip("tensorboard")
    run = Run(tmp_path)
    follow("train", Counting(until=4), run, str, tensorboard=True)
    follow("train", Counting(done=3), run, str, tensorboard=True)  # as from a checkpoint one step earlier
    assert figures(tmp_path) == {"train/loss": [(number, 10.0 - number) for number in range(6)]}
    assert [row["loss"] for row in read_rows(tmp_path / "train.csv")] == [10.0 - number for number in range(6)]


def test_a_run_from_the_beginning_forgets_the_one_before(tmp_path):
    pytest.importorskip("tensorboard")
    for until in (4, 2):
        follow("train", Counting(until=until), Run(tmp_path), str, tensorboard=True)
    assert figures(tmp_path) == {"train/loss": [(0, 10.0), (1, 9.0)]}


def test_nothing_is_written_that_nobody_asked_for(tmp_path):
    follow("train", Counting(), Run(tmp_path), str)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("command", ["search", "train"])
def test_without_the_package_it_is_refused_in_one_line(command, here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in refused(capsys, *LINES[command], "--tensorboard")

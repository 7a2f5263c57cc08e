"""The three scripts of the verification competition's tool format, run as its organisers run them."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto

from tests.verify.complete.files import graph_model, node, saved

SCRIPTS = Path(__file__).parents[1] / "vnncomp"
REAL = Path(os.environ.get("VNNCOMP_DATA", SCRIPTS.parent / "data" / "vnncomp"))
"""Published instances, where they are: acasxu/*.onnx and acasxu/*.vnnlib."""

BROKEN = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 -1))(assert (>= Y_0 0.5))"


def script(name, *arguments):
    """Exit code and what it said on stderr."""
    environment = {**os.environ, "DSRNA_PYTHON": sys.executable}
    line = [SCRIPTS / name, *map(str, arguments)]
    process = subprocess.run(line, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    return process.returncode, process.stderr


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a network and a property that does not hold, where we are."""
    monkeypatch.chdir(tmp_path)
    saved(graph_model([node("Relu", "x")], [1, 1]), Path("n.onnx"))
    Path("broken.vnnlib.gz").write_bytes(gzip.compress(BROKEN.encode()))
    return tmp_path


def test_an_instance_is_prepared_and_decided(files):
    assert script("prepare_instance.sh", "v1", "ours", "n.onnx", "broken.vnnlib.gz") == (0, "")
    assert script("run_instance.sh", "v1", "ours", "n.onnx", "broken.vnnlib.gz", "r.txt", 60)[0] == 0
    assert re.fullmatch(r"sat\n\(\(X_0 \S+\)\n \(Y_0 \S+\)\)\n", Path("r.txt").read_text())


def test_what_cannot_be_decided_is_said_before_and_after(files):
    saved(graph_model([node("Relu", "x")], [1, 1], kind=TensorProto.INT32), Path("n.onnx"))
    code, said = script("prepare_instance.sh", "v1", "ours", "n.onnx", "broken.vnnlib.gz")
    assert code == 1 and said.startswith("error: n.onnx: ") and said.count("\n") == 1
    assert script("run_instance.sh", "v1", "ours", "n.onnx", "broken.vnnlib.gz", "r.txt", 60)[0] == 0
    assert Path("r.txt").read_text() == "error\n"


def test_the_clock_counts_the_start_of_python(files):
    assert script("run_instance.sh", "v1", "ours", "n.onnx", "broken.vnnlib.gz", "r.txt", 0.01)[0] == 0
    assert Path("r.txt").read_text() == "timeout\n"


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("install_tool.sh", ["v2"]),
        ("install_tool.sh", []),
        ("prepare_instance.sh", ["v2", "ours", "n.onnx", "broken.vnnlib.gz"]),
        ("prepare_instance.sh", ["v1", "ours", "n.onnx"]),
        ("run_instance.sh", ["v2", "ours", "n.onnx", "broken.vnnlib.gz", "r.txt", "60"]),
        ("run_instance.sh", ["v1", "ours", "n.onnx", "broken.vnnlib.gz", "r.txt"]),
    ],
)
def test_another_format_is_refused(files, name, arguments):
    code, said = script(name, *arguments)
    assert code == 1 and said.startswith("usage: ") and not Path("r.txt").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the published instances are not here")
def test_a_published_instance(tmp_path):
    network, wanted = REAL / "acasxu" / "ACASXU_run2a_1_7_batch_2000.onnx", REAL / "acasxu" / "prop_3.vnnlib"
    assert script("prepare_instance.sh", "v1", "acasxu", network, wanted) == (0, "")
    assert script("run_instance.sh", "v1", "acasxu", network, wanted, tmp_path / "r.txt", 120)[0] == 0
    assert (tmp_path / "r.txt").read_text().startswith("sat\n((X_0 ")

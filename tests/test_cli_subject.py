"""A network of one's own on the command line: an ONNX file, or a function that returns a torch module."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.cli_helpers import refused, run
from verify import to_onnx

MODULE = """
import torch
from torch import nn

def network(classes=10, inputs=64):
    torch.manual_seed(177)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, classes))

def other():
    made = network()
    made[4].bias.data[0] += 1
    return made

def few():
    return network(classes=7)

def narrow():
    return network(inputs=63)

def infinite():
    made = network()
    made[4].bias.data[0] = float("inf")
    return made

def fails():
    raise RuntimeError("no weights\\nhere")

def argument(x):
    return network()

def nothing():
    return None

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
    def forward(self, x):
        return self.inner(x)

class Pair(nn.Module):
    def forward(self, x):
        return x, x

VALUE = 3
"""
QUICK = ["--images", "3", "--method", "crown", "--tolerance", "0.5"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with networks of digits: own_nets.py, two ONNX files of the first of them, and one of other images."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "own_nets.py").write_text(MODULE)
    names: dict = {}
    exec(MODULE, names)
    network = names["network"]().eval()
    to_onnx(network, torch.zeros(1, 1, 8, 8), folder / "n.onnx")
    to_onnx(network[1:].eval(), torch.zeros(1, 64), folder / "flat.onnx")
    to_onnx(network, torch.zeros(1, 4, 16), folder / "axes.onnx")
    return folder


@pytest.fixture
def mine(networks, tmp_path, monkeypatch):
    """A copy of that folder, where we are."""
    shutil.copytree(networks, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a refused command leaves no file
    yield tmp_path / "here"
    sys.modules.pop("own_nets", None)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_one_network_named_three_ways_has_the_same_certificates(mine, capsys):
    ways = [["--model", "own_nets:network"], ["--onnx", "n.onnx"], ["--onnx", "flat.onnx"]]
    for number, way in enumerate(ways):
        assert run("certify", *way, *QUICK, "--out", f"c{number}") == 0
    found = [[float(row["radius"]) for row in rows(f"c{number}/certify.csv")] for number in range(3)]
    assert max(found[0]) > 0
    for others in found[1:]:
        assert others == pytest.approx(found[0], rel=1e-3)
    assert json.loads(Path("c0/config.json").read_text())["options"]["model"] == "own_nets:network"
    assert run("audit", *ways[1], "--certificates", "c1/certify.csv") == 0
    line = ["--attack", "fgsm", "--no-guards", "--images", "3", "--certificates", "c2/certify.csv"]
    assert run("attack", *ways[2], *line) == 0
    capsys.readouterr()
    assert "of other weights (own_nets:network)" in refused(capsys, "audit", "--model", "own_nets:other", "--certificates", "c0/certify.csv")


@pytest.mark.slow
@pytest.mark.parametrize("way", [["--model", "own_nets:Own"], ["--onnx", "n.onnx"]])
def test_other_processes_get_the_same_network(mine, way):
    for workers in (1, 2):
        assert run("certify", *way, *QUICK[2:], "--images", 9, "--workers", workers, "--out", f"w{workers}") == 0
    one, two = ([row["radius"] for row in rows(f"w{workers}/certify.csv")] for workers in (1, 2))
    assert one == two


@pytest.mark.parametrize("command", ["certify", "attack", "audit"])
@pytest.mark.parametrize(
    "way, words",
    [
        ([], "give one network"),
        (["--onnx", "n.onnx", "--model", "own_nets:network"], "give one network"),
        (["--onnx", "n.onnx", "--arch", "darts-v1"], "give one network"),
        (["--onnx", "n.onnx", "--weights", "n.onnx"], "--weights are of --arch"),
    ],
)
def test_one_network_has_to_be_named(mine, capsys, command, way, words):
    certificates = ["--certificates", "n.onnx"] if command == "audit" else []
    assert words in refused(capsys, command, *way, *certificates)


@pytest.mark.parametrize("command", ["attack", "audit"])
def test_an_architecture_needs_its_weights(mine, capsys, command):
    certificates = ["--certificates", "n.onnx"] if command == "audit" else []
    assert "needs its --weights" in refused(capsys, command, "--arch", "darts-v1", *certificates)


@pytest.mark.parametrize(
    "way, words",
    [
        (["--model", "own_nets"], "must be MODULE:FUNCTION"),
        (["--model", ":network"], "must be MODULE:FUNCTION"),
        (["--model", "no_such_nets:network"], "ModuleNotFoundError"),
        (["--model", "own_nets:gone"], "AttributeError"),
        (["--model", "own_nets:VALUE"], "TypeError"),
        (["--model", "own_nets:argument"], "TypeError"),
        (["--model", "own_nets:fails"], "RuntimeError: no weights"),
        (["--model", "own_nets:nothing"], "returned NoneType"),
        (["--model", "own_nets:few"], "needs logits of 10 classes"),
        (["--model", "own_nets:narrow"], "fails on images of digits, (1, 8, 8)"),
        (["--model", "own_nets:infinite"], "not finite"),
        (["--model", "own_nets:Pair"], "gives tuple"),
        (["--onnx", "gone.onnx"], "gone.onnx"),
        (["--onnx", "own_nets.py"], "no ONNX file"),
        (["--onnx", "axes.onnx"], "takes images of shape (4, 16)"),
    ],
)
def test_networks_that_do_not_fit_the_images_are_one_line(mine, capsys, way, words):
    assert words in refused(capsys, "certify", *way, *QUICK)

"""`dsrna doctor` where all is well, and on installations that are broken in one way each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cli
import verify
from cli.doctor import self_tests

ROOT = Path(__file__).parents[1]


def doctor(farm, *arguments):
    """The report of an installation whose packages are those of the folder."""
    environment = {**os.environ, "PYTHONPATH": f"{farm}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-m", "cli", "doctor", "--json", *arguments]
    done = subprocess.run(command, env=environment, cwd=farm, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    return {finding["name"]: finding for finding in report["findings"]}


@pytest.fixture
def install(tmp_path):
    """Makes an installation without the packages whose names begin as said, and with others of a false version."""

    def make(without=(), versions=()):
        folders = [Path(place) for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
        for entry in (entry for folder in folders for entry in folder.iterdir()):
            name = entry.name.lower().replace("_", "-")
            unwanted = any(name == part or name.startswith((f"{part}-", f"{part}.")) for part in without)
            replaced = any(name.startswith(f"{part}-") and name.endswith(".dist-info") for part in dict(versions))
            if not (unwanted or replaced or entry.suffix == ".pth" or (tmp_path / entry.name).exists()):
                (tmp_path / entry.name).symlink_to(entry)
        for name, version in versions:
            folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return tmp_path

    return make


def states(report, state):
    return {name for name, finding in report.items() if finding["state"] == state}


OURS = {"verify", "robust_nas.certification", "robust_nas.attacks", "robust_nas.search", "experiments.tables.run"}
DATA = {"mnist", "cifar10", "imagefolder", "imagefolder64"}


def test_all_is_well(tmp_path, capsys):
    assert cli.main(["doctor", "--json", "--data", str(tmp_path)]) == 0
    report = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert report["cpu"]["group"] == "self-test" and report["cpu"]["value"].startswith("0 of 18 certificates broken")
    assert not states(report, "broken") and states(report, "absent") >= DATA
    assert str(tmp_path) in report["mnist"]["value"] and "--download" in report["mnist"]["value"]


def test_a_false_proof_is_called_out(monkeypatch):
    def wrong(network, images, labels, norm, method):
        return SimpleNamespace(radius=torch.full((len(images),), 0.9))

    monkeypatch.setattr(verify, "certified_radius", wrong)
    (finding, *_) = self_tests()
    assert finding.state == "broken" and finding.value.startswith("18 of 18 certificates broken")


def test_without_torch(install):
    report = doctor(install(without=["torch"]))
    assert states(report, "broken") >= {"torch", *OURS, "all"}
    assert report["verify"]["value"] == "No module named 'torch'"
    assert report["torch"]["how"]


def test_with_another_auto_lirpa(install):
    report = doctor(install(versions=[("auto-lirpa", "0.7")]))
    assert report["auto-LiRPA"]["value"] == "0.7"
    assert "pip install --no-deps auto-LiRPA==0.3" in report["verify"]["value"]
    assert states(report, "broken") >= OURS


@pytest.mark.slow
def test_without_auto_lirpa(install):
    report = doctor(install(without=["auto-lirpa"]))
    assert states(report, "broken") >= {"auto-LiRPA", *OURS}
    assert "pip install --no-deps auto-LiRPA==0.3" in report["verify"]["value"]


@pytest.mark.slow
def test_without_torchvision(install):
    report = doctor(install(without=["torchvision", "torchvision.libs"]))
    assert not states(report, "broken")
    assert report["torchvision"]["state"] == report["mnist"]["state"] == "absent"
    assert report["torchvision"]["how"].startswith('pip install torchvision "torch==')


@pytest.mark.slow
def test_without_onnx(install):
    report = doctor(install(without=["onnx", "onnxruntime"]))
    assert not states(report, "broken") and {"onnx", "onnxruntime"} <= states(report, "absent")


@pytest.mark.slow
def test_without_a_package_that_is_needed(install):
    report = doctor(install(without=["foolbox"]))
    assert report["foolbox"]["how"] == 'pip install "foolbox>=3.3.4"'
    assert states(report, "broken") == {"foolbox"}


@pytest.mark.slow
def test_with_a_package_that_is_too_old(install):
    report = doctor(install(versions=[("click", "7.0")]))
    assert states(report, "broken") == {"click"}
    assert report["click"]["value"] == "7.0, and >=8.1 is needed"

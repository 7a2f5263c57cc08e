"""Every test runs on one core and on the same examples each time."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # so that commands start none where no test asks for it
torch.set_num_threads(1)
settings.register_profile("fast", derandomize=True, deadline=None, max_examples=15)
settings.register_profile("deep", settings.get_profile("fast"), max_examples=100)
settings.load_profile("fast")  # --hypothesis-profile chooses another one after this


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a genotype, and good weights and certificates for it; the network knows nothing. And an ONNX file
    of another one, with a property."""
    from robust_nas.certification import run_certify  # not for all the tests that do without
    from robust_nas.data import load
    from robust_nas.options import CertifyOptions
    from robust_nas.training import save_weights
    from robust_nas.training.engine import build
    from robust_nas.training.presets import PRESETS
    from tests.robust_nas.helpers import GENOTYPE
    from tests.verify.complete.files import graph_model, node, saved

    folder = tmp_path_factory.mktemp("good")
    arch, weights = folder / "cell.json", folder / "good" / "model.safetensors"
    GENOTYPE.save(arch)
    torch.manual_seed(0)
    save_weights(build(GENOTYPE, load("digits"), PRESETS["quick"]["standard"]), weights, {"dataset": "digits"})
    run_certify(CertifyOptions(arch=arch, weights=weights, method="ibp", images=2, out=folder / "good"))
    saved(graph_model([node("Relu", "x")], [1, 1]), folder / "network.onnx")
    (folder / "property.vnnlib").write_text(
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))(assert (<= Y_0 -1))"
    )
    return folder


@pytest.fixture
def here(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, where we are."""
    shutil.copytree(good, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"

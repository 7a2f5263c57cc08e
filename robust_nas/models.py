"""Networks by name, ready for use."""

from __future__ import annotations

from pathlib import Path

from robust_nas.data import load
from robust_nas.genotype import Architecture
from robust_nas.registry import named
from robust_nas.spaces.network import Network
from robust_nas.training.engine import build
from robust_nas.training.presets import PRESETS as SIZES
from robust_nas.training.weights import load_network, load_trained
from robust_nas.zoo import find


def create_model(
    arch: str | Path | Architecture,
    *,
    dataset: str | None = None,
    weights: str | Path | None = None,
    preset: str = "quick",
    data: str | Path | None = None,
) -> Network:
    """The network of an architecture, in evaluation mode on the CPU. It takes pixels in [0, 1] and returns logits.

    Args:
        arch: a genotype file, or the name of a published architecture, see `robust_nas.zoo.find`.
        dataset: what its images are of, see `robust_nas.data.load`; with weights it may be left out.
        weights: what `dsrna train` wrote; without them the network has fresh ones, from torch's global generator.
        preset: size of a fresh network: quick, small or paper.
        data: folder that holds the data set; a fresh network needs its images' size, and so the files.

    Raises:
        InputError: no such architecture, data set, preset or weights; or the weights are of others.

    Example:
        >>> model = create_model("pc-darts", dataset="digits")
        >>> model(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    genotype = find(arch)
    if weights is not None and dataset is None:
        return load_network(genotype, Path(weights))[0]
    images = load(dataset or "digits", data)
    if weights is not None:
        return load_trained(genotype, Path(weights), images)
    return build(genotype, images, named("preset", preset, SIZES)["standard"]).eval()

"""Trained networks and what is to be proven of them, as files that other verifiers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robust_nas.certification.certify import exact_examples
from robust_nas.data import load
from robust_nas.files import digest
from robust_nas.runs import Run
from robust_nas.training import load_trained
from robust_nas.verification import TIME_LIMIT
from robust_nas.zoo import find
from verify import Ball, InputError, Property, to_onnx, vnnlib_text

NETWORK, INSTANCES = "network.onnx", "instances.csv"


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        paths: the network and the list of instances.
        summary: (name, value) pairs for people.
    """

    paths: list[Path]
    summary: list[tuple[str, str]]


def run_export(
    *,
    arch: str | Path,
    weights: str | Path,
    dataset: str = "digits",
    data: str | Path | None = None,
    download: bool = False,
    images: int = 8,
    epsilons: Sequence[float] = (),
    domain: str = "unit",
    time_limit: float = TIME_LIMIT,
    out: str | Path = "runs/export",
) -> ExportResult:
    """Write a trained network as ONNX, and one VNN-LIB 1.0 file an image and l-infinity radius.

    Writes network.onnx, image_N_EPSILON.vnnlib, instances.csv and config.json. A property says that the image keeps its
    label in the ball; of an image that is misclassified it does not hold.

    Args:
        arch, weights, dataset, data, download: as `run_certify` takes them.
        images: how many of the first test images.
        epsilons: radii in [0, 1] pixels.
        domain: "unit" or "free", as in `verify.Ball`.
        time_limit: seconds an instance, for instances.csv.
        out: the run's folder.

    Raises:
        InputError: an argument is wrong, a file is not what it should be, the weights are of another architecture or
            data set, or the packages `onnx` and `onnxruntime` are missing.
    """
    loaded = load(dataset, data, download)
    if not 1 <= images <= len(loaded.test.labels):
        raise InputError(f"{dataset} has {len(loaded.test.labels)} test images; {images} cannot be exported")
    if not epsilons:
        raise InputError("give the radii that are to be proven: --epsilon 2/255,8/255")
    network, cpu = load_trained(find(arch), Path(weights), loaded), torch.device("cpu")
    options = {
        "arch": arch, "weights": weights, "weights_sha256": digest(Path(weights)), "dataset": dataset,
        "images": images, "epsilons": list(epsilons), "domain": domain, "time_limit": time_limit,
    }  # fmt: skip
    pixels, labels = exact_examples(loaded.test, torch.arange(images), cpu)
    texts = {
        f"image_{number}_{epsilon:.6g}.vnnlib": vnnlib_text(
            Property.robust(Ball(pixels[[number]], epsilon, "linf", domain), int(labels[number]), loaded.classes),
            f"{dataset}, test image {number}, label {int(labels[number])}, l-infinity radius {epsilon!r}, {domain}",
        )
        for number in range(images)
        for epsilon in epsilons
    }
    to_onnx(network, loaded.test.images[:1], Path(out) / NETWORK)
    run = Run.start(out, "export", options, cpu)
    for name, text in texts.items():
        run.write_text(name, text)
    lines = [f"{NETWORK},{name},{time_limit:g}\n" for name in texts]
    listed = run.write_text(INSTANCES, "".join(lines))
    summary = [("instances", str(len(texts)))]
    return ExportResult([run.folder / NETWORK, listed], summary)

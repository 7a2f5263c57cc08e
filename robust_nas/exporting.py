"""Trained networks and what is to be proven of them, as files that other verifiers read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robust_nas.certification.certify import exact_examples
from robust_nas.data import load
from robust_nas.files import digest
from robust_nas.options.option import recorded
from robust_nas.options.verification import ExportOptions
from robust_nas.runs import Run
from robust_nas.training import load_trained
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


def run_export(options: ExportOptions) -> ExportResult:
    """Write a trained network as ONNX, and one VNN-LIB 1.0 file an image and l-infinity radius.

    Writes network.onnx, image_N_EPSILON.vnnlib, instances.csv and config.json. A property says that the image keeps its
    label in the ball; of an image that is misclassified it does not hold.

    Raises:
        InputError: an option is wrong, a file is not what it should be, the weights are of another architecture or
            data set, or the packages `onnx` and `onnxruntime` are missing.
    """
    loaded = load(options.dataset, options.data, options.download)
    dataset, images, domain = options.dataset, options.images, options.domain
    if not 1 <= images <= len(loaded.test.labels):
        raise InputError(f"{dataset} has {len(loaded.test.labels)} test images; {images} cannot be exported")
    if not options.epsilons:
        raise InputError("give the radii that are to be proven: --epsilon 2/255,8/255")
    weights, cpu = Path(options.weights), torch.device("cpu")
    network = load_trained(find(options.arch), weights, loaded)
    pixels, labels = exact_examples(loaded.test, torch.arange(images), cpu)
    texts = {
        f"image_{number}_{epsilon:.6g}.vnnlib": vnnlib_text(
            Property.robust(Ball(pixels[[number]], epsilon, "linf", domain), int(labels[number]), loaded.classes),
            f"{dataset}, test image {number}, label {int(labels[number])}, l-infinity radius {epsilon!r}, {domain}",
        )
        for number in range(images)
        for epsilon in options.epsilons
    }
    to_onnx(network, loaded.test.images[:1], Path(options.out) / NETWORK)
    run = Run.start(options.out, "export", {**recorded(options), "weights_sha256": digest(weights)}, cpu)
    for name, text in texts.items():
        run.write_text(name, text)
    lines = [f"{NETWORK},{name},{options.time_limit:g}\n" for name in texts]
    listed = run.write_text(INSTANCES, "".join(lines))
    summary = [("instances", str(len(texts)))]
    return ExportResult([run.folder / NETWORK, listed], summary)

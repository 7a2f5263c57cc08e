"""Trained networks and what is to be proven of them, as files that other verifiers read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robust_nas.certification.certify import exact_examples
from robust_nas.certification.records import (
    check_images,
    check_weights,
    read_certificates,
    read_claim,
    read_target_seed,
)
from robust_nas.data import Data, load
from robust_nas.files import digest
from robust_nas.options.option import recorded
from robust_nas.options.verification import IMAGES, ExportOptions
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


@dataclass(frozen=True)
class _Wanted:
    """What an instance is about: the test image keeps its label within the radius."""

    index: int
    label: int
    epsilon: float

    @property
    def name(self) -> str:
        return f"image_{self.index}_{self.epsilon!r}.vnnlib"


def run_export(options: ExportOptions) -> ExportResult:
    """Write a trained network as ONNX, and one VNN-LIB file an image and l-infinity radius.

    Writes network.onnx, image_N_EPSILON.vnnlib, instances.csv and config.json. A property says that the image keeps its
    label in the ball; of an image that is misclassified it does not hold.

    Raises:
        InputError: an option is wrong, a file is not what it should be, the weights or certificates are of another
            architecture or data set, or the packages `onnx` and `onnxruntime` are missing.
    """
    loaded = load(options.dataset, options.data, options.download)
    domain, asked = _first(loaded, options) if options.certificates is None else _certified(loaded, options)
    weights, cpu = Path(options.weights), torch.device("cpu")
    network = load_trained(find(options.arch), weights, loaded)
    texts = {
        one.name: vnnlib_text(
            Property.robust(_ball(loaded, one, domain), one.label, loaded.classes),
            f"{options.dataset}, test image {one.index}, label {one.label}, linf radius {one.epsilon!r}, {domain}",
            int(options.vnnlib),
        )
        for one in asked
    }
    to_onnx(network, loaded.test.images[:1], Path(options.out) / NETWORK)
    record = {**recorded(options), "domain": domain, "weights_sha256": digest(weights)}
    run = Run.start(options.out, "export", record, cpu)
    for name, text in texts.items():
        run.write_text(name, text)
    lines = [f"{NETWORK},{name},{options.time_limit:g}\n" for name in texts]
    listed = run.write_text(INSTANCES, "".join(lines))
    summary = [("instances", str(len(texts)))]
    return ExportResult([run.folder / NETWORK, listed], summary)


def _first(loaded: Data, options: ExportOptions) -> tuple[str, list[_Wanted]]:
    """The domain, and the first test images at every radius."""
    dataset, images = options.dataset, IMAGES if options.images is None else options.images
    if not 1 <= images <= len(loaded.test.labels):
        raise InputError(f"{dataset} has {len(loaded.test.labels)} test images; {images} cannot be exported")
    if not options.epsilons:
        raise InputError("give the radii that are to be proven: --epsilon 2/255,8/255, or --certificates certify.csv")
    labels = loaded.test.labels[:images].tolist()
    asked = [_Wanted(index, label, epsilon) for index, label in enumerate(labels) for epsilon in options.epsilons]
    return options.domain or "unit", asked


def _certified(loaded: Data, options: ExportOptions) -> tuple[str, list[_Wanted]]:
    """The domain of certificates, and the balls that they are about."""
    if options.images is not None or options.epsilons or options.domain is not None:
        raise InputError("--certificates brings its own --images, --epsilon and --domain; leave them out")
    path = Path(str(options.certificates))
    rows = read_certificates(path)
    claim = read_claim(path, rows)
    check_images(path, rows, loaded.test.labels, options.dataset)
    check_weights(path, digest(Path(options.weights)), options.weights)
    if claim.norm != "linf":
        raise InputError(f"{path}: VNN-LIB has boxes only, and no {claim.norm} balls; certify with --norm linf")
    if read_target_seed(path) is not None:
        raise InputError(f"{path}: certificates against one class each are not exported; certify without --targeted")
    asked = [_Wanted(row.index, row.label, row.radius) for row in rows if row.radius > 0]
    if not asked:
        raise InputError(f"{path}: no certificate has a radius above 0")
    return claim.domain, asked


def _ball(loaded: Data, one: _Wanted, domain: str) -> Ball:
    pixels, _ = exact_examples(loaded.test, torch.tensor([one.index]), torch.device("cpu"))
    return Ball(pixels, one.epsilon, "linf", domain)

"""What certify.csv holds: one certificate a row, written by `certify` and read by `audit`."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from robust_nas.files import read_json
from verify import DOMAINS, NORMS, InputError
from verify.checks.errors import known_names
from verify.propagation.methods import radius_methods

_LONGEST = 18
"""Digits of a whole number: more would not fit into a tensor."""
STATUSES = ("certified", "misclassified", "overflow", "timeout", "unsupported")

_NORM_WORDS = {"linf": "l-infinity", "l2": "l2", "l1": "l1"}
DOMAIN_WORDS = {
    "unit": "perturbed pixels stay in [0,1] (unit domain)",
    "free": "perturbed pixels may leave [0,1] (free domain)",
}


@dataclass(frozen=True)
class Claim:
    """What a certified radius is about: the ball's norm, the pixels' domain, and the bounds that prove it.

    Raises:
        InputError: one of the three is unknown.
    """

    norm: str
    domain: str
    method: str

    def __post_init__(self) -> None:
        for name, known in (("norm", NORMS), ("domain", DOMAINS), ("method", radius_methods())):
            if (given := getattr(self, name)) not in known:
                raise InputError(f"unknown {name} {given!r}; {known_names(given, known)}")

    @property
    def threat_model(self) -> str:
        """Norm and domain in words."""
        return f"{_NORM_WORDS[self.norm]}, {DOMAIN_WORDS[self.domain]}"


@dataclass(frozen=True)
class Certificate:
    """A row of certify.csv; its fields are the columns.

    Attributes:
        index: the image's place among the test images.
        label, predicted, correct: its class, the network's answer, and whether they agree.
        norm, method: of the claim; the domain is in the run's config.json.
        radius: certified radius in [0, 1] pixels, written so that it is read back to the bit; 0 where nothing
            is proven.
        attack_radius: size of the smallest perturbation found that changes the answer; inf where none was.
        evaluations: bounds computed for the image.
        seconds: that they took, without the attack.
        status: one of `STATUSES`.
    """

    index: int
    label: int
    predicted: int
    correct: bool
    norm: str
    radius: float
    attack_radius: float
    method: str
    evaluations: int
    seconds: float
    status: str


def read_certificates(path: Path) -> list[Certificate]:
    """Read the rows of a certify.csv; there is at least one.

    Raises:
        InputError: the file is not CSV, a column is missing, or a value is not what its column holds.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # a mark as spreadsheets write it
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file: {error}") from error
    for column in _PARSERS:
        if column not in header:
            raise InputError(f"{path}: column {column!r} is missing; `dsrna certify` writes it")
    if not rows:
        raise InputError(f"{path}: holds no certificates")
    return [_certificate(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]


def read_claim(path: Path, certificates: Collection[Certificate]) -> Claim:
    """What the certificates of a certify.csv are about; its domain is in the config.json beside it.

    Raises:
        InputError: they are of several norms or methods, or config.json is missing or names no domain.
    """
    kinds = sorted({(certificate.norm, certificate.method) for certificate in certificates})
    if len(kinds) > 1:
        found = ", ".join(f"{norm} by {method}" for norm, method in kinds)
        raise InputError(f"{path}: certificates of several kinds ({found}); audit one kind at a time")
    norm, method = kinds[0]
    return Claim(norm, _read_domain(path.with_name("config.json")), method)


def read_target_seed(path: Path) -> int | None:
    """The seed of the target classes of a certify.csv, see `random_targets`; None where it is about all classes.

    Raises:
        InputError: config.json beside it does not say.
    """
    config = path.with_name("config.json")
    options = _read_options(config)
    if "target_seed" in options:  # that of an audit, whose own seed is of its attacks, in the certificates' folder
        options = {"targeted": options["target_seed"] is not None, "seed": options["target_seed"]}
    seed = options.get("seed")
    if not options.get("targeted"):
        return None
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"{config}: options.seed: must be a whole number, not {seed!r}")
    return seed


def read_memory(path: Path) -> float | None:
    """MiB that affine forms had when the certificates of a certify.csv were made; None where the file does not say."""
    memory = _read_options(path.with_name("config.json")).get("memory")
    if not isinstance(memory, int | float) or isinstance(memory, bool):
        return None
    return float(memory) if 0 < memory <= sys.float_info.max else None


def check_weights(path: Path, digest: str, name: object) -> None:
    """The certificates of a certify.csv must be of the weights of this digest, where the config.json beside it says.

    Raises:
        InputError: they are not; `name` is how people call the weights.
    """
    options = _read_options(path.with_name("config.json"))
    if options.get("weights_sha256", "") not in ("", digest):
        theirs = next((options[key] for key in ("weights", "onnx", "model") if options.get(key)), None)
        raise InputError(f"{path}: certificates of other weights ({theirs}) than {name}")


def check_images(path: Path, rows: Collection[Certificate], labels: Int[Tensor, " n"], dataset: str) -> None:
    """The certificates of a certify.csv must be of the test images whose labels these are.

    Raises:
        InputError: they are not.
    """
    for row in rows:
        if row.index >= len(labels):
            raise InputError(f"{path}: index {row.index}: {dataset} has {len(labels)} test images")
        label = int(labels[row.index])
        if row.label != label:
            raise InputError(
                f"{path}: index {row.index}: the label is {row.label}, in {dataset} {label}; other images?"
            )


def random_targets(index: Int[Tensor, " b"], labels: Int[Tensor, " b"], classes: int, seed: int) -> Int[Tensor, " b"]:
    """A random class other than its label for each image, which its place in the data set and the seed decide."""
    shifts = [Random(f"{seed} {place}").randrange(1, classes) for place in index.tolist()]
    return (labels + torch.tensor(shifts, device=labels.device)) % classes


def _read_domain(path: Path) -> str:
    domain = _read_options(path).get("domain")
    if domain not in DOMAINS:
        raise InputError(f"{path}: options.domain: must be {' or '.join(DOMAINS)}, not {domain!r}")
    return str(domain)


def _read_options(path: Path) -> dict[str, Any]:
    """What a certification was started with; empty where the file names nothing of the kind."""
    missing = f"{path}: no such file; `dsrna certify` writes it beside the certificates, with their domain"
    config = read_json(path, missing)
    options = config.get("options") if isinstance(config, dict) else None
    return options if isinstance(options, dict) else {}


def _certificate(row: dict[str, str | None], where: str) -> Certificate:
    values = {}
    for column, parse in _PARSERS.items():
        try:
            values[column] = parse(row[column] or "")
        except ValueError as error:
            raise InputError(f"{where}: {column}: must be {error}, not {row[column]!r}") from error
    return Certificate(**values)


# Parsers of a column's text. A ValueError says what the text must be.


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > _LONGEST:
        raise ValueError("a whole number >= 0")
    return int(text)


def _size(text: str) -> float:
    """A number >= 0, infinity allowed."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise ValueError("a number >= 0")
    return number


def _radius(text: str) -> float:
    number = _size(text)
    if math.isinf(number):
        raise ValueError("finite")
    return number


def _truth(text: str) -> bool:
    return _one_of("True", "False")(text) == "True"


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return parse


_PARSERS: dict[str, Callable[[str], Any]] = {
    "index": _whole,
    "label": _whole,
    "predicted": _whole,
    "correct": _truth,
    "norm": _one_of(*NORMS),
    "radius": _radius,
    "attack_radius": _size,
    "method": lambda text: _one_of(*radius_methods())(text),
    "evaluations": _whole,
    "seconds": _size,
    "status": _one_of(*STATUSES),
}

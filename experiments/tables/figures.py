"""The figures of a finished job, read from what its run returned and wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from robust_nas.attacks import run_attack
from robust_nas.certification import run_certify
from robust_nas.certification.records import read_certificates
from robust_nas.data import load
from robust_nas.options import AttackOptions, CertifyOptions, SearchOptions, TrainOptions
from robust_nas.runs import read_rows
from robust_nas.search import run_search
from robust_nas.spaces.size import size_on_cifar10, size_on_imagenet
from robust_nas.training import run_training
from robust_nas.zoo import find

ATTACK_NAMES = {
    ("pgd-10", "linf"): "PGD (10)",
    ("pgd-20", "linf"): "PGD (20)",
    ("pgd-100", "linf"): "PGD (100)",
    ("fgsm", "linf"): "FGSM",
    ("cw", "l2"): "C&W",
    ("autoattack", "linf"): "AutoAttack (linf)",
    ("autoattack", "l2"): "AutoAttack (l2)",
}
"""Attack and norm, as the paper's tables call them."""

Figure = dict[str, float]
Figures = dict[str, Figure]
"""By name: the value, the number of images that it is about, and the seconds of device time that it took."""


def search(options: dict[str, Any], resume: bool) -> Figures:
    """Search; the cost is the time of all steps, those before a stop included."""
    run_search(SearchOptions(**options, resume=resume))
    seconds = _step_seconds(Path(options["out"]))
    return {"Search cost (s)": _figure(seconds, 0, seconds)}


def train(options: dict[str, Any], resume: bool) -> Figures:
    """Train; the sizes are those of the architecture's networks in the paper, whatever was trained."""
    result = run_training(TrainOptions(**options, resume=resume))
    images = len(load(options["dataset"], options["data"]).test.labels)
    genotype = find(options["arch"])
    return {
        "Test accuracy": _figure(100 * result.test_accuracy, images, _step_seconds(Path(options["out"]))),
        "Params (M) on CIFAR-10": _figure(size_on_cifar10(genotype).parameters / 1e6),
        "Params (M) on ImageNet": _figure(size_on_imagenet(genotype).parameters / 1e6),
    }


def attack(options: dict[str, Any], resume: bool) -> Figures:
    """Attack: accuracies, and how many of the guards found a sign of masked gradients."""
    run_attack(AttackOptions(**options, resume=resume))
    out = Path(options["out"])
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    images, seconds = summary["images"], _attack_seconds(out / "attacks.csv")
    figures = {"Without attack": _figure(100 * summary["clean"], images)}
    for each in summary["attacks"]:
        kind = each["attack"], each["norm"]
        figures[ATTACK_NAMES[kind]] = _figure(100 * each["accuracy"], images, seconds[kind])
    if summary["guards"]:
        signs = sum(finding["sign"] for finding in summary["guards"])
        figures["Signs of masked gradients"] = _figure(signs, images)
    return figures


def certify(options: dict[str, Any], resume: bool) -> Figures:
    """Certify: the mean radius. A misclassified image counts 0; against one class it is skipped, as in CNN-Cert."""
    run_certify(CertifyOptions(**options, workers=1, resume=resume))  # the other cores have jobs of their own
    certificates = read_certificates(Path(options["out"]) / "certify.csv")
    counted = [each for each in certificates if each.correct] if options.get("targeted") else certificates
    mean = fmean(each.radius for each in counted) if counted else 0.0
    seconds = sum(each.seconds for each in certificates)
    return {f"Certified {options['norm']}": _figure(mean, len(counted), seconds)}


DO: dict[str, Callable[[dict[str, Any], bool], Figures]] = {
    "search": search, "train": train, "attack": attack, "certify": certify
}
"""What carries a job out, by its kind: options of the run, whether it goes on with what is in its folder -> figures."""


def _figure(value: float, images: int = 0, seconds: float = 0.0) -> Figure:
    return {"value": round(value, 10), "images": images, "seconds": round(seconds, 3)}


def _step_seconds(out: Path) -> float:
    return sum(row["seconds"] or 0.0 for row in read_rows(out / "timing.csv"))


def _attack_seconds(path: Path) -> dict[tuple[str, str], float]:
    seconds: dict[tuple[str, str], float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kind = row["attack"], row["norm"]
            seconds[kind] = seconds.get(kind, 0.0) + float(row["seconds"])
    return seconds

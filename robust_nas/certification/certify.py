"""The certification of a trained network on test images: attack, certified radius, verified accuracy."""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from robust_nas.certification.blocks import Block, Effort, Portable, Work, exact
from robust_nas.certification.pictures import CURVES, EXTREMES, draw_extremes, ends, radii_of
from robust_nas.certification.records import Certificate, Claim, read_certificates
from robust_nas.data import Data, Examples, Source, load
from robust_nas.genotype import Architecture
from robust_nas.options.certification import CertifyOptions
from robust_nas.options.option import recorded
from robust_nas.options.training import TrainOptions
from robust_nas.pictures.certificates import plot_radii
from robust_nas.runs import Run, choose_device, progress
from robust_nas.subject import architecture, subject
from robust_nas.training import TrainingResult, run_training
from robust_nas.workers import spread, workers_for
from verify import BoundedNetwork, InputError

BATCH = 8
"""Images attacked and bounded at once; a row of certify.csv is written when its batch is done."""

Summary = list[tuple[str, str]]


@dataclass(frozen=True)
class CertifyResult:
    """What a certification gave.

    Attributes:
        paths: the files with results.
        summary: (name, value) pairs for people.
    """

    paths: list[Path]
    summary: Summary


def run_certify(options: CertifyOptions) -> CertifyResult:
    """Certify a network on the first test images of a data set.

    Writes certify.csv, config.json, verified.csv where radii are given, and two pictures: certify.png, accuracy against
    epsilon and the histogram of the radii, and extremes.png, the images with the smallest and the largest radius and
    what an attack makes of them. Each image is attacked first: no certified radius may pass the size of an attack that
    succeeded.

    Raises:
        InputError: an option is wrong, a file is not what it should be, the weights are of another architecture or
            data set, or there is nothing to resume.
        UnsupportedOperator: the network holds an operator with no sound rule.
        RuntimeError: a ball is proven that holds a successful attack: a bug.
    """
    arch, place = architecture(options, trains=True), choose_device(options.device)
    claim = Claim(options.norm, options.domain, options.method)
    effort = Effort(options.tolerance, options.time_limit)
    loaded = load(options.dataset, options.data, options.download)
    test, images = loaded.test, options.images
    _check_options(options, len(test.labels))
    summary: Summary = []
    resume = options.resume
    if arch is not None and options.weights is None:
        training = _train_first(options, arch)
        options = replace(options, weights=training.weights_path)
        summary = [("weights", f"none given; trained first: {options.weights}"), *training.summary]
        resume = resume and (Path(options.out) / "config.json").exists()  # a run stopped while it trained has none yet
    given = subject(options, arch, loaded)
    network = exact_network(given.network, loaded, place, options.memory)
    record = {**recorded(options), "weights_sha256": given.digest}
    run = Run.resume(options.out, record) if resume else Run.start(options.out, "certify", record, place)

    kept = _whole_batches(run.folder / "certify.csv", images) if resume else []
    log = run.csv("certify.csv", len(kept))
    certificates: list[Certificate] = []
    proven = Counter(dict.fromkeys(options.epsilons, 0))
    begins = range(0, images, BATCH)
    blocks = (_block(test, range(begin, min(begin + BATCH, images)), kept) for begin in begins)
    work = Work(Portable(network), claim, effort, options.seed, options.targeted, tuple(options.epsilons))
    done = spread(work, blocks, workers_for(place, options.workers, len(begins)))
    with progress("certify", images, len(kept)) as step:
        for found, counts in done:
            for certificate in found if len(certificates) >= len(kept) else []:
                log.append(asdict(certificate))
                step(f"{certificate.status}, radius {certificate.radius:.3g}")
            proven.update(counts)
            certificates += found
    accuracies = [_accuracy(epsilon, count, claim, certificates) for epsilon, count in proven.items()]
    paths = [log.path, *_write_accuracies(run, accuracies)]
    paths += _draw(run, network, test, place, claim, certificates, options.targeted)
    if options.targeted:
        summary.append(("specification", "one random class an image does not overtake its label"))
    return CertifyResult(paths, summary + _summarise(claim, certificates, accuracies))


def _block(test: Source, places: range, kept: list[Certificate]) -> Block:
    index = torch.tensor(places)
    return Block(index, test.take(index), kept[places.start : places.stop])


def exact_network(network: nn.Module, data: Data, device: torch.device, memory: float) -> BoundedNetwork:
    """The trained network on the device, in float64 with relaxations widened outward.

    Raises:
        UnsupportedOperator: the network holds an operator with no sound rule.
    """
    network = network.to(device, torch.float64)
    return BoundedNetwork(network, data.test.images[:1].to(device, torch.float64), memory, confirms=True)


def exact_examples(examples: Source, index: Int[Tensor, " b"], device: torch.device) -> Examples:
    """The examples at these places, on the device, the images in float64."""
    return exact(examples.take(index), device)


def _whole_batches(path: Path, images: int) -> list[Certificate]:
    """What an interrupted run certified: attacks draw random numbers for a batch, so a part of one is done again."""
    found = read_certificates(path) if path.exists() else []
    return found if len(found) == images else found[: len(found) // BATCH * BATCH]


def _check_options(options: CertifyOptions, there: int) -> None:
    if not 1 <= options.images <= there:
        raise InputError(f"{options.dataset} has {there} test images; {options.images} cannot be certified")
    if not all(0 <= epsilon < math.inf for epsilon in options.epsilons):
        raise InputError("epsilon must be finite and not negative")
    if options.targeted and options.epsilons:
        raise InputError("a verified accuracy is about all classes; leave out --targeted, or --epsilon")


def _train_first(options: CertifyOptions, genotype: Architecture) -> TrainingResult:
    print(f"no --weights: training the network first (preset {options.preset})", file=sys.stderr, flush=True)
    out = Path(options.out) / "train"
    shared = ("dataset", "data", "download", "preset", "seed", "device")
    same = {name: getattr(options, name) for name in shared}
    resume = options.resume and (out / "config.json").exists()
    return run_training(TrainOptions(arch=genotype, resume=resume, out=out, **same))


def _accuracy(epsilon: float, verified_images: int, claim: Claim, certificates: list[Certificate]) -> dict[str, Any]:
    """A row of verified.csv."""
    images = len(certificates)
    standing = sum(certificate.attack_radius > epsilon for certificate in certificates)
    return {
        "epsilon": epsilon,
        **asdict(claim),
        "images": images,
        "verified": verified_images,
        "verified_accuracy": verified_images / images,
        "attack_accuracy": standing / images,
    }


def _write_accuracies(run: Run, accuracies: list[dict[str, Any]]) -> list[Path]:
    """Write verified.csv, or remove that of an earlier run in the same folder, whose radii were others."""
    if accuracies:
        return [run.write_csv("verified.csv", accuracies)]
    (run.folder / "verified.csv").unlink(missing_ok=True)
    return []


def _draw(
    run: Run,
    network: BoundedNetwork,
    test: Source,
    place: torch.device,
    claim: Claim,
    certificates: list[Certificate],
    targeted: bool,
) -> list[Path]:
    """The pictures; that of single images only where there are some, and where an attack of any class counts."""
    radii = radii_of(certificates)
    paths = [plot_radii(radii, claim.threat_model, run.folder / CURVES)]
    chosen = [one.index for end in ends(certificates) for one in end]
    (run.folder / EXTREMES).unlink(missing_ok=True)
    if chosen and not targeted:
        examples = exact_examples(test, torch.tensor(chosen), place)
        paths.append(draw_extremes(network, examples, claim, certificates, run.folder / EXTREMES))
    return paths


def _summarise(claim: Claim, certificates: list[Certificate], accuracies: list[dict[str, Any]]) -> Summary:
    correct = [certificate for certificate in certificates if certificate.correct]
    summary = [
        ("threat model", claim.threat_model),
        ("bounds", claim.method),
        ("test images", f"{len(certificates)}, {len(correct)} classified correctly"),
        ("mean radius", f"{_mean_radius(certificates):.4g} over all images, a misclassified one counting 0"),
    ]
    if correct:
        positive = sum(certificate.radius > 0 for certificate in correct)
        ratio = statistics.median(_share_of_attack(certificate) for certificate in correct)
        summary += [
            ("", f"{_mean_radius(correct):.4g} over the correct ones"),
            ("radius > 0", f"{positive} of {len(correct)} correct images ({positive / len(correct):.0%})"),
            ("certified / attack", f"{ratio:.2g}, median over the correct images"),
        ]
    unproven = Counter(_why_0(certificate) for certificate in correct if certificate.radius == 0)
    summary += [("radius 0", f"{count} correct images: {status}") for status, count in unproven.items()]
    summary += [
        (
            f"at radius {row['epsilon']:g}",
            f"verified accuracy {row['verified_accuracy']:.1%}, under attack {row['attack_accuracy']:.1%}",
        )
        for row in accuracies
    ]
    seconds = statistics.fmean(certificate.seconds for certificate in certificates)
    return [*summary, ("seconds an image", f"{seconds:.2g}")]


def _why_0(certificate: Certificate) -> str:
    return "nothing could be proven" if certificate.status == "certified" else certificate.status


def _mean_radius(certificates: list[Certificate]) -> float:
    return statistics.fmean(certificate.radius for certificate in certificates)


def _share_of_attack(certificate: Certificate) -> float:
    return certificate.radius / certificate.attack_radius if certificate.attack_radius else 0.0

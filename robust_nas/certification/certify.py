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
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.certification.pictures import CURVES, EXTREMES, draw_extremes, ends, radii_of
from robust_nas.certification.records import Certificate, Claim, random_targets, read_certificates
from robust_nas.data import Data, Examples, Source, load
from robust_nas.files import digest
from robust_nas.genotype import Architecture
from robust_nas.options.certification import CertifyOptions
from robust_nas.options.option import recorded
from robust_nas.options.training import TrainOptions
from robust_nas.pictures.certificates import plot_radii
from robust_nas.runs import Run, choose_device, progress
from robust_nas.training import TrainingResult, load_trained, run_training
from robust_nas.zoo import find
from verify import Ball, BoundedNetwork, InputError, attack_radius, certified_radius, verified
from verify.certify.radius import FINEST, proven_margin

BATCH = 8
"""Images attacked and bounded at once; a row of certify.csv is written when its batch is done."""

Summary = list[tuple[str, str]]


@dataclass(frozen=True)
class Effort:
    """How long to look for a radius: see `verify.certified_radius`.

    Raises:
        InputError: the tolerance is finer than bounds are.
    """

    tolerance: float
    time_limit: float | None

    def __post_init__(self) -> None:
        if not self.tolerance >= FINEST:
            raise InputError(f"tolerance must be at least {FINEST:g}, not {self.tolerance}")


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
    genotype, place, seed = find(options.arch), choose_device(options.device), options.seed
    claim = Claim(options.norm, options.domain, options.method)
    effort = Effort(options.tolerance, options.time_limit)
    loaded = load(options.dataset, options.data, options.download)
    test, images = loaded.test, options.images
    _check_options(options, len(test.labels))
    summary: Summary = []
    resume = options.resume
    if options.weights is None:
        training = _train_first(options, genotype)
        options = replace(options, weights=training.weights_path)
        summary = [("weights", f"none given; trained first: {options.weights}"), *training.summary]
        resume = resume and (Path(options.out) / "config.json").exists()  # a run stopped while it trained has none yet
    weights = Path(str(options.weights))
    network = exact_network(genotype, weights, loaded, place, options.memory)
    record = {**recorded(options), "weights_sha256": digest(weights)}
    run = Run.resume(options.out, record) if resume else Run.start(options.out, "certify", record, place)

    kept = _whole_batches(run.folder / "certify.csv", images) if resume else []
    log = run.csv("certify.csv", len(kept))
    certificates: list[Certificate] = []
    proven = Counter(dict.fromkeys(options.epsilons, 0))
    with progress("certify", images, len(kept)) as step:
        for index in torch.arange(images).split(BATCH):
            batch = exact_examples(test, index, place)
            found = kept[len(certificates) : len(certificates) + len(index)]
            if not found:
                targets = random_targets(index, batch.labels, network.classes, seed) if options.targeted else None
                found = _certify(network, batch, index, targets, claim, effort, seed)
                for certificate in found:
                    log.append(asdict(certificate))
                    step(f"{certificate.status}, radius {certificate.radius:.3g}")
            for epsilon in proven:
                proven[epsilon] += _count_verified(network, batch, found, epsilon, claim)
            certificates += found
    accuracies = [_accuracy(epsilon, count, claim, certificates) for epsilon, count in proven.items()]
    paths = [log.path, *_write_accuracies(run, accuracies)]
    paths += _draw(run, network, test, place, claim, certificates, options.targeted)
    if options.targeted:
        summary.append(("specification", "one random class an image does not overtake its label"))
    return CertifyResult(paths, summary + _summarise(claim, certificates, accuracies))


def exact_network(
    genotype: Architecture, weights: Path, data: Data, device: torch.device, memory: float
) -> BoundedNetwork:
    """The trained network on the device, in float64 with relaxations widened outward.

    Raises:
        InputError: see `load_trained`.
        UnsupportedOperator: the network holds an operator with no sound rule.
    """
    network = load_trained(genotype, weights, data).to(device, torch.float64)
    return BoundedNetwork(network, data.test.images[:1].to(device, torch.float64), memory, confirms=True)


def exact_examples(examples: Source, index: Int[Tensor, " b"], device: torch.device) -> Examples:
    """The examples at these places, on the device, the images in float64."""
    images, labels = examples.take(index)
    return Examples(images.double().to(device), labels.to(device))


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


@torch.no_grad()
def _certify(
    network: BoundedNetwork,
    batch: Examples,
    index: Int[Tensor, " b"],
    targets: Int[Tensor, " b"] | None,
    claim: Claim,
    effort: Effort,
    seed: int,
) -> list[Certificate]:
    images, labels = batch
    predicted = network(images).argmax(1)
    attacked = attack_radius(network.model, images, labels, claim.norm, claim.domain, seed=seed, targets=targets)
    proof = certified_radius(
        network,
        images,
        labels,
        **asdict(claim),
        ceiling=attacked,
        tolerance=effort.tolerance,
        time_limit=effort.time_limit,
        targets=targets,
    )
    _check(network, batch, proof.radius, attacked, targets, claim, effort)
    columns = (index, labels, predicted, proof.radius, attacked, proof.evaluations, proof.seconds)
    return [
        Certificate(
            index=place,
            label=label,
            predicted=answer,
            correct=label == answer,
            norm=claim.norm,
            radius=radius,
            attack_radius=ceiling,
            method=claim.method,
            evaluations=evaluations,
            seconds=seconds,
            status=status,
        )
        for place, label, answer, radius, ceiling, evaluations, seconds, status in zip(
            *(column.tolist() for column in columns), proof.status, strict=True
        )
    ]


def _check(
    network: BoundedNetwork,
    batch: Examples,
    radius: Float[Tensor, " b"],
    attacked: Float[Tensor, " b"],
    targets: Int[Tensor, " b"] | None,
    claim: Claim,
    effort: Effort,
) -> None:
    """No ball may be proven that holds a perturbation which succeeded.

    The search stops short of attacks, so a radius never says so itself. But wrong bounds would take it as near to them
    as the tolerance lets it, and where it came so near, the attack's own ball must not be proven.
    """
    if (radius > attacked).any():
        raise RuntimeError(f"certified {radius.tolist()} beyond attacks of size {attacked.tolist()}")
    near = ((attacked > 0) & (radius * (1 + effort.tolerance) >= attacked)).nonzero().squeeze(1)
    if len(near):
        ball = Ball(batch.images[near], attacked[near], claim.norm, claim.domain)
        aim = None if targets is None else targets[near]
        if (proven_margin(network, ball, batch.labels[near], claim.method, aim) > 0).any():
            raise RuntimeError(f"the bounds prove balls that hold successful attacks, of size {attacked.tolist()}")


def _count_verified(
    network: BoundedNetwork, batch: Examples, found: list[Certificate], epsilon: float, claim: Claim
) -> int:
    """How many images keep their label in the whole ball; bounds are needed where the radii leave it open."""
    proven = sum(certificate.radius >= epsilon and certificate.correct for certificate in found)
    undecided = [
        place
        for place, certificate in enumerate(found)
        if certificate.correct and certificate.radius < epsilon < certificate.attack_radius
    ]
    if not undecided:
        return proven
    images, labels = batch.take(torch.tensor(undecided, device=batch.labels.device))
    return proven + int(verified(network, images, labels, epsilon, **asdict(claim)).sum())


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

"""The attempt to break the certificates of a certify.csv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from robust_nas.certification.blocks import Portable, exact
from robust_nas.certification.certify import BATCH, Summary, exact_examples, exact_network
from robust_nas.certification.records import (
    Certificate,
    Claim,
    check_images,
    check_weights,
    random_targets,
    read_certificates,
    read_claim,
    read_memory,
    read_target_seed,
)
from robust_nas.data import Examples, Source, load
from robust_nas.options.certification import AuditOptions
from robust_nas.options.option import recorded
from robust_nas.runs import Run, choose_device, progress
from robust_nas.subject import architecture, subject
from robust_nas.workers import spread, workers_for
from verify import BoundedNetwork, InputError, audit
from verify.propagation.affine import MEMORY

SAMPLES = 100
STARTS = 10
STEPS = 50
"""Random points, runs of PGD and steps of each run, in every certified ball."""


@dataclass(frozen=True)
class AuditResult:
    """What an audit gave.

    Attributes:
        paths: the files with results.
        summary: (name, value) pairs for people.
        broken: how many certificates failed.
    """

    paths: list[Path]
    summary: Summary
    broken: int


@dataclass(frozen=True)
class _Finding:
    """A row of audit.csv; where the radius is 0, nothing was claimed and nothing was tried.

    Attributes:
        index: the image's place among the test images.
        radius: that was claimed, in [0, 1] pixels.
        worst_margin: smallest margin met in the ball, in logits.
        bound: the proof done again: a lower bound of the margin in the ball.
        broken: an attack succeeded, the proof does not repeat, or the attack went below the bound.
    """

    index: int
    radius: float
    worst_margin: float | None
    bound: float | None
    broken: bool


def run_audit(options: AuditOptions) -> AuditResult:
    """Attack every certified ball of a certify.csv and repeat its proof, see `verify.audit`.

    Writes audit.csv and config.json.

    Raises:
        InputError: an option is wrong, a file is not what it should be, or the certificates are of another
            network or data set.
    """
    arch, place, path = architecture(options), choose_device(options.device), Path(options.certificates)
    memory = options.memory or read_memory(path) or MEMORY
    rows = read_certificates(path)
    claim, target_seed = read_claim(path, rows), read_target_seed(path)
    loaded = load(options.dataset, options.data, options.download)
    test = loaded.test
    check_images(path, rows, test.labels, options.dataset)
    given = subject(options, arch, loaded)
    check_weights(path, given.digest, given.name)
    network = exact_network(given.network, loaded, place, memory)
    _check_answers(path, rows, test, network, place)
    chosen = {**recorded(options), "memory": memory, "weights_sha256": given.digest}
    run = Run.start(options.out, "audit", {**chosen, **asdict(claim), "target_seed": target_seed}, place)

    log = run.csv("audit.csv")
    findings: list[_Finding] = []
    batches = list(_batches(rows))
    blocks = ((batch, test.take(_places(batch))) for batch in batches)
    work = partial(_audit, Portable(network), claim, target_seed, options.seed)
    with progress("audit", len(rows)) as step:
        for found in spread(work, blocks, workers_for(place, options.workers, len(batches))):
            for finding in found:
                log.append(asdict(finding))
                findings.append(finding)
                step("broken" if finding.broken else "holds" if finding.radius else "claims nothing")
    broken = sum(finding.broken for finding in findings)
    return AuditResult([log.path], _summarise(claim, findings), broken)


def _audit(
    portable: Portable,
    claim: Claim,
    target_seed: int | None,
    seed: int,
    block: tuple[list[Certificate], Examples],
) -> list[_Finding]:
    """What one process does at a time."""
    network, rows = portable.network, block[0]
    examples = exact(block[1], network.example.device)
    radius = torch.tensor([row.radius for row in rows], dtype=torch.float64, device=examples.labels.device)
    images, labels = examples
    targets = None
    if target_seed is not None:
        targets = random_targets(_places(rows), labels, network.classes, target_seed)
    result = audit(
        network,
        images,
        labels,
        radius,
        **asdict(claim),
        samples=SAMPLES,
        starts=STARTS,
        steps=STEPS,
        seed=seed,
        targets=targets,
    )
    columns = (result.margin, result.bound, result.failures)
    return [
        _Finding(row.index, row.radius, margin if row.radius > 0 else None, bound if row.radius > 0 else None, broken)
        for row, margin, bound, broken in zip(rows, *(column.tolist() for column in columns), strict=True)
    ]


def _batches(rows: list[Certificate]) -> Iterator[list[Certificate]]:
    for begin in range(0, len(rows), BATCH):
        yield rows[begin : begin + BATCH]


def _places(rows: list[Certificate]) -> torch.Tensor:
    return torch.tensor([row.index for row in rows])


@torch.no_grad()
def _check_answers(
    path: Path, rows: list[Certificate], test: Source, network: BoundedNetwork, device: torch.device
) -> None:
    """The network must answer as the one did that was certified."""
    for batch in _batches(rows):
        images, _ = exact_examples(test, _places(batch), device)
        for row, answer in zip(batch, network(images).argmax(1).tolist(), strict=True):
            if row.predicted != answer:
                raise InputError(
                    f"{path}: certificates of another network: it answered {row.predicted} to image "
                    f"{row.index}, this one answers {answer}"
                )


def _summarise(claim: Claim, findings: list[_Finding]) -> Summary:
    margins = [finding.worst_margin for finding in findings if finding.worst_margin is not None]
    bounds = [finding.bound for finding in findings if finding.bound is not None]
    summary = [
        ("threat model", claim.threat_model),
        ("certificates", f"{len(margins)} with a radius > 0, of {len(findings)}"),
        ("tried in each", f"{SAMPLES} random points, PGD from {STARTS} starts with {STEPS} steps, the proof again"),
    ]
    if margins:
        summary += [
            ("smallest margin met", f"{min(margins):.4g} logits"),
            ("smallest proven margin", f"{min(bounds):.4g} logits"),
        ]
    broken = [str(finding.index) for finding in findings if finding.broken]
    return [*summary, ("broken", f"{len(broken)} (images {', '.join(broken)})" if broken else "none")]

"""The attack of a trained network on test images, from weights on disk to CSV files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from robust_nas.attacks.autoattack import library_log
from robust_nas.attacks.base import Attack, under_attack
from robust_nas.attacks.carlini_wagner import CarliniWagner
from robust_nas.attacks.choosing import choose
from robust_nas.attacks.crosscheck import Certified
from robust_nas.attacks.evaluate import Target, evaluate
from robust_nas.attacks.guards import check_images, check_network, look_for_signs
from robust_nas.attacks.outcomes import Attacked, Outcome, read_rows
from robust_nas.attacks.radii import Radius, smallest_perturbations
from robust_nas.attacks.report import Report, Summary
from robust_nas.attacks.sweep import Point, plot_sweeps, sweep
from robust_nas.attacks.threats import Threat
from robust_nas.certification.records import check_weights
from robust_nas.data import Examples, Source, load
from robust_nas.options.attacks import AttackOptions
from robust_nas.options.option import recorded
from robust_nas.runs import Run, choose_device, seed_everything
from robust_nas.subject import architecture, subject
from verify.checks.errors import InputError

RESULTS = (
    "attacks.csv", "radii.csv", "sweep.csv", "sweep.png", "crosscheck.csv", "summary.csv", "summary.json",
    "autoattack.log",
)
Plan = Sequence[tuple[Attack, Threat]]
Row = TypeVar("Row", Outcome, Radius)


@dataclass(frozen=True)
class AttackResult:
    """What attacks gave.

    Attributes:
        paths: the files with results.
        summary: (name, value) pairs for people.
        violated: how many certificates an attack proved false.
    """

    paths: list[Path]
    summary: Summary
    violated: int


def run_attack(options: AttackOptions) -> AttackResult:
    """Attack a network on the first test images of a data set.

    Writes attacks.csv (an attack's rows when it is done), summary.csv (a row of Tables 1, 3 and 4 of DSRNA, CVPR 2021),
    summary.json (with the parts of AutoAttack and the guards' findings), config.json, and where asked for sweep.csv,
    sweep.png, radii.csv and crosscheck.csv.

    Raises:
        InputError: an option is wrong, a file is not what it should be, the weights are of another architecture or
            data set, or the network is none that these attacks can judge.
    """
    arch, place = architecture(options), choose_device(options.device)
    plan = _with_search(choose(options.attacks, options.norm, options.epsilon, options.dataset), options.cw_search)
    norms = list(dict.fromkeys(threat.norm for _, threat in plan))
    found = load(options.dataset, options.data, options.download)
    examples = _first(found.test, options.images, options.dataset)
    check_classes(plan, found.classes, options.dataset)
    given = subject(options, arch, found)
    network = given.network.to(place)
    certified = [Certified.read(Path(path), norms) for path in options.certificates]
    record = {**recorded(options), "weights_sha256": given.digest}
    for each in certified:
        if each.path.resolve().parent == Path(options.out).resolve():  # this run writes their config.json anew
            record["domain"] = each.claim.domain

    seed_everything(options.seed)
    with under_attack(network) as was_training:
        check_images(examples.images)
        check_network(network, examples.images[: options.batch_size].to(place))
        target = Target.of(network, examples, place, options.batch_size)
        for each in certified:
            check_weights(each.path, given.digest, given.name)
            each.check(examples.labels.tolist(), target.predicted.tolist())
        run = _run(options, record, place)
        attacked = _attack(run, target, plan, options.seed)
        sought = norms if options.radius else ()
        works = [partial(smallest_perturbations, target, each, options.seed) for each in sought]
        radii = _resumable(run, "radii.csv", Radius, works, target)
        sweeps = [sweep(target, _narrowest(plan, each), options.seed) for each in (norms if options.guards else ())]
        findings = look_for_signs(target, attacked, sweeps) if options.guards else []
    report = Report(options.dataset, was_training, attacked, radii, findings, certified)
    return AttackResult(_write(run, report, sweeps), report.lines(), len(report.violated))


def _run(options: AttackOptions, record: Mapping[str, Any], place: torch.device) -> Run:
    if options.resume:
        return Run.resume(options.out, record)
    return Run.start(options.out, "attack", record, place, RESULTS)


def _with_search(plan: Plan, cw_search: int) -> Plan:
    return [
        (replace(attack, searches=cw_search) if isinstance(attack, CarliniWagner) else attack, threat)
        for attack, threat in plan
    ]


def _first(test: Source, images: int, dataset: str) -> Examples:
    if not 1 <= images <= len(test.labels):
        raise InputError(f"{dataset} has {len(test.labels)} test images; {images} cannot be attacked")
    return test.take(torch.arange(images))


def check_classes(plan: Plan, classes: int, dataset: str) -> None:
    """Every attack must have as many classes as it needs.

    Raises:
        InputError: one has not.
    """
    for attack, _ in plan:
        if classes < attack.fewest_classes:
            raise InputError(f"{attack.name} needs {attack.fewest_classes} classes; {dataset} has {classes}")


def _attack(run: Run, target: Target, plan: Plan, seed: int) -> list[Attacked]:
    works = [partial(evaluate, target, attack, threat, seed) for attack, threat in plan]
    with library_log(run.folder / "autoattack.log"):
        outcomes = _resumable(run, "attacks.csv", Outcome, works, target)
    return [Attacked(attack, threat, rows) for (attack, threat), rows in zip(plan, outcomes, strict=True)]


def _resumable(
    run: Run, name: str, kind: type[Row], works: Sequence[Callable[[], list[Row]]], target: Target
) -> list[list[Row]]:
    """The rows of each work, one an image; works that the file holds are not done again."""
    answers = list(zip(target.examples.labels.tolist(), target.predicted.tolist(), strict=True))
    found = read_rows(run.folder / name, kind)
    done = [found[begin : begin + len(answers)] for begin in range(0, len(found), len(answers))]
    if any([(row.label, row.predicted) for row in rows] != answers for rows in done):
        raise InputError(f"{run.folder / name}: of another network or other images; start again without --resume")
    for work in works[len(done) :]:
        done.append(work())
        run.write_csv(name, [asdict(row) for rows in done for row in rows])
    return done


def _narrowest(plan: Plan, norm: str) -> Threat:
    return min((threat for _, threat in plan if threat.norm == norm), key=lambda threat: threat.epsilon)


def _write(run: Run, report: Report, sweeps: Sequence[Sequence[Point]]) -> list[Path]:
    """Write what is not written yet; returns the paths of all results."""
    tables = {
        "summary.csv": [report.row()],
        "sweep.csv": [asdict(point) for points in sweeps for point in points],
        "crosscheck.csv": [asdict(comparison) for comparison in report.comparisons],
    }
    for name, rows in tables.items():
        if rows:
            run.write_csv(name, rows)
    run.write_json("summary.json", report.json())
    if sweeps:
        plot_sweeps(sweeps, report.attacked, run.folder / "sweep.png")
    return [path for path in (run.folder / name for name in RESULTS) if path.exists()]

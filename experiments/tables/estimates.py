"""What jobs will take, judged by those that have finished: `measured.csv`, and where its figures come from.

`python -m experiments.tables.estimates OUT` writes it anew from the finished jobs in OUT, a folder of `dsrna table`.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from experiments.tables.jobs import RESULT, Job
from robust_nas.runs import Run

MEASURED = Path(__file__).with_name("measured.csv")


@dataclass(frozen=True)
class Measured:
    """A row of measured.csv: jobs of one kind, subject and setting that have finished.

    Attributes:
        kind, subject, setting: as `Job` has them.
        jobs: how many.
        seconds: device time of one, the mean.
        memory_mb: the most that one took; of the machine on a CPU, of the device on a GPU.
        source: the device, or who says so.
    """

    kind: str
    subject: str
    setting: str
    jobs: int
    seconds: float
    memory_mb: float | None
    source: str


class Estimates:
    """Expected time and memory of jobs.

    Attributes:
        measured: what they are judged by.
    """

    def __init__(self, measured: Iterable[Measured]) -> None:
        self.measured = list(measured)

    @classmethod
    def read(cls, path: Path = MEASURED) -> Estimates:
        """Those of a CSV file."""
        with path.open(newline="", encoding="utf-8") as file:
            return cls(
                Measured(
                    row["kind"],
                    row["subject"],
                    row["setting"],
                    int(row["jobs"]),
                    float(row["seconds"]),
                    float(row["memory_mb"]) if row["memory_mb"] else None,
                    row["source"],
                )
                for row in csv.DictReader(file)
            )

    def of(self, job: Job) -> Measured | None:
        """What jobs like this one took.

        Where none has finished in this setting, what the subject took in another setting relative to the subjects that
        are known in both; failing that the mean of the setting; None where nothing of the kind has finished there.
        """
        here = {each.subject: each for each in self.measured if (each.kind, each.setting) == (job.kind, job.setting)}
        if job.subject in here or not here:
            return here.get(job.subject)
        seconds = self._by_ratio(job, here)
        memory = [each.memory_mb for each in here.values() if each.memory_mb is not None]
        return Measured(
            job.kind,
            job.subject,
            job.setting,
            jobs=sum(each.jobs for each in here.values()),
            seconds=fmean(each.seconds for each in here.values()) if seconds is None else seconds,
            memory_mb=max(memory, default=None),
            source="; ".join(sorted({each.source for each in here.values()})),
        )

    def _by_ratio(self, job: Job, here: Mapping[str, Measured]) -> float | None:
        """Seconds where these are known, by way of the setting that shares most subjects, if need be most devices."""
        settings: dict[str, dict[str, Measured]] = {}
        for each in self.measured:
            if each.kind == job.kind and (each.subject in here or each.subject == job.subject):
                settings.setdefault(each.setting, {})[each.subject] = each
        others = [known for known in settings.values() if job.subject in known and len(known) > 1]
        if not others:
            return None
        devices = {each.source for each in here.values()}
        there = max(others, key=lambda known: (len(known), sum(each.source in devices for each in known.values())))
        own = there.pop(job.subject).seconds
        return own * sum(here[subject].seconds for subject in there) / sum(each.seconds for each in there.values())


def listing(jobs: Sequence[Job], root: Path, workers: int, estimates: Estimates) -> str:
    """The jobs, a line each, and what is left to do."""
    lines = [f"{'':9}{'seconds':>10}{'MiB':>8}  job"]
    left, unknown, largest, sources = 0.0, 0, list[float](), set[str]()
    for job in jobs:
        done, expected = job.done(root), estimates.of(job)
        seconds = "?" if expected is None else f"{expected.seconds:.0f}"
        memory = "?" if expected is None or expected.memory_mb is None else f"{expected.memory_mb:.0f}"
        lines.append(f"{'done' if done else 'to do':9}{seconds:>10}{memory:>8}  {job.name}")
        if done:
            continue
        left, unknown = left + (expected.seconds if expected else 0.0), unknown + (expected is None)
        largest.append((expected and expected.memory_mb) or 0.0)
        sources |= {expected.source} if expected else set()
    todo = f"{len(largest)} of {len(jobs)} jobs to do"
    if largest and unknown == len(largest):
        return "\n".join([*lines, f"{todo}, of kinds that have never finished (?): no estimate"])
    lines.append(
        f"{todo}: about {_in_words(left)} of device time, with {workers} at a time "
        f"{_in_words(left / workers)} and {sum(sorted(largest)[-workers:]):.0f} MiB"
    )
    if unknown:
        lines.append(f"that is without {unknown} jobs of kinds that have never finished (?)")
    if sources:
        lines.append(f"as such jobs took before ({'; '.join(sorted(sources))})")
    return "\n".join(lines)


def measure(root: Path) -> list[Measured]:
    """Time and memory of the finished jobs in a folder."""
    alike: dict[tuple[str, str, str], list[Mapping[str, float]]] = {}
    sources = {}
    for path in sorted(root.glob(f"*/*/{RESULT}")):
        result = json.loads(path.read_text(encoding="utf-8"))
        key = result["kind"], result["subject"], result["setting"]
        alike.setdefault(key, []).append(result)
        sources[key] = result["device"]
    return [
        Measured(
            *key,
            jobs=len(results),
            seconds=round(fmean(each["seconds"] for each in results), 1),
            memory_mb=round(max(each["memory_mb"] for each in results)),
            source=sources[key],
        )
        for key, results in alike.items()
    ]


def update(root: Path, path: Path = MEASURED) -> None:
    """Put the finished jobs of a folder in place of what the file says of their like."""
    new = measure(root)
    fresh = {(each.kind, each.subject, each.setting) for each in new}
    old = [each for each in Estimates.read(path).measured if (each.kind, each.subject, each.setting) not in fresh]
    rows = sorted([*old, *new], key=lambda each: (each.setting, each.kind, each.subject))
    Run(path.parent).write_csv(path.name, [asdict(each) for each in rows])


def _in_words(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


if __name__ == "__main__":
    update(Path(sys.argv[1]) / "jobs")

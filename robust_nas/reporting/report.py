"""A report of runs, from their folders to one file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robust_nas.files import atomic_path
from robust_nas.pictures.comparison import plot_comparison
from robust_nas.reporting.folder import RunFolder, read_run
from robust_nas.reporting.page import page
from verify.checks.errors import InputError


@dataclass(frozen=True)
class ReportResult:
    """What a report gave.

    Attributes:
        path: of the HTML file.
        summary: (name, value) pairs for people.
    """

    path: Path
    summary: list[tuple[str, str]]


def run_report(runs: Sequence[str | Path], out: str | Path = "report.html") -> ReportResult:
    """Write one self-contained HTML file of the runs in these folders, side by side.

    It holds their options (those that differ are marked), versions, tables that can be sorted, pictures, the cells, and
    how to repeat each run. Certifications of one threat model and the same images are also drawn in one picture.

    Args:
        runs: folders that `dsrna` commands wrote.
        out: the file.

    Raises:
        InputError: there are no runs, or a folder holds none.
    """
    if not runs:
        raise InputError("give the folders of one run or more")
    found = [read_run(Path(folder)) for folder in runs]
    path = Path(out)
    text = page(found, _comparisons(found))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    kinds = ", ".join(f"{run.command} ({run.path})" for run in found)
    return ReportResult(path, [("runs", kinds), ("tables", str(sum(len(run.tables) for run in found)))])


def _comparisons(runs: Sequence[RunFolder]) -> list[tuple[str, bytes]]:
    """A picture for every two or more certifications that can be compared."""
    groups: dict[tuple[str, str, str, int], list[RunFolder]] = {}
    for run in runs:
        if run.claim is not None and run.radii is not None:
            key = (str(run.options.get("dataset")), run.claim.norm, run.claim.domain, len(run.radii.correct))
            groups.setdefault(key, []).append(run)
    pictures = []
    for (dataset, _, _, images), members in groups.items():
        if len(members) > 1:
            claim = members[0].claim
            assert claim is not None
            radii = {str(run.path): run.radii for run in members if run.radii is not None}
            with tempfile.TemporaryDirectory() as folder:
                content = plot_comparison(radii, Path(folder) / "comparison.png").read_bytes()
            pictures.append((f"{dataset}, the first {images} test images: {claim.threat_model}", content))
    return pictures

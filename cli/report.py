"""`dsrna report`."""

from __future__ import annotations

from cli.command import command, print_paths
from robust_nas.options.architectures import ReportOptions


@command(ReportOptions)
def report(options: ReportOptions) -> None:
    """Write one self-contained HTML file of a run, or of several side by side.

    Options (those that differ are marked), versions, tables that can be sorted, pictures, cells, and how to repeat each
    run. Certifications of one threat model and the same images are drawn in one picture, too.

    \b
    Examples:
      dsrna report runs/certify
      dsrna report runs/search runs/train runs/certify --out mine.html
    """
    from robust_nas.reporting import run_report

    print_paths([run_report(options.runs, options.out).path])

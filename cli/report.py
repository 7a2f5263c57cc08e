"""`dsrna report`."""

from __future__ import annotations

from pathlib import Path

import click

from robust_nas.options.values import FOLDER, NEW_FILE


@click.command()
@click.argument("runs", metavar="RUN_DIR...", nargs=-1, required=True, type=FOLDER)
@click.option("--out", type=NEW_FILE, default=Path("report.html"), show_default=True, help="The file.")
def report(runs: tuple[Path, ...], out: Path) -> None:
    """Write one self-contained HTML file of a run, or of several side by side.

    Options (those that differ are marked), versions, tables that can be sorted, pictures, cells, and how to repeat each
    run. Certifications of one threat model and the same images are drawn in one picture, too.

    \b
    Examples:
      dsrna report runs/certify
      dsrna report runs/search runs/train runs/certify --out mine.html
    """
    from robust_nas.reporting import run_report

    click.echo(run_report(runs, out).path)

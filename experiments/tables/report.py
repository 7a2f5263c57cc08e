"""A table of the paper from the long CSV of results alone, ours beside the paper's: Markdown, LaTeX, CSV and plots.

    python -m experiments.tables.report RESULTS.csv --table 5 --out DIR
"""

from __future__ import annotations

from pathlib import Path

import click

from experiments.common import Script
from experiments.tables import render
from experiments.tables.plots import plot
from experiments.tables.results import blocks
from robust_nas.runs import Run


def report(results: Path, table: int, out: Path) -> str:
    """Write `out`/tableN.md, tableN.tex, tableN.csv (a row a method) and a plot for each block with robust columns.

    A block is one scale, protocol and data set. The same CSV gives the same bytes.

    Args:
        results: the long CSV (`results.COLUMNS`).
        table: 1 to 6.
        out: the folder; made where it is missing.

    Returns:
        The tables as text for a console.

    Raises:
        InputError: the CSV cannot be read, is damaged, or holds nothing of the table.
    """
    found = blocks(results, table)
    pictures = []
    for block in found:
        name = f"table{table}-{block.scale}-{block.protocol}-{block.dataset}.png"
        pictures.append(name if plot(block, out / name) else None)
    run = Run(out)
    run.write_text(f"table{table}.md", render.markdown(found, pictures))
    run.write_text(f"table{table}.tex", render.latex(found))
    run.write_csv(f"table{table}.csv", render.wide(found))
    return render.console(found)


@click.command(cls=Script)
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--table", type=click.IntRange(1, 6), required=True, help="Number of the paper's table.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for tableN.* and plots.")
def main(results: Path, table: int, out: Path) -> None:
    """Render a table of the paper from the long CSV RESULTS."""
    click.echo(report(results, table, out), nl=False)


if __name__ == "__main__":
    main()

"""`dsrna table`."""

from __future__ import annotations

import click

from cli.command import command, print_paths, print_text
from experiments.tables.options import TableOptions


@command(TableOptions)
def table(options: TableOptions) -> int:
    """Run what a table of the paper needs, and print it with the paper's figures beside ours.

    Goes on where it was stopped; tables and protocols share finished work in --out. Exit code 1 when a job failed: its
    cells are empty.

    \b
    Examples:
      dsrna table 5 --scale smoke
      torchrun --nproc-per-node 4 -m cli table 2 --scale small --data DIR
      dsrna table 1 --scale paper --protocol equal --data DIR --dry-run
    """
    from experiments.tables.run import run_table

    result = run_table(options)
    if result.text:  # of torchrun's processes only the first one has anything to say
        print_text(f"{result.text}\n")
    print_paths(result.paths)
    for name, why in result.failed.items():
        click.echo(f"no result: {name}: {why}", err=True)
    return 1 if result.failed else 0

"""Commands of `dsrna` that are about architectures alone: show, zoo, convert."""

from __future__ import annotations

from pathlib import Path

import click

from cli_options import FOLDER, NEW_FILE, option, print_paths, print_summary


@click.command()
@click.argument("arch", metavar="FILE|FILE:NAME|NAME|-")
@option("--out", type=FOLDER, default=Path("runs/show"), help="Folder for the pictures.")
def show(arch: str, out: Path) -> None:
    """Print the operations and the size of a genotype FILE or of a published architecture, and draw its cells.

    A file may be in any notation that `dsrna convert` reads; - is the standard input.

    \b
    Examples:
      dsrna show runs/search/genotype.json
      dsrna show genotypes.py:PC_DARTS_cifar
      dsrna show PC-DARTS
    """
    from robust_nas.spaces.draw import draw
    from robust_nas.spaces.size import CELLS, CHANNELS, size_on_cifar10
    from robust_nas.zoo import find

    architecture = find(arch)
    pictures = draw(architecture, out)
    for name, plan in architecture.plans().items():
        for position, node in enumerate(plan.nodes):
            for operation, source in node:
                click.echo(f"{name}  node {2 + position} <- {source}  {operation}")
    size = size_on_cifar10(architecture)
    notes = [(name, str(architecture.meta[name])) for name in ("paper", "source", "note") if name in architecture.meta]
    parameters = f"{size.parameters:,} for CIFAR-10, {architecture.depth or CELLS} cells, {CHANNELS} channels"
    print_summary([*notes, ("parameters", parameters), ("multiply-adds", f"{size.multiply_adds:,} an image")])
    print_paths(pictures)


@click.command()
def zoo() -> None:
    """List the published architectures, whose names stand for genotype files everywhere.

    Parameters and multiply-adds are those of a network of 20 cells and 36 channels for CIFAR-10.

    \b
    Example:
      dsrna zoo | grep SDARTS
    """
    from robust_nas.zoo.listing import listing

    widths = {"name": 18, "space": 7, "nodes": 6, "operations": 34, "parameters": 11, "multiply-adds": 14, "source": 0}
    click.echo("".join(name.ljust(width) for name, width in widths.items()))
    for row in listing():
        click.echo("".join(row[name].ljust(width) for name, width in widths.items()))


@click.command()
@click.argument("source", metavar="FILE|FILE:NAME|NAME|-")
@option("--to", type=click.Choice(["json", "darts", "robnet", "enas"]), default="json", help="Notation to write.")
@option("--out", type=NEW_FILE, help="File to write. [printed]")
def convert(source: str, to: str, out: Path | None) -> None:
    """Convert a genotype between notations: our JSON, DARTS' Genotype(...), RobNet's lists of codes, ENAS' arcs.

    Reads a file of any of them, a published architecture, or the standard input. A file of Python or a log may hold
    several genotypes: FILE:NAME is that of a variable, FILE:NUMBER that of a line.

    \b
    Examples:
      dsrna convert genotypes.txt --out genotype.json
      dsrna convert genotypes.py:PC_DARTS_cifar --out genotype.json
      dsrna convert PC-DARTS --to darts
      echo "0 2 0 0 1 4 0 1 0 0 1 0 1 4 0 3" | dsrna convert -
    """
    from robust_nas.converters import NOTATIONS
    from robust_nas.files import atomic_path
    from robust_nas.zoo import find

    text = NOTATIONS[to](find(source))
    if out is None:
        click.echo(text)
        return
    with atomic_path(out) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    click.echo(out)

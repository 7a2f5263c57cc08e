"""Commands of `dsrna` that are about architectures alone: show, zoo, convert."""

from __future__ import annotations

from cli.command import command, print_paths, print_summary, print_table, print_text
from robust_nas.options.architectures import ConvertOptions, ShowOptions, ZooOptions


@command(ShowOptions)
def show(options: ShowOptions) -> None:
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

    architecture = find(options.arch)
    pictures = draw(architecture, options.out)
    print_text(
        "".join(
            f"{name}  node {2 + position} <- {source}  {operation}\n"
            for name, plan in architecture.plans().items()
            for position, node in enumerate(plan.nodes)
            for operation, source in node
        )
    )
    size = size_on_cifar10(architecture)
    notes = [(name, str(architecture.meta[name])) for name in ("paper", "source", "note") if name in architecture.meta]
    parameters = f"{size.parameters:,} for CIFAR-10, {architecture.depth or CELLS} cells, {CHANNELS} channels"
    multiply_adds = f"{size.multiply_adds:,} an image"
    rows = {"activation": architecture.activation, "parameters": parameters, "multiply-adds": multiply_adds}
    print_summary([*notes, *rows.items()])
    print_paths(pictures)


@command(ZooOptions)
def zoo(options: ZooOptions) -> None:
    """List the published architectures, whose names stand for genotype files everywhere.

    Parameters and multiply-adds are those of a network of 20 cells and 36 channels for CIFAR-10.

    \b
    Example:
      dsrna zoo | grep SDARTS
    """
    from robust_nas.zoo.listing import listing

    widths = {"name": 18, "space": 7, "nodes": 6, "operations": 34, "parameters": 11, "multiply-adds": 14, "source": 0}
    print_table("architectures", list(listing()), widths)


@command(ConvertOptions)
def convert(options: ConvertOptions) -> None:
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
    from robust_nas.files import atomic_path
    from robust_nas.registry import NOTATIONS
    from robust_nas.zoo import find

    text, out = NOTATIONS[options.to](find(options.source)), options.out
    if out is None:
        print_text(f"{text}\n")
        return
    with atomic_path(out) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print_paths([out])

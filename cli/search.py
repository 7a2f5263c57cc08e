"""`dsrna search`."""

from __future__ import annotations

from cli.command import command, print_paths, print_summary
from robust_nas.options.search import SearchOptions


@command(SearchOptions)
def search(options: SearchOptions) -> None:
    """Search an architecture that is accurate and certifiably robust.

    Writes genotype.json, search.csv, search.png, alphas.gif, config.json and, after every epoch, a checkpoint.
    Under torchrun the processes share each batch.

    \b
    Examples:
      dsrna search --metric cb
      dsrna search --method raced --recipe certified --epsilon 0.05
      dsrna search --metric cb --dataset cifar10 --download --preset paper --norm l2 --out runs/paper
      torchrun --nproc-per-node 4 -m cli search --metric cb --dataset cifar10 --preset paper --amp
    """
    from robust_nas.search import run_search

    result = run_search(options)
    print_summary(result.summary)
    print_paths([result.genotype_path])

"""The options of `dsrna table`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from robust_nas.options.option import Option, choice
from robust_nas.options.shared import Device, Out
from robust_nas.options.values import FOLDER, Seeds, at_least

PROTOCOLS = ("paper", "equal")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What a table takes; `scale` is for `experiments.tables.scale.load_scale`."""

    table: Annotated[int, Option("1 to 6.", click.IntRange(1, 6), metavar="1..6", argument=True)]
    scale: Annotated[
        str | Path, Option("smoke, small, paper, or a TOML file like theirs.", click.STRING, metavar="SCALE")
    ] = "smoke"
    protocol: Annotated[
        str,
        Option(
            "RobNet trained adversarially and all others with Jacobian regularisation, or one recipe for all rows.",
            choice(PROTOCOLS),
        ),
    ] = "paper"
    targeted: Annotated[
        bool, Option("Certify as CNN-Cert does: one random class, misclassified images skipped.")
    ] = False
    rows: Annotated[
        Sequence[str], Option("Only this row; may be repeated.", click.STRING, flag="--row", repeated=True)
    ] = ()
    datasets: Annotated[
        Sequence[str],
        Option("Only this data set of the table; may be repeated.", click.STRING, flag="--dataset", repeated=True),
    ] = ()
    seeds: Annotated[Sequence[int], Option("Random seeds. [the scale's]", Seeds(), metavar="S,S,...")] = ()
    workers: Annotated[
        int | None, Option("Jobs at a time. [one a GPU, or what the cores have room for]", at_least(1))
    ] = None
    dry_run: Annotated[bool, Option("List the jobs, with estimated time and memory.")] = False
    data: Annotated[str | Path | None, Option("Folder that holds the data sets. [data]", FOLDER)] = None
    imagefolder: Annotated[
        str | Path | None, Option("Folder that holds train/CLASS/* and val/CLASS/*. [--data]", FOLDER)
    ] = None
    download: Annotated[bool, Option("Fetch data sets that are not there.")] = False
    device: Device = "auto"
    out: Out = Path("runs/tables")

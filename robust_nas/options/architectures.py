"""The options of `dsrna show`, `dsrna zoo`, `dsrna convert` and `dsrna report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import click

from robust_nas.options.option import Option, choice
from robust_nas.options.values import FOLDER, NEW_FILE
from robust_nas.registry import NOTATIONS

Source: TypeAlias = Annotated[
    str,
    Option(
        "Genotype file, one of several in it, or a published architecture.",
        click.STRING,
        metavar="FILE|FILE:NAME|NAME|-",
        argument=True,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What to show, and where its pictures go."""

    arch: Source
    out: Annotated[Path, Option("Folder for the pictures.", FOLDER)] = Path("runs/show")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to convert, and to what."""

    source: Source
    to: Annotated[str, Option("Notation to write.", choice(NOTATIONS))] = "json"
    out: Annotated[Path | None, Option("File to write. [printed]", NEW_FILE)] = None


@dataclass(frozen=True, kw_only=True)
class ZooOptions:
    """None: the whole zoo is listed."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Folders of runs, and the file to write about them."""

    runs: Annotated[
        tuple[Path, ...], Option("Folders of runs.", FOLDER, metavar="RUN_DIR...", argument=True, repeated=True)
    ]
    out: Annotated[Path, Option("The file.", NEW_FILE)] = Path("report.html")

"""A run's folder, read for a report: options, tables, pictures, cells."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_nas.certification.pictures import radii_of
from robust_nas.certification.records import Claim, read_certificates, read_claim
from robust_nas.files import read_json
from robust_nas.pictures.certificates import Radii
from robust_nas.spaces.draw import draw
from robust_nas.zoo import find
from verify.checks.errors import InputError

CONFIG, OPTIONS = "config.json", "run.toml"
PICTURES = {".png": "image/png", ".gif": "image/gif"}
MOST_ROWS = 1000
"""Of a table: a report is to be read, and the CSV is beside it."""


@dataclass(frozen=True)
class Table:
    """A CSV file of a run; `total` counts its rows, of which some may be left out."""

    name: str
    header: list[str]
    rows: list[list[str]]
    total: int


@dataclass(frozen=True)
class RunFolder:
    """What a run left.

    Attributes:
        path: of the folder.
        command, options, device, versions: of its config.json.
        repeat: the file of options that repeats it; empty where there is none.
        tables, pictures: its CSV files, and its pictures as (name, type, content).
        cells: drawings of the architecture's cells, as SVG; empty where it is not known.
        claim, radii: of its certificates, where it has some.
    """

    path: Path
    command: str
    options: dict[str, Any]
    device: str
    versions: dict[str, str | None]
    repeat: str = ""
    tables: list[Table] = field(default_factory=list)
    pictures: list[tuple[str, str, bytes]] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    claim: Claim | None = None
    radii: Radii | None = None


def read_run(path: Path) -> RunFolder:
    """Read a run's folder.

    Raises:
        InputError: it is none, or one of its files is not what a run writes.
    """
    config = _config(path / CONFIG)
    options = config["options"]
    certificates = path / "certify.csv"
    claim = radii = None
    if certificates.is_file():
        found = read_certificates(certificates)
        claim, radii = read_claim(certificates, found), radii_of(found)
    repeat = path / OPTIONS
    return RunFolder(
        path=path,
        command=str(config["command"]),
        options=options,
        device=str(config.get("device", "")),
        versions=dict(config.get("versions", {})),
        repeat=repeat.read_text(encoding="utf-8") if repeat.is_file() else "",
        tables=[_table(file) for file in sorted(path.glob("*.csv"))],
        pictures=[(file.name, PICTURES[file.suffix], file.read_bytes()) for file in _pictures(path)],
        cells=_cells(path, options),
        claim=claim,
        radii=radii,
    )


def _config(path: Path) -> dict[str, Any]:
    missing = f"{path.parent}: no run of dsrna ({CONFIG} is missing); give the folders that --out named"
    config = read_json(path, missing)
    if not isinstance(config, dict) or not isinstance(config.get("options"), dict) or "command" not in config:
        raise InputError(f"{path}: not what a run of dsrna writes")
    return config


def _table(path: Path) -> Table:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file: {error}") from error
    return Table(path.name, header, rows[:MOST_ROWS], len(rows))


def _pictures(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.iterdir()) if file.suffix in PICTURES)


def _cells(path: Path, options: dict[str, Any]) -> list[str]:
    """Drawings of the cells that a search found, or that a run was given, where they can still be read."""
    own = path / "genotype.json"
    arch = str(own) if own.is_file() else options.get("arch")
    if not isinstance(arch, str) or arch == "-":
        return []
    try:
        architecture = find(arch)
    except (InputError, OSError):
        return []
    with tempfile.TemporaryDirectory() as folder:
        drawn = [file for file in draw(architecture, Path(folder)) if file.suffix == ".svg"]
        return [_inline(file.read_text(encoding="utf-8"), f"{path.resolve()} {file.stem} ") for file in drawn]


def _inline(svg: str, prefix: str) -> str:
    """A drawing for inside a page: without its own head, and with names that no other drawing of the page has."""
    mark = "".join(letter if letter.isalnum() else "_" for letter in prefix)
    svg = svg[svg.index("<svg") :]
    for before, after in (('id="', f'id="{mark}'), ('href="#', f'href="#{mark}'), ("url(#", f"url(#{mark}")):
        svg = svg.replace(before, after)
    return svg

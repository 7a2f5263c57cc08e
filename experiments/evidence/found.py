"""Where the study keeps what it found: a file a search, and one for the trainings of an architecture by a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from experiments.evidence.rows import ROWS
from robust_nas.genotype import Genotype
from robust_nas.search.judges import Score

ANY = "any"
"""Stands for the recipe in the name of a search that is the same for all."""


def search_path(out: Path, row: str, recipe: str, seed: int | str) -> Path:
    """The file of a row's search."""
    return out / f"{ROWS[row].search}.{ANY if ROWS[row].blind else recipe}.{seed}.json"


def training_path(out: Path, recipe: str, genotype: Genotype, seed: int) -> Path:
    """The file of the trainings of an architecture after a search: two rows that find the same one share it."""
    digest = hashlib.sha256(json.dumps(genotype.to_dict(), sort_keys=True).encode()).hexdigest()
    return out / f"trained.{recipe}.{seed}.{digest[:16]}.json"


def chosen(row: str, found: Mapping[str, Any]) -> Genotype:
    """The architecture that a row takes from what its search found and tried."""
    choose = ROWS[row].choose
    if choose is None:
        return Genotype.from_dict(found["genotype"])
    place = choose([[Score(*score) for score in trial["scores"]] for trial in found["trials"]])
    return Genotype.from_dict(found["trials"][place]["genotype"])


def trained(
    out: Path, recipes: Iterable[str]
) -> Iterator[tuple[str, str, int, Mapping[str, Any], Genotype, list[Any]]]:
    """Row, recipe, seed, what the search found, the architecture and its trainings, of all that is in a folder."""
    for row, recipe in product(ROWS, recipes):
        pattern = search_path(out, row, recipe, "*").name
        for seed in sorted(int(path.name.split(".")[2]) for path in out.glob(pattern)):
            found = json.loads(search_path(out, row, recipe, seed).read_text(encoding="utf-8"))
            genotype = chosen(row, found)
            path = training_path(out, recipe, genotype, seed)
            if path.exists():
                yield row, recipe, seed, found, genotype, json.loads(path.read_text(encoding="utf-8"))

"""What attacks.csv holds: one image under one attack a row."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from robust_nas.attacks.base import Attack
from robust_nas.attacks.threats import Threat
from verify.checks.errors import InputError

Row = TypeVar("Row")


@dataclass(frozen=True)
class Outcome:
    """A row of attacks.csv; its fields are the columns.

    Attributes:
        index: the image's place among the test images.
        label, predicted, correct: its class, the network's answer without attack, and whether they agree.
        attack, norm, epsilon: the attack, and the largest perturbation that counts, in [0,1] pixels.
        success: the answer is wrong under attack; so it is where it was wrong before, and there nothing is tried.
        distance: norm of the perturbation found, the smallest where there are several; 0 where the answer was wrong
            before, inf where the attack failed.
        queries: images passed forward through the network for this one, as `Counted` counts them, without the check of
            the result; where the images of a batch take differently many (AutoAttack's), their mean.
        seconds: of a batch, divided evenly over its images.
        by: the part of the attack that succeeded, of AutoAttack its four; empty where none did.
    """

    index: int
    label: int
    predicted: int
    correct: bool
    attack: str
    norm: str
    epsilon: float
    success: bool
    distance: float
    queries: float
    seconds: float
    by: str


@dataclass(frozen=True)
class Attacked:
    """An attack that ran on all images.

    Attributes:
        outcomes: one an image.
    """

    attack: Attack
    threat: Threat
    outcomes: list[Outcome]

    @property
    def name(self) -> str:
        """Of the attack and its norm."""
        return f"{self.attack.name} {self.threat.norm}"

    @property
    def accuracy(self) -> float:
        """Fraction of the images that are right without attack and under it."""
        return sum(not outcome.success for outcome in self.outcomes) / len(self.outcomes)

    @property
    def accuracy_after(self) -> dict[str, float]:
        """The accuracy after each of the attack's parts, which follow one another on what is left standing."""
        left = [outcome for outcome in self.outcomes if outcome.correct]
        found = {}
        for part in self.attack.parts:
            left = [outcome for outcome in left if outcome.by != part]
            found[part] = len(left) / len(self.outcomes)
        return found


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": {"True": True, "False": False}.__getitem__,
}


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a CSV file of a run, whose columns are the fields of a dataclass; none where there is no file.

    Raises:
        InputError: the file holds something else.
    """
    columns = {field.name: _PARSERS[str(field.type)] for field in fields(kind)}  # type: ignore[arg-type]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                kind(**{name: parse(row[name]) for name, parse in columns.items()}) for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not what a run wrote ({error}); start again without --resume") from error

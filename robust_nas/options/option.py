"""What a field of an options object is on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from verify.checks.errors import did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Option:
    """The note of a field: `gamma: Annotated[float | None, Option("Weight of the metric.", NonNegative())] = None`.

    The field's name and default are the option's; without a default it must be given.

    Attributes:
        help: for people; in brackets what stands where nothing is given, unless that is the default.
        type: of the value; None for a flag.
        flag: on the command line, where it is not the field's name.
        metavar: stands for the value in the help, where the type says too little.
        repeated: it may be given several times.
        argument: it is given without a flag.
        rare: `--help` leaves it to `--help-all`.
    """

    help: str
    type: click.ParamType | None = None
    flag: str | None = None
    metavar: str | None = None
    repeated: bool = False
    argument: bool = False
    rare: bool = False


class Known(Sequence[str]):
    """The names of all of these, those that a program adds later among them."""

    def __init__(self, *known: Iterable[str]) -> None:
        self._known = known

    def __getitem__(self, place: Any) -> Any:
        return list(chain(*self._known))[place]

    def __len__(self) -> int:
        return len(list(chain(*self._known)))


class Name(click.Choice[str]):
    """One of these names; of a wrong one it says which is the nearest."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(())
        self.choices: Any = names  # click keeps a tuple of those that there are now

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """What click says of a name that is none of them."""
        said = super().get_invalid_choice_message(value, ctx).removesuffix(".")
        return f"{said}{did_you_mean(value, self.choices)}"


def choice(*known: Iterable[str]) -> click.ParamType:
    """One of the names of these."""
    return Name(Known(*known))


MACHINE = ("data", "download", "device", "workers", "resume", "out")
"""Fields that decide nothing of a result."""


def recorded(options: DataclassInstance) -> dict[str, Any]:
    """The fields that decide a result, by name, for a run's config.json."""
    return {field.name: getattr(options, field.name) for field in fields(options) if field.name not in MACHINE}

"""Types of the values on a command line: paths, counts, sizes, lists."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

LARGEST = 2**31 - 1
"""Of whole numbers: what torch takes everywhere."""


class Place(click.Path):
    """A path; an empty one, which a shell makes of a variable that is not set, would be the folder one is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the path; click reports a failure as a usage error."""
        if not str(value):
            self.fail("is empty", param, ctx)
        return super().convert(value, param, ctx)


FILE = Place(exists=True, dir_okay=False, path_type=Path)
FOLDER = Place(file_okay=False, path_type=Path)
NEW_FILE = Place(dir_okay=False, path_type=Path)


class Count(click.IntRange):
    """A whole number in a range, of which the help says nothing: it is as wide as anyone needs."""

    name = "number"

    def _describe_range(self) -> str:
        return ""


def at_least(least: int, largest: int = LARGEST) -> click.ParamType:
    """A whole number, not below the least."""
    return Count(least, largest)


class NonNegative(click.ParamType):
    """A finite number that is not negative, or a fraction of two, such as `8/255`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse one number; click reports a failure as a usage error."""
        number = math.nan
        try:
            match [float(part) for part in str(value).split("/")]:
                case [number]:
                    pass
                case [over, under] if 0 < under < math.inf:
                    number = over / under
                case _:
                    self.fail(f"{value!r} is not a number", param, ctx)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not 0 <= number < math.inf:
            self.fail(f"{value} is not a finite number >= 0", param, ctx)
        return number


class Positive(NonNegative):
    """A finite number above 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse one number; click reports a failure as a usage error."""
        number = super().convert(value, param, ctx)
        if not number:
            self.fail(f"{value} is not above 0", param, ctx)
        return number


class NonNegatives(click.ParamType):
    """A list of finite numbers that are not negative, such as `2/255,0.3`."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the list; click reports a failure as a usage error."""
        if isinstance(value, tuple):
            return value
        return tuple(NonNegative().convert(part, param, ctx) for part in value.split(","))


SEED = Count(0, 2**32 - 1)
"""What NumPy takes."""


class Seeds(click.ParamType):
    """A list of random seeds, such as `0,1,2`."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse the list; click reports a failure as a usage error."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers >= 0", param, ctx)
        return tuple(SEED.convert(part, param, ctx) for part in parts)


class Names(click.ParamType):
    """A list of names, such as `fgsm,pgd`; what they mean is checked where they are used."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split the list."""
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))

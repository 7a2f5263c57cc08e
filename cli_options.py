"""Options of the `dsrna` command: the types of their values, and those that several commands share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

option = partial(click.option, show_default=True)

DATASETS = click.Choice(["digits", "mnist", "cifar10", "imagefolder", "imagefolder64"])
PRESETS = click.Choice(["quick", "small", "paper"])
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


def at_least(least: int, largest: int = LARGEST) -> click.IntRange:
    """A whole number, not below the least."""
    return click.IntRange(least, largest)


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


SEED = click.IntRange(0, 2**32 - 1)
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


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, listed in the order given."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _one_thread_for_digits(context: click.Context, parameter: click.Parameter, dataset: str) -> str:
    """Digits of 8 x 8 pixels make tensors so small that a second thread costs more than it brings, and ten times
    more where it has to wait for a busy core. Torch reads this when it is imported; a number that is set stays.
    """
    if dataset == "digits":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    return dataset


device_option = option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute."
)


def out_option(out: str) -> Callable[[Command], Command]:
    """Where results go; `out` if nothing else is said."""
    return option("--out", type=FOLDER, default=Path(out), help="Folder for the results.")


def run_options(out: str) -> Callable[[Command], Command]:
    """What every command that computes takes."""
    seed = option("--seed", type=SEED, default=0, help="Random seed.")
    return options(seed, device_option, out_option(out))


memory_option = option(
    "--memory", type=Positive(), default=4096.0, help="MiB for affine forms; less is looser, never unsound."
)
data_options = options(
    option(
        "--dataset",
        type=DATASETS,
        default="digits",
        callback=_one_thread_for_digits,
        help="Images; digits ships with scikit-learn. imagefolder, such as ImageNet, has 224 x 224 pixels, "
        "imagefolder64 has 64 x 64.",
    ),
    option(
        "--data",
        type=FOLDER,
        default=Path("data"),
        help="Folder that holds the data sets; for imagefolder the one with train/CLASS/* and val/CLASS/* (or test).",
    ),
    option("--download", is_flag=True, help="Fetch the data set into --data if it is not there."),
)
preset_option = option("--preset", type=PRESETS, default="quick", help="Size of networks and schedules.")
arch_option = option(
    "--arch",
    metavar="FILE|FILE:NAME|NAME",
    required=True,
    help="Genotype file in any notation, one of several in it, or a published architecture (`dsrna zoo`).",
)
batch_size_option = option(
    "--batch-size", type=at_least(2), help="Images a step, of all processes. [the preset's]"
)
resume_option = option("--resume", is_flag=True, help="Go on with the run in --out, bit for bit.")


def print_summary(summary: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    width = max((len(name) for name, _ in summary), default=0)
    for name, value in summary:
        click.echo(f"{name:<{width}}  {value}")


def print_paths(paths: Iterable[Path]) -> None:
    """One path a line."""
    for path in paths:
        click.echo(path)

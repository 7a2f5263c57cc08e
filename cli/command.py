"""A command made from the class of its options, and what commands print."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from robust_nas import threads
from robust_nas.options.option import Option

Options = TypeVar("Options")


def command(kind: type[Options]) -> Callable[[Callable[[Options], int | None]], click.Command]:
    """Make a command of a function of an options object, whose docstring is the help.

    Args:
        kind: a dataclass, each field of which has an `Option`.
    """

    def decorate(function: Callable[[Options], int | None]) -> click.Command:
        def called(**values: Any) -> int | None:
            _prepare_threads(values)
            return function(kind(**values))

        help = function.__doc__
        return click.command(function.__name__, params=parameters(kind), help=help)(called)

    return decorate


def parameters(kind: type) -> list[click.Parameter]:
    """What click reads for a class of options, one parameter a field."""
    hints = get_type_hints(kind, include_extras=True)
    return [_parameter(field, _option(hints[field.name])) for field in fields(kind)]


def _option(hint: Any) -> Option:
    [option] = (note for note in hint.__metadata__ if isinstance(note, Option))
    return option


def _parameter(field: Field[Any], option: Option) -> click.Parameter:
    default: dict[str, Any] = {"required": True} if field.default is MISSING else {"default": field.default}
    if option.argument:
        return click.Argument([field.name], type=option.type, metavar=option.metavar, **default)
    return click.Option(
        [field.name, option.flag or f"--{field.name.replace('_', '-')}"],
        type=option.type,
        is_flag=True if option.type is None else None,
        multiple=option.repeated,
        metavar=option.metavar,
        help=option.help,
        show_default=True,
        **default,
    )


def _prepare_threads(values: dict[str, Any]) -> None:
    """Before torch is imported, which is when it reads this.

    Digits of 8 x 8 pixels make tensors so small that a second thread costs more than it brings.
    """
    threads.sleep_while_waiting()
    threads.take(1 if values.get("dataset") == "digits" else None)


def print_summary(summary: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    width = max((len(name) for name, _ in summary), default=0)
    for name, value in summary:
        click.echo(f"{name:<{width}}  {value}")


def print_paths(paths: Iterable[Path]) -> None:
    """One path a line."""
    for path in paths:
        click.echo(path)

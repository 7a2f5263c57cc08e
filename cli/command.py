"""A command made from the class of its options, and what commands print."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from cli import config
from robust_nas import threads
from robust_nas.options.option import Option
from robust_nas.options.values import FILE

Options = TypeVar("Options")

_JSON, _QUIET = "dsrna.json", "dsrna.quiet"
"""Where a command's context keeps what `--json` will print, and whether `--quiet` was said."""


def command(kind: type[Options]) -> Callable[[Callable[[Options], int | None]], click.Command]:
    """Make a command of a function of an options object, whose docstring is the help.

    Args:
        kind: a dataclass, each field of which has an `Option`.
    """

    def decorate(function: Callable[[Options], int | None]) -> click.Command:
        def called(**values: Any) -> int | None:
            _prepare_threads(values)
            options = kind(**values)
            try:
                with _quiet() if click.get_current_context().meta.get(_QUIET) else nullcontext():
                    code = function(options)
            except KeyboardInterrupt:
                _leave_config(options)
                raise
            _leave_config(options)
            _print_json(code)
            return code

        params = [*parameters(kind), *_ABOUT_THE_LINE]
        return click.command(function.__name__, params=params, help=function.__doc__)(called)

    return decorate


def _keep_results(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        context.meta[_JSON] = {}


def _be_quiet(context: click.Context, _: click.Parameter, asked: bool) -> None:
    context.meta[_QUIET] = asked


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block progress and notices go nowhere; errors are told outside of it."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield


_ABOUT_THE_LINE = (
    click.Option(
        ["--config"],
        type=FILE,
        expose_value=False,
        is_eager=True,
        callback=config.read,
        help=f"TOML file with options, such as the {config.NAME} of an earlier run; what is typed counts more.",
    ),
    click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        callback=_keep_results,
        help="Print the results as JSON.",
    ),
    click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_be_quiet,
        help="No progress and no notices.",
    ),
)


def _leave_config(options: Any) -> None:
    """A run leaves the file that repeats it; what writes no folder leaves none."""
    out = getattr(options, "out", None)
    if out is not None:
        config.write(click.get_current_context().command, options, Path(out))


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
    if _collected("summary", list(summary)):
        return
    width = max((len(name) for name, _ in summary), default=0)
    for name, value in summary:
        click.echo(f"{name:<{width}}  {value}")


def print_paths(paths: Iterable[Path]) -> None:
    """One path a line."""
    shown = [str(path) for path in paths]
    if not _collected("paths", shown):
        for path in shown:
            click.echo(path)


def print_text(text: str) -> None:
    """What a command has to say in its own form, as it is."""
    if not _collected("text", text):
        click.echo(text, nl=False)


def _collected(name: str, value: object) -> bool:
    """Whether it was kept for `--json`."""
    results = click.get_current_context().meta.get(_JSON)
    if results is None:
        return False
    results[name] = value
    return True


def _print_json(code: int | None) -> None:
    results = click.get_current_context().meta.get(_JSON)
    if results is not None:
        click.echo(json.dumps({"exit_code": code or 0, **results}, indent=2))

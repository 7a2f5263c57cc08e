"""A command made from the class of its options, and what commands print."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import click

from cli import config
from robust_nas import threads, verbosity
from robust_nas.options.option import Option
from robust_nas.options.values import FILE

Options = TypeVar("Options")

COLUMN = 20
"""Letters of an option and its value before what it does goes to a line of its own."""
_JSON, _QUIET, _VERBOSE, _ALL = "dsrna.json", "dsrna.quiet", "dsrna.verbose", "dsrna.all"
"""Where a command's context keeps what `--json` will print, and whether the other three were said."""


class Command(click.Command):
    """A command whose help leaves out what is rarely asked for, unless all is.

    Attributes:
        rare: names of the parameters to leave out.
    """

    rare: Collection[str] = ()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those that are often used, and the others under a heading of their own if all are asked for."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], "Rarely needed": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                groups["Rarely needed" if parameter.name in self.rare else "Options"].append(record)
        if not ctx.meta.get(_ALL):
            del groups["Rarely needed"]
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=COLUMN)


def _help_all(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        context.meta[_ALL] = True
        click.echo(context.get_help())
        context.exit()


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
                with _talking(click.get_current_context()):
                    code = function(options)
            except KeyboardInterrupt:
                _leave_config(options)
                raise
            _leave_config(options)
            _print_json(code)
            return code

        made = click.command(
            function.__name__, cls=Command, params=[*parameters(kind), *_ABOUT_THE_LINE], help=function.__doc__
        )(called)
        made.rare = {field.name for field, option in _notes(kind) if option.rare}
        if made.rare:
            made.params.append(_HELP_ALL)
        return made

    return decorate


def _keep_results(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        context.meta[_JSON] = {}


def _note(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    """Keep in the context whether a flag was given."""

    def keep(context: click.Context, _: click.Parameter, asked: bool) -> None:
        context.meta[name] = asked

    return keep


@contextmanager
def _talking(context: click.Context) -> Iterator[None]:
    """Within the block progress and notices go where `-q` or `-v` say; errors are told outside of it."""
    quiet, verbose = context.meta.get(_QUIET), context.meta.get(_VERBOSE)
    if quiet and verbose:
        raise click.UsageError("-q and -v are opposites; take one of them")
    with ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stderr(nowhere))
        if verbose:
            verbosity.show()
            stack.callback(verbosity.hide)
        yield


_ABOUT_THE_LINE = (
    click.Option(
        ["--config"],
        type=FILE,
        expose_value=False,
        is_eager=True,
        callback=config.read,
        help=f"Take options from a file, such as the {config.NAME} of a run; what is typed counts more.",
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
        callback=_note(_QUIET),
        help="No progress and no notices.",
    ),
    click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_note(_VERBOSE),
        help="Say of every step what it does.",
    ),
)


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_help_all,
    help="Also show the options that are rarely needed.",
)


def _leave_config(options: Any) -> None:
    """A run leaves the file that repeats it; what writes no folder leaves none."""
    out = getattr(options, "out", None)
    if out is not None:
        config.write(click.get_current_context().command, options, Path(out))


def parameters(kind: type) -> list[click.Parameter]:
    """What click reads for a class of options, one parameter a field."""
    return [_parameter(field, option) for field, option in _notes(kind)]


def _notes(kind: type) -> Iterator[tuple[Field[Any], Option]]:
    """The fields, each with its note."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        [option] = (note for note in hints[field.name].__metadata__ if isinstance(note, Option))
        yield field, option


def _parameter(field: Field[Any], option: Option) -> click.Parameter:
    default: dict[str, Any] = {"required": True} if field.default is MISSING else {"default": field.default}
    if option.argument:
        count = -1 if option.repeated else 1
        return click.Argument([field.name], type=option.type, metavar=option.metavar, nargs=count, **default)
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


def print_table(name: str, rows: Sequence[Mapping[str, str]], widths: Mapping[str, int]) -> None:
    """Rows below their names, each column in letters as wide as it says."""
    if not _collected(name, rows):
        click.echo("".join(column.ljust(width) for column, width in widths.items()))
        for row in rows:
            click.echo("".join(row[column].ljust(width) for column, width in widths.items()))


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

"""Options in a file: `--config run.toml` reads them, and every run leaves the file that repeats it."""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robust_nas.files import atomic_path, decoded
from verify.checks.errors import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NAME = "run.toml"
COMMAND = "command"
"""The key that says which command the options are of."""
LEFT_OUT = ("out", "resume")
"""A run is repeated from its beginning, in a place of its own."""


def read(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take the file's options as defaults: what is typed counts more."""
    if path is None:
        return
    try:
        content = tomllib.loads(decoded(path.read_bytes(), str(path)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise click.UsageError(f"{path}: not TOML: {error}") from error
    command = content.pop(COMMAND, context.info_name)
    if command != context.info_name:
        raise click.UsageError(f"{path}: options of {command}, not of {context.info_name}")
    names = {_key(parameter): parameter for parameter in context.command.params if parameter.expose_value}
    unknown = sorted(set(content) - set(names))
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise click.UsageError(f"{path}: {context.info_name} has no option {', '.join(unknown)}{hint}")
    typed = ((names[key].name, _typed(names[key], value, f"{path}: {key}")) for key, value in content.items())
    context.default_map = dict(typed)


def write(command: click.Command, options: DataclassInstance, folder: Path) -> None:
    """Leave the options that are not the defaults in the run's folder, where the command has made one."""
    if not _is_of(folder / "config.json", str(command.name)):
        return
    lines = [
        f"# Repeats this run: dsrna {command.name} --config {_toml(folder / NAME)} --out ELSEWHERE",
        f"{COMMAND} = {_toml(command.name)}",
    ]
    keys = {parameter.name: _key(parameter) for parameter in command.params}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in LEFT_OUT and value is not None and (field.default is MISSING or value != field.default):
            lines.append(f"{keys[field.name]} = {_toml(value)}")
    with atomic_path(folder / NAME) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _is_of(path: Path, command: str) -> bool:
    """Whether it is the config.json of a run of this command."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("command") == command


def _key(parameter: click.Parameter) -> str:
    """An option's name in the file: that of its flag."""
    flags = [flag for flag in parameter.opts if flag.startswith("--")]
    return flags[0].removeprefix("--") if flags else str(parameter.name)


def _typed(parameter: click.Parameter, value: Any, where: str) -> Any:
    """A value as it would be typed, so that it is checked in the same way.

    Raises:
        click.UsageError: it is of a kind that nobody could type; the message begins with `where`.
    """
    option = parameter if isinstance(parameter, click.Option) else None
    if option is not None and option.is_flag:
        if not isinstance(value, bool):
            raise click.UsageError(f"{where}: must be true or false, not {json.dumps(value, default=str)}")
        return value
    parts = value if isinstance(value, list) else [value]
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int | float) or "\0" in str(part):
            given = json.dumps(part, default=str)
            raise click.UsageError(f"{where}: must be text, a number or a list of these, not {given}")
    texts = [str(part) for part in parts]
    return texts if option is not None and option.multiple else ",".join(texts)


def _toml(value: Any) -> str:
    """A value of TOML. Its strings are JSON's, but for the letter DEL."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")

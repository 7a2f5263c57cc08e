"""The `dsrna` command: parse, call, print.

Torch and all that needs it are imported inside the commands, so that `dsrna --help` answers at once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import click

from cli import architectures, attacks, certification, doctor, report, search, tables, training, verification
from verify.checks.errors import InputError

# What torch's allocators say; on a CPU it is a plain RuntimeError.
OUT_OF_MEMORY = ("CUDA out of memory", "can't allocate memory")

# Letters of an error: what it quotes may have no end.
LONGEST = 800

BAD_INPUT = 2
STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0: done; 1: an audit or an attack broke a certificate, a job of a table failed, or doctor found something broken;
    2: bad input, one line on stderr; 130: stopped with Ctrl-C. A bug keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what it cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = dsrna.main(list(arguments) or ["--help"], prog_name="dsrna", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("dsrna: stopped", err=True)
        return STOPPED
    except Exception as error:
        line = _one_line(error)
        if line is None:
            raise
        click.echo(f"dsrna: error: {line}", err=True)
        return BAD_INPUT
    return code or 0


def _one_line(error: Exception) -> str | None:
    """What to tell a person about bad input or a full machine; None for a bug."""
    if isinstance(error, click.ClickException):
        return _flat(error.format_message())
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else _flat(str(error))
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return (
            "out of memory; take a smaller --preset; in search also a smaller --batch-size or a cheaper --bound, "
            "in certify fewer --images or a cheaper --method, in attack a smaller --batch-size"
        )
    if isinstance(error, InputError):
        return _flat(str(error))
    return None


def _flat(text: str) -> str:
    """On one line, short enough to read, in letters that every stream can write."""
    words = " ".join(text.split()).encode(errors="backslashreplace").decode()
    return words if len(words) <= LONGEST else f"{words[: LONGEST // 2]} ... {words[-LONGEST // 2 :]}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dsrna", message="%(prog)s %(version)s")
def dsrna() -> None:
    """Search network architectures by certified robustness; train, certify and audit them.

    \b
    Start here:
      dsrna search --metric cb
      dsrna certify --norm linf --arch runs/search/genotype.json
    """


for command in (
    search.search,
    training.train,
    attacks.attack,
    certification.certify,
    certification.audit,
    tables.table,
    *(architectures.show, architectures.zoo, architectures.convert),
    *(verification.verify, verification.export),
    *(doctor.doctor, report.report),
):
    dsrna.add_command(command)

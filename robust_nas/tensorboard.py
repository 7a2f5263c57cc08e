"""`--tensorboard`: the figures of a search or a training, step by step, as TensorBoard shows them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from verify.checks.errors import InputError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from robust_nas.runs import Row

FOLDER = "tensorboard"
"""In the run's folder: `tensorboard --logdir RUN_DIR` reads it."""
COUNTS = ("epoch", "step")
"""Columns that say when, not what."""


def check_installed() -> None:
    """Before anything is written.

    Raises:
        InputError: the package is missing.
    """
    try:
        import_module("torch.utils.tensorboard")
    except ImportError:
        raise InputError("--tensorboard needs a package that is not installed: pip install tensorboard") from None


def writer(run: Path, done: int) -> SummaryWriter:
    """What writes the figures of a run.

    Args:
        run: its folder.
        done: rows that stay of what was written before. TensorBoard forgets the others, which come once more.
    """
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / FOLDER), purge_step=done)


def write(figures: SummaryWriter, name: str, number: int, row: Row) -> None:
    """The figures of row `number` of NAME.csv, each as NAME/COLUMN."""
    for column, value in row.items():
        if value is not None and column not in COUNTS:
            figures.add_scalar(f"{name}/{column}", value, number)

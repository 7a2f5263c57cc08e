"""What several experiments do alike."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import torch
import torch.nn.functional as F
from torch import nn

from robust_nas.data import Examples, Source, batches
from verify.checks.errors import InputError

BAD_INPUT = 2
STOPPED = 130


class Script(click.Command):
    """The command of a script: bad input is one line on stderr and exit code 2, as in `dsrna`."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the script, and leave Python."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.Abort:
            _leave("stopped", STOPPED)
        except click.ClickException as error:
            _leave(f"error: {error.format_message()}", BAD_INPUT)
        except InputError as error:
            _leave(f"error: {error}", BAD_INPUT)
        sys.exit(code)


def _leave(words: str, code: int) -> NoReturn:
    click.echo(f"{Path(sys.argv[0]).name}: {' '.join(words.split())}", err=True)
    sys.exit(code)


def plain_training(
    model: nn.Module, examples: Source, epochs: int, batch_size: int, learning_rate: float, seed: int
) -> Iterator[float]:
    """Train in place: Adam, cosine schedule, cross-entropy, nothing that helps certificates; the loss of every epoch.

    On the CPU, in one thread, a seed gives one result.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        model.train()
        summed = 0.0
        for images, labels in batches(examples, batch_size, generator):
            optimiser.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimiser.step()
            summed += loss.item() * len(labels)
        yield summed / len(examples.labels)
        schedule.step()


def first_correct(model: nn.Module, examples: Source, count: int, among: int) -> tuple[list[int], Examples]:
    """The first images that the model classifies correctly, `count` of the first `among`, and before them their places
    in the data set."""
    looked_at = examples.take(torch.arange(min(among, len(examples.labels))))
    with torch.no_grad():
        correct = model(looked_at.images).argmax(1) == looked_at.labels
    index = correct.nonzero().squeeze(1)[:count]
    return index.tolist(), examples.take(index)


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]

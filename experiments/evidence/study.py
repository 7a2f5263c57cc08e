"""Does a search that maximises certified robustness find architectures that certify? Over seeds, against its rivals.

    python experiments/evidence/study.py --data DIR --out DIR --rows screened,random-radius --seeds 10,11,12

Goes on where it was stopped: each search, with the trainings of what it found, is a file in --out. Several processes
share the work by `--part 1/2`, `--part 2/2`, one thread each. Seeds 0 to 2 are for choosing constants, those from 10 on
report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch

from experiments.common import Script
from experiments.evidence.judging import judged
from experiments.evidence.report import write
from experiments.evidence.rows import ROWS
from experiments.fidelity.networks import TRAINING_IMAGES
from robust_nas.data import Data, load
from robust_nas.genotype import Genotype
from robust_nas.runs import Run, seed_everything, versions
from robust_nas.search.engine import Search

RECIPES = ("standard", "jacobian", "certified")
RESULTS = Path(__file__).parents[1] / "results" / "evidence"


def run(row: str, recipe: str, seed: int, trainings: int, norms: Sequence[str], data: Data, out: Path) -> None:
    """One search, and the trainings of its architecture that are not there yet."""
    path = out / f"{row}.{recipe}.{seed}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else search(row, recipe, seed, data)
    Run(out).write_json(path.name, found)
    genotype = Genotype.from_dict(found["genotype"])
    for training in range(len(found["trainings"]), trainings):
        figures = judged(genotype, recipe, data, training, norms)
        found["trainings"].append(figures)
        Run(out).write_json(path.name, found)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        click.echo(f"{row} {recipe} seed {seed}: {shown}")


def search(row: str, recipe: str, seed: int, data: Data) -> dict[str, Any]:
    """The architecture that a row finds, and the processor's seconds that it takes."""
    began = time.process_time()
    seed_everything(seed)
    work = Search(ROWS[row](recipe, seed), data)
    for _ in work.steps():
        pass
    scores = [] if work.trials is None else [list(score) for score in work.trials.scores]
    return {
        "row": row,
        "recipe": recipe,
        "seed": seed,
        "genotype": work.genotype().to_dict(),
        "scores": scores,
        "search_seconds": time.process_time() - began,
        "versions": versions(),
        "trainings": [],
    }


def part_of(text: str) -> tuple[int, int]:
    """`2/3` is the second of three parts."""
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise click.UsageError(f"--part: {text!r} is not like 1/2, the first of two parts")
    return int(number), int(parts)


def names(text: str, known: Sequence[str], option: str) -> list[str]:
    """A list of names that are known."""
    found = [name.strip() for name in text.split(",")]
    if unknown := [name for name in found if name not in known]:
        raise click.UsageError(f"--{option}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return found


@click.command(cls=Script)
@click.option("--data", required=True, help="Folder with MNIST.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/evidence"))
@click.option("--rows", default=",".join(ROWS), show_default=True, help="Searches.")
@click.option("--recipes", default="certified,standard", show_default=True, help="Of the final networks.")
@click.option("--seeds", default="10,11,12,13,14,15,16,17", show_default=True)
@click.option("--trainings", type=click.IntRange(min=1), default=2, show_default=True, help="Of each architecture.")
@click.option("--norms", default="linf,l2", show_default=True, help="Of tight radii.")
@click.option("--part", default="1/1", show_default=True, help="Of the work, for processes that share it.")
@click.option("--report/--no-report", default=True, help="Write results/evidence from all that is in --out.")
def main(
    data: str, out: Path, rows: str, recipes: str, seeds: str, trainings: int, norms: str, part: str, report: bool
) -> None:
    """Run what is missing, seed by seed, then write results/evidence."""
    torch.set_num_threads(1)
    number, parts = part_of(part)
    asked, trained = names(rows, list(ROWS), "rows"), names(recipes, RECIPES, "recipes")
    numbers = [int(seed) for seed in names(seeds, [str(seed) for seed in range(1000)], "seeds")]
    images = load("mnist", data)
    few = replace(images, train=images.train.take(torch.arange(TRAINING_IMAGES)))
    jobs = [(row, recipe, seed) for seed, recipe, row in product(numbers, trained, asked)]
    for job in jobs[number - 1 :: parts]:
        run(*job, trainings, names(norms, ("linf", "l2"), "norms"), few, out)
    if report:
        click.echo(write(out, RESULTS))


if __name__ == "__main__":
    main()

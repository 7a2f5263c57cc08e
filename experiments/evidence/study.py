"""Does a search that maximises certified robustness find architectures that certify? Over seeds, against its rivals.

    python experiments/evidence/study.py --data DIR --rows raced,random-radius --seeds 17,18,19

Goes on where it was stopped: each search, and the trainings of each architecture, is a file in --out. Several
processes share the work by `--part 1/2`, `--part 2/2`, one thread each. Seeds below 17 were looked at when constants
were chosen, those from 17 on report.
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
from experiments.evidence.found import chosen, search_path, training_path
from experiments.evidence.judging import judged
from experiments.evidence.report import write
from experiments.evidence.rows import ROWS
from experiments.fidelity.networks import TRAINING_IMAGES
from robust_nas.data import Data, load
from robust_nas.runs import Run, seed_everything, versions
from robust_nas.search.engine import Search

RECIPES = ("standard", "jacobian", "certified")
RESULTS = Path(__file__).parents[1] / "results" / "evidence"
RUNS = RESULTS / "runs"
SEEDS = 100
"""Between the final trainings of two searches: each search has fresh weights of its own, and all rows share them."""


def run(row: str, recipe: str, seed: int, trainings: int, norms: Sequence[str], data: Data, out: Path) -> None:
    """One search, and the trainings of the architecture that the row takes from it, as far as they are not there."""
    genotype = chosen(row, searched(row, recipe, seed, data, out))
    path = training_path(out, recipe, genotype, seed)
    done: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for training in range(len(done), trainings):
        done.append(judged(genotype, recipe, data, SEEDS * seed + training, norms))
        Run(out).write_json(path.name, done)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in done[-1].items())
        click.echo(f"{row} {recipe} seed {seed}: {shown}")


def searched(row: str, recipe: str, seed: int, data: Data, out: Path) -> dict[str, Any]:
    """What the row's search found and tried, and the processor's seconds that it took; read, if it is there."""
    path = search_path(out, row, recipe, seed)
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    began = time.process_time()
    seed_everything(seed)
    work = Search(ROWS[row].plan(recipe, seed), data)
    for _ in work.steps():
        pass
    tried = [] if work.trials is None else zip(work.trials.candidates, work.trials.tries, strict=True)
    trials = [{"genotype": each.to_dict(), "scores": [list(score) for score in scores]} for each, scores in tried]
    found = {
        "genotype": work.genotype().to_dict(),
        "trials": trials,
        "search_seconds": time.process_time() - began,
        "versions": versions(),
    }
    Run(out).write_json(path.name, found)
    return found


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
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RUNS)
@click.option("--rows", default=",".join(ROWS), show_default=True, help="Searches.")
@click.option("--recipes", default="certified,standard", show_default=True, help="Of the final networks.")
@click.option("--seeds", default="17,18,19,20,21,22,23,24", show_default=True)
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

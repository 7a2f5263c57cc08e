"""Our certified radii against stock auto_LiRPA 0.3 and against attacks, in one process and one thread.

    python experiments/benchmarks/certify.py --data DIR --out FILE.json

Three networks trained on MNIST (`networks.py`): a DARTS network with average pools, the same with max pools (ours
alone, since stock refuses them), and CNN-Cert's 4-layer CNN. All methods get the same images, the first that the
network classifies correctly, the same tolerance, and the attack radius as the upper end of their search.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from experiments.benchmarks import report
from experiments.benchmarks.measure import CLOSED_FORM, CROWN, CROWN_IBP, DOMAIN, Method, Outcome, Problem, ours, stock
from experiments.benchmarks.networks import PARTS, load_reference, train
from experiments.benchmarks.stock import DOMAINS as STOCK_DOMAINS
from experiments.benchmarks.stock import for_stock
from experiments.common import Script, first_correct
from robust_nas.data import Data, load
from robust_nas.runs import Run, device_name, versions
from verify import RADIUS_METHODS, InputError

TOLERANCE = 0.05
WIDTH = 110
"""Of the tables, in columns, where there is no terminal."""


class Names(click.ParamType):
    """Some of the names that are known, separated by commas."""

    name = "names"

    def __init__(self, *known: str) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse the list; click reports a failure as a usage error."""
        names = value if isinstance(value, tuple) else tuple(value.split(","))
        for name in names:
            if name not in self.known:
                self.fail(f"unknown {name!r}; known: {', '.join(self.known)}", param, ctx)
        return names


class Benchmark:
    """Collects results and writes them after every method, so that a stopped run keeps what it has."""

    def __init__(self, out: Path, images: int, methods: tuple[str, ...]) -> None:
        self.out = out
        self.results: dict[str, Any] = {
            "device": device_name(torch.device("cpu")),
            "versions": versions(),
            "images": images,
            "methods": list(methods),
            "domain": DOMAIN,
            "tolerance": TOLERANCE,
            "networks": {},
            "parts": {},
        }

    def run(self, part: str, data: Data, norms: tuple[str, ...], stock_images: int, batch_size: int) -> None:
        """One network: all norms and methods."""
        reference = load_reference(part, data)
        images = self.results["images"]
        indices, examples = first_correct(reference.model, data.test, images, 2 * images)
        self.results["networks"][part] = {**reference.notes, "indices": indices}
        methods: dict[str, Method] = {
            f"ours {method}": partial(ours, method=method, batch_size=batch_size) for method in self.results["methods"]
        }
        refused = None
        try:
            twin = for_stock(reference.model, examples.images)
            count = min(stock_images, len(indices))
            names = (CROWN_IBP, CROWN, CLOSED_FORM) if count else ()
            methods |= {name: partial(stock, twin=twin, name=name, count=count) for name in names}
        except InputError as error:
            refused = str(error)
        for norm in norms:
            self._run_methods(
                part, Problem.make(reference.model, *examples, norm, TOLERANCE), methods, indices, refused
            )

    def _run_methods(
        self, part: str, problem: Problem, methods: dict[str, Method], indices: list[int], refused: str | None
    ) -> None:
        norm, attack = problem.norm, problem.attack.tolist()
        outcomes: dict[str, Outcome] = {}
        for name, method in methods.items():
            outcomes[name] = method(problem)
            self.results["parts"].setdefault(part, {})[norm] = {
                "attack_seconds_per_image": problem.attack_seconds,
                "stock_domain": STOCK_DOMAINS[norm],
                "stock_refused": refused,
                **report.figures(outcomes, next(iter(methods)), attack, indices),
            }
            self.save()
        differs = "" if refused or STOCK_DOMAINS[norm] == DOMAIN else f", stock's domain {STOCK_DOMAINS[norm]}"
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(report.table(f"{part}, {norm}, domain {DOMAIN}{differs}", outcomes, attack))
        if refused:
            console.print(refused)
        for violation in self.results["parts"][part][norm]["violations"]:
            console.print(f"VIOLATION: {violation}", style="red")

    def save(self) -> None:
        """Write what there is, whole or not at all."""
        Run(self.out.parent).write_json(self.out.name, self.results)


@click.command(cls=Script, epilog="Example: certify.py --parts darts --norms linf --images 2 --out runs/benchmark.json")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder that holds MNIST.")
@click.option("--images", type=click.IntRange(min=1), default=20, show_default=True, help="Correctly classified ones.")
@click.option("--parts", type=Names(*PARTS), default=",".join(PARTS), show_default=True, help="Networks.")
@click.option("--norms", type=Names(*STOCK_DOMAINS), default=",".join(STOCK_DOMAINS), show_default=True, help="Norms.")
@click.option(
    "--methods",
    type=Names(*RADIUS_METHODS),
    default="crown,auto",
    show_default=True,
    help="Of verify.certified_radius; the JSON file's ratios are about the first.",
)
@click.option("--stock-images", type=click.IntRange(min=0), help="Stock does only the first N.  [default: all]")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Images we do at once.")
@click.option("--train", "retrain", is_flag=True, help="Train the networks anew first; their weights are replaced.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file to write.")
def main(
    data: Path | None,
    images: int,
    parts: tuple[str, ...],
    norms: tuple[str, ...],
    methods: tuple[str, ...],
    stock_images: int | None,
    batch_size: int,
    retrain: bool,
    out: Path,
) -> None:
    """Certified radii on MNIST: ours, stock auto_LiRPA's, and attacks as the ceiling."""
    torch.set_num_threads(1)
    mnist = load("mnist", data)
    benchmark = Benchmark(out, images, methods)
    for part in parts:
        if retrain:
            train(part, mnist)
        benchmark.run(part, mnist, norms, images if stock_images is None else stock_images, batch_size)


if __name__ == "__main__":
    main()

"""Our complete verification, stock bounds and an exact program on the same instances, in one process and one thread.

    python experiments/verification/study.py --out DIR       # goes on where it was stopped

Small networks of every kind are trained on scikit-learn's digits for seconds and written as ONNX; an instance is one of
the first images that a network classifies correctly and an l-infinity radius, written as VNN-LIB. Each is asked of
`verify.prove_property`, which reads both files; of stock auto_LiRPA 0.3's CROWN on the same network, which proves or
says nothing; and of a mixed-integer program (exact.py). Seconds are the processor's, of the decision alone. Writes
verification.csv, a row an instance, and verification.md, the table of docs/verify-onnx.md, into results/.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from safetensors.torch import load_file
from torch import nn

from experiments.benchmarks.stock import Stock, for_stock
from experiments.common import Script, first_correct, markdown_table, plain_training
from experiments.verification.exact import decide
from experiments.verification.networks import NETWORKS, seeded
from robust_nas.data import Data, Examples, load
from robust_nas.runs import Run, progress
from verify import (
    Ball,
    BoundedNetwork,
    Box,
    InputError,
    Property,
    competition_answer,
    from_onnx,
    prove_property,
    read_vnnlib,
    to_onnx,
    vnnlib_text,
)

RESULTS = Path(__file__).parent.parent / "results"
VERIFIERS = ("ours", "stock", "milp")
SOLVED = ("sat", "unsat")
SEED, EPOCHS, BATCH_SIZE, RATE = 0, 8, 64, 5e-3
AMONG = 50
"""Test images that those of the instances are chosen from."""

Row = dict[str, Any]


def trained(name: str, data: Data, folder: Run) -> nn.Module:
    """A network with the weights in its folder; they are made first where they are missing."""
    model, path = seeded(name, data, SEED), folder.folder / "model.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    with progress(f"train {name}", EPOCHS) as step:
        for loss in plain_training(model, data.train, EPOCHS, BATCH_SIZE, RATE, SEED):
            step(f"loss {loss:.3f}")
    to_onnx(model.eval(), data.test.images[:1], folder.folder / "network.onnx")
    folder.save_tensors("model.safetensors", model.state_dict())
    return model


class Instances:
    """The instances of one network, and the three verifiers on each."""

    def __init__(self, name: str, model: nn.Module, images: Examples, folder: Run, time_limit: float) -> None:
        self.name, self.model, self.folder, self.time_limit = name, model, folder, time_limit
        read = from_onnx(folder.folder / "network.onnx")
        self.network = BoundedNetwork(read, read.example)
        self.stock: Stock | None
        try:
            self.stock = Stock(for_stock(model, images.images), images.images[:1], "CROWN")
        except InputError:
            self.stock = None

    def row(self, index: int, example: Examples, epsilon: float) -> Row:
        """All verifiers on an instance."""
        image, label = example.images, int(example.labels)
        ball = Ball(image.double(), epsilon)
        text = vnnlib_text(Property.robust(ball, label, self.network.classes))
        path = self.folder.write_text(f"image_{index}_{epsilon!r}.vnnlib", text)
        row: Row = {"network": self.name, "index": index, "label": label, "epsilon": epsilon}
        verifiers = {
            "ours": lambda: self._ours(path),
            "stock": lambda: self._stock(example, epsilon),
            "milp": lambda: self._milp(ball, label),
        }
        for verifier in VERIFIERS:
            row[verifier], row[f"{verifier}_seconds"] = _timed(verifiers[verifier])
        return row

    def _ours(self, path: Path) -> str:
        found = prove_property(self.network, read_vnnlib(path), time_limit=self.time_limit)
        return competition_answer(found).split()[0]

    def _stock(self, example: Examples, epsilon: float) -> str:
        if self.stock is None:
            return "refused"
        proven = self.stock.evaluate(example.images, example.labels, epsilon, "linf").margin > 0
        return "unsat" if proven else "unknown"

    def _milp(self, ball: Ball, label: int) -> str:
        try:
            return decide(self.model, Box(ball.lower, ball.upper), label, self.time_limit)
        except InputError:
            return "refused"


def _timed(verifier: Callable[[], str]) -> tuple[str, float]:
    begin = time.process_time()
    answer = verifier()
    return answer, time.process_time() - begin


def contradictions(rows: Sequence[Row]) -> list[Row]:
    """Instances that one verifier proved and another one refuted."""
    return [row for row in rows if set(SOLVED) <= {row[verifier] for verifier in VERIFIERS}]


def table(rows: Sequence[Row]) -> list[str]:
    """A line a network: of each verifier, how many instances it proved and refuted, and its median seconds."""
    headers = ["network", "instances", *(f"{each}: unsat + sat, seconds" for each in VERIFIERS)]
    lines = []
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        lines.append([name, str(len(mine)), *(_cell(mine, verifier) for verifier in VERIFIERS)])
    return markdown_table(headers, lines)


def _cell(rows: Sequence[Row], verifier: str) -> str:
    answers = [row[verifier] for row in rows]
    if set(answers) == {"refused"}:
        return "refused"
    seconds = median(float(row[f"{verifier}_seconds"]) for row in rows)
    return f"{answers.count('unsat')} + {answers.count('sat')}, {seconds:.2f}"


def report(path: Path) -> list[str]:
    """The table of a results file, and whether its verifiers agree."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [*table(rows), "", f"contradictions: {len(contradictions(rows))} of {len(rows)} instances"]


@click.command(cls=Script, epilog="Example: study.py --network dense --epsilon 0.02 --out runs/verification")
@click.option("--network", "names", type=click.Choice(list(NETWORKS)), multiple=True, help="This one; repeat. [all]")
@click.option("--epsilon", "epsilons", type=float, multiple=True, default=(0.05, 0.15), show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=2, show_default=True, help="Of each network.")
@click.option("--time-limit", type=float, default=60.0, show_default=True, help="Seconds of a verifier.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/verification"))
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS, show_default=True)
def main(
    names: Sequence[str], epsilons: Sequence[float], images: int, time_limit: float, out: Path, results: Path
) -> None:
    """Train, export and decide what is missing, then write verification.csv and verification.md from all there is."""
    torch.set_num_threads(1)
    data = load("digits")
    rows = []
    for name in names or NETWORKS:
        folder = Run(out / name)
        model = trained(name, data, folder)
        places, examples = first_correct(model, data.test, images, AMONG)
        instances = Instances(name, model, examples, folder, time_limit)
        with progress(name, len(places) * len(epsilons)) as step:
            for (number, index), epsilon in product(enumerate(places), epsilons):
                path = folder.folder / f"row_{index}_{epsilon!r}.json"
                if not path.exists():
                    example = examples.take(torch.tensor([number]))
                    folder.write_json(path.name, instances.row(index, example, epsilon))
                rows.append(json.loads(path.read_text(encoding="utf-8")))
                step(" ".join(rows[-1][verifier] for verifier in VERIFIERS))
    lines = report(Run(results).write_csv("verification.csv", rows))
    print(Run(results).write_text("verification.md", "\n".join(lines) + "\n").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

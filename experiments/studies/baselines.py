"""Every row of the paper's Tables 1 and 2: the search that runs here, the published architecture, and their sizes.

    python experiments/studies/baselines.py --out RUNS       # goes on where it was stopped

Each search is run once with the quick preset on digits, seed 0, in one thread. Results: results/baselines.csv and .md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from experiments.common import Script, markdown_table
from experiments.studies.zoo_sizes import TABLE_2
from robust_nas.genotype import Architecture
from robust_nas.options import SearchOptions
from robust_nas.runs import Run, read_rows
from robust_nas.search import run_search
from robust_nas.spaces.size import size_on_cifar10
from robust_nas.zoo import find

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Baseline:
    """A row of the paper's tables.

    Attributes:
        row: its name there.
        search: options of `dsrna search`; None for searches by reinforcement learning and evolution.
        zoo: its published architecture; None where there is none.
        paper: millions of parameters in Table 2, where the architecture has none that is published.
    """

    row: str
    search: dict[str, Any] | None = None
    zoo: str | None = None
    paper: float | None = None

    @property
    def command(self) -> str:
        """The search as a command line."""
        if self.search is None:
            return ""
        return " ".join(["dsrna search", *(f"--{name} {value}" for name, value in self.search.items())])

    @property
    def in_table_2(self) -> float | None:
        """Millions of parameters."""
        return self.paper if self.zoo is None else TABLE_2.get(self.zoo)


def _method(name: str, **options: Any) -> dict[str, Any]:
    return {"method": name, **options, "metric": "none"}


BASELINES = (
    Baseline("NASNet-A", zoo="NASNet-A"),
    Baseline("AmoebaNet-B", zoo="AmoebaNet-B"),
    Baseline("PNAS", zoo="PNAS"),
    Baseline("ENAS", {"method": "enas"}, "ENAS-released"),
    Baseline("DARTS (1st)", _method("darts"), "DARTS-V1"),
    Baseline("DARTS (2nd)", _method("darts", order="second"), "DARTS-V2"),
    Baseline("SNAS (moderate)", _method("snas"), "SNAS-moderate"),
    Baseline("ProxylessNAS", _method("proxyless")),
    Baseline("ASAP", _method("asap"), "ASAP"),
    Baseline("R-DARTS (L2)", _method("r-darts")),
    Baseline("DARTS+", _method("darts+"), "DARTS+"),
    Baseline("P-DARTS", _method("p-darts"), "P-DARTS"),
    Baseline("PC-DARTS", _method("pc-darts"), "PC-DARTS"),
    Baseline("RobNet-large", {"method": "robnet", "space": "robnet"}, "RobNet-large"),
    Baseline("RobNet-free", {"method": "robnet", "space": "robnet-free"}, "RobNet-free"),
    Baseline("SDARTS-RS", _method("sdarts-rs"), "SDARTS-RS"),
    Baseline("SDARTS-ADV", _method("sdarts-adv"), "SDARTS-ADV"),
    Baseline("PC-DARTS-ADV", _method("pc-darts-adv"), paper=3.5),
    Baseline("DSRNA-CB", {"metric": "cb"}, paper=3.5),
    Baseline("DSRNA-Jacobian", {"metric": "jacobian"}, paper=3.5),
    Baseline("DSRNA-Combined", {"metric": "combined"}, paper=3.5),
    Baseline("DARTS-ES (in no table)", _method("darts-es")),
    Baseline("random search (in no table)", {"method": "random"}),
)


def searched(baseline: Baseline, out: Path) -> tuple[float, Architecture] | None:
    """Seconds of the quick search, and what it found; run now or before."""
    if baseline.search is None:
        return None
    folder = out / "".join(letter if letter.isalnum() else "-" for letter in baseline.row.lower())
    if not (folder / "genotype.json").exists():
        resume = (folder / "config.json").exists()
        run_search(SearchOptions(**baseline.search, preset="quick", device="cpu", resume=resume, out=folder))
    seconds = sum(step["seconds"] or 0.0 for step in read_rows(folder / "timing.csv"))
    return seconds, find(folder / "genotype.json")


def row(baseline: Baseline, out: Path) -> dict[str, Any]:
    """A row of the table. Sizes are millions of parameters at 20 cells and 36 channels for CIFAR-10."""
    published = None if baseline.zoo is None else size_on_cifar10(find(baseline.zoo)).parameters / 1e6
    found = searched(baseline, out)
    return {
        "row": baseline.row,
        "search": baseline.command,
        "published": baseline.zoo,
        "paper_parameters": baseline.in_table_2,
        "published_parameters": published,
        "quick_parameters": None if found is None else size_on_cifar10(found[1]).parameters / 1e6,
        "quick_seconds": None if found is None else found[0],
    }


HEADER = (
    "row", "search", "published architecture", "M parameters, paper", "ours, published cell", "ours, quick cell",
    "quick search, s",
)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for the documents."""

    def cell(value: Any) -> str:
        if value is None or value == "":
            return "-"
        return f"{value:.3g}" if isinstance(value, float) else f"`{value}`" if "dsrna" in str(value) else str(value)

    return "\n".join(markdown_table(HEADER, [[cell(value) for value in each.values()] for each in rows])) + "\n"


@click.command(cls=Script)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/baselines"), show_default=True)
def main(out: Path) -> None:
    """Run what is missing, then write results/baselines.csv and .md."""
    torch.set_num_threads(1)
    rows = [row(baseline, out) for baseline in BASELINES]
    results = Run(RESULTS)
    results.write_csv("baselines.csv", rows)
    click.echo(results.write_text("baselines.md", markdown(rows)).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

"""The four training recipes on one architecture: accuracy, attacks, certified radii and time, side by side.

    python experiments/recipes/study.py --dataset mnist --data DIR       # goes on where it was stopped

Every network has the small preset's size and seed 0. Each is certified in the free domain in both norms (method
"affine"), audited, and attacked with all attacks of the paper at the paper's epsilons, on the same first test images.
`--only` restricts the run to one network, so that several processes can share the work; the table is written from what
there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pandas as pd

from robust_nas.attacks import run_attack
from robust_nas.certification import run_audit, run_certify
from robust_nas.runs import Run, read_rows
from robust_nas.training import run_training

ARCH = Path(__file__).with_name("genotype.json")
RESULTS = Path(__file__).parent.parent / "results"
NETWORKS: dict[str, dict[str, Any]] = {
    "standard": {"recipe": "standard"},
    "jacobian": {"recipe": "jacobian"},
    "adversarial": {"recipe": "adversarial"},
    "certified linf": {"recipe": "certified", "norm": "linf", "epsilon": 0.04},
    "certified l2": {"recipe": "certified", "norm": "l2", "epsilon": 0.2},
}
ATTACKS = ("fgsm", "pgd-100", "cw", "autoattack")
NORMS = ("linf", "l2")


def run_network(name: str, out: Path, images: int, common: Mapping[str, Any]) -> None:
    """Train, certify, audit and attack one network; what is done is not done again."""
    weights = out / "train" / "model.safetensors"
    if not weights.with_suffix(".json").exists():
        resume = (out / "train" / "config.json").exists()
        run_training(arch=ARCH, **NETWORKS[name], preset="small", resume=resume, out=weights.parent, **common)
    network = {"arch": ARCH, "weights": weights, **common}
    for norm in NORMS:
        certified, audited = out / f"certify-{norm}", out / f"audit-{norm}"
        if not (certified / "done").exists():
            run_certify(**network, norm=norm, domain="free", images=images, method="affine", out=certified)
            Run(certified).write_text("done", "")
        if not (audited / "done").exists():
            result = run_audit(**network, certificates=certified / "certify.csv", out=audited)
            Run(audited).write_text("done", str(result.broken))
    if not (out / "attack" / "summary.json").exists():
        run_attack(
            **network,
            attacks=ATTACKS,
            images=images,
            certificates=out / "certify-linf" / "certify.csv",
            resume=(out / "attack" / "config.json").exists(),
            out=out / "attack",
        )


def row(name: str, out: Path, dataset: str) -> dict[str, Any]:
    """One network, in figures; a misclassified image has radius 0 and counts in the mean."""
    sidecar = json.loads((out / "train" / "model.json").read_text(encoding="utf-8"))
    attacked = json.loads((out / "attack" / "summary.json").read_text(encoding="utf-8"))
    certificates = {norm: pd.read_csv(out / f"certify-{norm}" / "certify.csv") for norm in NORMS}
    broken = sum(int((out / f"audit-{norm}" / "done").read_text(encoding="utf-8")) for norm in NORMS)
    return {
        "dataset": dataset,
        "training": name,
        "epsilon": sidecar["settings"]["epsilon"],
        "test_accuracy": sidecar["test_accuracy"],
        "images": attacked["images"],
        "clean": attacked["clean"],
        **{f"{each['attack']} {each['norm']} {each['epsilon']:.3g}": each["accuracy"] for each in attacked["attacks"]},
        **{f"mean_{norm}_radius": float(found["radius"].mean()) for norm, found in certificates.items()},
        "broken": broken + len(attacked["violated"]),
        "training_seconds": sum(step["seconds"] or 0.0 for step in read_rows(out / "train" / "timing.csv")),
        "certify_seconds_an_image": float(certificates["linf"]["seconds"].mean()),
    }


def write(rows: list[dict[str, Any]], dataset: str) -> None:
    """results/recipes_DATASET.csv and .md."""
    results = Run(RESULTS)
    results.write_csv(f"recipes_{dataset}.csv", rows)
    columns = list(rows[0])[1:]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(_cell(each[column]) for column in columns)} |" for each in rows]
    print(results.write_text(f"recipes_{dataset}.md", "\n".join(lines) + "\n").read_text(encoding="utf-8"))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command()
@click.option("--dataset", type=click.Choice(["digits", "mnist", "cifar10"]), default="mnist", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--images", type=int, default=200, show_default=True, help="Test images certified and attacked.")
@click.option("--only", type=click.Choice(list(NETWORKS)), help="This network alone.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/recipes"), show_default=True)
def main(dataset: str, data: Path, images: int, only: str | None, out: Path) -> None:
    """Run what is missing, then write results/recipes_DATASET.csv and .md."""
    common = {"dataset": dataset, "data": data, "device": "cpu"}
    folders = {name: out / dataset / name.replace(" ", "-") for name in NETWORKS}
    for name in [only] if only else NETWORKS:
        run_network(name, folders[name], images, common)
    done = {name: folder for name, folder in folders.items() if (folder / "attack" / "summary.json").exists()}
    write([row(name, folder, dataset) for name, folder in done.items()], dataset)


if __name__ == "__main__":
    main()

"""The training recipes on one architecture: accuracy, attacks, certified radii and time, side by side.

    python experiments/recipes/study.py --dataset mnist --data DIR       # goes on where it was stopped

Every network has the small preset's size and seed 0. Each is certified in the free domain in both norms and audited:
all images by intervals, which are made for networks of the certified recipe and say nothing of the others, and the
first few by affine forms, which take seconds an image. Each is attacked with all attacks of the paper at the paper's
epsilons. All on the same first test images. `--only` restricts the run to one network, so that several processes can
share the work. Trained weights are kept in `weights`, from where every certificate can be had again; rows of the table
stay until their network is run anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

from experiments.common import markdown_table
from robust_nas.attacks import run_attack
from robust_nas.certification import run_audit, run_certify
from robust_nas.files import atomic_path
from robust_nas.runs import Run, read_rows
from robust_nas.training import run_training

ARCH = Path(__file__).with_name("genotype.json")
WEIGHTS = Path(__file__).with_name("weights")
RESULTS = Path(__file__).parent.parent / "results"
NETWORKS: dict[str, dict[str, Any]] = {
    "standard": {"recipe": "standard"},
    "jacobian": {"recipe": "jacobian"},
    "adversarial": {"recipe": "adversarial"},
    "certified linf": {"recipe": "certified", "norm": "linf"},
    "tangent l2": {"recipe": "tangent", "norm": "l2"},
}
EPSILONS = {("certified linf", "mnist"): 0.02}
"""Where it is not the recipe's own: a fifth of that, for the sake of the accuracy."""
ATTACKS = ("fgsm", "pgd-100", "cw", "autoattack")
DOMAIN = "free"
"""Of all radii, as in the paper's Tables 5 and 6."""
NORMS = ("linf", "l2")
METHODS = ("ibp", "affine")


def run_network(name: str, out: Path, images: Mapping[str, int], common: Mapping[str, Any]) -> None:
    """Train, certify, audit and attack one network; what is done is not done again."""
    weights = weights_of(name, common["dataset"])
    if not weights.with_suffix(".json").exists():
        options = {**NETWORKS[name], "epsilon": EPSILONS.get((name, common["dataset"]))}
        resume = (out / "train" / "config.json").exists()
        run_training(arch=ARCH, **options, preset="small", resume=resume, out=out / "train", **common)
        keep(out / "train", weights)
    network = {"arch": ARCH, "weights": weights, **common}
    for norm, method in product(NORMS, METHODS):
        certified, audited = out / f"certify-{norm}-{method}", out / f"audit-{norm}-{method}"
        if not (certified / "done").exists():
            run_certify(
                **network,
                norm=norm,
                domain=DOMAIN,
                images=images[method],
                method=method,
                resume=(certified / "config.json").exists(),
                out=certified,
            )
            Run(certified).write_text("done", "")
        if not (audited / "done").exists():
            result = run_audit(**network, certificates=certified / "certify.csv", out=audited)
            Run(audited).write_text("done", str(result.broken))
    if not (out / "attack" / "summary.json").exists():
        run_attack(
            **network,
            attacks=ATTACKS,
            images=images["ibp"],
            certificates=out / "certify-linf-ibp" / "certify.csv",
            resume=(out / "attack" / "config.json").exists(),
            out=out / "attack",
        )


def weights_of(name: str, dataset: str) -> Path:
    """Where the weights of a network are kept; it is trained once its sidecar is there."""
    return WEIGHTS / dataset / f"{name.replace(' ', '-')}.safetensors"


def keep(training: Path, weights: Path) -> None:
    """Copy what a training has written, the sidecar last, and what it took into that."""
    with atomic_path(weights) as temporary:
        shutil.copyfile(training / "model.safetensors", temporary)
    sidecar = json.loads((training / "model.json").read_text(encoding="utf-8"))
    seconds = sum(step["seconds"] or 0.0 for step in read_rows(training / "timing.csv"))
    Run(weights.parent).write_json(f"{weights.stem}.json", {**sidecar, "training_seconds": seconds})


def row(name: str, out: Path, dataset: str) -> dict[str, Any]:
    """One network, in figures; a misclassified image has radius 0 and counts in the mean.

    Columns of radii name the method and the number of images. Where gradients look masked, accuracies under attack are
    too high.
    """
    sidecar = json.loads(weights_of(name, dataset).with_suffix(".json").read_text(encoding="utf-8"))
    attacked = json.loads((out / "attack" / "summary.json").read_text(encoding="utf-8"))
    pairs = list(product(NORMS, METHODS))
    found = {pair: pd.read_csv(out / "-".join(("certify", *pair)) / "certify.csv") for pair in pairs}
    broken = sum(int((out / "-".join(("audit", *pair)) / "done").read_text(encoding="utf-8")) for pair in pairs)
    return {
        "dataset": dataset,
        "training": name,
        "domain": DOMAIN,
        "epsilon": sidecar["settings"]["epsilon"],
        "test_accuracy": sidecar["test_accuracy"],
        "images": attacked["images"],
        "clean": attacked["clean"],
        **{f"{each['attack']} {each['norm']} {each['epsilon']:.3g}": each["accuracy"] for each in attacked["attacks"]},
        **{f"{norm} radius {by} ({len(rows)})": float(rows["radius"].mean()) for (norm, by), rows in found.items()},
        "signs of masked gradients": sum(guard["sign"] for guard in attacked["guards"]),
        "broken": broken + len(attacked["violated"]),
        "training_seconds": sidecar["training_seconds"],
        **{f"{method} seconds": float(found["linf", method]["seconds"].mean()) for method in METHODS},
    }


def write(rows: list[dict[str, Any]], dataset: str) -> None:
    """results/recipes_DATASET.csv and .md: these rows, and those of other networks that are there."""
    results, path = Run(RESULTS), RESULTS / f"recipes_{dataset}.csv"
    kept: list[Any] = pd.read_csv(path).to_dict("records") if path.exists() else []
    by_name = {each["training"]: each for each in [*kept, *rows]}
    rows = [by_name[name] for name in NETWORKS if name in by_name]
    results.write_csv(path.name, rows)
    columns = list(rows[0])[1:]
    lines = markdown_table(columns, [[_cell(each[column]) for column in columns] for each in rows])
    print(results.write_text(f"recipes_{dataset}.md", "\n".join(lines) + "\n").read_text(encoding="utf-8"))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command()
@click.option("--dataset", type=click.Choice(["digits", "mnist", "cifar10"]), default="mnist", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--images", type=int, default=200, show_default=True, help="Test images attacked, and certified by ibp.")
@click.option("--tight-images", type=int, default=20, show_default=True, help="Those certified by affine forms.")
@click.option("--only", type=click.Choice(list(NETWORKS)), help="This network alone.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/recipes"), show_default=True)
def main(dataset: str, data: Path, images: int, tight_images: int, only: str | None, out: Path) -> None:
    """Run what is missing, then write results/recipes_DATASET.csv and .md."""
    torch.set_num_threads(1)  # another number rounds otherwise, and small tensors are the fastest on one
    common = {"dataset": dataset, "data": data, "device": "cpu"}
    folders = {name: out / dataset / weights_of(name, dataset).stem for name in NETWORKS}
    for name in [only] if only else NETWORKS:
        run_network(name, folders[name], {"ibp": images, "affine": tight_images}, common)
    done = {name: folder for name, folder in folders.items() if (folder / "attack" / "summary.json").exists()}
    write([row(name, folder, dataset) for name, folder in done.items()], dataset)


if __name__ == "__main__":
    main()

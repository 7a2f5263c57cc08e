"""The training recipes on one architecture: accuracy, attacks, certified radii and time, side by side.

    python experiments/recipes/study.py --dataset mnist --data DIR       # goes on where it was stopped

Every network has the small preset's size and seed 0. Each is certified in the free domain in both norms and audited:
all images by intervals, which are made for networks of the certified recipe and say nothing of the others, and the
first few by affine forms, which take seconds an image; more of them where `MORE` says so. Each is attacked with all
attacks of the paper at the paper's epsilons, and its certificates are held against the attacks. All on the same first
test images. `--only` restricts the run to one network, so that several processes can share the work. Trained weights
are kept in `weights`, from where every certificate can be had again; rows of the tables stay until their network is run
anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import click
import pandas as pd
import torch

from experiments.common import Script, markdown_table
from robust_nas.attacks import run_attack
from robust_nas.certification import run_audit, run_certify
from robust_nas.files import atomic_path
from robust_nas.options import AttackOptions, AuditOptions, CertifyOptions, TrainOptions
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


class Proof(NamedTuple):
    """Certificates of the first test images, and how near to an attack the search for a radius comes."""

    norm: str
    method: str
    images: int
    tolerance: float = 0.05

    def folder(self, command: str) -> str:
        """The name of the folder of a command's run."""
        return f"{command}-{self.norm}-{self.method}-{self.images}"


MORE = {
    ("tangent l2", "mnist"): [Proof("l2", "affine", 200, 0.1)],
    ("certified linf", "cifar10"): [Proof("l2", "ibp", 24), Proof("l2", "affine", 24, 0.1)],
}
"""Proofs beside those of every network."""


def proofs(name: str, dataset: str, images: Mapping[str, int]) -> list[Proof]:
    """What is proven of a network: first what is of every one, in both norms by both methods."""
    common = [Proof(norm, method, images[method]) for norm, method in product(NORMS, METHODS)]
    return common + MORE.get((name, dataset), [])


def run_network(name: str, out: Path, images: Mapping[str, int], common: Mapping[str, Any]) -> None:
    """Train, certify, audit and attack one network; what is done is not done again."""
    weights = weights_of(name, common["dataset"])
    if not weights.with_suffix(".json").exists():
        options = {**NETWORKS[name], "epsilon": EPSILONS.get((name, common["dataset"]))}
        resume = (out / "train" / "config.json").exists()
        run_training(TrainOptions(arch=ARCH, **options, preset="small", resume=resume, out=out / "train", **common))
        keep(out / "train", weights)
    network = {"arch": ARCH, "weights": weights, **common}
    wanted = proofs(name, common["dataset"], images)
    for proof in wanted:
        run_proof(proof, out, network)
    if not (out / "attack" / "summary.json").exists():
        run_attack(AttackOptions(
            **network,
            attacks=ATTACKS,
            images=images["ibp"],
            certificates=[out / proof.folder("certify") / "certify.csv" for proof in wanted],
            resume=(out / "attack" / "config.json").exists(),
            out=out / "attack",
        ))


def run_proof(proof: Proof, out: Path, network: Mapping[str, Any]) -> None:
    """Certify a network and try to break the certificates."""
    certified, audited = out / proof.folder("certify"), out / proof.folder("audit")
    if not (certified / "done").exists():
        resume = (certified / "config.json").exists()
        run_certify(CertifyOptions(**network, **proof._asdict(), domain=DOMAIN, resume=resume, out=certified))
        Run(certified).write_text("done", "")
    if not (audited / "done").exists():
        result = run_audit(AuditOptions(**network, certificates=certified / "certify.csv", out=audited))
        Run(audited).write_text("done", str(result.broken))


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


def row(name: str, out: Path, dataset: str, images: Mapping[str, int]) -> dict[str, Any]:
    """One network, in figures; a misclassified image has radius 0 and counts in the mean.

    Columns of radii name the method and the number of images. Where gradients look masked, accuracies under attack are
    too high.
    """
    sidecar = json.loads(weights_of(name, dataset).with_suffix(".json").read_text(encoding="utf-8"))
    attacked = json.loads((out / "attack" / "summary.json").read_text(encoding="utf-8"))
    found = proven(name, out, dataset, images)
    common = found[: len(NORMS) * len(METHODS)]
    return {
        "dataset": dataset,
        "training": name,
        "domain": DOMAIN,
        "epsilon": sidecar["settings"]["epsilon"],
        "test_accuracy": sidecar["test_accuracy"],
        "images": attacked["images"],
        "clean": attacked["clean"],
        **{f"{each['attack']} {each['norm']} {each['epsilon']:.3g}": each["accuracy"] for each in attacked["attacks"]},
        **{f"{each['norm']} radius {each['method']} ({each['images']})": each["mean_radius"] for each in common},
        "signs of masked gradients": sum(guard["sign"] for guard in attacked["guards"]),
        "broken": sum(each["broken"] for each in found) + len(attacked["violated"]),
        "training_seconds": sidecar["training_seconds"],
        **{f"{each['method']} seconds": each["seconds_an_image"] for each in common if each["norm"] == "linf"},
    }


def proven(name: str, out: Path, dataset: str, images: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each proof of a network, in figures; certified / attack is the median over the images that it gets right."""
    sidecar = json.loads(weights_of(name, dataset).with_suffix(".json").read_text(encoding="utf-8"))
    found = []
    for proof in proofs(name, dataset, images):
        rows = pd.read_csv(out / proof.folder("certify") / "certify.csv")
        right = rows[rows["correct"]]
        found.append(
            {
                "dataset": dataset,
                "training": name,
                "domain": DOMAIN,
                "epsilon": sidecar["settings"]["epsilon"],
                "test_accuracy": sidecar["test_accuracy"],
                "norm": proof.norm,
                "method": proof.method,
                "images": len(rows),
                "correct": len(right) / len(rows),
                "mean_radius": float(rows["radius"].mean()),
                "median_certified_over_attack": float((right["radius"] / right["attack_radius"]).median()),
                "broken": int((out / proof.folder("audit") / "done").read_text(encoding="utf-8")),
                "seconds_an_image": float(rows["seconds"].mean()),
            }
        )
    return found


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """results/NAME.csv and .md: these rows, and those of other networks that are there."""
    path = RESULTS / f"{name}.csv"
    kept: list[Any] = pd.read_csv(path).to_dict("records") if path.exists() else []
    trained = {each["training"] for each in rows}
    rows = [*rows, *(each for each in kept if each["training"] not in trained)]
    rows.sort(key=lambda each: list(NETWORKS).index(each["training"]))
    Run(RESULTS).write_csv(path.name, rows)
    columns = list(rows[0])[1:]
    lines = markdown_table(columns, [[_cell(each[column]) for column in columns] for each in rows])
    print(Run(RESULTS).write_text(f"{name}.md", "\n".join(lines) + "\n").read_text(encoding="utf-8"))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command(cls=Script)
@click.option("--dataset", type=click.Choice(["digits", "mnist", "cifar10"]), default="mnist", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--images", type=int, default=200, show_default=True, help="Test images attacked, and certified by ibp.")
@click.option("--tight-images", type=int, default=20, show_default=True, help="Those certified by affine forms.")
@click.option("--only", type=click.Choice(list(NETWORKS)), help="This network alone.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/recipes"), show_default=True)
def main(dataset: str, data: Path, images: int, tight_images: int, only: str | None, out: Path) -> None:
    """Run what is missing, then write recipes_DATASET and certified_DATASET, .csv and .md, into results."""
    torch.set_num_threads(1)  # another number rounds otherwise, and small tensors are the fastest on one
    common = {"dataset": dataset, "data": data, "device": "cpu"}
    counts = {"ibp": images, "affine": tight_images}
    folders = {name: out / dataset / weights_of(name, dataset).stem for name in NETWORKS}
    for name in [only] if only else NETWORKS:
        run_network(name, folders[name], counts, common)
    done = {name: folder for name, folder in folders.items() if (folder / "attack" / "summary.json").exists()}
    write(f"recipes_{dataset}", [row(*each, dataset, counts) for each in done.items()])
    certified = [found for each in done.items() for found in proven(*each, dataset, counts)]
    write(f"certified_{dataset}", certified)


if __name__ == "__main__":
    main()

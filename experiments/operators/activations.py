"""A search whose cells have another activation than ReLU, trained, certified and audited, on scikit-learn's digits.

    python experiments/operators/activations.py

What `dsrna search --metric cb --activation A`, `dsrna train`, `dsrna certify` and `dsrna audit` do, for three of them.
Runs go to runs/activations, results to results/activations.csv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from experiments.common import Script
from robust_nas.certification.audit import run_audit
from robust_nas.certification.certify import run_certify
from robust_nas.certification.records import read_certificates
from robust_nas.options.certification import AuditOptions, CertifyOptions
from robust_nas.options.search import SearchOptions
from robust_nas.options.training import TrainOptions
from robust_nas.runs import Run
from robust_nas.search.run import run_search
from robust_nas.training.run import run_training

RESULTS = Path(__file__).parents[1] / "results"
ACTIVATIONS = ("relu", "leaky-relu", "gelu")
IMAGES = 16


def measured(activation: str, out: Path) -> dict[str, Any]:
    """A row of results/activations.csv."""
    found = run_search(SearchOptions(metric="cb", activation=activation, out=out / "search"))
    arch = str(found.genotype_path)
    trained = run_training(TrainOptions(arch=arch, out=out / "train"))
    run_certify(CertifyOptions(arch=arch, weights=trained.weights_path, images=IMAGES, out=out / "certify"))
    proofs = out / "certify" / "certify.csv"
    audited = run_audit(
        AuditOptions(arch=arch, weights=trained.weights_path, certificates=proofs, out=out / "audit")
    )
    correct = [each for each in read_certificates(proofs) if each.correct]
    ratios = sorted(each.radius / each.attack_radius for each in correct)
    return {
        "activation": activation,
        "accuracy": trained.test_accuracy,
        "images": len(correct),
        "mean_radius": sum(each.radius for each in correct) / len(correct),
        "certified_over_attack": ratios[len(ratios) // 2],
        "seconds": sum(each.seconds for each in correct) / len(correct),
        "broken": audited.broken,
    }


@click.command(cls=Script)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/activations"))
def main(out: Path) -> None:
    """Write results/activations.csv."""
    rows = []
    for activation in ACTIVATIONS:
        rows.append(measured(activation, out / activation))
        click.echo(rows[-1])
    Run(RESULTS).write_csv("activations.csv", rows)


if __name__ == "__main__":
    main()

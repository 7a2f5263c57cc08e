"""The whole path on scikit-learn's digits in a few minutes: search, show, train, certify, audit.

Run it with `make demo`. Each step is a `dsrna` command that you can also type.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

OUT = Path("runs/demo")
GENOTYPE = OUT / "search" / "genotype.json"
WEIGHTS = OUT / "train" / "model.safetensors"
NORMS = ("linf", "l2")
IMAGES = 8  # certified in each norm; as many as keep the whole demo under five minutes on two cores


def commands() -> Iterator[str]:
    """The command lines, in order, without `dsrna`."""
    network = f"--arch {GENOTYPE} --weights {WEIGHTS}"
    yield f"search --metric cb --out {GENOTYPE.parent}"
    yield f"show {GENOTYPE} --out {OUT / 'show'}"
    yield f"train --arch {GENOTYPE} --out {WEIGHTS.parent}"
    for norm in NORMS:
        yield f"certify --norm {norm} --method crown --images {IMAGES} {network} --out {certificates(norm).parent}"
    for norm in NORMS:
        yield f"audit {network} --certificates {certificates(norm)} --out {audit(norm).parent}"


def certificates(norm: str) -> Path:
    """Where the certificates of a norm are."""
    return OUT / f"certify-{norm}" / "certify.csv"


def audit(norm: str) -> Path:
    """Where the audit of a norm's certificates is."""
    return OUT / f"audit-{norm}" / "audit.csv"


def summary(norm: str) -> dict[str, str]:
    """What the certificates of a norm say, by name; radii are in [0,1] pixels."""
    table, findings = pd.read_csv(certificates(norm)), pd.read_csv(audit(norm))
    options = json.loads((certificates(norm).parent / "config.json").read_text(encoding="utf-8"))["options"]
    correct = table[table["correct"].astype(bool)]
    ratio = (correct["radius"] / correct["attack_radius"]).median()
    return {
        "domain": options["domain"],
        "images": str(len(table)),
        "correct": str(len(correct)),
        "correct and radius > 0": f"{(correct['radius'] > 0).mean():.0%}",
        "mean radius, all images": f"{table['radius'].mean():.4f}",
        "mean radius, correct images": f"{correct['radius'].mean():.4f}",
        "median certified / attack": f"{ratio:.2f}",
        "seconds an image": f"{table['seconds'].mean():.2f}",
        "broken by the audit": f"{findings['broken'].sum()} of {(findings['radius'] > 0).sum()}",
    }


def print_summary() -> None:
    """Print both norms side by side, then every file that was written."""
    columns = {norm: summary(norm) for norm in NORMS}
    table = Table("certificates", *NORMS)
    for name in columns[NORMS[0]]:
        table.add_row(name, *(column[name] for column in columns.values()))
    Console().print(table)
    for path in sorted(path for path in OUT.rglob("*") if path.is_file()):
        print(path)


def main() -> int:
    """Run the commands until one fails, and return its exit code; a broken certificate is a failure."""
    started = time.monotonic()
    for command in commands():
        print(f"\n$ dsrna {command}", flush=True)
        try:
            code = subprocess.call([sys.executable, "-m", "cli", *shlex.split(command)])
        except KeyboardInterrupt:
            return 130
        if code:
            return code
    print()
    print_summary()
    print(f"\nDone in {time.monotonic() - started:.0f} seconds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

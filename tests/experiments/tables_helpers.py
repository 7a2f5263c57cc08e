"""A scale so small that its jobs take seconds, and jobs that do nothing."""

import subprocess
import sys
from dataclasses import replace

from experiments.tables.jobs import RESULT, Job
from experiments.tables.scale import Scale

IMAGES = [{"search": "digits", "train": "digits"}]
TINY = {
    "seeds": [0, 1],
    "threads": 1,
    "search": {"preset": "quick", "epochs": 1, "batch_size": 324},
    "train": {"preset": "quick", "epochs": 1, "batch_size": 400},
    "attack": {"attacks": ["fgsm", "pgd-10"], "images": 4, "guards": False},
    "certify": {"method": "ibp", "images": 3},
    "protocols": {
        "paper": {"recipe": "standard", "exceptions": {"RobNet-large": "adversarial"}},
        "equal": {"recipe": "standard"},
    },
    "rows": {
        "PC-DARTS": {"zoo": "PC-DARTS"},
        "RobNet-large": {"zoo": "RobNet-large"},
        "DARTS (1st)": {"method": "darts", "metric": "none"},
        "DSRNA-CB": {"method": "darts", "metric": "cb"},
    },
    "tables": {
        "1": {"images": IMAGES, "rows": ["RobNet-large", "DSRNA-CB"]},
        "2": {"images": IMAGES, "rows": ["PC-DARTS", "DARTS (1st)", "DSRNA-CB"]},
        "3": {"images": [{"search": "digits", "train": "imagefolder64"}], "rows": ["DSRNA-CB"]},
        "5": {"images": IMAGES, "rows": ["RobNet-large", "DARTS (1st)", "DSRNA-CB"]},
    },
}


def tiny(**changes):
    return replace(Scale.parse("tiny", TINY), **changes)


def idle_job(name, after=None, **options):
    """A job whose hash and options mean nothing."""
    return Job("search" if after is None else "train", name, "idle", {"seed": 0, "dataset": "digits", **options}, after)


class Script(subprocess.Popen):
    """A process as the pool wants it."""

    exitcode = property(subprocess.Popen.poll)
    join = subprocess.Popen.wait


def launcher(root, log, script="open(result, 'w').write('{}')"):
    """Launches processes that run `script`, which knows its `name` and where its `result` goes; `log` gets the names."""

    def launch(job, worker):
        log.append((job.subject, worker))
        folder = root / job.name
        folder.mkdir(parents=True, exist_ok=True)
        program = f"import os, sys, time; name, result = sys.argv[1:]; {script}"
        with (folder / "log.txt").open("wb") as output:
            return Script(
                [sys.executable, "-S", "-E", "-c", program, job.subject, str(folder / RESULT)], stdout=output, stderr=output
            )

    return launch

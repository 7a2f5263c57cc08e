"""A run in a process of its own, which dies by SIGKILL in place of writing a chosen row of its log."""

import json
import os
import subprocess
import sys

PROGRAM = """
import json, os, signal, sys
from robust_nas import runs
{setup}

options, deadly = json.loads(sys.argv[1]), int(sys.argv[2])
append, rows = runs.CsvLog.append, 0

def append_or_die(log, row):
    global rows
    rows += log.path.name == {log!r}
    if rows == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    append(log, row)

runs.CsvLog.append = append_or_die
{call}
"""


def run(setup: str, call: str, log: str, options: dict, deadly: int = 0) -> None:
    """Run `call`, which may use `options`, after `setup`; it has to die if it is to, and else to succeed.

    Args:
        log: name of the CSV file whose rows are counted.
        deadly: number of the row in place of which the process dies; 0 for never.
    """
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup, call=call, log=log), json.dumps(options), str(deadly)],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
    )
    assert process.returncode == (-9 if deadly else 0), process.stderr.decode()

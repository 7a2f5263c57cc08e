"""What the tests of the command line share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
import experiments.tables.run
import robust_nas.attacks
import robust_nas.certification
import robust_nas.exporting
import robust_nas.search
import robust_nas.training
import robust_nas.verification
from tests.robust_nas.helpers import GENOTYPE

GOOD = {"--arch": "cell.json", "--weights": "good/model.safetensors", "--certificates": "good/certify.csv"}
LINES = {
    "search": ["search", "--metric", "none", "--epochs", "1"],
    "zoo": ["zoo"],
    "show": ["show", "cell.json"],
    "convert": ["convert", "cell.json"],
    "train": ["train", "--arch", "cell.json", "--epochs", "1"],
    "attack": ["attack", "--arch", "cell.json", "--weights", GOOD["--weights"], "--attack", "fgsm", "--no-guards"],
    "certify": ["certify", "--arch", "cell.json", "--weights", GOOD["--weights"], "--images", "2", "--method", "ibp"],
    "audit": ["audit", *(word for pair in GOOD.items() for word in pair)],
    "table": ["table", "5", "--dry-run"],
    "verify": ["verify", "--onnx", "network.onnx", "--property", "property.vnnlib"],
    "export": ["export", "--arch", "cell.json", "--weights", GOOD["--weights"], "--images", "1", "--epsilon", "0.01"],
}
"""A good line for every command."""

RUNNERS = {
    "search": (robust_nas.search, "run_search"),
    "train": (robust_nas.training, "run_training"),
    "attack": (robust_nas.attacks, "run_attack"),
    "certify": (robust_nas.certification, "run_certify"),
    "audit": (robust_nas.certification, "run_audit"),
    "table": (experiments.tables.run, "run_table"),
    "verify": (robust_nas.verification, "run_verify"),
    "export": (robust_nas.exporting, "run_export"),
}
"""The function behind each command: the module that has it, and its name."""

BINARY = bytes(range(256))
CELL = GENOTYPE.to_dict()


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def refused(capsys, *arguments: object) -> str:
    """The line that refuses these arguments; it is the only one, and no file is made or changed."""
    before = contents()
    code = run(*arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (out, err)
    assert err.startswith("dsrna: error: ") and err.count("\n") == 1, err
    assert len(err) < 1000 and contents() == before
    return err


def contents() -> dict[Path, bytes | None]:
    """Of all files and folders below the one we are in."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path.cwd().rglob("*")}


def write(path: str, content: bytes | str | object) -> None:
    """Bytes and text as they are, all else as JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def replace(monkeypatch: pytest.MonkeyPatch, command: str, function: Callable[..., object]) -> None:
    """Have a command call another function."""
    module, name = RUNNERS[command]
    monkeypatch.setattr(module, name, function)

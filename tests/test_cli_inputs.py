"""Bad and unusual files to every command: answered rightly, or refused in one line with nothing written."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.tables.scale import SCALES
from robust_nas.certification import certify
from robust_nas.training import TrainingResult
from robust_nas.training.weights import load_network
from robust_nas.zoo import find
from tests.cli_helpers import BINARY, CELL, GOOD, LINES, refused, run, write
from tests.levels import level
from tests.robust_nas.helpers import GENOTYPE, write_image

PAIRS = "[('none', 0), ('none', 1)]"
CALL = f"Genotype({PAIRS}, [2], {PAIRS}, [2])"


GENOTYPES = {
    "empty": ("", "is empty"),
    "blank": (" \n\t", "is empty"),
    "binary": (BINARY, "not a text"),
    "zeros": (b"\0" * 64, "in no notation known"),
    "latin-1": ("é = 1".encode("latin-1"), "not a text"),
    "utf-16": (CALL.encode("utf-16"), "not a text"),
    "truncated json": (json.dumps(CELL)[:60], "not JSON"),
    "truncated call": (CALL[:-20], "in no notation known"),
    "deep json": ('{"a":' * 10**5, "not JSON"),
    "deep call": ("Genotype(" + "[" * 10**5, "in no notation known"),
    "huge number": ('{"version": ' + "1" * 5000 + "}", "not JSON"),
    "nan": ('{"nodes": NaN}', "not JSON"),
    "list": ("[1]", "holds no genotype"),
    "null": ("null", "holds no genotype"),
    "number": ("3", "an ENAS arc"),
    "other json": ({"format": "dsrna-weights"}, "format: must be"),
    "surrogates": ({**CELL, "\ud800": 1}, "unknown field"),
    "lines in a name": ({**CELL, "a\nb": 1}, "a b: unknown field"),
    "no list": ({**CELL, "normal": "x"}, "normal: must be a list"),
    "huge nodes": ({**CELL, "nodes": 10**30}, "nodes need"),
    "negative nodes": ({**CELL, "nodes": -1}, "nodes: must be at least 1"),
    "true nodes": ({**CELL, "nodes": True}, "nodes: must be a whole number"),
    "unknown operation": ({**CELL, "normal": [["conv", 0]] * 2}, "unknown operation 'conv'"),
    "input out of range": ({**CELL, "reduce": [["none", 2]] * 2}, "must be 0 to 1"),
    "code": ("__import__('pathlib').Path('ran').touch()", "holds no genotype"),
    "several": (f"A = {CALL}\nB = {CALL}", "holds several genotypes, A, B;"),
    "recurrent": ("Genotype(recurrent=[('tanh', 0)], concat=range(1, 9))", "Genotype takes normal"),
}


@pytest.mark.parametrize("command", ["show", "convert", "train", "attack", "certify", "audit"])
def test_genotypes(command, here, capsys):
    for name, (content, words) in GENOTYPES.items():
        write("bad", content)
        line = ["bad" if word == "cell.json" else word for word in LINES[command]]
        err = refused(capsys, *line)
        assert "bad: " in err and words in err, name
    for arch, words in {
        "nowhere": "no such genotype file", "": "no such genotype file", ".": "no such genotype file",
        "a\0b": "no such genotype file", "\udcff": "no such genotype file", "PCDARTS": "did you mean PC-DARTS",
        "good/certify.csv": "holds no genotype", GOOD["--weights"]: "not a text", "good/model.json": "format: must be",
        "cell.json:A": "which has no name", "nowhere:A": "no such genotype file", "/dev/null": "is empty",
    }.items():  # fmt: skip
        assert words in refused(capsys, *(arch if word == "cell.json" else word for word in LINES[command]))
    assert not Path("ran").exists()


POSTED = (
    "Genotype(normal=[[('sep_conv_3x3', 0), ('max_pool_3x3', 1)]], normal_concat=range(2, 3), "
    "reduce=[('avg_pool_3x3', 0), ('skip_connect', 1)], reduce_concat=(2,))"
)


@pytest.mark.parametrize(
    ("command", "before"),
    [
        *((command, "import os\nCELL = ") for command in ("show", "convert", "train", "attack", "certify", "audit")),
        ("convert", "07/20 08:55:01 PM genotype = "),
    ],
)
def test_the_same_genotype_in_another_notation(command, before, here, capsys):
    """Every command knows it again: weights and certificates are of this architecture."""
    write("posted", f"{before}{POSTED}\n")
    line = ["posted" if word == "cell.json" else word for word in LINES[command]]
    assert run(*line, *([] if command == "convert" else ["--out", "out"])) == 0
    if command == "convert":
        assert json.loads(capsys.readouterr().out) == {**CELL, "meta": {}}


def test_standard_input_is_read_once(here, monkeypatch):
    """Without weights certify trains first, a network of the same architecture."""

    def training(options):
        assert find(options.arch) == GENOTYPE
        path = Path(GOOD["--weights"])
        return TrainingResult(path, [], load_network(GENOTYPE, path)[0], 0.0)

    monkeypatch.setattr(certify, "run_training", training)
    with Path("cell.json").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("certify", "--arch", "-", "--images", "2", "--method", "ibp", "--out", "out") == 0


SIDECARS = {
    "missing": (None, "no such file"),
    "empty": ("", "not JSON"),
    "binary": (BINARY, "not JSON"),
    "truncated": ('{"format": ', "not JSON"),
    "deep": ('{"a":' * 10**5, "not JSON"),
    "list": ("[]", "not a 'dsrna-weights' file"),
    "version": ({"version": 2}, "not a 'dsrna-weights' file"),
    "no genotype": ({"genotype": None}, "genotype: must be a JSON object"),
    "other data": ({"dataset": "mnist"}, "add --dataset mnist"),
    "no data": ({"dataset": None}, "dataset: must be text"),
    "network list": ({"network": []}, "builds no network"),
    "network text": ({"network": "x"}, "builds no network"),
    "network null": ({"network": None}, "builds no network"),
}
SETTINGS = {
    "channels": [0, -1, "8", 1.5, None, True, 10**30],
    "cells": [0, -1, "3", 1.5],
    "in_channels": [0, -1, 3, None],
    "classes": [0, 1, -1, 2.5],
    "mean": [[], "x", [0.1, 0.2], [None]],
    "std": [[], ["a"], {}],
    "pad": [-1, -100, 1.5, "1"],
    "stem_stride": [0, -1, "2"],
    "stem": ["x", None],
    "other": [1],
}
TENSORS = {
    "empty": (lambda tensors: {}, "is missing"),
    "one too many": (lambda tensors: {**tensors, "x": torch.zeros(1)}, "is not part of the network"),
    "other shape": (lambda tensors: {name: tensor[None] for name, tensor in tensors.items()}, "weights of another"),
    "nan": (lambda tensors: {**tensors, "classifier.bias": torch.full((10,), torch.nan)}, "holds NaN"),
    "infinite": (lambda tensors: {**tensors, "classifier.bias": torch.full((10,), torch.inf)}, "holds NaN or inf"),
    "whole": (lambda tensors: {**tensors, "classifier.bias": torch.zeros(10, dtype=torch.int32)}, "holds torch.int32"),
    "true": (lambda tensors: {**tensors, "classifier.bias": torch.zeros(10, dtype=torch.bool)}, "holds torch.bool"),
    "complex": (lambda tensors: {**tensors, "classifier.bias": torch.zeros(10).cfloat()}, "holds torch.complex64"),
    "8 bits": (
        lambda tensors: {**tensors, "classifier.bias": torch.full((10,), torch.nan).to(torch.float8_e4m3fn)},
        "holds NaN",
    ),
}


@pytest.mark.parametrize("command", ["attack", "certify", "audit"])
def test_weights(command, here, capsys):
    raw = Path(GOOD["--weights"]).read_bytes()
    sidecar, tensors = json.loads(Path("good/model.json").read_text()), load_file(GOOD["--weights"])
    line = ["w.safetensors" if word == GOOD["--weights"] else word for word in LINES[command]]

    def check(content: bytes, beside: object, words: str) -> None:
        write("w.safetensors", content)
        write("w.json", beside)
        assert words in refused(capsys, *line)

    for content in (b"", BINARY, raw[:5], raw[:-10], b"\xff" * 8 + raw[8:]):
        check(content, sidecar, "w.safetensors: not a safetensors file")
    for name, (change, words) in SIDECARS.items():
        beside = {**sidecar, **change} if isinstance(change, dict) else change
        write("w.safetensors", raw)
        if beside is None:
            Path("w.json").unlink()
            assert words in refused(capsys, *line), name
        else:
            check(raw, beside, words)
    check(raw, {name: value for name, value in sidecar.items() if name != "network"}, "network: missing")
    for setting, values in SETTINGS.items():
        for value in values:
            check(raw, {**sidecar, "network": {**sidecar["network"], setting: value}}, "w.")
    for change, words in TENSORS.values():
        save_file(change(tensors), "w.safetensors")
        check(Path("w.safetensors").read_bytes(), sidecar, words)
    for path in ("nowhere", ".", "", "cell.json", "good/certify.csv", "good/model.json"):
        refused(capsys, *(path if word == "w.safetensors" else word for word in line))
    Path("cell.json").write_text(json.dumps({**CELL, "normal": [["skip_connect", 0], ["none", 1]]}))
    assert "weights of another architecture" in refused(capsys, *LINES[command])


VALUES = {
    "index": ["-1", "1.0", "", "9" * 18, "9" * 5000, "x"],
    "label": ["3", "-1", "x", "9" * 30],
    "predicted": ["77", "", "9" * 30],
    "correct": ["true", "", "1"],
    "norm": ["l0", ""],
    "radius": ["nan", "inf", "-1", "", "x"],
    "attack_radius": ["nan", "-inf", "x"],
    "method": ["magic", ""],
    "evaluations": ["x", "-1", "1.5"],
    "seconds": ["nan", "-1"],
    "status": ["fine", ""],
}
CONFIGS = [None, "", BINARY, "[]", "null", "{}", '{"options": ', '{"a":' * 10**5]
OPTIONS = {
    "domain": ["x", None, ["unit"], {"a": 1}],
    "weights_sha256": ["0" * 64, 3],
    "target_seed": ["x", 1.5, True],
}


@pytest.mark.parametrize("command", ["attack", "audit"])
def test_certificates(command, here, capsys):
    text, config = Path("good/certify.csv").read_text(), json.loads(Path("good/config.json").read_text())
    header, row = (line.split(",") for line in text.splitlines()[:2])
    line = ["audit", *(word for pair in {**GOOD, "--certificates": "c/certify.csv"}.items() for word in pair)]
    if command == "attack":
        line = [*LINES["attack"], "--images", "2", "--certificates", "c/certify.csv"]

    def check(content: object, beside: object = config) -> None:
        write("c/certify.csv", content)
        Path("c/config.json").unlink(missing_ok=True)
        if beside is not None:
            write("c/config.json", beside)
        err = refused(capsys, *line)
        assert "c/certify.csv: " in err or "c/config.json: " in err

    for content in ("", BINARY, b"\xff\xfe", b"\0", ",".join(header), "a,b\n1,2\n", text[: len(",".join(header)) + 20]):
        check(content)
    check(text.replace(",", ";"))
    check('"' + text)
    check("\n".join([",".join(header), "x" * 200_000]))
    for column in header:
        kept = [place for place, name in enumerate(header) if name != column]
        check("\n".join(",".join(cells[place] for place in kept) for cells in (header, row)))
    for column, values in VALUES.items():
        for value in values:
            cells = [value if name == column else cell for name, cell in zip(header, row, strict=True)]
            check("\n".join([",".join(header), ",".join(cells)]))
    for beside in CONFIGS:
        check(text, beside)
    for option, values in OPTIONS.items():
        for value in values:
            check(text, {**config, "options": {**config["options"], option: value}})
    for path in ("nowhere", ".", "", "/dev/null", "cell.json"):
        refused(capsys, *(path if word == "c/certify.csv" else word for word in line))


@pytest.mark.parametrize("memory", level([None, "x", -1], [None, "x", -1, 0, float("nan"), float("inf"), True, 10**400, [1]]))
def test_certificates_that_do_not_say_their_memory(memory, here):
    config = json.loads(Path("good/config.json").read_text())
    write("good/config.json", {**config, "options": {**config["options"], "memory": memory}})
    assert run(*LINES["audit"], "--out", "out") == 0


def test_certificates_from_a_spreadsheet(here):
    """With a byte order mark, other line ends and columns of somebody's own."""
    header, *rows = Path("good/certify.csv").read_text().splitlines()
    text = "\r\n".join([f"{header},note", *(f"{row},mine" for row in rows)])
    Path("good/certify.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run(*LINES["audit"], "--out", "out") == 0


@pytest.mark.parametrize("command", ["search", "train", "attack", "certify", "audit"])
@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "imagefolder", "imagefolder64"])
def test_data_that_are_not_there(command, dataset, here, capsys):
    for data in ("nowhere", "good", "", "cell.json"):
        refused(capsys, *LINES[command], "--dataset", dataset, "--data", data)


def idx(magic: int, *sizes: int, value: int = 0) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + bytes([value]) * int(np.prod(sizes))


PIXELS, LABELS = 0x803, 0x801
MNIST = {
    "train-images-idx3-ubyte": idx(PIXELS, 40, 28, 28),
    "train-labels-idx1-ubyte": idx(LABELS, 40),
    "t10k-images-idx3-ubyte": idx(PIXELS, 4, 28, 28),
    "t10k-labels-idx1-ubyte": idx(LABELS, 4),
}
BROKEN = {
    "train-images-idx3-ubyte": [b"", BINARY, MNIST["train-images-idx3-ubyte"][:500], idx(PIXELS, 39, 28, 28), idx(PIXELS, 40, 5, 5), idx(LABELS, 40), idx(PIXELS, 0, 28, 28)],
    "train-labels-idx1-ubyte": [b"", BINARY, idx(LABELS, 39), idx(LABELS, 40, value=200), idx(LABELS, 0)],
    "t10k-labels-idx1-ubyte": [idx(LABELS, 3), idx(LABELS, 4, value=10)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(name, each) for name, contents in BROKEN.items() for each in contents])
def test_mnist_of_which_something_is_missing(name, content, here, capsys):
    for file, whole in {**MNIST, name: content}.items():
        write(f"data/MNIST/raw/{file}", whole)
    assert "mnist: no complete data" in refused(capsys, *LINES["train"], "--dataset", "mnist")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train/a/1.png": None, "val/a/1.png": None}, "one class, a"),
        ({"train/a/1.png": None, "train/b/1.png": None}, "no images"),
        ({"train/a/1.png": None, "train/b/1.png": None, "val/a/1.png": None, "val/c/1.png": None}, "b, c"),
        ({"train/a/1.txt": b"", "val/a/1.txt": b""}, "no images"),
        ({"train": b"", "val": b""}, "no images"),
        ({f"{part}/{name}/1.png": b"x" for part in ("train", "val") for name in "ab"}, "cannot be read as an image"),
        ({f"{part}/{name}/1.png": b"" for part in ("train", "val") for name in "ab"}, "cannot be read as an image"),
    ],
)
def test_folders_of_images(files, words, here, capsys):
    for path, content in files.items():
        if content is None:
            write_image(Path("data", path), np.zeros((8, 8, 3)))
        else:
            write(f"data/{path}", content)
    assert words in refused(capsys, *LINES["train"], "--dataset", "imagefolder64")


SMOKE = (SCALES / "smoke.toml").read_text()
SCALE_CHANGES = [
    ('{ zoo = "PNAS" }', '{ zoo = "PNAZ" }'),
    ('{ zoo = "PNAS" }', "{ }"),
    ('{ zoo = "PNAS" }', "3"),
    ("threads = 1", "threads = 0"),
    ("threads = 1", "threads = -2"),
    ("threads = 1", 'threads = "x"'),
    ("threads = 1", "other = 1"),
    ("seeds = [0, 1]", "seeds = []"),
    ("seeds = [0, 1]", "seeds = 3"),
    ("seeds = [0, 1]", "seeds = [-1]"),
    ("seeds = [0, 1]", 'seeds = ["x"]'),
    ("channels = [2]", "channels = [0]"),
    ('preset = "quick"\nepochs = 3', "epochs = 3"),
    ('preset = "quick"\nepochs = 5', "epochs = 5"),
    ("images = 16", ""),
    ("images = 6", ""),
    ('train = "digits"', 'train = "imagenet"'),
    ('search = "digits"', 'search = "imagenet"'),
    ('images = [{ search = "digits", train = "digits" }]', "images = 3"),
    ("[tables.5]", "[tables.x]"),
    ("[tables.5]", "[tables.7]"),
]


@pytest.mark.parametrize(("old", "new"), SCALE_CHANGES)
def test_scales_that_lack_something(old, new, here, capsys):
    assert old in SMOKE
    write("scale.toml", SMOKE.replace(old, new))
    refused(capsys, *LINES["table"], "--scale", "scale.toml")


@pytest.mark.parametrize("content", ["", BINARY, SMOKE[: len(SMOKE) // 2], SMOKE + "\0", SMOKE.encode() + b"\xff", "[]", "{}"])
def test_scales_that_are_none(content, here, capsys):
    write("scale.toml", content)
    assert "scale.toml: " in refused(capsys, *LINES["table"], "--scale", "scale.toml")
    for scale in ("", "huge", "good", "cell.json"):
        refused(capsys, *LINES["table"], "--scale", scale)

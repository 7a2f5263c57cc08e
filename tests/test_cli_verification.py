"""dsrna verify and export: the competition's answers, benchmarks that resume, and one line for what is malformed."""

import csv
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.cli_helpers import BINARY, refused, run
from tests.robust_nas.killing import run as run_and_kill
from tests.verify.complete.files import graph_model, node, saved
from verify import BoundedNetwork, certified_radius, from_onnx

EYE = np.eye(2, dtype=np.float32)
BOX = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)" + "".join(
    f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(2)
)
HOLDS, BROKEN = f"{BOX}(assert (<= Y_0 -0.5))", f"{BOX}(assert (<= Y_0 0.5))"


def relu(**attributes):
    return graph_model([node("MatMul", "x w", "m"), node("Relu", "m")], [1, 2], w=EYE, **attributes)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a network and two properties, where we are."""
    monkeypatch.chdir(tmp_path)
    saved(relu(), tmp_path / "n.onnx")
    Path("holds.vnnlib").write_text(HOLDS)
    Path("broken.vnnlib").write_text(BROKEN)
    return tmp_path


def rows(path="runs/verify/results.csv"):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_answers(files, capsys):
    assert run("verify", "--onnx", "n.onnx", "--property", "holds.vnnlib") == 0
    assert capsys.readouterr().out.startswith("unsat\n")
    assert Path("runs/verify/answer.txt").read_text() == "unsat\n"
    assert run("verify", "--onnx", "n.onnx", "--property", "broken.vnnlib", "--out", "o", "--time-limit", "5") == 0
    out = capsys.readouterr().out
    text = Path("o/answer.txt").read_text()
    assert out.startswith(text)
    assert re.fullmatch(r"sat\n\(\(X_0 \S+\)\n \(X_1 \S+\)\n \(Y_0 \S+\)\n \(Y_1 \S+\)\)\n", text)


def test_a_benchmark_and_its_files(files, capsys):
    Path("packed.vnnlib.gz").write_bytes(gzip.compress(HOLDS.encode()))
    Path("bad.vnnlib").write_text("(assert")
    lines = ["n.onnx,holds.vnnlib,30", "n.onnx,packed.vnnlib,30", "n.onnx,broken.vnnlib,30", "n.onnx,bad.vnnlib,30"]
    Path("i.csv").write_text("\n".join(lines))
    assert run("verify", "--instances", "i.csv") == 0
    found = rows()
    assert [row["answer"] for row in found] == ["unsat", "unsat", "sat", "error"]
    assert "parentheses" in found[3]["note"] and found[1]["property"].endswith(".gz")
    assert Path("runs/verify/counterexample_2.txt").read_text().startswith("sat\n((X_0 ")
    assert Path("runs/verify/cactus.png").stat().st_size > 1000


def test_a_killed_benchmark_goes_on_and_repeats_nothing(files, monkeypatch):
    Path("i.csv").write_text("n.onnx,holds.vnnlib,30\nn.onnx,broken.vnnlib,30\nn.onnx,holds.vnnlib,30\n")
    setup = "from robust_nas.options import VerifyOptions\nfrom robust_nas.verification import run_verify"
    call = "run_verify(VerifyOptions(**options))"
    monkeypatch.chdir(Path(__file__).parents[1])
    options = {"instances": str(files / "i.csv"), "out": str(files / "o")}
    run_and_kill(setup, call, "results.csv", options, deadly=3)
    monkeypatch.chdir(files)
    before = (files / "o" / "results.csv").read_text()
    assert len(before.splitlines()) == 3
    assert run("verify", "--instances", str(files / "i.csv"), "--out", str(files / "o"), "--resume") == 0
    after = (files / "o" / "results.csv").read_text()
    assert after.startswith(before) and [row["answer"] for row in rows("o/results.csv")] == ["unsat", "sat", "unsat"]


def test_resuming_another_benchmark_is_refused(files, capsys):
    Path("i.csv").write_text("n.onnx,holds.vnnlib,30\n")
    assert run("verify", "--instances", "i.csv") == 0
    capsys.readouterr()
    Path("i.csv").write_text("n.onnx,broken.vnnlib,30\n")
    assert "instances_sha256" in refused(capsys, "verify", "--instances", "i.csv", "--resume")
    assert "no run to resume" in refused(capsys, "verify", "--instances", "i.csv", "--resume", "--out", "other")


@pytest.mark.parametrize(
    "line, words",
    [
        ([], "either --onnx and --property"),
        (["--onnx", "n.onnx"], "either --onnx and --property"),
        (["--onnx", "n.onnx", "--property", "holds.vnnlib", "--instances", "i.csv"], "either --onnx and --property"),
        (["--onnx", "n.onnx", "--property", "holds.vnnlib", "--resume"], "--resume is for"),
        (["--onnx", "n.onnx", "--property", "holds.vnnlib", "--out", "i.csv"], "is a file"),
        (["--onnx", "nowhere", "--property", "holds.vnnlib"], "nowhere"),
        (["--instances", "i.csv", "--time-limit", "0"], "not above 0"),
    ],
)
def test_wrong_lines(files, capsys, line, words):
    Path("i.csv").write_text("n.onnx,holds.vnnlib,30\n")
    assert words in refused(capsys, "verify", *line)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no instances"),
        ("n.onnx,holds.vnnlib", "line 1"),
        ("n.onnx,holds.vnnlib,30\nn.onnx,gone.vnnlib,30", "line 2: gone.vnnlib: no such file"),
        ("n.onnx,holds.vnnlib,soon", "'soon' is no number"),
        ("n.onnx,holds.vnnlib,-1", "'-1' is no number"),
        (BINARY, "no CSV file"),
    ],
)
def test_wrong_lists_of_instances(files, capsys, text, words):
    Path("i.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert words in refused(capsys, "verify", "--instances", "i.csv")


def changed(change, **attributes):
    model = relu(**attributes)
    change(model)
    return model


def two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2]))


def two_outputs(model):
    model.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, None))


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="gone")


def cut(model):
    tensor = model.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:7]


def half(model):
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(EYE.astype(np.float16), "w"))


def unknown_domain(model):
    model.graph.node[1].domain = "elsewhere"


def cycle(model):
    model.graph.node[0].input[0] = "y"


def twice(model):
    model.graph.node[0].output[0] = "y"


def elsewhere(model):
    external(model)
    model.graph.initializer[0].external_data[0].value = "../../n.onnx"


def huge_weights(model):
    model.graph.initializer[0].dims[:] = [2**31, 2**31]


def unknown_type(model):
    model.graph.initializer[0].data_type = 99


def no_version(model):
    model.ClearField("opset_import")


def a_branch(model):
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])])
    model.graph.node[1].CopyFrom(helper.make_node("If", ["m"], ["y"], then_branch=graph, else_branch=graph))


def letters(model):
    model.graph.node[1].input[0] = model.graph.node[0].output[0] = "Q"
    content = model.SerializeToString()
    return content.replace(b"Q", b"\xff")


def many(shape):
    return graph_model([node("Relu", "x")], shape)


NETWORKS = {
    "empty": lambda: b"",
    "no protobuf": lambda: BINARY,
    "text": lambda: b"a network",
    "truncated": lambda: relu().SerializeToString()[:-20],
    "a half": lambda: relu().SerializeToString()[:60],
    "bad gzip": lambda: b"\x1f\x8bnothing",
    "no nodes": lambda: changed(lambda model: model.graph.ClearField("node")),
    "no input": lambda: changed(lambda model: model.graph.ClearField("input")),
    "two inputs": lambda: changed(two_inputs),
    "two outputs": lambda: changed(two_outputs),
    "no output": lambda: changed(lambda model: model.graph.ClearField("output")),
    "external data missing": lambda: changed(external),
    "short weights": lambda: changed(cut),
    "half precision": lambda: changed(half),
    "another domain": lambda: changed(unknown_domain),
    "a future version": lambda: relu(opset=1000),
    "a future format": lambda: changed(lambda model: setattr(model, "ir_version", 10**6)),
    "unknown operator": lambda: graph_model([node("Nonsense", "x")], [1, 2]),
    "unsupported operator": lambda: graph_model([node("Erf", "x")], [1, 2]),
    "no sound rule": lambda: graph_model([node("Elu", "x", alpha=-1.0)], [1, 2]),
    "integers": lambda: graph_model([node("Relu", "x")], [1, 2], kind=TensorProto.INT32),
    "open shape": lambda: many([1, "n"]),
    "no axes": lambda: many([]),
    "huge shape": lambda: many([1, 2**40]),
    "weights of another shape": lambda: graph_model([node("MatMul", "x w")], [1, 2], w=np.ones((3, 2), np.float32)),
    "a name of nothing": lambda: graph_model([node("Add", "x q")], [1, 2]),
    "a reshape that does not fit": lambda: graph_model([node("Reshape", "x s")], [1, 2], s=np.array([1, 3])),
    "weights that are not finite": lambda: graph_model([node("MatMul", "x w")], [1, 2], w=EYE * np.nan),
    "an output that depends on nothing": lambda: graph_model([node("Relu", "w")], [1, 2], w=EYE),
    "infinite weights": lambda: graph_model([node("MatMul", "x w")], [1, 2], w=EYE + np.float32(np.inf)),
    "a cycle": lambda: changed(cycle),
    "a value made twice": lambda: changed(twice),
    "external data elsewhere": lambda: changed(elsewhere),
    "huge weights": lambda: changed(huge_weights),
    "weights of no type": lambda: changed(unknown_type),
    "an operator set of no version": lambda: changed(no_version),
    "an operator set of old": lambda: relu(opset=-1),
    "a branch": lambda: changed(a_branch),
    "names that are no text": lambda: letters(relu()),
    "words for weights": lambda: graph_model([node("MatMul", "x w")], [1, 2], w=np.array([["a", "b"]])),
    "complex weights": lambda: graph_model([node("MatMul", "x w")], [1, 2], w=EYE * 1j),
    "a mean over no axis": lambda: graph_model([node("GlobalAveragePool", "x")], [1, 2]),
    "a stride of 0": lambda: graph_model([node("MaxPool", "x", kernel_shape=[1], strides=[0])], [1, 1, 2]),
    "an attribute of another type": lambda: graph_model([node("MaxPool", "x", kernel_shape="a")], [1, 1, 2]),
    "an axis too far": lambda: graph_model([node("Concat", "x x", axis=7)], [1, 2]),
    "an output of nothing": lambda: graph_model([node("Slice", "x s s a")], [1, 2], s=np.array([0]), a=np.array([1])),
    "a padding without end": lambda: graph_model([node("Pad", "x p")], [1, 2], p=np.array([0, 0, 0, 2**60])),
    "a bias that is no number": lambda: graph_model([node("Add", "x c")], [1, 2], c=np.array([np.nan, 0], dtype=np.float32)),
    "division by 0": lambda: graph_model([node("Div", "x z")], [1, 2], z=np.float32(0)),
    "another number of inputs": lambda: many([1, 3]),
    "batches of two": lambda: graph_model([node("Conv", "x w")], [2, 1, 2, 2], w=np.ones((1, 1, 2, 2), np.float32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_malformed_networks_are_one_line(files, capsys, name):
    made = NETWORKS[name]()
    Path("n.onnx").write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    line = refused(capsys, "verify", "--onnx", "n.onnx", "--property", "holds.vnnlib")
    assert "Traceback" not in line


UNSAFE = "(assert (<= Y_0 0))"
SECOND = "(vnnlib-version <2.0>)(declare-network N (declare-input X real [1,{}])(declare-output Y real [1,{}]))"
PROPERTIES = {
    "empty": b"",
    "no text": BINARY,
    "bad gzip": b"\x1f\x8bnothing",
    "truncated": HOLDS[:-3],
    "a variable missing": HOLDS.replace("X_1", "X_2"),
    "never closed": "(" * 10**5,
    "no bounds": BOX.split("(assert")[0] + UNSAFE,
    "a lower bound alone": BOX.replace("(assert (<= X_1 1))", "") + UNSAFE,
    "contradictory boxes": f"{BOX}(assert (>= X_0 2)){UNSAFE}",
    "nothing unsafe": BOX,
    "an unknown symbol": f"{BOX}(assert (<= Z_0 0))",
    "an unknown command": f"{BOX}(check-sat)",
    "an unknown operator": f"{BOX}(assert (xor (<= Y_0 0)))",
    "strict": f"{BOX}(assert (< Y_0 0))",
    "not linear": f"{BOX}(assert (<= (* Y_0 Y_1) 0))",
    "inputs with outputs": f"{BOX}(assert (<= X_0 Y_1))",
    "no number": f"{BOX}(assert (<= Y_0 1.2.3))",
    "a number without end": f"{BOX}(assert (<= Y_0 {'9' * 10**6}))",
    "a huge number": f"{BOX}(assert (<= Y_0 1e999))",
    "a huge product": f"{BOX}(assert (<= Y_0 (* 1e300 1e300)))",
    "too many ways": BOX + "(assert (or (<= Y_0 0) (<= Y_0 1)))" * 20,
    "whole numbers": BOX.replace("Real", "Int") + UNSAFE,
    "more outputs than the network": f"{BOX}(declare-const Y_2 Real){UNSAFE}",
    "version 3": SECOND.format(2, 2).replace("2.0", "3.0"),
    "half of version 2": SECOND.format(2, 2)[:-3],
    "another shape": SECOND.format(3, 2) + "".join(f"(assert (== X[0,{i}] 0.0))" for i in range(3)) + "(assert (<= Y[0,0] 0.0))",
    "an index too far": SECOND.format(2, 2) + "(assert (<= Y[0,2] 0.0))",
    "huge shapes": SECOND.format(10**8, 10**8) + "(assert (<= Y[0,0] 0.0))",
    "two networks": SECOND.format(2, 2) + "(declare-network M (declare-input A real [2])(declare-output B real [2]))",
    "a hidden node": SECOND.format(2, 2).replace("(declare-output", '(declare-hidden H real [2] "h")(declare-output'),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_malformed_properties_are_one_line(files, capsys, name):
    text = PROPERTIES[name]
    Path("p.vnnlib").write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused(capsys, "verify", "--onnx", "n.onnx", "--property", "p.vnnlib")
    assert "p.vnnlib: " in line or "the property has" in line


def test_a_missing_package_is_one_line_for_both_commands(here, capsys, monkeypatch):
    import sys

    line = ["--arch", "cell.json", "--weights", "good/model.safetensors", "--images", "1", "--epsilon", "0.01"]
    saved(relu(), Path("n.onnx"))
    Path("holds.vnnlib").write_text(HOLDS)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'dsrna[onnx]'" in refused(capsys, "export", *line)
    assert "pip install 'dsrna[onnx]'" in refused(capsys, "verify", "--onnx", "n.onnx", "--property", "holds.vnnlib")


def test_export_and_back_gives_the_certificates_answer(here, capsys):
    """Below the certified radius a proof, above the attack's a counterexample; the file is the network."""
    from robust_nas.data import load
    from robust_nas.training import load_trained
    from robust_nas.zoo import find

    data = load("digits")
    network = load_trained(find("cell.json"), Path("good/model.safetensors"), data)
    image, label = data.test.images[:1], network(data.test.images[:1]).argmax(1)
    radius = float(certified_radius(BoundedNetwork(network, image), image, label, method="crown").radius)
    line = ["--arch", "cell.json", "--weights", "good/model.safetensors", "--images", "1"]
    assert run("export", *line, "--epsilon", f"{radius * 0.9!r},1", "--time-limit", "20") == 0
    assert sorted(path.suffix for path in Path("runs/export").iterdir()) == [
        ".csv", ".json", ".onnx", ".toml", ".vnnlib", ".vnnlib"
    ]
    written = from_onnx("runs/export/network.onnx")
    torch.testing.assert_close(written(data.test.images[:8]), network(data.test.images[:8]), rtol=1e-4, atol=1e-5)
    assert run("verify", "--instances", "runs/export/instances.csv") == 0
    expected = ["unsat", "sat"] if int(label) == int(data.test.labels[0]) else ["sat", "sat"]
    assert [row["answer"] for row in rows()] == expected
    assert json.loads(Path("runs/export/config.json").read_text())["options"]["epsilons"][1] == 1


NETWORK = ["--arch", "cell.json", "--weights", "good/model.safetensors"]


@pytest.mark.parametrize("version", ["1", "2"])
def test_exported_certificates_are_checked_from_the_files_alone(here, capsys, version):
    """One instance an image with a radius; `verify` proves each, in either version of the language."""
    certificates = rows("good/certify.csv")
    radii = {row["index"]: float(row["radius"]) for row in certificates if float(row["radius"])}
    assert radii
    assert run("export", *NETWORK, "--certificates", "good/certify.csv", "--vnnlib", version) == 0
    texts = [path.read_text() for path in Path("runs/export").glob("*.vnnlib")]
    assert len(texts) == len(radii)
    assert all(("(vnnlib-version <2.0>)" in text) == (version == "2") for text in texts)
    assert run("verify", "--instances", "runs/export/instances.csv", "--time-limit", "20") == 0
    assert {row["answer"] for row in rows()} == {"unsat"} and len(rows()) == len(radii)


def edited(change, path="good/certify.csv"):
    Path(path).write_text(change(Path(path).read_text()))


@pytest.mark.parametrize(
    "change, path, words",
    [
        (lambda text: text.replace("linf", "l2"), "good/certify.csv", "no l2 balls"),
        (lambda text: re.sub(r"^(\d+,\d+,\d+,\w+,\w+),[^,]+", r"\1,0.0", text, flags=re.M), "good/certify.csv", "no certificate has"),
        (lambda text: text.replace("\n0,", "\n99999,"), "good/certify.csv", "test images"),
        (lambda text: text.replace('"targeted": false', '"targeted": true'), "good/config.json", "without --targeted"),
        (lambda text: text.replace('"weights_sha256": "', '"weights_sha256": "0'), "good/config.json", "of other weights"),
    ],
)
def test_certificates_that_cannot_be_exported(here, capsys, change, path, words):
    edited(change, path)
    assert words in refused(capsys, "export", *NETWORK, "--certificates", "good/certify.csv")


@pytest.mark.parametrize(
    "line, words",
    [
        (["--epsilon", ""], "number"),
        (["--images", "10000", "--epsilon", "1"], "test images"),
        ([], "give the radii"),
        (["--certificates", "good/certify.csv", "--epsilon", "1"], "leave them out"),
        (["--certificates", "good/certify.csv", "--images", "1"], "leave them out"),
        (["--certificates", "good/certify.csv", "--domain", "free"], "leave them out"),
        (["--certificates", "nowhere.csv"], "nowhere.csv"),
        (["--epsilon", "1", "--vnnlib", "3"], "vnnlib"),
    ],
)
def test_wrong_exports(here, capsys, line, words):
    assert words in refused(capsys, "export", *NETWORK, *line)

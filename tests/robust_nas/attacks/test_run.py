"""`dsrna attack` from weights on disk to files, on digits."""

import csv
import json
from dataclasses import fields, replace

import pytest
import torch

import cli
from robust_nas.attacks import ATTACKS, Outcome, evaluate, run, run_attack, sweep
from robust_nas.attacks.crosscheck import Comparison
from robust_nas.attacks.evaluate import Target
from robust_nas.attacks.radii import Radius
from robust_nas.attacks.sweep import Point
from robust_nas.attacks.threats import Threat
from robust_nas.certification import run_certify
from robust_nas.data import load
from robust_nas.options import AttackOptions, CertifyOptions, TrainOptions
from robust_nas.training import load_network, run_training
from robust_nas.training.presets import PRESETS
from tests.robust_nas.helpers import GENOTYPE
from verify.checks.errors import InputError

IMAGES = 6
NAMES = ["fgsm", "pgd-10", "cw"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The genotype file and the weights of a tiny network that gets most digits right."""
    folder = tmp_path_factory.mktemp("trained")
    GENOTYPE.save(folder / "genotype.json")
    with pytest.MonkeyPatch.context() as patch:
        tiny = replace(PRESETS["quick"]["standard"], epochs=3, cells=2, channels=3)
        patch.setitem(PRESETS, "quick", {"standard": tiny})
        weights = run_training(TrainOptions(**common(folder), preset="quick", recipe="standard", out=folder / "run")).weights_path
    return folder / "genotype.json", weights


@pytest.fixture(scope="module")
def certified(trained, tmp_path_factory):
    """A certify.csv of that network."""
    out = tmp_path_factory.mktemp("certified")
    run_certify(CertifyOptions(
        **common(trained[0].parent), weights=trained[1], preset="quick", norm="linf", domain="free", images=IMAGES,
        method="crown-ibp", tolerance=0.05, time_limit=None, memory=4096.0, epsilons=(), out=out,
    ))  # fmt: skip
    return out / "certify.csv"


def common(folder):
    options = {"dataset": "digits", "data": None, "download": False, "seed": 0, "device": "cpu"}
    return {**options, "arch": folder / "genotype.json"}


def options(trained, out, **changes):
    chosen = {
        **common(trained[0].parent),
        "weights": trained[1],
        "attacks": NAMES,
        "norm": None,
        "epsilon": None,
        "images": IMAGES,
        "batch_size": 4,
        "cw_search": 1,
        "radius": False,
        "certificates": (),
        "guards": False,
        "resume": False,
        "out": out,
    }
    return {**chosen, **changes}


def line(trained, out, *more):
    common_options = ("--arch", trained[0], "--weights", trained[1], "--images", IMAGES, "--out", out)
    return [str(word) for word in ("attack", *common_options, *more)]


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def columns(kind):
    return [field.name for field in fields(kind)]


def without_time(path):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read(path)]


def test_everything_at_once(trained, certified, tmp_path, capsys):
    attacks = ("--attack", "fgsm,pgd-10", "--radius", "--certificates", certified)
    assert cli.main(line(trained, tmp_path, *attacks)) == 0
    printed = capsys.readouterr().out
    for words in (
        "in evaluation mode; its outputs are logits",
        "pgd-10 linf",
        "growing epsilon, linf",
        "masked gradients",
        "held against the attacks: l-infinity, perturbed pixels may leave [0,1]",
        "none",
        str(tmp_path / "sweep.png"),
    ):
        assert words in printed
    tables = {"attacks.csv": Outcome, "radii.csv": Radius, "sweep.csv": Point, "crosscheck.csv": Comparison}
    for name, kind in tables.items():
        assert list(read(tmp_path / name)[0]) == columns(kind), name
    assert len(read(tmp_path / "attacks.csv")) == 2 * IMAGES
    assert len(read(tmp_path / "sweep.csv")) == sweep.RADII
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    for row in read(tmp_path / "crosscheck.csv"):
        assert row["violated"] == "False" and float(row["radius"]) <= float(row["smallest"])
    (row,) = read(tmp_path / "summary.csv")
    assert list(row) == ["dataset", "images", "clean", "fgsm-linf", "pgd-10-linf"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [each["attack"] for each in summary["attacks"]] == ["fgsm", "pgd-10"]
    assert summary["violated"] == [] and summary["guards"] and summary["verdict"]
    assert 0 <= float(row["pgd-10-linf"]) <= float(row["clean"]) <= 1


def test_outcomes_are_those_of_the_library(trained, tmp_path):
    run_attack(AttackOptions(**options(trained, tmp_path, attacks=["pgd-10"], epsilon=0.05)))
    network, _ = load_network(GENOTYPE, trained[1])
    examples = load("digits").test.take(torch.arange(IMAGES))
    target = Target.of(network.requires_grad_(False), examples, torch.device("cpu"), 4)
    expected = evaluate(target, ATTACKS["pgd-10"].at_any_epsilon(), Threat("linf", 0.05), seed=0)
    rows = read(tmp_path / "attacks.csv")
    assert [float(row["distance"]) for row in rows] == [each.distance for each in expected]
    assert [row["success"] for row in rows] == [str(each.success) for each in expected]
    answers = network(examples.images).argmax(1)
    assert [int(row["predicted"]) for row in rows] == answers.tolist()
    (summary,) = read(tmp_path / "summary.csv")
    assert float(summary["clean"]) == pytest.approx((answers == examples.labels).double().mean().item())


def test_a_run_that_was_stopped_goes_on_with_the_next_attack(trained, tmp_path, monkeypatch):
    ran = []

    def stopped(target, attack, threat, seed):
        if attack.name == "cw" and "cw" not in ran:
            ran.append("cw")
            raise KeyboardInterrupt
        ran.append(attack.name)
        return evaluate(target, attack, threat, seed)

    run_attack(AttackOptions(**options(trained, tmp_path / "whole")))
    monkeypatch.setattr(run, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_attack(AttackOptions(**options(trained, tmp_path / "stopped")))
    assert len(read(tmp_path / "stopped" / "attacks.csv")) == 2 * IMAGES
    run_attack(AttackOptions(**options(trained, tmp_path / "stopped", resume=True)))
    assert ran == ["fgsm", "pgd-10", "cw", "cw"]
    for name in ("attacks.csv", "summary.csv"):
        assert without_time(tmp_path / "stopped" / name) == without_time(tmp_path / "whole" / name)


def test_a_run_starts_again_without_resume(trained, tmp_path):
    run_attack(AttackOptions(**options(trained, tmp_path, attacks=["fgsm"], radius=True)))
    run_attack(AttackOptions(**options(trained, tmp_path, attacks=["pgd-10"])))
    assert {row["attack"] for row in read(tmp_path / "attacks.csv")} == {"pgd-10"}
    assert not (tmp_path / "radii.csv").exists()


def test_resume_refuses_other_options_and_other_weights(trained, tmp_path):
    run_attack(AttackOptions(**options(trained, tmp_path, attacks=["fgsm"])))
    with pytest.raises(InputError, match="the run was started with seed 0, not 1"):
        run_attack(AttackOptions(**options(trained, tmp_path, attacks=["fgsm"], resume=True, seed=1)))
    config = json.loads((tmp_path / "config.json").read_text())
    config["options"]["weights_sha256"] = "0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the run was started with weights_sha256 0, not"):
        run_attack(AttackOptions(**options(trained, tmp_path, attacks=["fgsm"], resume=True)))


def test_resume_refuses_rows_of_something_else(trained, tmp_path):
    run_attack(AttackOptions(**options(trained, tmp_path, attacks=["fgsm"])))
    path = tmp_path / "attacks.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    with pytest.raises(InputError, match="attacks.csv: of another network or other images"):
        run_attack(AttackOptions(**options(trained, tmp_path, attacks=["fgsm"], resume=True)))


def test_a_violated_certificate_is_exit_code_1_and_named(trained, certified, tmp_path, capsys):
    rows = read(certified)
    place = next(index for index, row in enumerate(rows) if row["correct"] == "True")
    rows[place]["radius"] = "0.99"
    with (tmp_path / "certify.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "config.json").write_bytes(certified.with_name("config.json").read_bytes())
    both = ("--certificates", certified, "--certificates", tmp_path / "certify.csv")
    more = ("--attack", "fgsm", "--radius", "--no-guards", *both)
    assert cli.main(line(trained, tmp_path / "out", *more)) == 1
    assert f"1 (images {place})" in capsys.readouterr().out
    compared = read(tmp_path / "out" / "crosscheck.csv")
    assert len(compared) == 2 * len(rows)
    assert [row["index"] for row in compared if row["violated"] == "True"] == [str(place)]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["violated"] == [place]


def test_certificates_may_lie_in_the_folder_of_the_attack(trained, certified, tmp_path):
    """The second run finds the config.json of the first."""
    for name in ("certify.csv", "config.json"):
        (tmp_path / name).write_bytes(certified.with_name(name).read_bytes())
    for _ in range(2):
        result = run_attack(AttackOptions(**options(trained, tmp_path, attacks=["fgsm"], certificates=[tmp_path / "certify.csv"])))
        assert result.violated == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--attack", "deepfool"), "unknown attack 'deepfool'; known: fgsm"),
        (("--attack", "cw", "--norm", "linf"), "cw is an l2 attack; leave out --norm linf, or cw"),
        (("--attack", "fgsm,cw", "--epsilon", "0.1"), "add --norm linf or --norm l2"),
        (("--norm", "l1"), "--norm"),
        (("--epsilon", "0"), "0 is not above 0"),
        (("--images", "501"), "digits has 500 test images; 501 cannot be attacked"),
        (("--resume",), "no run to resume here; start it without --resume"),
        (("--dataset", "mnist", "--data", "nowhere"), "mnist: no complete data in"),
        (("--certificates", __file__), "column 'index' is missing"),
    ],
)
def test_bad_options_are_one_line(trained, tmp_path, capsys, more, words):
    assert cli.main(line(trained, tmp_path / "out", *more)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("dsrna: error: ") and err.count("\n") == 1 and words in err
    assert not (tmp_path / "out").exists()

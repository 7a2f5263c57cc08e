"""Certificates on disk: written by certify, read and attacked by audit, refused in one line when they are wrong."""

import csv
import json
import pickle
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import cli
import verify
from robust_nas.attacks import run_attack
from robust_nas.attacks.crosscheck import Certified
from robust_nas.certification import audit, blocks, certify, run_audit, run_certify
from robust_nas.certification.certify import exact_examples, exact_network
from robust_nas.certification.records import Claim, random_targets, read_certificates, read_target_seed
from robust_nas.data import load
from robust_nas.options import AttackOptions, AuditOptions, CertifyOptions, TrainOptions
from robust_nas.training import load_trained, run_training
from robust_nas.training.presets import PRESETS
from tests.robust_nas.helpers import GENOTYPE
from verify.checks.errors import InputError

TINY = replace(PRESETS["quick"]["standard"], epochs=3, cells=2, channels=3)
IMAGES = 6
EPSILONS = (0.0, 1e-5, 3e-3, 0.9)
COLUMNS = "index,label,predicted,correct,norm,radius,attack_radius,method,evaluations,seconds,status"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The genotype file and the weights of a tiny network that gets most digits right."""
    folder = tmp_path_factory.mktemp("trained")
    GENOTYPE.save(folder / "genotype.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "quick", {"standard": TINY})
        weights = run_training(TrainOptions(**common(folder), preset="quick", recipe="standard", out=folder / "run")).weights_path
    return folder / "genotype.json", weights


@pytest.fixture(scope="module")
def certified(trained, tmp_path_factory):
    """The folder and the result of a certification."""
    out = tmp_path_factory.mktemp("certified")
    return out, run_certify(CertifyOptions(**certify_options(trained, out)))


@pytest.fixture(autouse=True)
def light_attacks(monkeypatch):
    """Fewer and shorter: what attacks find is tested with them."""
    for effort in ("SAMPLES", "STARTS", "STEPS"):
        monkeypatch.setattr(audit, effort, 5)
    monkeypatch.setattr(blocks, "attack_radius", partial(blocks.attack_radius, steps=5))


@pytest.fixture
def copied(certified, tmp_path):
    """A copy of the certificates that a test may spoil."""
    for name in ("certify.csv", "config.json"):
        (tmp_path / name).write_bytes((certified[0] / name).read_bytes())
    return tmp_path / "certify.csv"


def common(folder):
    return {
        "arch": folder / "genotype.json",
        "dataset": "digits",
        "data": None,
        "download": False,
        "seed": 0,
        "device": "cpu",
    }


def certify_options(trained, out, **changes):
    arch, weights = trained
    options = {
        **common(arch.parent),
        "weights": weights,
        "preset": "quick",
        "norm": "linf",
        "domain": "unit",
        "images": IMAGES,
        "method": "crown-ibp",
        "tolerance": 0.05,
        "time_limit": None,
        "memory": 4096.0,
        "epsilons": EPSILONS,
        "targeted": False,
        "out": out,
    }
    return {**options, **changes}


def audit_options(trained, path, out, **changes):
    arch, weights = trained
    return {**common(arch.parent), "weights": weights, "certificates": path, "out": out, **changes}


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def spoil(path, row, **values):
    """Overwrite values of one row of a CSV file."""
    rows = read(path)
    rows[row].update({column: str(value) for column, value in values.items()})
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_certificates_are_those_of_the_library(trained, certified):
    digits = load("digits")
    network = exact_network(load_trained(GENOTYPE, trained[1], digits), digits, CPU, 4096.0)
    images, labels = exact_examples(digits.test, torch.arange(IMAGES), CPU)
    rows = read_certificates(certified[0] / "certify.csv")
    ceiling = torch.tensor([row.attack_radius for row in rows], dtype=torch.float64)
    expected = verify.certified_radius(network, images, labels, method="crown-ibp", ceiling=ceiling)
    assert [row.radius for row in rows] == pytest.approx(expected.radius.tolist(), rel=1e-6)
    assert [row.status for row in rows] == expected.status
    assert [row.label for row in rows] == labels.tolist()
    assert [row.predicted for row in rows] == network(images).argmax(1).tolist()
    assert [row.index for row in rows] == list(range(IMAGES))
    assert {(row.norm, row.method) for row in rows} == {("linf", "crown-ibp")}
    assert any(row.correct for row in rows)
    assert all((row.radius > 0) == row.correct == (row.label == row.predicted) for row in rows)
    assert all(row.radius < row.attack_radius or not row.correct for row in rows)


def test_writes_what_was_done(trained, certified):
    out, result = certified
    assert result.paths == [out / name for name in ("certify.csv", "verified.csv", "certify.png", "extremes.png")]
    assert all(path.stat().st_size for path in result.paths)
    assert (out / "certify.csv").read_text().partition("\n")[0] == COLUMNS
    options = json.loads((out / "config.json").read_text())["options"]
    assert (options["norm"], options["domain"], options["method"]) == ("linf", "unit", "crown-ibp")
    assert options["weights"] == str(trained[1])


def test_a_stopped_certification_goes_on_and_ends_as_if_it_had_not(trained, tmp_path, monkeypatch):
    """Batches that are whole stand; of one that is not, no row counts."""
    monkeypatch.setattr(certify, "BATCH", 2)
    light = {"method": "ibp", "epsilons": (3e-3,), "images": 4}
    whole, stopped = (certify_options(trained, tmp_path / name, **light) for name in ("whole", "stopped"))
    expected = run_certify(CertifyOptions(**whole))
    shutil.copytree(whole["out"], stopped["out"])
    path, lines = stopped["out"] / "certify.csv", (whole["out"] / "certify.csv").read_text().splitlines(keepends=True)
    bounded = []
    compute = blocks.certified_radius
    monkeypatch.setattr(
        blocks, "certified_radius", lambda network, images, *rest, **options: (
            bounded.append(len(images)), compute(network, images, *rest, **options))[1]
    )  # fmt: skip
    for rows, computed in ((3, 2), (0, 4), (4, 0)):
        path.write_text("".join(lines[: rows + 1]))
        if not rows:
            path.unlink()
        bounded.clear()
        found = run_certify(CertifyOptions(**stopped, resume=True))
        assert sum(bounded) == computed
        for ours, theirs in zip(read_certificates(path), read_certificates(whole["out"] / "certify.csv"), strict=True):
            assert replace(ours, seconds=0.0) == replace(theirs, seconds=0.0)
        verified = [each["out"] / "verified.csv" for each in (whole, stopped)]
        assert verified[0].read_bytes() == verified[1].read_bytes()
        timed = {"seconds an image"}
        assert [pair for pair in found.summary if pair[0] not in timed] == [
            pair for pair in expected.summary if pair[0] not in timed
        ]
    with pytest.raises(InputError, match="was started with seed 0, not 1"):
        run_certify(CertifyOptions(**{**stopped, "seed": 1}, resume=True))
    config = json.loads((stopped["out"] / "config.json").read_text())
    config["options"]["weights_sha256"] = "that of the weights before they were trained again"
    (stopped["out"] / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="was started with weights_sha256 that of the weights before"):
        run_certify(CertifyOptions(**stopped, resume=True))


def test_work_that_goes_to_another_process_is_the_same(trained):
    """A network is traced anew there, of the same weights."""
    digits = load("digits")
    network = exact_network(load_trained(GENOTYPE, trained[1], digits), digits, CPU, 4096.0)
    work = blocks.Work(
        blocks.Portable(network), Claim("l2", "unit", "ibp"), blocks.Effort(0.05, None), 0, False, (0.001,)
    )
    block = blocks.Block(torch.arange(2), digits.test.take(torch.arange(2)), [])
    (here, counts), (there, others) = work(block), pickle.loads(pickle.dumps(work))(block)
    assert [replace(each, seconds=0.0) for each in here] == [replace(each, seconds=0.0) for each in there]
    assert counts == others and any(each.radius for each in here)


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_files(trained, tmp_path, monkeypatch):
    """All but the times, of a certification that was stopped and goes on too; and of its audit."""
    monkeypatch.undo()  # processes of their own know nothing of lighter attacks
    monkeypatch.setattr(certify, "BATCH", 2)
    monkeypatch.setattr(audit, "BATCH", 2)
    tables, audits = [], []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        options = certify_options(trained, out, images=6, epsilons=(3e-3,), workers=workers)
        run_certify(CertifyOptions(**options))
        path = out / "certify.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
        run_certify(CertifyOptions(**options, resume=True))
        tables.append(([replace(row, seconds=0.0) for row in read_certificates(path)], (out / "verified.csv").read_bytes()))
        run_audit(AuditOptions(**audit_options(trained, path, out / "audit", workers=workers)))
        audits.append((out / "audit" / "audit.csv").read_bytes())
    assert tables[0] == tables[1] and audits[0] == audits[1]


def test_the_summary_names_the_threat_model(certified):
    summary = dict(certified[1].summary)
    assert summary["threat model"] == "l-infinity, perturbed pixels stay in [0,1] (unit domain)"
    assert summary["test images"].startswith(f"{IMAGES}, ")
    assert "over all images" in summary["mean radius"]
    assert "verified accuracy" in summary["at radius 1e-05"]


def test_verified_accuracy_is_that_of_the_library(trained, certified):
    digits = load("digits")
    network = exact_network(load_trained(GENOTYPE, trained[1], digits), digits, CPU, 4096.0)
    images, labels = exact_examples(digits.test, torch.arange(IMAGES), CPU)
    certificates = read_certificates(certified[0] / "certify.csv")
    rows = read(certified[0] / "verified.csv")
    assert [float(row["epsilon"]) for row in rows] == list(EPSILONS)
    for row, epsilon in zip(rows, EPSILONS, strict=True):
        proven = verify.verified(network, images, labels, epsilon, method="crown-ibp")
        assert int(row["verified"]) == int(proven.sum())
        assert float(row["verified_accuracy"]) == int(row["verified"]) / IMAGES
        standing = sum(certificate.attack_radius > epsilon for certificate in certificates)
        assert float(row["attack_accuracy"]) == standing / IMAGES


def test_a_run_without_radii_leaves_no_verified_accuracy_of_another(trained, tmp_path):
    run_certify(CertifyOptions(**certify_options(trained, tmp_path, images=1)))
    assert (tmp_path / "verified.csv").exists()
    result = run_certify(CertifyOptions(**certify_options(trained, tmp_path, images=1, epsilons=())))
    assert tmp_path / "verified.csv" not in result.paths
    assert not (tmp_path / "verified.csv").exists()


@pytest.mark.parametrize(("norm", "domain"), [("linf", "unit"), ("l2", "free")])
def test_the_audit_breaks_nothing(trained, tmp_path, norm, domain):
    run_certify(CertifyOptions(**certify_options(trained, tmp_path, images=3, norm=norm, domain=domain, epsilons=())))
    path = tmp_path / "certify.csv"
    result = run_audit(AuditOptions(**audit_options(trained, path, tmp_path / "audit")))
    assert result.broken == 0
    assert dict(result.summary)["broken"] == "none"
    assert f"({domain} domain)" in dict(result.summary)["threat model"]
    rows = read(result.paths[0])
    assert list(rows[0]) == ["index", "radius", "worst_margin", "bound", "broken"]
    for row, certificate in zip(rows, read_certificates(path), strict=True):
        assert (int(row["index"]), float(row["radius"])) == (certificate.index, certificate.radius)
        assert row["broken"] == "False"
        if certificate.radius > 0:
            assert 0 < float(row["bound"]) <= float(row["worst_margin"])
        else:
            assert row["bound"] == row["worst_margin"] == ""


def test_an_audit_in_the_folder_of_the_certificates_can_be_repeated(trained, copied):
    for _ in range(2):  # the second finds the config.json of the first
        assert run_audit(AuditOptions(**audit_options(trained, copied, copied.parent))).broken == 0


def test_an_audit_beside_targeted_certificates_can_be_repeated(trained, tmp_path):
    """It leaves a config.json of its own, with another seed: the targets stay those of the certificates."""
    run_certify(CertifyOptions(**certify_options(trained, tmp_path, images=3, epsilons=(), targeted=True, seed=5)))
    for _ in range(2):
        assert run_audit(AuditOptions(**audit_options(trained, tmp_path / "certify.csv", tmp_path))).broken == 0
        assert read_target_seed(tmp_path / "certify.csv") == 5


def test_a_radius_that_is_too_large_is_broken(trained, copied, tmp_path, capsys):
    place = next(i for i, row in enumerate(read_certificates(copied)) if row.correct)
    spoil(copied, place, radius=1000 * read_certificates(copied)[place].attack_radius)
    arguments = ["--arch", trained[0], "--weights", trained[1], "--certificates", copied]
    assert cli.main(["audit", *map(str, arguments), "--out", str(tmp_path / "audit")]) == 1
    assert f"broken                  1 (images {place})" in capsys.readouterr().out
    assert read(tmp_path / "audit" / "audit.csv")[place]["broken"] == "True"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"radius": "abc"}, r"row 2: radius: must be a number >= 0, not 'abc'"),
        ({"radius": "-0.1"}, r"row 2: radius: must be a number >= 0, not '-0.1'"),
        ({"radius": "nan"}, r"row 2: radius: must be a number >= 0, not 'nan'"),
        ({"radius": "inf"}, r"row 2: radius: must be finite, not 'inf'"),
        ({"index": "1.5"}, r"row 2: index: must be a whole number >= 0, not '1.5'"),
        ({"index": "500"}, r"index 500: digits has 500 test images"),
        ({"label": "7"}, r"index 1: the label is 7, in digits 1; other images\?"),
        ({"correct": "yes"}, r"row 2: correct: must be one of True, False, not 'yes'"),
        ({"norm": "l3"}, r"row 2: norm: must be one of linf, l2, l1, not 'l3'"),
        ({"norm": "l2"}, r"several kinds \(l2 by crown-ibp, linf by crown-ibp\); audit one kind at a time"),
        ({"method": "ibp"}, r"several kinds \(linf by crown-ibp, linf by ibp\); audit one kind at a time"),
        ({"status": "fine"}, r"row 2: status: must be one of certified, .*, not 'fine'"),
    ],
)
def test_certificates_that_are_wrong_are_refused(trained, copied, tmp_path, values, line):
    spoil(copied, 1, **values)
    with pytest.raises(InputError, match=line):
        run_audit(AuditOptions(**audit_options(trained, copied, tmp_path / "audit")))
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "column 'index' is missing; `dsrna certify` writes it"),
        (COLUMNS.replace("radius,", "", 1).encode(), "column 'radius' is missing"),
        (COLUMNS.encode(), "holds no certificates"),
        (f"{COLUMNS}\n1,2".encode(), "row 1: predicted: must be a whole number >= 0, not None"),
        (b"\xff\xfe", "not a CSV file"),
    ],
)
def test_files_that_hold_no_certificates_are_refused(trained, copied, content, line):
    copied.write_bytes(content)
    with pytest.raises(InputError, match=line):
        run_audit(AuditOptions(**audit_options(trained, copied, copied.parent / "audit")))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no such file; `dsrna certify` writes it beside the certificates, with their domain"),
        ("domain: unit", "not JSON"),
        ('{"options": {}}', "options.domain: must be unit or free, not None"),
        ("[]", "options.domain: must be unit or free, not None"),
        ('{"options": {"domain": "box"}}', "options.domain: must be unit or free, not 'box'"),
    ],
)
def test_certificates_need_their_domain(trained, copied, content, line):
    config = copied.with_name("config.json")
    config.unlink()
    if content is not None:
        config.write_text(content)
    with pytest.raises(InputError, match=f"config.json: {line}"):
        run_audit(AuditOptions(**audit_options(trained, copied, copied.parent / "audit")))


def test_certificates_of_another_network_are_refused(trained, copied):
    predicted = read_certificates(copied)[2].predicted
    spoil(copied, 2, predicted=(predicted + 1) % 10)
    with pytest.raises(InputError, match=r"certificates of another network: it answered \d to image 2, this"):
        run_audit(AuditOptions(**audit_options(trained, copied, copied.parent / "audit")))


def test_certificates_of_other_weights_are_refused(trained, copied):
    """Also by attacks, and where the network answers alike."""
    config = json.loads(copied.with_name("config.json").read_text())
    config["options"]["weights_sha256"] = "that of other weights"
    copied.with_name("config.json").write_text(json.dumps(config))
    options = audit_options(trained, copied, copied.parent / "out")
    attack = {**options, "certificates": [copied], "attacks": ("fgsm",), "images": IMAGES, "guards": False}
    for attempt, chosen in ((run_audit, AuditOptions(**options)), (run_attack, AttackOptions(**attack))):
        with pytest.raises(InputError, match=r"certify\.csv: certificates of other weights \(.*\) than .*safetensors"):
            attempt(chosen)


def test_an_audit_has_the_memory_of_the_certificates(trained, tmp_path):
    options = certify_options(trained, tmp_path, images=2, epsilons=(), method="affine", memory=2.0)
    run_certify(CertifyOptions(**options))
    for changes, memory in (({}, 2.0), ({"memory": 3.0}, 3.0)):
        assert run_audit(AuditOptions(**audit_options(trained, tmp_path / "certify.csv", tmp_path / "audit"), **changes)).broken == 0
        assert json.loads((tmp_path / "audit" / "config.json").read_text())["options"]["memory"] == memory


def test_a_certification_stopped_while_it_trains_goes_on(trained, tmp_path, monkeypatch):
    """It has a folder of the training, and none of its own to resume."""
    monkeypatch.setitem(PRESETS, "quick", {"standard": replace(TINY, epochs=1)})
    options = certify_options(trained, tmp_path, weights=None, images=1, method="ibp")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(certify, "exact_network", stop)
        run_certify(CertifyOptions(**options))
    assert not (tmp_path / "config.json").exists()
    run_certify(CertifyOptions(**options, resume=True))
    assert len(read_certificates(tmp_path / "certify.csv")) == 1


def test_without_weights_the_network_is_trained_first(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "quick", {"standard": replace(TINY, epochs=1)})
    result = run_certify(CertifyOptions(**certify_options(trained, tmp_path, weights=None, images=1, method="ibp")))
    weights = tmp_path / "train" / "model.safetensors"
    assert weights.is_file()
    assert "no --weights: training the network first (preset quick)\n" in capsys.readouterr().err
    summary = dict(result.summary)
    assert summary["weights"] == f"none given; trained first: {weights}"
    assert "test accuracy" in summary
    assert json.loads((tmp_path / "config.json").read_text())["options"]["weights"] == str(weights)


def test_weights_of_another_data_set_are_refused(trained, certified, tmp_path):
    arch, weights = trained
    for path in (weights, weights.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    sidecar = tmp_path / "model.json"
    sidecar.write_text(sidecar.read_text().replace('"digits"', '"mnist"'))
    other = (arch, tmp_path / weights.name)
    line = "these weights were trained on mnist; add --dataset mnist"
    with pytest.raises(InputError, match=line):
        run_certify(CertifyOptions(**certify_options(other, tmp_path / "certify")))
    with pytest.raises(InputError, match=line):
        run_audit(AuditOptions(**audit_options(other, certified[0] / "certify.csv", tmp_path / "audit")))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"images": 501}, "digits has 500 test images; 501 cannot be certified"),
        ({"images": 0}, "digits has 500 test images; 0 cannot be certified"),
        ({"epsilons": (0.1, -0.1)}, "epsilon must be finite and not negative"),
        ({"epsilons": (float("nan"),)}, "epsilon must be finite and not negative"),
        ({"norm": "l3"}, "unknown norm 'l3'; known: linf, l2, l1"),
        ({"domain": "box"}, "unknown domain 'box'; known: unit, free"),
        ({"method": "exact"}, "unknown method 'exact'; known: ibp"),
    ],
)
def test_bad_arguments_are_refused(trained, tmp_path, changes, line):
    with pytest.raises(InputError, match=line):
        run_certify(CertifyOptions(**certify_options(trained, tmp_path, **changes)))


def proof_of(radius, status):
    """A stand-in for `certified_radius` that claims the same for every image."""

    def prove(network, images, labels, **options):
        count = len(labels)
        return SimpleNamespace(
            radius=torch.full((count,), radius, dtype=torch.float64),
            status=[status] * count,
            evaluations=torch.ones(count, dtype=torch.int64),
            seconds=torch.ones(count, dtype=torch.float64),
        )

    return prove


def test_a_certificate_beyond_an_attack_is_a_bug(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "certified_radius", proof_of(2.0, "certified"))
    with pytest.raises(RuntimeError, match="beyond attacks"):
        run_certify(CertifyOptions(**certify_options(trained, tmp_path)))


def test_bounds_that_prove_an_attack_s_ball_are_a_bug(trained, tmp_path, monkeypatch):
    """The search stops short of any attack: of one that is far too small for a sound bound to fail there, too."""
    def tiny(network, images, labels, *rest, **options):
        return torch.full((len(images),), 1e-6, dtype=torch.float64)

    monkeypatch.setattr(blocks, "attack_radius", tiny)
    with pytest.raises(RuntimeError, match="the bounds prove balls that hold successful attacks"):
        run_certify(CertifyOptions(**certify_options(trained, tmp_path)))


def test_radii_of_0_are_counted_by_status(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "certified_radius", proof_of(0.0, "overflow"))
    result = run_certify(CertifyOptions(**certify_options(trained, tmp_path, epsilons=())))
    correct = sum(row.correct for row in read_certificates(tmp_path / "certify.csv"))
    assert dict(result.summary)["radius 0"] == f"{correct} correct images: overflow"
    assert dict(result.summary)["certified / attack"].startswith("0, ")
    monkeypatch.setattr(blocks, "certified_radius", proof_of(0.0, "certified"))
    result = run_certify(CertifyOptions(**certify_options(trained, tmp_path, epsilons=())))
    assert dict(result.summary)["radius 0"] == f"{correct} correct images: nothing could be proven"


@pytest.mark.parametrize("norm", verify.NORMS)
@pytest.mark.parametrize("domain", verify.DOMAINS)
def test_every_threat_model_has_words(norm, domain):
    assert f"({domain} domain)" in Claim(norm, domain, "crown").threat_model


def test_targeted_certificates_are_about_one_class_and_audited_so(trained, tmp_path):
    """Each is the library's radius against that class alone, and the audit aims at the same classes."""
    result = run_certify(CertifyOptions(**certify_options(trained, tmp_path, targeted=True, epsilons=(), seed=3)))
    assert any("one random class" in value for _, value in result.summary)
    path = tmp_path / "certify.csv"
    assert read_target_seed(path) == 3
    digits = load("digits")
    network = exact_network(load_trained(GENOTYPE, trained[1], digits), digits, CPU, 4096.0)
    images, labels = exact_examples(digits.test, torch.arange(IMAGES), CPU)
    targets = random_targets(torch.arange(IMAGES), labels, 10, 3)
    ceiling = torch.tensor([row.attack_radius for row in read_certificates(path)], dtype=torch.float64)
    expected = verify.certified_radius(network, images, labels, method="crown-ibp", ceiling=ceiling, targets=targets)
    assert [row.radius for row in read_certificates(path)] == pytest.approx(expected.radius.tolist(), rel=1e-6)
    assert run_audit(AuditOptions(**audit_options(trained, path, tmp_path / "audit", seed=1))).broken == 0
    spoil(path, next(i for i, row in enumerate(read_certificates(path)) if row.correct), radius=0.9)
    assert run_audit(AuditOptions(**audit_options(trained, path, tmp_path / "audit"))).broken == 1


def test_target_classes_are_the_images_own_and_never_the_label():
    labels = torch.arange(40) % 10
    targets = random_targets(torch.arange(40), labels, 10, 0)
    assert (targets != labels).all() and ((targets >= 0) & (targets < 10)).all() and len(set(targets.tolist())) > 5
    assert torch.equal(targets[7:9], random_targets(torch.arange(7, 9), labels[7:9], 10, 0))
    assert not torch.equal(targets, random_targets(torch.arange(40), labels, 10, 1))


def test_a_verified_accuracy_is_about_all_classes(trained, tmp_path):
    with pytest.raises(InputError, match="--targeted"):
        run_certify(CertifyOptions(**certify_options(trained, tmp_path, targeted=True)))


def test_certificates_about_one_class_are_not_held_against_attacks_of_all(copied):
    config = copied.with_name("config.json")
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "options": {**content["options"], "targeted": True}}))
    with pytest.raises(InputError, match="about one class an image"):
        Certified.read(copied, ["linf"])

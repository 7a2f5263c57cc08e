"""The benchmark of certified radii: what stock gets is our network, its searches are right, and the report adds up."""

import json
from functools import partial

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from experiments.benchmarks import certify, measure, networks, report
from experiments.benchmarks.measure import CLOSED_FORM, CROWN, CROWN_IBP, Outcome, Problem, attacked, ours, stock
from experiments.benchmarks.searches import STEPS, Evaluation, bisection, secant
from experiments.benchmarks.stock import Stock, for_stock
from robust_nas.data import Data, Examples
from verify import InputError, attack_radius, margins


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Attack less; and to collect garbage takes half a second among all that pytest holds."""
    monkeypatch.setattr(measure, "CHECK_STEPS", 10)
    monkeypatch.setattr(measure, "attack_radius", partial(attack_radius, rounds=6, steps=8))
    monkeypatch.setattr(measure.gc, "collect", lambda: None)


@pytest.fixture(scope="module")
def mnist():
    """Random images of MNIST's shape: enough to build the networks."""
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    examples = Examples(images, torch.arange(8))
    return Data("mnist", examples, examples, classes=10, mean=(0.1307,), std=(0.3081,), pad=2)


@pytest.fixture(scope="module")
def small():
    """A network small enough for many stock evaluations, with images and its classes of them, which attacks can change."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.Conv2d(3, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4),
    ).eval()  # fmt: skip
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        model[-1].bias -= model(images).mean(0)
        return model, images, model(images).argmax(1)


@pytest.mark.parametrize("part", networks.PARTS)
def test_committed_weights(part, mnist):
    """They fit the network, are small enough to be committed, and their sidecar tells of them."""
    reference = networks.load_reference(part, mnist)
    assert not reference.model.training
    assert reference.notes["parameters"] == sum(parameter.numel() for parameter in reference.model.parameters())
    assert reference.notes["test_accuracy"] > 0.95
    assert (networks.WEIGHTS / f"{part}.safetensors").stat().st_size < 100_000


def test_missing_weights_are_one_line(mnist, monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "WEIGHTS", tmp_path)
    with pytest.raises(InputError, match="cnn.safetensors: no weights of the network 'cnn'.*--train"):
        networks.load_reference("cnn", mnist)


def test_stock_gets_the_same_function(mnist):
    """for_stock asserts that logits agree; the copy starts with a convolution of raw pixels and has no pool."""
    model = networks.load_reference("darts", mnist).model
    twin = for_stock(model, mnist.test.images)
    assert isinstance(twin.input, nn.Identity)
    assert not any(isinstance(module, nn.AvgPool2d) for module in twin.modules())
    assert any(isinstance(module, nn.AvgPool2d) for module in model.modules())  # the original stays


def test_stock_refuses_max_pools(mnist):
    with pytest.raises(InputError, match="max pools"):
        for_stock(networks.load_reference("pools", mnist).model, mnist.test.images)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.1)])
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_stock_is_sound_on_what_it_gets(small, norm, epsilon, method):
    """Its bound lies below the margins of every point of the ball that an attack tries."""
    model, images, labels = small
    found = Stock(for_stock(model, images), images[:1], method).evaluate(images[:1], labels[:1], epsilon, norm)
    generator, smallest = torch.Generator().manual_seed(0), torch.inf
    for _ in range(200):
        delta = torch.randn(1, 1, 8, 8, generator=generator)
        delta = delta.sign() if norm == "linf" else delta / delta.norm()
        logits = model((images[:1] + epsilon * delta).clamp(0, 1)).detach()
        smallest = min(smallest, float((margins(labels[:1], 4) @ logits.unsqueeze(2)).amin()))
    assert found.margin <= smallest


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_methods_on_a_small_network(small, norm):
    """Radii are below the attack's; searches with one method agree up to the tolerance; ours is no worse."""
    model, images, labels = small
    problem, twin = Problem.make(model, images, labels, norm, 0.05), for_stock(model, images)
    ibp, crown, closed = (stock(problem, twin, name, 2) for name in (CROWN_IBP, CROWN, CLOSED_FORM))
    our = ours(problem, "crown", batch_size=1)
    for i, limit in enumerate(problem.attack.tolist()):
        assert 0 < ibp.radius[i] <= crown.radius[i] * 1.05
        assert crown.radius[i] < limit
        assert closed.radius[i] == pytest.approx(crown.radius[i], rel=0.08)
        assert our.radius[i] > crown.radius[i] / 1.06
        assert closed.evaluations[i] <= crown.evaluations[i]
    assert not any(ibp.attacked + crown.attacked + closed.attacked + our.attacked)
    assert our.peak_memory_mb > 50


def test_a_wrong_certificate_is_a_violation(small):
    """Above the attack radius; and below it, when an attack from other starts succeeds."""
    outcome = Outcome([0.2, 0.1, 0.1], [1.0] * 3, [1] * 3, 100.0, [False, True, False])
    found = report.violations({"ours": outcome}, [0.1, 0.2, 0.2], [5, 6, 7])
    assert [violation["index"] for violation in found] == [5, 6]
    model, images, labels = small
    problem = Problem.make(model, images, labels, "linf", 0.05)
    limit = attack_radius(problem.network, images, labels)
    assert attacked(problem, (limit * 1.5).tolist()) == [True, True]
    assert attacked(problem, (limit / 4).tolist()) == [False, False]


@pytest.mark.parametrize("root", [0.003, 0.1, 0.45, 0.9])
@pytest.mark.parametrize("power", [1, 2, 6])
def test_searches_find_the_root_of_a_margin(root, power):
    """Of a margin 1 - (x / root)^power, up to the tolerance and never beyond; the secant in a few evaluations."""

    def evaluate(x: float) -> Evaluation:
        margin = 1 - (x / root) ** power
        return Evaluation(margin, x if margin > 0 else 0.0)

    halving, parabolas = bisection(evaluate, 1.0, 0.05), secant(evaluate, 1.0, 1.0, 0.05)
    assert root / 1.051 <= halving.radius <= root
    assert root / 1.051 <= parabolas.radius <= root
    assert halving.evaluations <= STEPS
    assert parabolas.evaluations <= 11


def test_searches_end_without_a_proof():
    """Nothing holds anywhere, or bounds overflow: radius 0, after the most evaluations there may be."""
    for margin in (-1.0, float("nan")):
        for found in (
            bisection(lambda x, y=margin: Evaluation(y, 0.0), 1.0, 0.05),
            secant(lambda x, y=margin: Evaluation(y, 0.0), 1.0, 1.0, 0.05),
        ):
            assert found == (0.0, STEPS)


def test_figures_are_over_the_images_that_both_did():
    our = Outcome([0.2, 0.4, 0.6], [1.0, 3.0, 5.0], [4, 4, 4], 100.0, [False] * 3)
    crown = Outcome([0.1, 0.2], [20.0, 60.0], [7, 7], 200.0, [False] * 2)
    found = report.figures({"ours crown": our, CROWN: crown}, "ours crown", [1.0, 1.0, 1.0], [0, 1, 2])
    assert found["speedup_vs_crown"] == pytest.approx(20)
    assert found["radius_vs_crown"] == pytest.approx(2)
    assert found["speedup_vs_crown_closed_form"] is None
    assert found["radius_over_attack"] == pytest.approx(0.4)
    assert found["seconds_per_image"] == pytest.approx(3)
    assert found["violations"] == []
    assert found["methods"][CROWN]["attack"] == [1.0, 1.0]
    json.dumps(found, allow_nan=False)
    assert report.table("", {"ours crown": our, CROWN: crown}, [1.0] * 3).row_count == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "darts,resnet"], "unknown 'resnet'; known: darts, pools, cnn"),
        (["--norms", "l1"], "unknown 'l1'; known: linf, l2"),
        (["--images", "0"], "--images"),
        (["--data", "nowhere"], "no complete data"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, message, tmp_path):
    threads = torch.get_num_threads()
    found = CliRunner().invoke(certify.main, [*arguments, "--out", str(tmp_path / "out.json")])
    assert found.exit_code == 2
    assert message in found.output
    assert found.output.count("\n") == 1
    assert torch.get_num_threads() == threads or threads != 1


def test_a_run_writes_its_file(small, mnist, monkeypatch, tmp_path):
    """The whole command on a stand-in for MNIST and a small network, written after every method."""
    model, images, labels = small
    data = Data("mnist", Examples(images, labels), Examples(images, labels), classes=4, mean=(0.0,), std=(1.0,))
    monkeypatch.setattr(certify, "load", lambda name, root: data)
    monkeypatch.setattr(certify, "load_reference", lambda part, data: networks.Reference(model, {"seed": 0}))
    saved = []
    save = certify.Benchmark.save
    monkeypatch.setattr(certify.Benchmark, "save", lambda self: (save(self), saved.append(1)))
    out = tmp_path / "new" / "out.json"
    arguments = ["--parts", "cnn", "--norms", "linf", "--images", "2", "--stock-images", "1", "--out", str(out)]
    assert CliRunner().invoke(certify.main, arguments).exit_code == 0
    results = json.loads(out.read_text())
    entry = results["parts"]["cnn"]["linf"]
    assert len(saved) == 5
    assert list(entry["methods"]) == ["ours crown", "ours auto", CROWN_IBP, CROWN, CLOSED_FORM]
    assert [len(method["radius"]) for method in entry["methods"].values()] == [2, 2, 1, 1, 1]
    assert results["networks"]["cnn"] == {"seed": 0, "indices": [0, 1]}
    assert entry["violations"] == []
    assert 0 < entry["radius_over_attack"] < 1

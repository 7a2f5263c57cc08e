"""Properties decided: never against brute force, with counterexamples that are real, and every limit respected."""

import itertools
import math

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.complete.files import dense_model, graph_model, node, saved
from tests.verify.helpers import Function, randomise
from verify import (
    Ball,
    BoundedNetwork,
    Box,
    Case,
    Halfspaces,
    InputError,
    Property,
    competition_answer,
    from_onnx,
    prove,
    prove_property,
)
from verify.complete.input_splitting import case_margins, split_inputs


def dense(seed: int, inputs: int, outputs: int = 3, width: int = 8) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    model = nn.Sequential(*layers)
    randomise(model, seed)
    return model.float().eval()


def unsafe(rows, limits) -> Halfspaces:
    return Halfspaces(torch.as_tensor(rows, dtype=torch.float64), torch.as_tensor(limits, dtype=torch.float64))


def grid(box: Box, count: int) -> torch.Tensor:
    ends = zip(box.lower.flatten().tolist(), box.upper.flatten().tolist(), strict=True)
    return torch.tensor(list(itertools.product(*(torch.linspace(*pair, count).tolist() for pair in ends)))).double()


def random_property(model, seed: int) -> Property:
    """Of two cases, each of a conjunction and a single constraint; limits near what the network reaches."""
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for _ in range(2):
        lower = torch.rand(1, 2, generator=generator).double() - 1
        box = Box(lower, lower + torch.rand(1, 2, generator=generator).double())
        outputs = model(grid(box, 9).float()).detach()
        parts = []
        for size in (2, 1):
            rows = torch.randn(size, 3, generator=generator)
            values = outputs @ rows.T
            shift = (torch.rand((), generator=generator) - 0.4) * values.std(0)
            place = values.amax(1).argmin()
            parts.append(unsafe(rows, values[place] - shift.abs() * (1 if seed % 2 else -1)))
        cases.append(Case(box, tuple(parts)))
    return Property(tuple(cases))


@pytest.mark.parametrize("seed", range(level(6, 24)))
def test_no_verdict_against_brute_force(seed):
    model = dense(seed, 2)
    network, wanted = BoundedNetwork(model, torch.zeros(1, 2)), random_property(model, seed)
    found = prove_property(network, wanted, time_limit=20.0)
    points = torch.cat([grid(case.region, 60) for case in wanted.cases])
    broken = bool(wanted.violated(points, network.double()(points)).any())
    assert found.verdict in ("holds", "violated")
    assert not (broken and found.verdict == "holds")
    if found.verdict == "violated":
        assert wanted.violated(found.counterexample, model(found.counterexample.float())).all()
    else:
        assert 0 < found.lower <= min(
            float(torch.stack([part.excess(model(grid(case.region, 60).float())) for part in case.unsafe]).min())
            for case in wanted.cases
        ) + 1e-5  # fmt: skip


def test_both_verdicts_come_up_above():
    verdicts = set()
    for seed in range(6):
        model = dense(seed, 2)
        verdicts.add(prove_property(BoundedNetwork(model, torch.zeros(1, 2)), random_property(model, seed)).verdict)
    assert verdicts == {"holds", "violated"}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.02, 0.4])
def test_a_ball_and_a_label_as_prove_answers(norm, epsilon):
    model = dense(3, 30)
    network, x = BoundedNetwork(model, torch.zeros(1, 30)), torch.rand(1, 30, generator=torch.Generator().manual_seed(2)).double()
    label = int(model(x.float()).argmax())
    ball = Ball(x, epsilon, norm)
    expected = {"proven": "holds", "broken": "violated"}[prove(network, ball, label).verdict]
    found = prove_property(network, Property.robust(ball, label, 3))
    assert found.verdict == expected
    if norm == "linf":  # the box, whose ReLUs are split in the unit ball's place
        box = Property.robust(Box(ball.lower, ball.upper), label, 3)
        assert prove_property(network, box).verdict == expected


@pytest.mark.parametrize("inputs", [3, 30])
def test_branching_finds_counterexamples_without_the_attack(inputs, monkeypatch):
    """They lie in the box to the last bit, though ReLUs are split on a ball that is a little wider."""
    monkeypatch.setattr("verify.complete.proving._Proof._attacked", lambda self, case: None)
    for seed in range(4):
        model = dense(seed, inputs)
        network, x = BoundedNetwork(model, torch.zeros(1, inputs)), torch.full((1, inputs), 0.3).double()
        wanted = Property.robust(Box(x - 0.7, x + 0.7), int(model(x.float()).argmax()), 3)
        found = prove_property(network, wanted, time_limit=20.0)
        assert found.verdict in ("holds", "violated")
        if found.verdict == "violated":
            assert wanted.violated(found.counterexample, found.outputs).all()
            return
    pytest.fail("every property held")


def test_relus_are_split_where_many_inputs_vary():
    """Bounds alone do not decide it, and the exact minimum lies between."""
    for seed in range(20):
        model = dense(seed, 24)
        network, x = BoundedNetwork(model, torch.zeros(1, 24)), torch.zeros(1, 24).double()
        box = Box(x - 0.2, x + 0.2)
        row = torch.tensor([[1.0, -1.0, 0.0]])
        loose = float(network.double().bounds(box, specification=row.double(), method="crown").lower)
        sampled = float((network.double()(Box(box.lower.repeat(500, 1), box.upper.repeat(500, 1)).sample(torch.Generator().manual_seed(0))) @ row.T.double()).min())
        limit = loose + 0.1 * (sampled - loose)
        found = prove_property(network, Property((Case(box, (unsafe(row, [limit]),)),)), time_limit=20.0)
        if found.verdict == "holds" and found.boxes > 1:
            return
    pytest.fail("branch and bound never had to split")


def test_conjunctions_of_which_no_constraint_is_excluded_alone():
    """y0 = |x|, y1 = -|x| + 1/2: never both below 0, though each may be."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        model[0].bias.zero_()
        model[2].bias.copy_(torch.tensor([-0.1, 0.5]))
    box = Box(torch.tensor([[-1.0]]).double(), torch.tensor([[1.0]]).double())
    wanted = Property((Case(box, (unsafe(torch.eye(2), [-0.0, 0.0]),)),))
    found = prove_property(BoundedNetwork(model, torch.zeros(1, 1)), wanted)
    assert found.verdict == "holds" and found.boxes > 1
    assert competition_answer(found) == "unsat\n"


def test_a_counterexample_of_a_part_only_is_none():
    """One constraint of the conjunction can be met, both cannot."""
    model = Function(lambda module, x: torch.cat([x, x], 1))
    box = Box(torch.tensor([[-1.0]]).double(), torch.tensor([[1.0]]).double())
    wanted = Property((Case(box, (unsafe([[1.0, 0], [0, -1.0]], [-0.5, -0.6]),)),))
    assert prove_property(BoundedNetwork(model, torch.zeros(1, 1)), wanted).verdict == "holds"


def test_counterexamples_are_onnxruntimes_too(tmp_path, monkeypatch):
    model = from_onnx(saved(dense_model(dense(0, 2), [2]), tmp_path / "f.onnx"))
    network = BoundedNetwork(model, model.example)
    box = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    wanted = Property((Case(box, (unsafe([[1.0, 0, 0]], [1e3]),)),))
    found = prove_property(network, wanted)
    assert found.verdict == "violated"
    torch.testing.assert_close(found.outputs, model.reference(found.counterexample.float()))
    text = competition_answer(found)
    assert text.startswith(f"sat\n((X_0 {found.counterexample[0, 0].item()!r})\n (X_1 ") and text.endswith(f"(Y_2 {found.outputs[0, 2].item()!r}))\n")
    monkeypatch.setattr(type(model), "reference", lambda self, x: torch.full((len(x), 3), 2e3))
    assert prove_property(network, wanted, time_limit=1.0).verdict in ("unknown", "timeout")


def test_a_margin_within_rounding_is_never_proven():
    """The least value is the limit itself: to touch it is to violate."""
    model = Function(lambda module, x: x.sum(1, keepdim=True))
    box = Box(torch.tensor([[0.1, 0.2]], dtype=torch.float64), torch.tensor([[0.3, 0.4]], dtype=torch.float64))
    exactly = Property((Case(box, (unsafe([[1.0]], [0.1 + 0.2]),)),))
    assert prove_property(BoundedNetwork(model, torch.zeros(1, 2)), exactly, time_limit=1.0).verdict != "holds"


def test_time_is_kept_to():
    model = dense(0, 12, width=60)
    network = BoundedNetwork(model, torch.zeros(1, 12))
    box = Box(-3 * torch.ones(1, 12).double(), 3 * torch.ones(1, 12).double())
    least = float(network.double()(Box(box.lower.repeat(4000, 1), box.upper.repeat(4000, 1)).sample(torch.Generator().manual_seed(0))).amin())
    wanted = Property((Case(box, (unsafe(torch.eye(3), [2 * least] * 3),)),))
    found = prove_property(network, wanted, time_limit=0.5)
    assert found.verdict == "timeout" and found.seconds < 10 and found.lower < 0


def test_the_parts_that_are_proven_make_up_the_box(monkeypatch):
    proven = []
    original = case_margins

    def recorded(exact, case, region):
        found = original(exact, case, region)
        proven.append((region.lower[~found.open], region.upper[~found.open]))
        return found

    monkeypatch.setattr("verify.complete.input_splitting.case_margins", recorded)
    network = BoundedNetwork(dense(5, 2), torch.zeros(1, 2)).double()
    box = Box(-torch.ones(1, 2).double(), torch.ones(1, 2).double())
    least = float((network(grid(box, 50)) @ torch.tensor([1.0, -1, 0]).double()).min())
    case = Case(box, (unsafe([[1.0, -1, 0]], [least - 1e-2]),))
    assert split_inputs(network, case, lambda points: None, math.inf).lower > 0
    lower, upper = (torch.cat(sides).unsqueeze(1) for sides in zip(*proven, strict=True))
    assert len(lower) > 3
    points = grid(box, 65)  # among them the corners of all parts
    assert ((points >= lower) & (points <= upper)).all(2).any(0).all()


def test_a_corner_that_the_models_precision_cannot_hold():
    """Only x = (0.1, ..., 0.1) is unsafe; in float32 that is a point beyond it, which is outside the box."""
    box = Box(torch.zeros(1, 6).double(), torch.full((1, 6), 0.1, dtype=torch.float64))
    wanted = Property((Case(box, (unsafe((-torch.eye(6)).tolist(), [-0.1] * 6),)),))
    model = Function(lambda module, x: x)
    found = prove_property(BoundedNetwork(model, torch.zeros(1, 6)), wanted, time_limit=1.0)
    assert found.verdict == "violated" and torch.equal(found.counterexample, box.upper)


REFUSED = {
    "inputs": (lambda: Property.robust(Ball(torch.zeros(1, 3), 0.1), 0, 3), "3 inputs, the network 2"),
    "outputs": (lambda: Property.robust(Ball(torch.zeros(1, 2), 0.1), 0, 4), "4 outputs, the network 3"),
    "several": (lambda: Property.robust(Ball(torch.zeros(2, 2), 0.1), 0, 3), "about one input, not 2"),
    "label": (lambda: Property.robust(Ball(torch.zeros(1, 2), 0.1), 3, 3), "0 to 2"),
    "nothing": (lambda: Property(()), "needs a case"),
    "no set": (lambda: Property((Case(Ball(torch.zeros(1, 2), 0.1), ()),)), "one unsafe set or more"),
    "infinite": (lambda: unsafe([[math.inf]], [1.0]), "finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_property_of_the_network_is_refused(name):
    make, words = REFUSED[name]
    network = BoundedNetwork(dense(0, 2), torch.zeros(1, 2))
    with pytest.raises(InputError, match=words):
        prove_property(network, make())


def test_a_network_without_a_batch_axis(tmp_path):
    file = graph_model([node("MatMul", "w x", "m"), node("Relu", "m")], [2], w=torch.eye(2).numpy())
    model = from_onnx(saved(file, tmp_path / "f.onnx"))
    box = Box(torch.tensor([[-1.0, 0.5]]).double(), torch.tensor([[1.0, 1.0]]).double())
    holds = Property((Case(box, (unsafe([[0.0, 1.0]], [0.4]),)),))
    assert prove_property(BoundedNetwork(model, model.example), holds).verdict == "holds"

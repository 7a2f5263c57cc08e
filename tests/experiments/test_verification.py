"""The study of complete verification: the exact program is exact, contradictions are seen, nothing is done twice."""

import pytest
import torch
from torch import nn

from experiments.verification import study
from experiments.verification.exact import decide
from verify import Box, InputError


class Small(nn.Module):
    """Two inputs, a max pool, a skip connection."""

    def __init__(self):
        super().__init__()
        self.first, self.relu = nn.Linear(2, 8), nn.ReLU()
        self.pool, self.last = nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x)
        pooled = self.pool((h + self.relu(h)).view(-1, 1, 2, 4)).flatten(1)
        return self.last(torch.cat([pooled, x], 1))


@pytest.mark.parametrize("kind", [Small, lambda: nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))])
def test_the_exact_program_says_what_a_grid_of_inputs_says(kind):
    answers = set()
    for seed in range(8):
        torch.manual_seed(seed)
        model, centre = kind().eval(), torch.rand(1, 2).double()
        model.requires_grad_(False)
        label = int(model(centre.float()).argmax())
        box = Box(centre - 0.3, centre + 0.3)
        answer = decide(model, box, label, 60.0)
        grid = box.lower + 0.6 * torch.cartesian_prod(*[torch.linspace(0, 1, 101)] * 2)
        won = bool((model(grid.float()).argmax(1) == label).all())
        assert answer == ("unsat" if won else "sat"), seed
        answers.add(answer)
    assert answers == {"sat", "unsat"}


def test_without_time_nothing_is_said_and_smooth_functions_are_refused():
    box = Box(torch.zeros(1, 2), torch.ones(1, 2))
    assert decide(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), box, 0, 0.0) == "timeout"
    with pytest.raises(InputError, match="smooth"):
        decide(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), box, 0, 1.0)


def row(network, ours, stock, milp):
    return {"network": network, "ours": ours, "ours_seconds": 1.0, "stock": stock, "stock_seconds": 2, "milp": milp, "milp_seconds": "3"}


def test_contradictions_are_seen_and_the_table_counts():
    rows = [row("a", "unsat", "unknown", "unsat"), row("a", "sat", "unknown", "timeout"), row("b", "unsat", "refused", "sat")]
    assert study.contradictions(rows) == rows[2:]
    lines = study.table(rows)
    assert "| a | 2 | 1 + 1, 1.00 | 0 + 0, 2.00 | 1 + 0, 3.00 |" in lines
    assert "| b | 1 | 1 + 0, 1.00 | refused | 0 + 1, 3.00 |" in lines


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    def run(*epsilons):
        line = ["--network", "dense", "--images", "1", *(word for each in epsilons for word in ("--epsilon", each))]
        with pytest.raises(SystemExit) as left:
            study.main.main([*line, "--out", str(tmp_path), "--results", str(tmp_path)])
        assert not left.value.code

    monkeypatch.setattr(study, "EPOCHS", 1)
    run("0.0")
    first = (tmp_path / "verification.csv").read_text()
    monkeypatch.setattr(study, "plain_training", None)
    asked = []
    monkeypatch.setattr(study.Instances, "row", lambda self, index, example, epsilon: asked.append(epsilon) or row("dense", "unsat", "unsat", "unsat"))
    run("0.0")
    assert (tmp_path / "verification.csv").read_text() == first and not asked
    run("0.5")
    assert asked == [0.5]
    assert "contradictions: 0 of 1 instances" in (tmp_path / "verification.md").read_text()

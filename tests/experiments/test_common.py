"""What experiments share, against the same written out."""

import copy

import click
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from experiments.benchmarks import deep, limits
from experiments.common import Script, first_correct, plain_training
from experiments.recipes import study as recipes
from robust_nas.data import Examples
from verify.checks.errors import InputError


def problem() -> tuple[nn.Module, Examples]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return model, Examples(torch.rand(10, 1, 2, 2, generator=generator), torch.arange(10) % 3)


def test_plain_training_is_adam_on_a_cosine():
    model, examples = problem()
    reference = copy.deepcopy(model)
    losses = list(plain_training(model, examples, epochs=3, batch_size=4, learning_rate=0.1, seed=5))
    generator, optimiser = torch.Generator().manual_seed(5), torch.optim.Adam(reference.parameters())
    expected = []
    for rate in (0.1, 0.075, 0.025):  # (1 + cos(pi epoch / 3)) / 20
        optimiser.param_groups[0]["lr"] = rate
        summed = 0.0
        for index in torch.randperm(10, generator=generator).split(4):
            loss = F.cross_entropy(reference(examples.images[index]), examples.labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            summed += loss.item() * len(index)
        expected.append(summed / 10)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(model.state_dict(), reference.state_dict())


def test_first_correct():
    model, examples = problem()
    right = [i for i in range(10) if model(examples.images[[i]]).argmax().item() == examples.labels[i]]
    assert 2 <= len(right) < 10
    for count, among in ((1, 10), (9, 10), (9, right[-1]), (2, 1000)):
        places, found = first_correct(model, examples, count, among)
        assert places == [i for i in right if i < among][:count]
        assert torch.equal(found.images, examples.images[places])
        assert torch.equal(found.labels, examples.labels[places])


@pytest.mark.parametrize("script", [deep.main, limits.main, recipes.main], ids=["deep", "limits", "recipes"])
def test_no_data_is_one_line_and_code_2(script, tmp_path):
    found = CliRunner().invoke(script, ["--data", str(tmp_path / "nowhere")])
    assert found.exit_code == 2
    assert "error: " in found.output and "nowhere" in found.output and found.output.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such\nthing"), 2, "error: no such thing\n"),
        (click.UsageError("no such option"), 2, "error: no such option\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (ValueError("a bug"), 1, ""),  # keeps its traceback
    ],
)
def test_how_a_script_ends(error, code, line):
    @click.command(cls=Script)
    def main():
        raise error

    found = CliRunner().invoke(main, [])
    assert found.exit_code == code
    assert found.output.partition(": ")[2] == line
    assert isinstance(found.exception, SystemExit if line else ValueError)

"""The controller of ENAS (Pham et al., ICML 2018): a recurrent network that draws the cells of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robust_nas.spaces.cells import KINDS

HIDDEN = 64
TANH = 1.10
"""Logits are TANH tanh(.), so that no choice ever becomes certain."""
SPREAD = 0.1
"""All parameters start uniformly within plus and minus this."""


class Scores(NamedTuple):
    """What the controller makes of architectures, each drawn one choice after the other.

    Attributes:
        log_probability: of each.
        entropy: the sum, in nats, of the entropies of the choices on the way to each; its mean over the controller's
            own samples estimates the entropy of the architecture.
    """

    log_probability: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]


class Controller(nn.Module):
    """Draws, for each node of the normal and then of the reduction cell, two inputs and two operations.

    An LSTM reads the choice before (an operation's embedding, or what it gave when the chosen input was made) and
    answers with the logits of the next: for an operation linear in its output, for an input by additive attention
    over what it gave for each of them. The two inputs, and the two operations, are drawn independently of each
    other but for the LSTM's memory, so both pairs of a node may be equal.

    From the paper and the authors' code for CIFAR-10's micro space: 64 hidden units, uniform weights within 0.1, tanh
    constant 1.10, no temperature. Left out are the biases, which there favour the separable convolutions, and with them
    the division of operations' logits by 2.5: choices get sharper than the authors' can.

    Architectures are whole numbers, "n 2 nodes 2 2": of n architectures the normal and the reduction cell, their
    nodes, and of each node first its two inputs, then the operations on them.

    Args:
        nodes: intermediate nodes a cell.
        operations: how many to choose from.
    """

    def __init__(self, nodes: int, operations: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.start = nn.Parameter(torch.empty(HIDDEN))
        self.memory = nn.LSTMCell(HIDDEN, HIDDEN)
        self.embedding = nn.Embedding(operations, HIDDEN)
        self.operation = nn.Linear(HIDDEN, operations)
        self.key, self.query = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(2))
        self.attention = nn.Linear(HIDDEN, 1, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -SPREAD, SPREAD)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Int[Tensor, "n 2 nodes 2 2"]:
        """Draw so many architectures; `generator` is on the CPU."""
        choices: list[Tensor] = []

        def draw(logits: Tensor) -> Tensor:
            drawn = torch.multinomial(torch.softmax(logits, dim=1).cpu(), 1, generator=generator)
            choices.append(drawn.squeeze(1).to(logits.device))
            return choices[-1]

        self._walk(count, draw)
        return torch.stack(choices, dim=1).view(count, len(KINDS), self.nodes, 2, 2)

    def score(self, architectures: Int[Tensor, "n 2 nodes 2 2"]) -> Scores:
        """How likely it is to draw these; differentiable in its parameters."""
        choices = iter(architectures.flatten(1).unbind(1))
        logits, taken = [], []

        def follow(row: Tensor) -> Tensor:
            logits.append(row)
            taken.append(next(choices))
            return taken[-1]

        self._walk(len(architectures), follow)
        rows = [torch.distributions.Categorical(logits=row) for row in logits]
        return Scores(
            torch.stack([row.log_prob(choice) for row, choice in zip(rows, taken, strict=True)]).sum(0),
            torch.stack([row.entropy() for row in rows]).sum(0),
        )

    def _walk(self, count: int, choose: Callable[[Float[Tensor, "n options"]], Int[Tensor, " n"]]) -> None:
        """Ask for one choice after the other, for `count` architectures at once."""
        start = self.start.expand(count, -1)
        state: tuple[Tensor, Tensor] | None = None
        for _ in KINDS:
            made: list[Tensor] = []  # the LSTM's output when an input of the nodes was made
            for _ in range(2):
                state = self.memory(start, state)
                made.append(state[0])
            for _ in range(self.nodes):
                inputs, last = torch.stack(made, dim=1), start
                for _ in range(2):
                    state = self.memory(last, state)
                    chosen = choose(self._input_logits(inputs, state[0]))
                    last = inputs[torch.arange(count, device=chosen.device), chosen]
                for _ in range(2):
                    state = self.memory(last, state)
                    last = self.embedding(choose(TANH * torch.tanh(self.operation(state[0]))))
                state = self.memory(last, state)
                made.append(state[0])

    def _input_logits(
        self, inputs: Float[Tensor, "n inputs hidden"], output: Float[Tensor, "n hidden"]
    ) -> Float[Tensor, "n inputs"]:
        matched = torch.tanh(self.key(inputs) + self.query(output).unsqueeze(1))
        return TANH * torch.tanh(self.attention(matched).squeeze(2))


def reinforce(
    scores: Scores, accuracy: Float[Tensor, " n"], baseline: Float[Tensor, ""], weight: float
) -> Float[Tensor, " n"]:
    """Losses of architectures that the controller drew; their gradient is that of REINFORCE (Williams, 1992).

    Over the controller's samples its mean is the gradient of -E[accuracy + weight * entropy], whatever the baseline is,
    as long as it does not depend on the sample. The authors' code leaves out by how much the step itself moves
    the entropies.

    Args:
        scores: of the architectures.
        accuracy: of each.
        baseline: taken off the reward, for a smaller variance.
        weight: of the entropy in the reward.
    """
    advantage = accuracy + weight * scores.entropy.detach() - baseline
    return -advantage * scores.log_probability - weight * scores.entropy

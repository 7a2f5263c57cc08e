"""ENAS (Pham et al., ICML 2018): a controller draws architectures, which share the weights of one supernet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from robust_nas.data import Examples
from robust_nas.distributed import Processes
from robust_nas.genotype import Edge, Genotype
from robust_nas.notations import ENAS_OPERATIONS
from robust_nas.search.bilevel import AlphaStep, ArchitectureStep
from robust_nas.search.controller import Controller, reinforce
from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.base import Step, Strategy
from robust_nas.spaces.cells import KINDS
from robust_nas.spaces.supernet import Operations, Supernet
from verify.bounds import BoundedNetwork
from verify.graph.tracing import copies, evaluated

LEARNING_RATE, BETAS = 0.0035, (0.0, 0.999)
"""Of Adam for the controller; there is no weight decay."""
ENTROPY_WEIGHT = 1e-4
DECAY = 0.99
"""Of the moving average of rewards that is the baseline; it starts at 0."""
FINAL_SAMPLES = 10
OBSERVED = 100
SEED = 0
"""Of the samples that tell what the controller prefers, or of which the best is the result: always the same draw."""


class SampledSupernet(Supernet):
    """A supernet with the operations of ENAS' micro space, and the controller that draws its architectures.

    Within `child` it computes what an architecture does, with the weights that all of them share. Outside of it the
    alphas are no parameters that learn, but tell what the controller prefers, as `observe` last saw it: the
    logarithm of how often an architecture takes an operation on an edge.

    As everywhere here, all nodes make a cell's output, where ENAS takes those that no other reads, and an operation's
    weights are those of its edge: an edge taken twice with one operation weighs double.

    Args:
        in_channels: channels of the images.
        classes: number of classes.
        nodes: intermediate nodes a cell.
        options: those of `Supernet`, but for `operations`.

    Attributes:
        controller: draws architectures.
        baseline: the moving average of the controller's rewards.
        architecture: what `child` holds it at, "1 2 nodes 2 2" (see `Controller`); None outside of it.
    """

    baseline: Tensor

    def __init__(self, in_channels: int, classes: int, *, nodes: int = 3, **options: Any) -> None:
        edges = sum(range(2, 2 + nodes))
        operations = dict.fromkeys(KINDS, [ENAS_OPERATIONS] * edges)
        super().__init__(in_channels, classes, nodes=nodes, operations=operations, **options)
        self.alphas.requires_grad_(False)
        self.controller = Controller(nodes, len(ENAS_OPERATIONS))
        self.register_buffer("baseline", torch.tensor(0.0))
        self.architecture: Tensor | None = None
        self.observe()

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Those of the controller."""
        return list(self.controller.parameters())

    def weights(self) -> list[nn.Parameter]:
        """Every parameter that is neither of the controller nor an alpha."""
        alphas = {id(alpha) for alpha in self.alphas.values()}
        return [parameter for parameter in super().weights() if id(parameter) not in alphas]

    def probabilities(self) -> dict[str, Float[Tensor, "edges _"]]:
        """How often, by kind of cell, an architecture of the controller takes an operation on an edge."""
        return {kind: torch.exp(alpha) for kind, alpha in self.alphas.items()}

    def uses(self, architectures: Int[Tensor, "n 2 nodes 2 2"]) -> dict[str, Float[Tensor, "n edges ops"]]:
        """How often, by kind of cell, each of these takes each operation on each edge: 0, 1 or 2 times."""
        edges, operations = self.alphas[KINDS[0]].shape
        sources, chosen = architectures.unbind(3)
        first = torch.tensor([sum(range(2, 2 + node)) for node in range(self.nodes)]).to(sources)
        places = ((first.unsqueeze(1) + sources) * operations + chosen).flatten(2)
        counts = self.baseline.new_zeros(len(places), len(KINDS), edges * operations)
        counts.scatter_add_(2, places, torch.ones_like(places, dtype=counts.dtype))
        return dict(zip(KINDS, counts.unflatten(2, (edges, operations)).unbind(1), strict=True))

    @contextmanager
    def child(self, architecture: Int[Tensor, "1 2 nodes 2 2"]) -> Iterator[None]:
        """Compute what this architecture does within the block; what it does not take weighs exactly 0."""
        with ExitStack() as stack:
            for kind, counts in self.uses(architecture).items():
                stack.enter_context(self.relaxation(kind).held_at(counts[0], self.alphas[kind]))
            self.architecture = architecture
            try:
                yield
            finally:
                self.architecture = None

    @torch.no_grad()
    def observe(self) -> None:
        """Set the alphas to what the controller draws, by a fixed sample; one is added to each count, for the log."""
        drawn = self.controller.sample(OBSERVED, torch.Generator().manual_seed(SEED))
        for kind, counts in self.uses(drawn).items():
            self.alphas[kind].copy_(torch.log((counts.sum(0) + 1) / OBSERVED))

    def described(self, architecture: Int[Tensor, "2 nodes 2 2"]) -> Genotype:
        """An architecture's cells; a node's pairs are listed by input, so that equal cells are equal genotypes."""
        concat = tuple(range(2, 2 + self.nodes))
        normal, reduce = (_edges(cell) for cell in architecture)
        return Genotype(normal, concat, reduce, concat, self.nodes, activation=self.activation)

    @torch.no_grad()
    def accuracy(self, architecture: Int[Tensor, "1 2 nodes 2 2"], batch: Examples) -> float:
        """Fraction of a batch that an architecture gets right with the shared weights; changes no buffer."""
        with self.child(architecture):
            logits: Tensor = evaluated(self, copies(self), batch.images)
        return (logits.argmax(1) == batch.labels).double().mean().item()


def _edges(cell: Int[Tensor, "nodes 2 2"]) -> tuple[Edge, ...]:
    nodes = (sorted(zip(sources, operations, strict=True)) for sources, operations in cell.tolist())
    return tuple((ENAS_OPERATIONS[operation], source) for node in nodes for source, operation in node)


@dataclass
class ControllerStep(ArchitectureStep):
    """A step of the controller by REINFORCE, on the architecture at which the supernet is held.

    The reward is its accuracy on the held-out batch, with the statistics of that batch, plus the weighted entropy. A
    step with a loss that is not finite moves nothing.

    Attributes:
        network: the supernet in training mode, wrapped.
        optimiser: of the controller.
        processes: those that share the batches; all take the same step.
    """

    network: BoundedNetwork
    optimiser: torch.optim.Optimizer
    processes: Processes

    columns = ("val_loss", "val_accuracy", "reward", "baseline", "controller_entropy", "finite")

    def __call__(self, held_out: Examples, train: Examples, watched: bool = True) -> dict[str, int | float | None]:
        """Take the step; returns figures for the log, `baseline` as it was in the step, `controller_entropy` in nats.

        Args:
            held_out: this process' share of the validation batch.
            train, watched: not read.
        """
        model = _sampled(self.network.model)
        assert model.architecture is not None
        val_loss, accuracy = self._evaluate(held_out)
        scores, baseline = model.controller.score(model.architecture), model.baseline.clone()
        entropy = scores.entropy.item()
        reward = accuracy + ENTROPY_WEIGHT * entropy
        finite = math.isfinite(val_loss)
        if finite:
            reinforce(scores, baseline.new_tensor([accuracy]), baseline, ENTROPY_WEIGHT).sum().backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
            model.baseline.mul_(DECAY).add_((1 - DECAY) * reward)
        figures = (val_loss, accuracy, reward, baseline.item(), entropy, float(finite))
        return dict(zip(self.columns, figures, strict=True))

    @torch.no_grad()
    def _evaluate(self, batch: Examples) -> tuple[float, float]:
        """Loss and accuracy."""
        logits = self.network.freeze(batch.images, self.processes.moments)
        loss = F.cross_entropy(logits, batch.labels, reduction="sum").item()
        right = float((logits.argmax(1) == batch.labels).sum())
        loss, right, images = self.processes.total([loss, right, float(len(batch.labels))])
        return loss / images, right / images


class ParameterSharing(Strategy):
    """ENAS on the supernet of DARTS, with the five operations of its micro search space.

    Each step of the weights trains one architecture that the controller draws, and each step of the controller judges
    another. (The authors take some 300 of these, in groups of ten, after every epoch of those.) The result is the best
    of ten architectures of the controller by accuracy on held-out images with the shared weights.

    Entropy weight, baseline and the controller's rate are those of the paper and the authors' code. The weights' rate
    falls on one cosine, with plain momentum; theirs restarts, with Nesterov's. As the supernet weighs with 0 what is
    not drawn, its weights feel momentum and decay.
    """

    orders = ("first",)
    metrics = False
    recipes = False

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        return (replace(preset, alpha_learning_rate=LEARNING_RATE, alpha_betas=BETAS, alpha_weight_decay=0.0),)

    def supernet(self, operations: Operations | None, settings: Mapping[str, Any]) -> Supernet:
        return SampledSupernet(**settings)

    def alpha_step(self, plain: AlphaStep) -> ArchitectureStep:
        return ControllerStep(plain.network, plain.optimiser, plain.processes)

    @contextmanager
    def around_alpha_step(self, model: Supernet, step: Step) -> Iterator[None]:
        supernet = _sampled(model)
        with supernet.child(supernet.controller.sample(1, step.generator)):
            yield
        supernet.observe()

    @contextmanager
    def around_weight_step(self, model: Supernet, step: Step, loss: Callable[[], Tensor]) -> Iterator[None]:
        supernet = _sampled(model)
        with supernet.child(supernet.controller.sample(1, step.generator)):
            yield

    def genotype(self, model: Supernet, held_out: Callable[[], Examples]) -> Genotype:
        supernet, batch = _sampled(model), held_out()
        drawn = supernet.controller.sample(FINAL_SAMPLES, torch.Generator().manual_seed(SEED))
        return supernet.described(max(drawn, key=lambda one: supernet.accuracy(one.unsqueeze(0), batch)))


def _sampled(model: nn.Module) -> SampledSupernet:
    assert isinstance(model, SampledSupernet)
    return model

"""Rules that end a search early, asked once an epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from robust_nas.genotype import Genotype
from robust_nas.spaces.operations import family


@dataclass(frozen=True)
class Epoch:
    """What a rule may look at.

    Attributes:
        number: of the epoch, from 1.
        val_loss: mean of the epoch's validation losses; None in warm-up, while alpha waits.
        genotype: what alpha preferred at its end.
        ranking: the operations of every edge of the normal cell, from strong to weak.
        eigenvalue: largest of the Hessian of the validation loss in alpha; None where it was not computed.
    """

    number: int
    val_loss: float | None
    genotype: Genotype
    ranking: tuple[tuple[str, ...], ...]
    eigenvalue: float | None = None


@dataclass(frozen=True)
class Stop:
    """The end of a search.

    Attributes:
        reason: one line for people.
        epoch: the number of the epoch whose genotype is the result; it may be an earlier one.
    """

    reason: str
    epoch: int


class StoppingRule(ABC):
    """Decides after every epoch whether the search ends; epochs of the warm-up do not count."""

    remembered: ClassVar[tuple[str, ...]] = ()
    """The attributes that a decision depends on beside the epoch at hand; JSON can hold them."""

    def __call__(self, epoch: Epoch) -> Stop | None:
        """Take note of an epoch, each once and in order; None to go on."""
        return None if epoch.val_loss is None else self._judge(epoch, epoch.val_loss)

    @abstractmethod
    def _judge(self, epoch: Epoch, val_loss: float) -> Stop | None:
        """`__call__` after warm-up."""

    def state_dict(self) -> dict[str, Any]:
        """What the rule remembers, as JSON can hold it."""
        return {name: deepcopy(getattr(self, name)) for name in self.remembered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for name in self.remembered:
            setattr(self, name, deepcopy(state[name]))


class LossPlateau(StoppingRule):
    """Stop when the validation loss no longer falls; the result is the epoch of the last improvement.

    Args:
        patience: epochs without improvement that end the search.
        min_delta: by what part of the best loss a loss must be lower to count as an improvement.
    """

    remembered = ("best_loss", "best_epoch", "without")

    def __init__(self, patience: int = 5, min_delta: float = 0.01) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.best_loss: float | None = None
        self.best_epoch = 0
        self.without = 0  # epochs since, those of a warm-up between stages left out

    def _judge(self, epoch: Epoch, val_loss: float) -> Stop | None:
        loss = val_loss if math.isfinite(val_loss) else math.inf
        if self.best_loss is None or loss < self.best_loss * (1 - self.min_delta):
            self.best_loss, self.best_epoch, self.without = loss, epoch.number, 0
        else:
            self.without += 1
        if self.without < self.patience:
            return None
        reason = f"the validation loss has not fallen by {self.min_delta:.2g} of itself for {self.patience} epochs"
        return Stop(reason, self.best_epoch)


class SkipLimit(StoppingRule):
    """Stop at two or more skip connections in the normal cell; the result is that cell.

    DARTS+ (Liang et al., arXiv:1909.06035), criterion 1. An alpha that has hardly moved may prefer two by chance,
    and so end the search at once: give it a warm-up or steps enough in its first epoch.

    Args:
        limit: skip connections that end the search.
    """

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit

    def _judge(self, epoch: Epoch, val_loss: float) -> Stop | None:
        skips = sum(family(operation) == "skip" for operation, _ in epoch.genotype.normal)
        return Stop(f"the normal cell has {skips} skip connections", epoch.number) if skips >= self.limit else None


class StableRanking(StoppingRule):
    """Stop when the order of the learnable operations by alpha stays the same on every edge of the normal cell.

    DARTS+ (Liang et al., arXiv:1909.06035), criterion 2; learnable are those with weights, the convolutions. The
    result is the last epoch.

    Args:
        patience: epochs in a row with the ranking of the epoch before that end the search.
    """

    remembered = ("ranking", "unchanged")

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.ranking: list[list[str]] | None = None
        self.unchanged = 0

    def _judge(self, epoch: Epoch, val_loss: float) -> Stop | None:
        ranking = [[name for name in names if family(name) == "convolution"] for names in epoch.ranking]
        self.unchanged = self.unchanged + 1 if ranking == self.ranking else 0
        self.ranking = ranking
        if self.unchanged < self.patience:
            return None
        return Stop(f"the ranking of the convolutions has been the same for {self.patience} epochs", epoch.number)


class EigenvalueRatio(StoppingRule):
    """Stop when the curvature of the validation loss in alpha grows; the result is an epoch before it did.

    DARTS-ES of R-DARTS (Zela et al., ICLR 2020), with the figures of the authors' public code. Eigenvalues, there one
    every second epoch, are averaged over windows of five. The newest window is compared with the one four eigenvalues
    earlier; where the ratio passes 1.3 the search goes back to the middle epoch of the earlier window. An average
    that is not positive is compared with nothing, and an eigenvalue that is not finite counts as not computed.

    Args:
        factor: the ratio that ends the search when it is passed.
        window: eigenvalues to average.
        delay: how many eigenvalues earlier the other window is.
        first_epoch: the earliest result.
    """

    remembered = ("epochs", "eigenvalues")

    def __init__(self, factor: float = 1.3, window: int = 5, delay: int = 4, first_epoch: int = 10) -> None:
        self.factor = factor
        self.window = window
        self.delay = delay
        self.first_epoch = first_epoch
        self.epochs: list[int] = []  # of the last window + delay eigenvalues
        self.eigenvalues: list[float] = []

    def _judge(self, epoch: Epoch, val_loss: float) -> Stop | None:
        if epoch.eigenvalue is None or not math.isfinite(epoch.eigenvalue):
            return None
        kept = self.window + self.delay
        self.epochs = [*self.epochs, epoch.number][-kept:]
        self.eigenvalues = [*self.eigenvalues, epoch.eigenvalue][-kept:]
        if len(self.epochs) < kept or self.epochs[self.window // 2] < self.first_epoch:
            return None
        earlier, now = fmean(self.eigenvalues[: self.window]), fmean(self.eigenvalues[-self.window :])
        if earlier <= 0 or now <= self.factor * earlier:
            return None
        reason = f"the top eigenvalue of the loss's Hessian in alpha has grown to {now / earlier:.2f} times"
        return Stop(reason, self.epochs[self.window // 2])


class FirstOf(StoppingRule):
    """Stop as soon as one of several rules does, with its result; if several do at once, with that of the first.

    Args:
        rules: which take note of every epoch, all of them.
    """

    def __init__(self, *rules: StoppingRule) -> None:
        self.rules = rules

    def _judge(self, epoch: Epoch, val_loss: float) -> Stop | None:
        stops = [rule(epoch) for rule in self.rules]
        return next((stop for stop in stops if stop is not None), None)

    def state_dict(self) -> dict[str, Any]:
        return {"rules": [rule.state_dict() for rule in self.rules]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for rule, own in zip(self.rules, state["rules"], strict=True):
            rule.load_state_dict(own)


def skips_or_ranking() -> StoppingRule:
    """DARTS+'s two rules: the search ends with the first that says so."""
    return FirstOf(SkipLimit(), StableRanking())

"""A weight of the metric that is steered by how hard it pulls, in place of one that is fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEMORY = 0.9
"""What is left of the averages' weight after a step that is watched: they are those of the last ten or so."""


@dataclass
class Balance:
    """gamma such that the gradient in alpha of gamma R is `ratio` times as long as that of the loss, on average.

    Lengths of gradients differ by orders of magnitude from metric to metric, and fall as the search goes on: a gamma
    that is right for one says nothing of another. Averages are geometric, as one step's length can be a hundred times
    the next one's.

    Attributes:
        ratio: how hard R pulls, relative to the loss.
        weight: of all steps so far in the average.
        log_gamma: the average of log(length of the loss' gradient / length of R's), times its weight.
    """

    ratio: float
    weight: float = 0.0
    log_gamma: float = 0.0

    def update(self, loss: float, metric: float) -> None:
        """Take the lengths of both gradients in a step; lengths that are 0 or not finite say nothing."""
        if not (0 < loss < math.inf and 0 < metric < math.inf):
            return
        self.weight = MEMORY * self.weight + 1
        self.log_gamma = MEMORY * self.log_gamma + math.log(loss / metric)

    @property
    def gamma(self) -> float:
        """The weight of R; `ratio` before the first step."""
        return self.ratio * (math.exp(self.log_gamma / self.weight) if self.weight else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The averages, for a checkpoint."""
        return {"weight": self.weight, "log_gamma": self.log_gamma}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the averages of another search."""
        self.weight, self.log_gamma = state["weight"], state["log_gamma"]

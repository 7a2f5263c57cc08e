"""Carlini and Wagner's l2 attack, over foolbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust_nas.attacks.base import Attack, Perturb, foolbox_model, load_foolbox
from robust_nas.attacks.threats import Threat
from verify.regions import per_image


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """C&W (S&P 2017): Adam on ||delta||_2^2 + c max(0, f_y - max over k != y of f_k), pixels as a tanh, confidence 0.

    The paper gives 60 iterations and no more. Taken here: c = 1, the step size of the authors, and an image falls where
    the distortion found is at most epsilon, that of the other l2 attacks. All images take all iterations.

    Attributes:
        steps: iterations for each c.
        searches: how many values of c: 1 keeps to `c`; more search from there, times 10 while the attack fails, then by
            bisection, each image for itself.
        c: weight of the margin, the first one of the search.
        step_size: of Adam.
    """

    steps: int = 60
    searches: int = 1
    c: float = 1.0
    step_size: float = 0.01

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    paper_norms: ClassVar[tuple[str, ...]] = ("l2",)

    @property
    def name(self) -> str:
        return "cw"

    def stages(self, network: nn.Module, threat: Threat, classes: int, seed: int) -> Mapping[str, Perturb]:
        foolbox = load_foolbox()
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.searches,
            steps=self.steps,
            stepsize=self.step_size,
            initial_const=self.c,
            abort_early=False,  # which looks at the sum over a batch: one image would depend on the others
        )

        def perturb(images: Tensor, labels: Tensor) -> Tensor:
            found: Tensor = attack.run(foolbox_model(network, images), images, foolbox.Misclassification(labels))
            failed = (found == 0).flatten(1).all(1)  # foolbox's mark; black may well be another class
            return torch.where(per_image(failed, images), images, found)

        return {self.name: perturb}


CW = CarliniWagner()
"""The paper's."""

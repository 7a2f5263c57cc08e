"""Steps along the gradient of the cross-entropy, over foolbox: FGSM and PGD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from robust_nas.attacks.base import Attack, Perturb, foolbox_model, load_foolbox
from robust_nas.attacks.threats import Epsilons, Threat

PAPER_STEP = 2 / 255


@dataclass(frozen=True)
class FastGradient(Attack):
    """FGSM (Goodfellow et al., ICLR 2015): one step of size epsilon along the sign of the gradient, no random start.

    In l2 the step goes along the gradient itself.
    """

    @property
    def name(self) -> str:
        return "fgsm"

    def epsilon(self, norm: str, epsilons: Epsilons) -> float:
        return epsilons.fgsm if norm == "linf" else epsilons.l2

    def stages(self, network: nn.Module, threat: Threat, classes: int, seed: int) -> Mapping[str, Perturb]:
        attacks = load_foolbox().attacks
        kind = attacks.LinfFastGradientAttack if threat.norm == "linf" else attacks.L2FastGradientAttack
        return {self.name: lambda images, labels: _run(kind(), network, images, labels, threat.epsilon)}


@dataclass(frozen=True)
class ProjectedGradient(Attack):
    """PGD (Madry et al., ICLR 2018) from one random start; the last step counts.

    Attributes:
        steps: how many.
        step_size: in pixels, for l-infinity; None for 2.5 epsilon / steps, as Madry et al., and as always in l2, where
            the paper has no PGD.
    """

    steps: int
    step_size: float | None = PAPER_STEP

    @property
    def name(self) -> str:
        return f"pgd-{self.steps}"

    def at_any_epsilon(self) -> ProjectedGradient:
        return replace(self, step_size=None)

    def step_in(self, threat: Threat) -> float:
        """The step's size, in the threat's norm."""
        if threat.norm == "linf" and self.step_size is not None:
            return self.step_size
        return 2.5 * threat.epsilon / self.steps

    def reach(self, threat: Threat) -> float:
        """How far all steps can lead, were it not for epsilon."""
        return self.steps * self.step_in(threat)

    def stages(self, network: nn.Module, threat: Threat, classes: int, seed: int) -> Mapping[str, Perturb]:
        attacks = load_foolbox().attacks
        linf = threat.norm == "linf"
        kind = attacks.LinfProjectedGradientDescentAttack if linf else attacks.L2ProjectedGradientDescentAttack
        attack = kind(steps=self.steps, abs_stepsize=self.step_in(threat))
        return {self.name: lambda images, labels: _run(attack, network, images, labels, threat.epsilon)}


def _run(attack: Any, network: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    misclassified = load_foolbox().Misclassification(labels)
    return attack.run(foolbox_model(network, images), images, misclassified, epsilon=epsilon)


FGSM = FastGradient()
PGD_10, PGD_20, PGD_100 = (ProjectedGradient(steps) for steps in (10, 20, 100))
"""The paper's."""

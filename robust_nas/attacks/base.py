"""What an attack is: stages of perturbations in a threat model, each on the images that the last one left standing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.attacks.threats import Epsilons, Threat

if TYPE_CHECKING:
    import foolbox

Perturb = Callable[[Tensor, Tensor], Tensor]
"""From images `b c h w` in [0,1] and their labels to perturbed images, which may be too far or no success."""


class Attack(ABC):
    """An attack of any norm and radius that it knows; it holds its settings and no state.

    Attributes:
        norms: that it knows.
        paper_norms: those in which the paper (DSRNA, CVPR 2021, section 4.3.1) runs it.
        fewest_classes: the smallest number of classes that it can work on.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    paper_norms: ClassVar[tuple[str, ...]] = ("linf",)
    fewest_classes: ClassVar[int] = 2

    @property
    @abstractmethod
    def name(self) -> str:
        """On the command line and in the results."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its stages, in order."""
        return (self.name,)

    def epsilon(self, norm: str, epsilons: Epsilons) -> float:
        """Its radius among those of a data set."""
        return epsilons.linf if norm == "linf" else epsilons.l2

    def at_any_epsilon(self) -> Attack:
        """The attack with what the paper's epsilons do not decide, for another."""
        return self

    @abstractmethod
    def stages(self, network: nn.Module, threat: Threat, classes: int, seed: int) -> Mapping[str, Perturb]:
        """What `parts` names.

        Args:
            network: in evaluation mode, with logits.
            classes: number of logits.
            seed: for a part that seeds itself; the others draw from torch's generator, which `evaluate` seeds.
        """


class Counted(nn.Module):
    """A network that counts the images passed forward through it; a pass backward is not counted.

    Attributes:
        images: counted so far.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        self.images = 0

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b k"]:
        self.images += len(x)
        return self.network(x)


@contextmanager
def under_attack(network: nn.Module) -> Iterator[bool]:
    """Within the block the network is in evaluation mode and keeps no gradients; afterwards it is as it was.

    AutoAttack never sets evaluation mode, and its FAB adds to the gradients of the parameters.

    Yields:
        Whether a module was in training mode.
    """
    modes = {module: module.training for module in network.modules()}
    learning = {parameter: parameter.requires_grad for parameter in network.parameters()}
    network.eval().requires_grad_(False)
    try:
        yield any(modes.values())
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, wanted in learning.items():
            parameter.requires_grad = wanted


def load_foolbox() -> Any:
    """foolbox, imported when it is needed: it takes most of a second, and its model zoo wants a git executable."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # or else `import foolbox` fails where there is no git
    import foolbox

    return foolbox


def foolbox_model(network: nn.Module, images: Tensor) -> foolbox.PyTorchModel:
    """The network as foolbox takes it, for images in [0,1]."""
    return load_foolbox().PyTorchModel(network, bounds=(0, 1), device=images.device)

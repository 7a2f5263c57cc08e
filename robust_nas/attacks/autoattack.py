"""AutoAttack, over pyautoattack."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust_nas.attacks.base import Attack, Perturb
from robust_nas.attacks.threats import NORM_NAMES, Threat

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
BLACK_BOX = "square"
_LIBRARY_NORMS = {"linf": "Linf", "l2": "L2"}
_MOST_TARGETS = 9


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack (Croce and Hein, ICML 2020), version `standard`: each part attacks what the ones before left standing.

    The seed goes to the library as it is, so that the library called with it gives the same images.

    Attributes:
        queries: of the Square attack, per image.
    """

    queries: int = 5000

    paper_norms: ClassVar[tuple[str, ...]] = tuple(NORM_NAMES)
    fewest_classes: ClassVar[int] = 4  # the targeted loss divides by a difference of the third and fourth logit

    @property
    def name(self) -> str:
        return "autoattack"

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS

    def stages(self, network: nn.Module, threat: Threat, classes: int, seed: int) -> Mapping[str, Perturb]:
        return {part: partial(self._perturb, part, network, threat, classes, seed) for part in PARTS}

    @torch.no_grad()
    def _perturb(
        self, part: str, network: nn.Module, threat: Threat, classes: int, seed: int, images: Tensor, labels: Tensor
    ) -> Tensor:
        import pyautoattack

        library = pyautoattack.AutoAttack(
            network, norm=_LIBRARY_NORMS[threat.norm], eps=threat.epsilon, seed=seed, device=images.device
        )
        library.apgd.loss = "ce"
        library.fab.targeted = True
        library.fab.n_target_classes = library.apgd_targeted.n_target_classes = min(_MOST_TARGETS, classes - 1)
        library.square.n_queries = self.queries
        parts = (library.apgd, library.apgd_targeted, library.fab, library.square)
        return dict(zip(PARTS, parts, strict=True))[part].perturb(images, labels)


@contextmanager
def library_log(path: Path) -> Iterator[None]:
    """Within the block what the library says goes to this file, which is made with the first line; nowhere else."""
    logger = logging.getLogger("auto-attack")
    before = logger.level, logger.propagate
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.level, logger.propagate = before


AUTOATTACK = AutoAttack()
"""The standard version."""

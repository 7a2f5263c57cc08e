"""What a search is choosing, in figures and in words: to see it collapse to pools and skip connections."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_nas.genotype import Genotype
from robust_nas.spaces.operations import count, family
from robust_nas.spaces.supernet import Supernet

COLLAPSED_SHARE = 0.75


def composition(model: Supernet) -> dict[str, int | float]:
    """Figures for the log, over both kinds of cell.

    What is pruned does not count.

    `convolutions`, `pools` and `skips` count the operations of the genotype that alpha prefers now. `pool_share`
    and `skip_share` are the part of softmax(alpha) that pools and skip connections hold among an edge's operations
    other than `none`, mean over the edges. For `alpha_entropy` see `entropy`.
    """
    genotype = model.genotype()
    chosen = count(operation for operation, _ in genotype.normal + genotype.reduce)
    return {
        "convolutions": chosen["convolution"],
        "pools": chosen["pool"],
        "skips": chosen["skip"],
        "pool_share": _share(model, "pool"),
        "skip_share": _share(model, "skip"),
        "alpha_entropy": entropy(model),
    }


@torch.no_grad()
def entropy(model: Supernet) -> float:
    """Mean entropy of the operations of an edge in nats: log 8 when 8 are equal, 0 when one is left."""
    rows = [torch.distributions.Categorical(logits=alpha).entropy() for alpha in model.logits().values()]
    return torch.cat(rows).mean().item()


def collapse(genotype: Genotype) -> str | None:
    """One line of warning when the normal cell holds no convolution, or little else than skips and pools."""
    found = count(operation for operation, _ in genotype.normal)
    idle = found["skip"] + found["pool"]
    if found["convolution"] and idle < COLLAPSED_SHARE * found.total():
        return None
    words = ", ".join(
        f"{number} {word}{'' if number == 1 else 's'}"
        for number, word in (
            (found["convolution"], "convolution"),
            (found["skip"], "skip connection"),
            (found["pool"], "pool"),
        )
    )
    return f"the normal cell has collapsed ({words}): lower --gamma, or stop earlier with --stop skips"


@torch.no_grad()
def _share(model: Supernet, wanted: str) -> float:
    """Mean over the edges of the softmax's mass on a family among the operations other than `none`."""
    shares: list[Tensor] = []
    for kind, alpha in model.logits().items():
        for row, names in zip(alpha.cpu(), model.operations[kind], strict=True):
            kept = [i for i, name in enumerate(names) if name != "none"]
            mine = [family(names[i]) == wanted for i in kept]
            shares.append(torch.softmax(row[kept], dim=0)[mine].sum())
    return torch.stack(shares).mean().item()

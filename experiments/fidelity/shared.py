"""The same metrics in a supernet: alpha sharpened to one architecture after the other, the weights shared by all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from experiments.fidelity.networks import BATCH_SIZE, NODES, SHAPE, TRAINING_IMAGES, sample
from experiments.fidelity.scores import score
from robust_nas.data import Data
from robust_nas.genotype import Edge
from robust_nas.runs import Run, progress, seed_everything
from robust_nas.search.engine import Search
from robust_nas.search.presets import PRESETS
from robust_nas.search.stage import Plan
from robust_nas.spaces.supernet import Supernet
from verify import BoundedNetwork

EPOCHS = 4
SHARP = 20.0
"""A softmax of it and -it elsewhere is one operation, to float32's last digit."""
CHEAP = ("cb ibp", "cb block", "ibp-slope", "jacobian", "jacobian sampled")


def trained_supernet(data: Data, folder: Path) -> Supernet:
    """A supernet of the networks' size, its weights trained at an alpha that prefers nothing; or read from disk."""
    preset = replace(
        PRESETS["small"]["none"], **SHAPE, nodes=NODES, batch_size=BATCH_SIZE, epochs=EPOCHS, warm_up=EPOCHS
    )
    few = replace(data, train=data.train.take(torch.arange(TRAINING_IMAGES)))
    seed_everything(0)
    search = Search(Plan(preset), few)
    model, path = search.model, folder / "supernet.safetensors"
    assert isinstance(model, Supernet)
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    with progress("supernet", search.length) as step:
        for row in search.steps():
            step(f"loss {row['train_loss']:.3f}")
    Run(folder).save_tensors(path.name, model.state_dict())
    return model


def shared_scores(network: BoundedNetwork, index: int, data: Data) -> dict[str, Any]:
    """The metrics of the wrapped supernet at the architecture of that number."""
    model: Supernet = network.model  # type: ignore[assignment]
    genotype = sample(index)
    with torch.no_grad():
        for kind, edges in (("normal", genotype.normal), ("reduce", genotype.reduce)):
            model.alphas[kind].copy_(one_hot(model, kind, edges))
    return score(network, data, CHEAP)


def one_hot(model: Supernet, kind: str, edges: tuple[Edge, ...]) -> torch.Tensor:
    """Alpha ("edges x operations") that is all on the genotype's operations; `none` on the edges it does not have."""
    alpha = torch.full_like(model.alphas[kind], -SHARP)
    chosen = {(2 + position // 2, source): operation for position, (operation, source) in enumerate(edges)}
    places = [(node, source) for node in range(2, 2 + model.nodes) for source in range(node)]
    for row, (place, names) in enumerate(zip(places, model.operations[kind], strict=True)):
        alpha[row, names.index(chosen.get(place, "none"))] = SHARP
    return alpha

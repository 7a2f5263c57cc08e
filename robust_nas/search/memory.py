"""What a search will need of memory, before it starts."""

from __future__ import annotations

from pathlib import Path

import torch

from robust_nas.search.engine import Search

STEP = 2.0
"""What a step keeps for autograd, an image, in values of all operators of the supernet; measured, as what the metrics
keep, by experiments/benchmarks/search_step.py."""


def estimate(search: Search) -> float:
    """MiB at the peak of a step of the supernet; 0 where there is none."""
    if search.stage is None:
        return 0.0
    network, metric = search.stage.network, search.plan.metric
    elements = sum(node.output_shape[1:].numel() for node in network.graph.nodes if node.from_input)
    images = -(-search.plan.preset.batch_size // search.processes.size)
    held = STEP * images + (metric.held(network, images) if metric else 0.0)
    return held * elements * network.example.element_size() / 2**20


def advice(search: Search) -> str:
    """One line: the estimate, and what to lower where there is not so much."""
    needed, free = estimate(search), available(search.device)
    text = f"memory: about {needed:,.0f} MiB for a step, batch size {search.plan.preset.batch_size}"
    if free is not None and needed > free:
        text += f"; only {free:,.0f} MiB are free: lower --batch-size, or take a cheaper --bound or --preset"
    return text


def available(device: torch.device) -> float | None:
    """MiB that are free; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {name: int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
    return sizes["MemAvailable"] / 2**10 if "MemAvailable" in sizes else None

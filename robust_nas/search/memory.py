"""What a search will need of memory, before it starts."""

from __future__ import annotations

import os

import torch

from robust_nas.metrics import CertifiedBound, IntervalSlope, JacobianNorm, RobustnessMetric, Sum
from robust_nas.search.engine import Search

WEIGHT_STEP = 2.0
ALPHA_STEP = 2.0
INTERVALS = 4.0
BACKWARD = 8.0
SECOND_DERIVATIVE = 6.0
"""Times the values of all operators of the supernet, an image: what autograd keeps of each part of a step."""


def estimate(search: Search) -> float:
    """MiB at the peak of a step."""
    elements = sum(node.output_shape[1:].numel() for node in search.network.graph.nodes if node.from_input)
    images = -(-search.plan.preset.batch_size // search.processes.size)
    held = max(WEIGHT_STEP * images, ALPHA_STEP * images + _metric(search, search.plan.metric))
    return held * elements * search.network.example.element_size() / 2**20


def _metric(search: Search, metric: RobustnessMetric | None) -> float:
    """Of a metric: how many images' worth of values it holds."""
    if isinstance(metric, Sum):
        return max(_metric(search, term) for _, term in metric.terms)
    if isinstance(metric, JacobianNorm):
        return SECOND_DERIVATIVE * metric.images
    if isinstance(metric, IntervalSlope):
        return INTERVALS * metric.images
    if not isinstance(metric, CertifiedBound):
        return 0.0
    if metric.method in ("ibp", "block"):
        return INTERVALS * metric.images
    if metric.method == "crown-ibp":
        return BACKWARD * metric.images
    rows = 2 * search.network.example[0].numel()  # pixels and about as many errors
    return BACKWARD * rows * metric.images


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
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (ValueError, OSError):
        return None

"""How many images to bound together."""

from __future__ import annotations

from verify.graph.building import INPUT
from verify.graph.graph import Graph
from verify.propagation.affine import row_size

UNSTABLE = 0.25
"""The part of a network's neurons that count as unstable where images share the memory."""
CACHED = {"cpu": 256.0}
"""MiB of forms beyond which images take longer together than one after the other: operators read them from memory, not
from a cache. (Two images of the benchmark's network took 2.5 times as long each.)"""


def images_at_once(graph: Graph, memory: float, forms: bool) -> int:
    """How many images to bound together: as many as fit into the memory, or are fast.

    With affine forms each has rows of errors for a part of its neurons, and images share them. With too few for
    each, errors are merged that would have had a row in an image of its own: bounds would be looser for the
    company, and no sooner there. On a CPU they would be later, too, see `CACHED`.

    Args:
        memory: MiB for the forms.
        forms: whether bounds are by a method with affine forms; others need a row for each of the outputs, or, in
            deep networks, the values of all nodes and their derivatives.
    """
    nodes = [node for node in graph.nodes if node.from_input]
    item = graph.example_dtype.itemsize
    if forms:
        neurons = sum(graph[name].output_shape[1:].numel() for name in graph.relaxed)
        rows = graph[INPUT].output_shape[1:].numel() + UNSTABLE * neurons
        memory = min(memory, CACHED.get(graph.device.type, memory))
        return max(1, int(memory / (rows * row_size(nodes, item))))
    values = 2 * sum(node.output_shape[1:].numel() for node in nodes) * item / 2**20
    return max(1, int(memory / max(graph.final_shape[-1] * row_size(nodes, item), values)))

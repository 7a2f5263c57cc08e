"""How long convolutions of rows take: torch's own in both layouts, and ours with the rows innermost.

Prints a table, in milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from verify.operators.correlation import Geometry, correlate_transposed
from verify.operators.layout import innermost, outermost

SHAPES = (
    (300, 4, 16, 4, 3), (300, 16, 4, 16, 3), (100, 36, 32, 36, 3), (300, 4, 16, 1, 1), (300, 24, 8, 1, 1),
    (300, 5, 24, 1, 3), (300, 16, 16, 1, 3),
)  # fmt: skip
"""Rows, channels, side, groups and kernel: depthwise and pointwise convolutions of DARTS networks, and plain ones."""
REPEATS = 10


def milliseconds(function: Callable[[], Tensor]) -> float:
    """The shortest of several runs."""
    function()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def times(rows: int, channels: int, side: int, groups: int, kernel: int, dtype: torch.dtype) -> list[float]:
    """Of the transposed convolution: torch's in its usual layout, torch's channels-last, ours."""
    geometry = Geometry((1, 1), (kernel // 2,) * 2, (1, 1), groups)
    x = torch.rand(rows, channels, side, side, dtype=dtype)
    weight = torch.rand(channels, channels // groups, kernel, kernel, dtype=dtype)
    last = x.contiguous(memory_format=torch.channels_last)
    inside = outermost(innermost(x))
    return [
        milliseconds(lambda: F.conv_transpose2d(x, weight, None, 1, kernel // 2, 0, groups)),
        milliseconds(lambda: F.conv_transpose2d(last, weight, None, 1, kernel // 2, 0, groups)),
        milliseconds(lambda: correlate_transposed(inside, weight, geometry, x.shape[2:])),
    ]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table("type", "rows, channels, side, groups, kernel", "torch", "torch, channels last", "ours")
    for dtype in (torch.float32, torch.float64):
        for shape in SHAPES:
            found = times(*shape, dtype)
            table.add_row(str(dtype), ", ".join(map(str, shape)), *(f"{value:.2f}" for value in found))
    Console().print(table)


if __name__ == "__main__":
    main()

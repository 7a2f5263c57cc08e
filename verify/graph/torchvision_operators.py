"""What lets `import torchvision` work beside a torch that its compiled operators do not fit.

PyPI's torchvision needs CUDA's libraries for them. Beside a CPU torch it cannot load them, and its import ends in
"operator torchvision::nms does not exist", because it describes two of them to torch all the same. Data sets,
transforms and models need none, so that it is enough to declare the two.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DESCRIBED = ("nms", "qnms")
DESCRIPTIONS = "torchvision._meta_registrations"
"""The module that describes them; torchvision imports it right after it has tried to load its operators."""


class _Declarations(MetaPathFinder):
    """Finds no module; declares what is not there when torchvision is about to describe it.

    Before, nobody can know whether torchvision will load operators of its own, which must not be declared twice.
    """

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == DESCRIPTIONS:
            import torch

            for name in DESCRIBED:
                if not hasattr(torch.ops.torchvision, name):
                    _library().define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@cache
def _library() -> torch.library.Library:
    """Declarations last as long as this object, which the cache holds."""
    import torch

    return torch.library.Library("torchvision", "FRAGMENT")


def declare_on_import() -> None:
    """From now on an import of torchvision finds its operators declared; one imported before stays as it is."""
    sys.meta_path.insert(0, _Declarations())

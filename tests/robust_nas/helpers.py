"""What the tests of `robust_nas` share."""

from pathlib import Path

import numpy as np
from PIL import Image

from robust_nas.genotype import Genotype

GENOTYPE = Genotype(
    normal=(("sep_conv_3x3", 0), ("max_pool_3x3", 1)),
    normal_concat=(2,),
    reduce=(("avg_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
    nodes=1,
)
"""Cells of one node, with a convolution, both pools and a skip connection."""


def write_image(path: Path, pixels: np.ndarray) -> str:
    """Write bytes, h w or h w c, as a PNG; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG")
    return str(path)

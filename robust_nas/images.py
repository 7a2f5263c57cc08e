"""Images in files, read when they are asked for: ImageNet fits into no memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from verify.checks.errors import InputError

AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Of a random crop: the part of the area, width over height, and how many are drawn to find one that fits."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True)
class ImageFiles:
    """Images in files; indexed as the tensor of their pixels would be, it reads those asked for.

    Args:
        paths: of the files, in any format that pillow reads.
        size: height and width that they are brought to.

    Raises:
        InputError: (of all that reads) a file cannot be read as an image; the message names it.
    """

    paths: Sequence[str]
    size: int

    @property
    def shape(self) -> torch.Size:
        """Of the tensor: "n 3 size size"."""
        return torch.Size((len(self.paths), 3, self.size, self.size))

    def __getitem__(self, index: Int[Tensor, " b"] | slice) -> Float[Tensor, "b 3 h w"]:
        """Pixels in [0, 1]: the middle of each image, its shorter side resized to 8/7 of the size before."""
        places = torch.arange(len(self.paths))[index]
        return self._read(places, [lambda image: middle(image, self.size)] * len(places))

    def part(self, index: Int[Tensor, " m"]) -> ImageFiles:
        """The images at these places, unread."""
        return ImageFiles([self.paths[place] for place in index.tolist()], self.size)

    def random_crops(self, index: Int[Tensor, " b"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
        """Pixels in [0, 1]: a random crop of each image (see `random_box`), mirrored with probability 1/2.

        Args:
            generator: of the CPU; what is drawn from it depends on the number of images alone.
        """
        draws = torch.rand(len(index), TRIES, 4, generator=generator).tolist()
        flips = (torch.rand(len(index), generator=generator) < 0.5).tolist()

        def cropping(draw: list[list[float]], flip: bool) -> Callable[[Image.Image], Image.Image]:
            return lambda image: crop(image, random_box(*image.size, draw), self.size, flip)

        return self._read(index, [cropping(draw, flip) for draw, flip in zip(draws, flips, strict=True)])

    def _read(
        self, index: Int[Tensor, " b"], changes: Sequence[Callable[[Image.Image], Image.Image]]
    ) -> Float[Tensor, "b 3 h w"]:
        """In threads: pillow decodes and resizes outside of the interpreter's lock."""
        paths = [self.paths[place] for place in index.tolist()]
        with ThreadPoolExecutor() as threads:
            images = list(threads.map(read, paths, changes))
        return torch.stack(images) if images else torch.empty(0, *self.shape[1:])


def read(path: str, change: Callable[[Image.Image], Image.Image]) -> Float[Tensor, "3 h w"]:
    """The pixels of an image in [0, 1], in colour, after a change.

    Raises:
        InputError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            colours = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({str(error).partition(chr(10))[0]})") from error
    return torch.from_numpy(np.array(change(colours))).permute(2, 0, 1).float() / 255


def middle(image: Image.Image, size: int) -> Image.Image:
    """The middle of an image, its shorter side resized to 8/7 of the size before."""
    width, height = image.size
    shorter = 8 * size // 7  # 256 to 224
    scaled = (max(shorter, shorter * width // height), max(shorter, shorter * height // width))
    left, top = (round((side - size) / 2) for side in scaled)
    return image.resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def crop(image: Image.Image, box: Box, size: int, flip: bool) -> Image.Image:
    """A part of an image, resized to a square, and mirrored or not."""
    part = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else part


def random_box(width: int, height: int, draws: Sequence[Sequence[float]]) -> Box:
    """The first crop of random area, ratio and place that lies within the image; if none does, the largest in the
    middle whose ratio is allowed. (Szegedy et al., CVPR 2015, section 6; bounds and fallback as torchvision's.)

    Args:
        width, height: of the image.
        draws: uniform in [0, 1): area, ratio, left and top of each crop to try.
    """
    for area, ratio, across, down in draws:
        pixels = width * height * (AREA[0] + area * (AREA[1] - AREA[0]))
        stretch = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio  # uniform in its logarithm
        w, h = round(math.sqrt(pixels * stretch)), round(math.sqrt(pixels / stretch))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h

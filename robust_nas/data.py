"""Images and their classes: what a data set is to a network, how it is loaded, split, shuffled and changed at random.

Images are float32 in [0, 1], `n c h w`, without normalisation or padding: both belong inside the network,
so that a radius is in pixels. CIFAR-10 takes 0.7 GB of memory this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.images import ImageFiles
from robust_nas.registry import DATASETS, named

DEFAULT_ROOT = Path("data")
CROP_PADDING = 4


class Examples(NamedTuple):
    """Images in [0, 1] and their classes."""

    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]

    def take(self, index: Int[Tensor, " m"]) -> Examples:
        """The examples at these places."""
        return Examples(self.images[index], self.labels[index])

    def part(self, index: Int[Tensor, " m"]) -> Examples:
        """A data set of the examples at these places."""
        return self.take(index)

    def augmented(self, index: Int[Tensor, " m"], generator: torch.Generator) -> Examples:
        """The examples at these places, cropped and flipped: see `crop_and_flip`."""
        images, labels = self.take(index)
        return Examples(crop_and_flip(images, generator), labels)


@dataclass(frozen=True)
class FileExamples:
    """Images in files and their classes."""

    images: ImageFiles
    labels: Int[Tensor, " n"]

    def take(self, index: Int[Tensor, " m"]) -> Examples:
        """The examples at these places, read."""
        return Examples(self.images[index], self.labels[index])

    def part(self, index: Int[Tensor, " m"]) -> FileExamples:
        """A data set of the examples at these places; reads none."""
        return FileExamples(self.images.part(index), self.labels[index])

    def augmented(self, index: Int[Tensor, " m"], generator: torch.Generator) -> Examples:
        """The examples at these places, read, cropped and flipped: see `ImageFiles.random_crops`."""
        return Examples(self.images.random_crops(index, generator), self.labels[index])


Source: TypeAlias = Examples | FileExamples
"""A data set, of which some examples are taken at a time."""


@dataclass(frozen=True)
class Data:
    """A data set and what a network must know of it.

    Attributes:
        name: as `load` knows it.
        train, test: its two parts.
        classes: number of classes.
        mean, std: one a channel, of the training pixels in [0, 1].
        pad: zero pixels that a network adds on every side, so that it can halve the resolution evenly.
        augment: whether training crops and flips the images.
    """

    name: str
    train: Source
    test: Source
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    augment: bool = False


def load(name: str, root: str | Path | None = None, download: bool = False) -> Data:
    """Load a data set by name.

    Args:
        name: digits, mnist, cifar10, imagefolder (224 x 224 pixels) or imagefolder64 (64 x 64).
        root: folder with the files, laid out as torchvision does; `data` by default. digits needs none; an
            image folder holds train/CLASS/* and val/CLASS/* (or test/CLASS/*).
        download: fetch files that are not there.

    Raises:
        InputError: the name is unknown, or the files are not there or cannot be read.
    """
    return named("data set", name, DATASETS).load(DEFAULT_ROOT if root is None else Path(root), download)


def split(examples: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Two random parts of the examples, the first with `fraction` of them (rounded down)."""
    order = torch.randperm(len(examples.labels), generator=torch.Generator().manual_seed(seed))
    size = int(fraction * len(order))
    return examples.part(order[:size]), examples.part(order[size:])


def search_split(data: Data, seed: int) -> tuple[Source, Source]:
    """The two halves of the training images: for the weights and for the architecture parameters (DARTS)."""
    return split(data.train, 0.5, seed)


def in_order(examples: Source, batch_size: int) -> Iterator[Examples]:
    """One pass over the examples as they come, all of them; the last batch has what is left."""
    for index in torch.arange(len(examples.labels)).split(batch_size):
        if len(index):  # of no examples `split` gives one empty part
            yield examples.take(index)


def batches(
    examples: Source,
    batch_size: int,
    generator: torch.Generator,
    *,
    augment: bool = False,
    fewest: int = 2,
) -> Iterator[Examples]:
    """One shuffled pass over the examples.

    Args:
        examples: on the CPU. batch_size: images a batch; the last has what is left.
        generator: of the CPU; the order and the augmentation depend on its state alone, so that a run which
            saves that state can be resumed.
        augment: change the images at random, as `augmented` of the examples does.
        fewest: skip the last batch if it has fewer images; of one, batch norm cannot take the variance.
    """
    order = torch.randperm(len(examples.labels), generator=generator)
    for index in order.split(batch_size):
        if len(index) < fewest:
            continue
        yield examples.augmented(index, generator) if augment else examples.take(index)


def batch_count(images: int, size: int, fewest: int) -> int:
    """How many batches `batches` makes of so many images."""
    full, rest = divmod(images, size)
    return full + (rest >= fewest)


def crop_and_flip(images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Each image moved by up to 4 pixels either way, zeros coming in, and mirrored with probability 1/2."""
    count, channels, height, width = images.shape
    padded = F.pad(images, [CROP_PADDING] * 4)
    top, left = torch.randint(2 * CROP_PADDING + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.arange(width)
    rows = top + torch.arange(height)
    columns = left + torch.where(flip, columns.flip(0), columns)
    return padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def cutout(
    images: Float[Tensor, "b c h w"], side: int, generator: torch.Generator
) -> Float[Tensor, "b c h w"]:
    """Each image with a square of zeros around a random pixel, cut off at the border (DeVries and Taylor 2017).

    DARTS blanks after normalisation, so to the mean; here pixels are raw, and a zero is black.
    """
    count, _, height, width = images.shape
    middle = [torch.randint(size, (count, 1), generator=generator) for size in (height, width)]
    rows, columns = (
        (torch.arange(size) >= centre - side // 2) & (torch.arange(size) < centre - side // 2 + side)
        for size, centre in zip((height, width), middle, strict=True)
    )
    return images.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0.0)

"""Data sets: digits (ships with scikit-learn), MNIST and CIFAR-10 as tensors, folders of images read file by file.

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
from verify.checks.errors import InputError

DEFAULT_ROOT = Path("data")
DIGITS_TEST_PER_CLASS = 50
CROP_PADDING = 4
CLASSES = 10
"""Of MNIST and CIFAR-10."""


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
    return named("data set", name, DATASETS)(DEFAULT_ROOT if root is None else Path(root), download)


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


def digits(root: Path, download: bool) -> Data:
    """1797 digits of 8 x 8 pixels; 50 of each class, evenly spaced in the file's order, are the test images.

    The other 1297 train. The file's order goes by writer, so both parts see all writers.
    """
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    bunch = load_digits()
    examples = Examples(
        torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(bunch.target)
    )
    test = torch.zeros(len(examples.labels), dtype=torch.bool)
    for digit in range(10):
        places = (examples.labels == digit).nonzero().squeeze(1)
        test[places[torch.linspace(0, len(places) - 1, DIGITS_TEST_PER_CLASS).long()]] = True
    return Data(
        name="digits",
        train=examples.take((~test).nonzero().squeeze(1)),
        test=examples.take(test.nonzero().squeeze(1)),
        classes=10,
        mean=(0.3048,),
        std=(0.3758,),
    )


def mnist(root: Path, download: bool) -> Data:
    """MNIST; zeros around the 28 x 28 pixels are part of the network."""
    train, test = _torchvision("mnist", "MNIST", root, download, (1, 28, 28))
    return Data("mnist", train, test, classes=CLASSES, mean=(0.1307,), std=(0.3081,), pad=2)


def cifar10(root: Path, download: bool) -> Data:
    """CIFAR-10."""
    train, test = _torchvision("cifar10", "CIFAR10", root, download, (3, 32, 32))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Data("cifar10", train, test, classes=CLASSES, mean=mean, std=std, augment=True)


def _image_folder(root: Path, name: str, size: int) -> Data:
    """Folders train/CLASS and val/CLASS (or test/CLASS) of images; there is nothing to fetch.

    Training images are random crops, mirrored at random, the others' middle is cut out, as usual with ImageNet. Those
    for testing come in a random order, always the same.
    """
    from torchvision.datasets import ImageFolder  # here, because it takes a second to import

    try:
        folders = [ImageFolder(root / part) for part in ("train", "val" if (root / "val").is_dir() else "test")]
    except OSError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InputError(
            f"{name}: no images in {root.resolve()} ({reason}); "
            "give the folder that holds train/CLASS/* and val/CLASS/* (or test/CLASS/*) with --data DIR"
        ) from error
    first, second = (folder.classes for folder in folders)
    if first != second:
        lonely = ", ".join(sorted(set(first) ^ set(second)))
        raise InputError(f"{name}: {root.resolve()} has classes for training or for testing alone: {lonely}")
    if len(first) < 2:
        raise InputError(f"{name}: {root.resolve()} has one class, {first[0]}; there is nothing to tell apart")
    train, test = (
        FileExamples(ImageFiles([path for path, _ in folder.samples], size), torch.tensor(folder.targets))
        for folder in folders
    )
    # Folders come class by class; attacks and certificates take the first images, which must not be of a few classes.
    order = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
    return Data(name, train, test.part(order), classes=len(first), mean=mean, std=std, augment=True)


def imagefolder(root: Path, download: bool) -> Data:
    """Folders of images, brought to the 224 x 224 pixels of ImageNet."""
    return _image_folder(root, name="imagefolder", size=224)


def imagefolder64(root: Path, download: bool) -> Data:
    """Folders of images, brought to 64 x 64 pixels."""
    return _image_folder(root, name="imagefolder64", size=64)


def _torchvision(
    name: str, class_name: str, root: Path, download: bool, shape: tuple[int, int, int]
) -> tuple[Examples, Examples]:
    """Training and test images of a torchvision data set whose `data` are bytes, `n h w` or `n h w c`."""
    from torchvision import datasets  # here, because it takes a second to import

    reader = getattr(datasets, class_name)
    parts = []
    for train in (True, False):
        try:
            part = reader(root, train=train, download=download)
            parts.append(_whole(torch.as_tensor(part.data), torch.as_tensor(part.targets), shape))
        except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
            raise InputError(
                f"{name}: no complete data in {root.resolve()} ({reason}); "
                "give their folder with --data DIR, or fetch them with --download"
            ) from error
    return parts[0], parts[1]


def _whole(pixels: Tensor, labels: Tensor, shape: tuple[int, int, int]) -> Examples:
    """The examples of a part, once nothing is missing: files that were mixed up can be read as well.

    Raises:
        ValueError: they are not what the data set holds.
    """
    images = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    if images.shape[1:] != shape:
        raise ValueError(f"images of shape {tuple(images.shape[1:])}, not {shape}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise ValueError(f"labels {int(labels.min())} to {int(labels.max())}, not 0 to {CLASSES - 1}")
    return Examples(images.float().contiguous() / 255, labels)

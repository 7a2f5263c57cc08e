"""Image files: against torchvision's transforms, called directly."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from robust_nas.images import AREA, RATIO, ImageFiles, crop, middle, random_box
from tests.robust_nas.helpers import write_image
from verify.checks.errors import InputError

SIZES = [(40, 30), (30, 40), (224, 224), (9, 300), (5, 3)]


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(256, size=(height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("size", [7, 28, 63])
def test_the_middle_is_torchvisions(sides, size):
    image = noise(*sides)
    expected = transforms.CenterCrop(size)(transforms.Resize(8 * size // 7)(image))
    assert np.array_equal(np.array(middle(image, size)), np.array(expected))


def test_imagenets_sizes():
    image = noise(500, 375)
    expected = transforms.CenterCrop(224)(transforms.Resize(256)(image))
    assert np.array_equal(np.array(middle(image, 224)), np.array(expected))


def test_a_crop_is_torchvisions():
    image = noise(40, 30)
    expected = transforms.functional.resized_crop(image, top=4, left=7, height=20, width=11, size=[16, 16])
    assert np.array_equal(np.array(crop(image, (7, 4, 18, 24), 16, False)), np.array(expected))
    mirrored = transforms.functional.hflip(expected)
    assert np.array_equal(np.array(crop(image, (7, 4, 18, 24), 16, True)), np.array(mirrored))


@pytest.mark.parametrize("sides", [(400, 300), (300, 300), (200, 600)])
def test_random_boxes_are_distributed_as_torchvisions(sides):
    """Means of left, top, width and height over many, and their spread."""
    image, count = Image.new("L", sides), 4000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.tensor([transforms.RandomResizedCrop.get_params(image, AREA, RATIO) for _ in range(count)]).double()
    draws = torch.rand(count, 10, 4, generator=torch.Generator().manual_seed(1)).tolist()
    left, top, right, bottom = torch.tensor([random_box(*sides, draw) for draw in draws]).double().unbind(1)
    ours = torch.stack([top, left, bottom - top, right - left], 1)
    assert (ours[:, :2] >= 0).all()
    assert (right <= sides[0]).all() and (bottom <= sides[1]).all()
    error = 4 * (drawn.std(0) * math.sqrt(2 / count))
    assert ((ours.mean(0) - drawn.mean(0)).abs() < error).all()
    torch.testing.assert_close(ours.std(0), drawn.std(0), rtol=0.06, atol=0)


@pytest.mark.parametrize("sides", [(1000, 3), (3, 1000), (1, 1)])
def test_where_no_crop_fits_it_is_in_the_middle(sides):
    torch.manual_seed(0)
    top, left, height, width = transforms.RandomResizedCrop.get_params(Image.new("L", sides), (1.0, 1.0), RATIO)
    assert random_box(*sides, [[1 - 1e-9, 0.5, 0.5, 0.5]] * 3) == (left, top, left + width, top + height)


def test_files_are_indexed_as_a_tensor(tmp_path):
    random = np.random.default_rng(0)
    shapes = [(30, 40, 3), (40, 30), (64, 64, 4), (12, 9, 3)]  # colour, grey, with transparency
    paths = [write_image(tmp_path / f"{i}.png", random.integers(256, size=shape)) for i, shape in enumerate(shapes)]
    files = ImageFiles(paths, 21)
    steps = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(21), transforms.ToTensor()])
    expected = torch.stack([steps(Image.open(path).convert("RGB")) for path in paths])
    assert files.shape == expected.shape
    for index in (slice(0, 1), slice(None), torch.tensor([3, 0, 3]), torch.tensor([], dtype=torch.long)):
        assert torch.equal(files[index], expected[index])
    part = files.part(torch.tensor([2, 1]))
    assert part.shape == (2, 3, 21, 21)
    assert torch.equal(part[torch.tensor([1])], expected[[1]])


def test_random_crops(tmp_path):
    """Each is a crop of its image, half of them mirrored; the generator decides, and is used as much whatever they are."""
    ramp = np.tile(np.arange(64), (48, 1))
    paths = [write_image(tmp_path / "wide.png", ramp), write_image(tmp_path / "line.png", ramp[:1])]
    generator = torch.Generator().manual_seed(0)
    index = torch.zeros(200, dtype=torch.long)
    crops = ImageFiles(paths, 16).random_crops(index, generator)
    assert crops.shape == (200, 3, 16, 16)
    rising = (crops[:, 0, 0, -1] > crops[:, 0, 0, 0]).float().mean()
    assert 0.4 < rising < 0.6
    assert (crops[:, 0].diff(dim=-1).sign() * (2.0 * (crops[:, 0, 0, -1] > crops[:, 0, 0, 0]) - 1)[:, None, None] >= 0).all()
    assert len(crops.flatten(1).unique(dim=0)) > 150
    after = generator.get_state()
    assert torch.equal(ImageFiles(paths, 16).random_crops(index, generator.manual_seed(0)), crops)
    ImageFiles(paths, 8).random_crops(index + 1, generator.manual_seed(0))
    assert torch.equal(generator.get_state(), after)


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\x89PNG\r\n\x1a\n rest is missing"])
def test_a_file_that_is_no_image(tmp_path, content):
    good, bad = write_image(tmp_path / "good.png", np.zeros((4, 4))), tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.png: cannot be read as an image \(") as caught:
        ImageFiles([good, str(bad)], 4)[:]
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off(tmp_path):
    path = tmp_path / "cut.png"
    write_image(path, np.random.default_rng(0).integers(256, size=(40, 40)))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut\.png: cannot be read as an image"):
        ImageFiles([str(path)], 4)[:]

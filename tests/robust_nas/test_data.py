"""Data sets: the real digits, MNIST and CIFAR-10 from tiny files in the official formats."""

import copy
import pickle
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.io import savemat

from robust_nas import images as image_files
from robust_nas.data import Examples, FileExamples, batches, crop_and_flip, in_order, load, search_split
from robust_nas.datasets import image_folder
from robust_nas.registry import DATASETS
from robust_nas.search.engine import Search
from robust_nas.search.stage import Plan
from robust_nas.training.engine import accuracy
from tests.robust_nas.helpers import write_image
from tests.robust_nas.search.helpers import TINY
from verify.checks.errors import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int) -> Examples:
    images = torch.arange(count).view(-1, 1, 1, 1).float().expand(count, 1, 4, 4)
    return Examples(images, torch.arange(count))


def write_mnist(root, count, name="MNIST"):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    pixels = np.arange(count * 28 * 28, dtype=np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(range(count)))
    return pixels.reshape(count, 28, 28)


def write_cifar10(root, count):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.arange(count * 3072, dtype=np.uint8).reshape(count, 3072)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": list(range(count))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"] * 10}))
    return rows.reshape(count, 3, 32, 32)


def test_digits():
    data = load("digits")
    assert data.train.images.shape == (1297, 1, 8, 8) and data.test.images.shape == (500, 1, 8, 8)
    assert data.test.labels.bincount().tolist() == [50] * 10
    assert data.train.images.min() == 0 and data.train.images.max() == 1
    assert data.train.images.mean().item() == pytest.approx(data.mean[0], abs=1e-4)
    assert data.train.images.std().item() == pytest.approx(data.std[0], abs=1e-4)
    assert torch.equal(load("digits").test.images, data.test.images)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_mnist_and_what_has_its_form(tmp_path, name, folder):
    pixels = write_mnist(tmp_path, 3, folder)
    data = load(name, tmp_path)
    assert data.train.images.shape == (3, 1, 28, 28) and data.pad == 2
    assert torch.equal(data.test.images[:, 0], torch.tensor(pixels).float() / 255)
    assert data.test.labels.tolist() == [0, 1, 2]


def test_cifar10(tmp_path, monkeypatch):
    from torchvision.datasets import cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda *arguments: True)
    pixels = write_cifar10(tmp_path, 2)
    data = load("cifar10", tmp_path)
    assert data.train.images.shape == (10, 3, 32, 32) and data.augment
    assert torch.equal(data.test.images, torch.tensor(pixels).float() / 255)
    assert data.train.labels.tolist() == [0, 1] * 5


def test_cifar100(tmp_path, monkeypatch):
    from torchvision.datasets import cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda *arguments: True)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rows = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    for part in ("train", "test"):
        (folder / part).write_bytes(pickle.dumps({"data": rows, "fine_labels": [7, 99], "coarse_labels": [1, 2]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"] * 100}))
    data = load("cifar100", tmp_path)
    assert data.classes == 100 and data.test.labels.tolist() == [7, 99]
    assert torch.equal(data.test.images, torch.tensor(rows).view(2, 3, 32, 32).float() / 255)


def test_svhn(tmp_path, monkeypatch):
    from torchvision.datasets import svhn

    monkeypatch.setattr(svhn, "check_integrity", lambda *arguments: True)
    pixels = np.arange(32 * 32 * 3 * 2, dtype=np.uint8).reshape(32, 32, 3, 2)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": np.array([[10], [3]])})
    data = load("svhn", tmp_path)
    assert data.test.labels.tolist() == [0, 3] and not data.augment  # the files call the digit 0 a 10
    assert torch.equal(data.test.images, torch.tensor(pixels).permute(3, 2, 0, 1).float() / 255)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_without_torchvision(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(InputError, match=f"^{name}: needs torchvision .*dsrna doctor"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "kmnist", "cifar10", "cifar100", "svhn"])
def test_data_that_are_not_there(name, tmp_path):
    with pytest.raises(
        InputError, match=rf"^{name}: no complete data in .*--data DIR.*--download$"
    ) as caught:
        load(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_data(tmp_path):
    write_mnist(tmp_path, 3)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"not images")
    with pytest.raises(InputError, match="^mnist: no complete data in "):
        load("mnist", tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Eight training images a class and three for testing, of two classes, each of one grey of its own."""
    for part, count in (("train", 8), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_image(tmp_path / part / name / f"{i}.png", np.full((16, 20), 16 * i + 8 * label))
    return tmp_path


def test_image_folder(folder):
    data = load("imagefolder", folder)
    assert data.train.images.shape == (16, 3, 224, 224) and data.test.images.shape == (6, 3, 224, 224)
    assert (data.classes, data.augment, data.pad) == (2, True, 0)
    images, labels = data.test.take(torch.arange(6))
    greys = [(label, round(255 * grey)) for label, grey in zip(labels.tolist(), images[:, 1, 5, 5].tolist(), strict=True)]
    assert sorted(greys) == [(0, 0), (0, 16), (0, 32), (1, 8), (1, 24), (1, 40)]
    assert greys != sorted(greys)
    assert torch.equal(images[:, 0], images[:, 2])
    small = load("imagefolder64", folder)
    assert small.train.images[:1].shape == (1, 3, 64, 64)
    assert (small.name, data.name) == ("imagefolder64", "imagefolder")


def test_an_image_folder_may_call_its_test_images_test(folder):
    before = load("imagefolder", folder).test.labels
    (folder / "val").rename(folder / "test")
    assert torch.equal(load("imagefolder", folder).test.labels, before)


def test_image_folders_that_are_not_right(folder):
    (folder / "val" / "dog").rename(folder / "val" / "wolf")
    with pytest.raises(InputError, match="^imagefolder: .* has classes for training or for testing alone: dog, wolf$"):
        load("imagefolder", folder)
    for missing in (folder / "val", folder / "train"):
        with pytest.raises(InputError, match=r"^imagefolder: no images in .* holds train/CLASS/\*.* with --data DIR$") as caught:
            load("imagefolder", missing)
        assert str(missing) in str(caught.value) and "\n" not in str(caught.value)


def test_image_files_are_read_when_they_are_asked_for(folder, monkeypatch):
    """Every example once, in an order the generator knows; a batch reads its own images and no others."""
    seen = []
    read = image_files.read
    monkeypatch.setattr(image_files, "read", lambda path, change: seen.append(path) or read(path, change))
    halves = search_split(load("imagefolder64", folder), seed=0)
    assert not seen
    assert all(isinstance(half, FileExamples) for half in halves)
    assert sorted(halves[0].images.paths + halves[1].images.paths) == sorted(str(p) for p in folder.glob("train/*/*"))
    order = generator()
    for augment in (False, True):
        passes = batches(halves[0], 3, order, augment=augment)
        first = next(passes)
        assert len(seen) == 3
        rest = list(passes)
        assert sorted(seen) == sorted(halves[0].images.paths)
        for images, labels in [first, *rest]:
            shades = (images[:, 0, 9, 9] * 255).round().long()
            assert torch.equal(shades % 16, 8 * labels)
            assert images.shape[1:] == (3, 64, 64)
        seen.clear()


def test_the_augmentation_of_files_depends_on_the_generator_alone(folder):
    data, order = load("imagefolder64", folder), generator(3)
    state = order.get_state()
    first = list(batches(data.train, 5, order, augment=True))
    after = order.get_state()
    order.set_state(state)
    torch.rand(3)
    again = list(batches(data.train, 5, order, augment=True))
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, again, strict=True))
    assert torch.equal(order.get_state(), after)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_in_order_is_everything_once(size):
    examples = numbered(9)
    parts = list(in_order(examples, size))
    assert torch.equal(torch.cat([part.images for part in parts]), examples.images)
    assert torch.cat([part.labels for part in parts]).tolist() == list(range(9))
    assert [len(part.labels) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert list(in_order(examples.part(torch.arange(0)), size)) == []


@pytest.mark.parametrize("place", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_search_on_files_is_resumed_bit_for_bit(tmp_path, place):
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(12):
            write_image(tmp_path / part / "ab"[i % 2] / f"{i}.png", random.integers(256, size=(20, 16, 3)))
    data = image_folder.load(tmp_path, False, name="imagefolder", size=8)

    def fresh():
        torch.manual_seed(0)
        return Search(Plan(replace(TINY, epochs=2, batch_size=3)), data)

    whole, stopped, resumed = fresh(), fresh(), fresh()
    rows = list(whole.steps())
    assert len(rows) == 4
    steps = stopped.steps()
    for _ in range(place):
        next(steps)
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    assert list(resumed.steps()) == rows[place:]
    assert all(torch.equal(value, whole.model.state_dict()[name]) for name, value in resumed.model.state_dict().items())


def test_accuracy_of_files_is_that_of_their_pixels(folder):
    data = load("imagefolder64", folder)
    pixels = Examples(data.train.images[:], data.train.labels)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 2))
    assert accuracy(network, data.train) == accuracy(network, pixels)
    with torch.no_grad():
        assert accuracy(network, pixels) == (network(pixels.images).argmax(1) == pixels.labels).float().mean().item()


def test_unknown_data_set():
    with pytest.raises(InputError, match="^unknown data set 'fruit'; known: digits, mnist, "):
        load("fruit")


def test_search_split_halves_the_training_images():
    data = load("digits")
    weights, alphas = search_split(data, seed=1)
    assert (len(weights.labels), len(alphas.labels)) == (648, 649)
    both = torch.cat([weights.labels, alphas.labels])
    assert torch.equal(both.bincount(), data.train.labels.bincount())
    assert torch.equal(search_split(data, seed=1)[0].images, weights.images)
    assert not torch.equal(search_split(data, seed=2)[0].images, weights.images)


def test_batches_give_every_example_once_in_an_order_the_generator_knows():
    examples, order = numbered(10), generator()
    first = [batch.labels.tolist() for batch in batches(examples, 4, order)]
    state = order.get_state()
    second = [batch.labels.tolist() for batch in batches(examples, 4, order)]
    assert [len(labels) for labels in first] == [4, 4, 2]
    assert sorted(sum(first, [])) == list(range(10)) and first != second
    order.set_state(state)
    assert [batch.labels.tolist() for batch in batches(examples, 4, order)] == second
    for images, labels in batches(examples, 4, order):
        assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_a_last_batch_of_one_is_skipped():
    assert [len(batch.labels) for batch in batches(numbered(9), 4, generator())] == [4, 4]


def test_crop_and_flip():
    images = torch.rand(64, 2, 6, 5) + 1
    out = crop_and_flip(images, generator())
    assert out.shape == images.shape
    assert torch.equal(out, crop_and_flip(images, generator()))
    padded = torch.nn.functional.pad(images, [4] * 4)
    for image, wide in zip(out, padded, strict=True):
        windows = wide.unfold(1, 6, 1).unfold(2, 5, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        candidates = torch.cat([windows, windows.flip(-1)])
        assert (candidates == image).flatten(1).all(1).any()

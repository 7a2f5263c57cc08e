"""Data sets: the real digits, MNIST and CIFAR-10 from tiny files in the official formats."""

import pickle
import struct

import numpy as np
import pytest
import torch

from robust_nas.data import Examples, batches, crop_and_flip, load, search_split
from verify.errors import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int) -> Examples:
    images = torch.arange(count).view(-1, 1, 1, 1).float().expand(count, 1, 4, 4)
    return Examples(images, torch.arange(count))


def write_mnist(root, count):
    raw = root / "MNIST" / "raw"
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


def test_mnist(tmp_path):
    pixels = write_mnist(tmp_path, 3)
    data = load("mnist", tmp_path)
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


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
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


def test_unknown_data_set():
    with pytest.raises(InputError, match="^unknown data set 'svhn'; known: digits, mnist, cifar10$"):
        load("svhn")


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

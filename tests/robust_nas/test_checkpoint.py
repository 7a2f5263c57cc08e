"""Checkpoints come back exactly, and damage or a stop costs at most the newest one."""

import math
import os
import shutil
import struct
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robust_nas import checkpoint
from robust_nas.checkpoint import NEWEST, PREVIOUS, load, save
from tests.levels import level
from verify.checks.errors import InputError

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]


def same(first, second):
    """Equal in type and value, floats and tensors bit for bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]
        return first.dtype == second.dtype and first.shape == second.shape and torch.equal(*bits)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float):
        return struct.pack("d", first) == struct.pack("d", second)
    return first == second


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    numbers = torch.randint(-3, 200, shape, generator=generator, dtype=torch.int64)
    tensor = (numbers * 0.37).to(draw(st.sampled_from(DTYPES)))
    return tensor.transpose(0, -1) if tensor.ndim > 1 else tensor


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | tensors()
KEYS = st.integers() | st.text(st.characters(exclude_categories=())) | st.sampled_from(["a", "a/b", "0", "b", "[]", "\ud800"])
STATES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(KEYS, inner, max_size=3),
)


@given(STATES)
def test_comes_back_exactly(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("state")
    save(folder, state)
    found = load(folder)
    assert found.warning is None
    assert same(found.state, state)


def test_names_do_not_collide(tmp_path):
    state = {"a": {"b": torch.tensor(1)}, "a/b": torch.tensor(2), 0: torch.tensor(3), "0": torch.tensor(4)}
    save(tmp_path, {"dict": state, "tensor": (math.nan, -math.inf, -0.0)})
    assert same(load(tmp_path).state, {"dict": state, "tensor": (math.nan, -math.inf, -0.0)})


def test_views_shared_and_trained_tensors(tmp_path):
    base = torch.arange(6.0)
    save(tmp_path, OrderedDict(a=base, b=base[::2], c=torch.nn.Parameter(base)))
    assert same(load(tmp_path).state, {"a": base, "b": base[::2], "c": base})


@pytest.mark.parametrize("wrong", [{1, 2}, 1j, b"bytes", {True: 1}, {1.5: 2}, torch.float32])
def test_what_it_cannot_hold_is_named_and_nothing_is_written(tmp_path, wrong):
    with pytest.raises(TypeError, match=r'\["here", 1\]$'):
        save(tmp_path, {"here": [0, wrong]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "optimiser", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.999))]
)
def test_training_goes_on_bit_for_bit(tmp_path, optimiser):
    def build():
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
        steps = optimiser(model.parameters())
        return model, steps, torch.optim.lr_scheduler.CosineAnnealingLR(steps, 10), torch.Generator().manual_seed(0)

    def train(model, steps, schedule, generator):
        for _ in range(3):
            loss = model(torch.randn(5, 3, generator=generator)).square().mean()
            steps.zero_grad()
            loss.backward()
            steps.step()
            schedule.step()

    first = build()
    train(*first)
    save(tmp_path, {"parts": [part.state_dict() for part in first[:3]], "order": first[3].get_state()})
    train(*first)

    second = build()
    state = load(tmp_path).state
    for part, its in zip(second, state["parts"], strict=False):
        part.load_state_dict(its)
    second[3].set_state(state["order"])
    train(*second)
    for mine, theirs in zip(first[:3], second[:3], strict=True):
        assert same(dict(mine.state_dict()), dict(theirs.state_dict()))


@pytest.fixture
def folder(tmp_path):
    """With the states 1 and 2."""
    for number in (1, 2):
        save(tmp_path, {"number": number, "weights": torch.full((3, 5), float(number)), "more": [torch.ones(2)]})
    return tmp_path


def number(folder):
    found = load(folder)
    return found.state["number"], found.warning is not None


def test_keeps_the_one_before(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([NEWEST, PREVIOUS])
    assert number(folder) == (2, False)
    (folder / NEWEST).unlink()
    assert number(folder) == (1, True)
    assert load(folder).warning == f"{folder}: {NEWEST} is missing; going on from the one before, {PREVIOUS}"


def test_every_flipped_byte_is_noticed(folder):
    path = folder / NEWEST
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    padding = len(whole[: 8 + header].rstrip(b" "))
    for place in range(0, len(whole), level(11, 1)):
        for mask in (1, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            harmless = padding <= place < 8 + header and load(folder).warning is None  # another kind of white space
            assert number(folder) == ((2, False) if harmless else (1, True))


def test_every_truncation_is_noticed(folder):
    path = folder / NEWEST
    whole = path.read_bytes()
    for length in range(0, len(whole), level(23, 7)):
        path.write_bytes(whole[:length])
        assert number(folder) == (1, True)
    path.write_bytes(whole + b"more")
    assert number(folder) == (1, True)
    assert load(folder).warning == f"{folder}: {NEWEST} is damaged; going on from the one before, {PREVIOUS}"


def test_nothing_there(tmp_path):
    assert load(tmp_path) is None
    assert load(tmp_path / "no folder") is None


def test_nothing_intact(folder):
    for name in (NEWEST, PREVIOUS):
        (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match="^.*: .* is damaged and .* is damaged; delete the checkpoints or start"):
        load(folder)
    (folder / NEWEST).unlink()
    with pytest.raises(InputError, match="is missing and .* is damaged"):
        load(folder)


@pytest.mark.parametrize("damaged", [None, NEWEST, PREVIOUS])
def test_a_kill_at_any_instant_leaves_one(folder, tmp_path_factory, monkeypatch, damaged):
    """What a kill would leave before and after every change to the file system, looked at afterwards."""
    if damaged:
        (folder / damaged).write_bytes(b"damaged")
    snapshots = []

    def watched(change):
        def run(*arguments):
            for after in (False, True):
                if after:
                    change(*arguments)
                snapshots.append(tmp_path_factory.mktemp("killed") / "run")
                shutil.copytree(folder, snapshots[-1])

        return run

    monkeypatch.setattr(checkpoint, "copyfile", watched(checkpoint.copyfile))
    monkeypatch.setattr(checkpoint, "save_file", watched(checkpoint.save_file))
    monkeypatch.setattr(os, "replace", watched(os.replace))
    save(folder, {"number": 3})
    monkeypatch.undo()
    old = (1, True) if damaged == NEWEST else (2, False)
    assert [number(snapshot) for snapshot in snapshots] == [old] * 5 + [(3, False)] * 3
    assert number(folder) == (3, False)

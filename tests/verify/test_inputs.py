"""Every public function, given what users give: it is answered rightly, or in one line by an `InputError`.

`USES` holds a right call of each function; the tests take one argument of it at a time and put a wrong or unusual one
in its place, as listed by the arguments' names in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jaxtyping
import numpy as np
import pandas
import pytest
import torch
from torch import Tensor, nn

import verify
from tests.verify.helpers import Function
from verify import Ball, BoundedNetwork, Box, InputError, UnsupportedOperator
from verify.certify.radius import proven_margin

IMAGE = (1, 2, 2)


def net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()


MODEL = net()
NETWORK = BoundedNetwork(MODEL, torch.zeros(1, *IMAGE))
TRAINED = BoundedNetwork(net().train(), torch.zeros(1, *IMAGE))
IMAGES = torch.rand(2, *IMAGE, generator=torch.Generator().manual_seed(0))
LABELS = NETWORK(IMAGES).argmax(1)
OTHERS = (LABELS + 1) % 3
ROWS = verify.margins(LABELS, 3)
BALL = Ball(IMAGES, 0.01)
INTERVALS = NETWORK.bounds(BALL).intervals
RADII = torch.full((2,), 0.01)
FEW = {"steps": 3, "seed": 1}


@dataclass(frozen=True)
class Use:
    """A right call, and what of its result counts."""

    call: Callable[..., Any]
    arguments: dict[str, Any]
    answer: Callable[[Any], Any] = lambda result: result


CLASSIFIED = {"network": NETWORK, "images": IMAGES, "labels": LABELS, "norm": "linf", "domain": "unit"}
TARGETED = {**CLASSIFIED, "targets": OTHERS}


def sides(bounds: Any) -> tuple[Tensor, Tensor]:
    return bounds.lower.detach(), bounds.upper.detach()


USES = {
    "BoundedNetwork": Use(
        BoundedNetwork, {"model": MODEL, "example": IMAGES, "memory": 64.0}, lambda network: sides(network.bounds(BALL))
    ),
    "__call__": Use(NETWORK, {"x": IMAGES}),
    "check": Use(NETWORK.check, {"images": IMAGES, "labels": LABELS, "targets": OTHERS}),
    "freeze": Use(TRAINED.freeze, {"images": IMAGES, "moments": verify.bounds.moments}),
    "bounds": Use(
        NETWORK.bounds,
        {
            "x": IMAGES, "epsilon": RADII, "norm": "l2", "specification": ROWS, "method": "crown", "domain": "free",
            "within": INTERVALS,
        },
        sides,
    ),
    "bounds of a region": Use(NETWORK.bounds, {"x": BALL, "specification": ROWS}, sides),
    "lower_given": Use(NETWORK.lower_given, {"region": BALL, "specification": ROWS, "intervals": INTERVALS}),
    "tangents": Use(NETWORK.tangents, {"images": IMAGES, "directions": IMAGES}, lambda found: found.outputs),
    "vector_jacobian": Use(NETWORK.vector_jacobian, {"images": IMAGES, "vectors": ROWS.transpose(0, 1)}),
    "width_slope": Use(
        NETWORK.width_slope, {"images": IMAGES, "norm": "linf", "specification": ROWS, "domain": "unit"}
    ),
    "margins": Use(verify.margins, {"labels": LABELS, "classes": 3, "targets": OTHERS}),
    "verified": Use(verify.verified, {**CLASSIFIED, "epsilon": RADII, "method": "crown"}),
    "proven_margin": Use(
        proven_margin, {"network": NETWORK, "ball": BALL, "labels": LABELS, "method": "ibp", "targets": OTHERS}
    ),
    "certified_radius": Use(
        verify.certified_radius,
        {
            **TARGETED, "method": "affine", "ceiling": 20 * RADII, "tolerance": 0.3, "time_limit": 100.0,
            "batch_size": 8, "progress": lambda done: None, "largest": 0.9,
        },
        lambda found: (found.radius, found.status),
    ),
    "attack_radius": Use(verify.attack_radius, {**TARGETED, **FEW, "rounds": 2, "largest": 0.9}),
    "attack_radius of a module": Use(verify.attack_radius, {**TARGETED, **FEW, "network": MODEL, "rounds": 2}),
    "audit": Use(
        verify.audit,
        {
            **TARGETED, **FEW, "radius": RADII, "method": "affine", "samples": 2, "starts": 2, "batch_size": 8,
            "progress": lambda done: None,
        },
        lambda found: (found.margin, found.bound),
    ),
    "prove": Use(
        verify.prove,
        {"network": NETWORK, "ball": Ball(IMAGES[:1], 0.01), "label": int(LABELS[0]), "max_nodes": 9, "time_limit": 9.0},
        lambda found: found.verdict,
    ),
    "complete_radius": Use(
        verify.complete_radius,
        {**CLASSIFIED, "lower": RADII, "upper": 1.05 * RADII, "tolerance": 0.1, "time_limit": 9.0, "largest": 0.9},
        sides,
    ),
    "Ball": Use(Ball, {"centre": IMAGES, "epsilon": RADII, "norm": "l1", "domain": "free"}, sides),
    "Box": Use(Box, {"lower": IMAGES - 0.1, "upper": IMAGES + 0.1}, sides),
}  # fmt: skip

Kinds = dict[str, Callable[[Any], Any]]


def without(kinds: Kinds, *names: str) -> Kinds:
    return {name: make for name, make in kinds.items() if name not in names}


OTHER_THINGS: Kinds = {"None": lambda good: None, "a word": lambda good: "eight", "an object": lambda good: object()}
OTHER_TENSORS: Kinds = {
    **OTHER_THINGS,
    "a ragged list": lambda good: [good[:1].tolist(), 2],
    "a list of words": lambda good: ["one", "two"],
    "an array of objects": lambda good: np.array([object(), None]),
    "a complex array": lambda good: good.detach().numpy() * 1j,
    "a mapping": lambda good: dict(enumerate(good)),
    "a number alone": lambda good: 1,
    "complex": lambda good: good.to(torch.complex64),
    "sparse": lambda good: good.to_sparse(),
    "nested": lambda good: torch.nested.nested_tensor([each.float() for each in good]),
    "without values": lambda good: good.to("meta"),
    "quantised": lambda good: torch.quantize_per_tensor(good.float(), 0.1, 0, torch.qint8),
}
WORDS: Kinds = {**OTHER_THINGS, "a number": lambda good: 2, "a list": lambda good: [good], "none of them": str.upper}
COUNTS: Kinds = {
    **OTHER_THINGS, "a fraction": lambda good: 1.5, "NaN": lambda good: torch.nan, "negative": lambda good: -1,
    "too large": lambda good: 2**64, "a truth": lambda good: torch.tensor([True, False]),
}  # fmt: skip
NUMBERS: Kinds = {
    **OTHER_THINGS, "NaN": lambda good: torch.nan, "negative": lambda good: -0.5, "a truth": lambda good: True,
    "a list": lambda good: [good], "complex": lambda good: 1j, "a tensor of several": lambda good: torch.ones(2),
}  # fmt: skip
FUNCTIONS: Kinds = {**OTHER_THINGS, "a number": lambda good: 3}
PIXELS: Kinds = {
    **OTHER_TENSORS,
    "float16": lambda good: good.half(),
    "bfloat16": lambda good: good.bfloat16(),
    "bytes": lambda good: (255 * good).byte(),
    "truths": lambda good: good > 0.5,
    "a scalar": lambda good: good.sum(),
    "one dimension": lambda good: good.flatten(),
}
IMAGE_KINDS: Kinds = {
    **PIXELS,
    "no images": lambda good: good[:0],
    "flat": lambda good: good.flatten(1),
    "one dimension more": lambda good: good.unsqueeze(1),
    "larger": lambda good: good.repeat(1, 1, 2, 2),
}
VALUES: Kinds = {"NaN": lambda good: good + torch.nan, "infinite": lambda good: good / 0}
CLASSES: Kinds = {
    **OTHER_TENSORS,
    "floats": lambda good: good.float(),
    "truths": lambda good: good > 0,
    "one-hot": lambda good: torch.eye(3, dtype=torch.int64)[good],
    "a column": lambda good: good.unsqueeze(1),
    "too many": lambda good: good.repeat(2),
    "too few": lambda good: good[:1],
    "no class": lambda good: good + 3,
    "negative": lambda good: good - 3,
    "the largest": lambda good: good + 2**62,
}
RADIUS_KINDS: Kinds = {
    **OTHER_THINGS,
    **without(OTHER_TENSORS, "a number alone"),
    "a fraction in words": lambda good: "8/255",
    "a truth": lambda good: True,
    "truths": lambda good: torch.tensor([True, True]),
    "negative": lambda good: -0.1 * torch.ones(2),
    "a negative one": lambda good: -0.1,
    "NaN": lambda good: torch.tensor([0.1, torch.nan]),
    "one NaN": lambda good: torch.nan,
    "too many": lambda good: torch.ones(3),
    "a column": lambda good: torch.ones(2, 1),
    "none": lambda good: torch.ones(0),
}
INFINITE: Kinds = {"infinite": lambda good: torch.inf, "beyond floats": lambda good: 10**400}
ROW_KINDS: Kinds = {
    **{name: make for name, make in OTHER_TENSORS.items() if name != "None"},
    **VALUES,
    "one row alone": lambda good: good.flatten()[:3],
    "one dimension more": lambda good: good.unsqueeze(0),
    "no rows": lambda good: good[..., :0, :],
    "other columns": lambda good: good[..., :2],
    "of other images": lambda good: torch.ones(3, 3, 3),
}
INTERVAL_KINDS: Kinds = {
    **OTHER_THINGS,
    "a list": lambda good: list(good.items()),
    "of another network": lambda good: {"/0/conv": next(iter(good.values()))},
    "lower ends only": lambda good: {name: low for name, (low, _) in good.items()},
    "lists of words": lambda good: {name: (["low"], high) for name, (_, high) in good.items()},
    "of other images": lambda good: {name: (low[:1], high[:1]) for name, (low, high) in good.items()},
    "of another precision": lambda good: {name: (low.double(), high) for name, (low, high) in good.items()},
    "flat": lambda good: {name: (low.flatten(), high.flatten()) for name, (low, high) in good.items()},
}
REGION_KINDS: Kinds = {
    **OTHER_THINGS,
    "its centre": lambda good: good.centre,
    "of another shape": lambda good: Ball(torch.rand(1, 7), 0.1),
    "of another precision": lambda good: Ball(good.centre.half().double(), 0.1),
    "of no images": lambda good: good.take(torch.tensor([], dtype=torch.int64)),
}
NETWORK_KINDS: Kinds = {**OTHER_THINGS, "the model": lambda good: MODEL, "the class": lambda good: BoundedNetwork}


PRECISION: Kinds = {"another precision": lambda good: good.double()}
OUTSIDE: Kinds = {"grey levels": lambda good: 255 * good + 1}
KINDS: dict[str, Kinds] = {
    "model": OTHER_THINGS,  # and see below
    "example": PIXELS,
    "memory": {**NUMBERS, **INFINITE, "zero": lambda good: 0},
    "x": {**IMAGE_KINDS, **PRECISION},
    "images": IMAGE_KINDS,
    "centre": {**PIXELS, **VALUES},
    "directions": {**IMAGE_KINDS, **PRECISION, "of other images": lambda good: good[:1]},
    "vectors": {**without(ROW_KINDS, "one row alone", "NaN", "infinite", "no rows"), "none": lambda good: good[:0]},
    "labels": CLASSES,
    "targets": {**without(CLASSES, "None"), "the labels": lambda good: LABELS},
    "classes": {**COUNTS, "zero": lambda good: 0, "fewer": lambda good: 1},
    "label": {**COUNTS, "no class": lambda good: 3, "several": lambda good: torch.tensor([0, 1])},
    "norm": WORDS,
    "domain": WORDS,
    "method": WORDS,
    "epsilon": {**RADIUS_KINDS, **INFINITE},
    "radius": {**RADIUS_KINDS, **INFINITE},
    "ceiling": without(RADIUS_KINDS, "None"),
    "lower": {**RADIUS_KINDS, **INFINITE},
    "upper": RADIUS_KINDS,
    "specification": ROW_KINDS,
    "within": without(INTERVAL_KINDS, "None"),
    "intervals": {**INTERVAL_KINDS, "empty": lambda good: {}},
    "region": REGION_KINDS,
    "ball": {**REGION_KINDS, "a box": lambda good: Box(good.lower, good.upper)},
    "network": NETWORK_KINDS,
    "tolerance": {**NUMBERS, "infinite": lambda good: torch.inf, "zero": lambda good: 0.0},
    "time_limit": NUMBERS,
    "largest": {**without(NUMBERS, "None"), **INFINITE, "zero": lambda good: 0},
    "batch_size": {**COUNTS, "zero": lambda good: 0},
    "max_nodes": {**COUNTS, "zero": lambda good: 0},
    "starts": {**COUNTS, "zero": lambda good: 0},
    "samples": COUNTS,
    "steps": COUNTS,
    "rounds": COUNTS,
    "seed": COUNTS,
    "progress": FUNCTIONS,
    "moments": FUNCTIONS,
}
"""What is refused wherever an argument has that name."""
OF_USE: dict[tuple[str, str], Kinds] = {
    ("Box", "lower"): {**PIXELS, **VALUES, **PRECISION, "above": lambda good: good + 1, "flat": lambda good: good.flatten(1)},
    ("Box", "upper"): {**PIXELS, **VALUES, **PRECISION, "below": lambda good: good - 1, "flat": lambda good: good.flatten(1)},
    ("bounds of a region", "x"): REGION_KINDS,
    ("bounds", "x"): {**IMAGE_KINDS, **PRECISION, **VALUES, "a region as well": lambda good: BALL},
    ("certified_radius", "time_limit"): without(NUMBERS, "None"),
    ("attack_radius", "network"): {**OTHER_THINGS, "the class": lambda good: NotImplemented},
    ("attack_radius of a module", "network"): {
        **OTHER_THINGS,
        "an error of its own": lambda good: {}.__getitem__,
        "no tensor": lambda good: lambda x: [x],
        "no classes": lambda good: lambda x: x.sum((1, 2, 3)),
        "one answer for all": lambda good: lambda x: good(x)[:1],
        "detached": lambda good: lambda x: good(x).detach(),
        "made in inference mode": lambda good: torch.inference_mode()(net)(),
        "of something else": lambda good: lambda x: good(torch.zeros_like(x).requires_grad_()),
    },
    **{
        (use, "images"): {**IMAGE_KINDS, **VALUES, **OUTSIDE}
        for use in ("certified_radius", "audit", "complete_radius")
    },
    **{
        (use, "images"): {**IMAGE_KINDS, **VALUES, **OUTSIDE, **PRECISION}
        for use in ("verified", "width_slope", "attack_radius")
    },
    ("attack_radius of a module", "images"): {**PIXELS, **VALUES, **OUTSIDE, **PRECISION},
    **{(use, "images"): {**IMAGE_KINDS, **PRECISION} for use in ("tangents", "vector_jacobian", "freeze")},
    ("margins", "labels"): without(CLASSES, "too many", "too few"),
    ("prove", "ball"): {
        **without(REGION_KINDS, "of another precision"),
        "a box": lambda good: Box(good.lower, good.upper),
        "of two images": lambda good: BALL,
    },
}
"""The same for one function, in place of what the name says."""
MEANT: dict[str, Kinds] = {
    **dict.fromkeys(
        ("labels", "targets"),
        {str(dtype): partial(Tensor.to, dtype=dtype) for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)},
    ),
    "label": {"a tensor": lambda good: LABELS[:1], "of numpy": lambda good: np.int64(good)},
    **dict.fromkeys(
        ("epsilon", "radius", "lower", "upper"),
        {
            "another precision": lambda good: torch.as_tensor(good).double(),
            "one for all": lambda good: torch.as_tensor(good).flatten()[:1],
            "one that is no tensor": lambda good: float(torch.as_tensor(good).flatten()[0]),
            "of numpy": lambda good: np.float32(torch.as_tensor(good).flatten()[0]),
        },
    ),
    "specification": {
        "whole numbers": lambda good: good.long(),
        "another precision": lambda good: good.double(),
        "bytes with signs": lambda good: good.to(torch.int8),
    },
    "vectors": {"whole numbers": lambda good: good.long(), "another precision": lambda good: good.double()},
    "example": {"NaN": lambda good: good * torch.nan, "no images": lambda good: good[:0]},
    "memory": {"a whole number": lambda good: 64, "of numpy": lambda good: np.float32(64)},
    "time_limit": {"none": lambda good: torch.inf, "a whole number": lambda good: 100},
    "tolerance": {"of numpy": lambda good: np.float64(good)},
    "steps": {"of numpy": lambda good: np.int32(good), "a tensor": torch.tensor},
}
"""What is as good as the right argument, and is answered as that is."""


AS_TENSORS: Kinds = {
    "a list": Tensor.tolist,
    "a tuple": lambda good: tuple(good.tolist()),
    "a list of tensors": list,
    "a list of arrays": lambda good: list(good.detach().numpy()),
    "an array": lambda good: good.detach().numpy(),
    "an array that must not change": lambda good: read_only(good.detach().numpy()),
    "an array of the other byte order": lambda good: good.detach().numpy().astype(good.numpy().dtype.newbyteorder()),
    "an array backwards": lambda good: good.detach().numpy()[::-1].copy()[::-1],
    "a frame's column": lambda good: pandas.Series(good.flatten()) if good.dim() == 1 else good,
}
"""What is as good as a tensor, wherever one is taken."""


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


ARGUMENTS = [(use, name) for use, entry in USES.items() for name in entry.arguments]


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """Without the types that are checked in all other tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def answer(use: str, **changed: Any) -> Any:
    entry = USES[use]
    return entry.answer(entry.call(**{**entry.arguments, **changed}))


def refusal(call: Callable[[], Any]) -> str:
    """The one line that it is refused in, or what comes instead."""
    try:
        return f"answered: {call()}"
    except InputError as error:
        line = str(error)
        return "" if line == line.strip() and "\n" not in line and 10 < len(line) < 500 else f"not one line: {line}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        for each, other in zip(found, expected, strict=True):
            assert_same(each, other)
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, check_dtype=False)
    else:
        assert found == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("use", "name"), ARGUMENTS)
def test_what_is_wrong_is_refused_in_one_line(use, name):
    good = USES[use].arguments[name]
    kinds = OF_USE.get((use, name), KINDS[name])
    found = {kind: refusal(lambda make=make: answer(use, **{name: make(good)})) for kind, make in kinds.items()}
    assert {kind: what for kind, what in found.items() if what} == {}


@pytest.mark.parametrize(("use", "name"), [(use, name) for use, name in ARGUMENTS if use != "Box" and name in MEANT])
def test_what_is_unusual_is_answered_rightly(use, name):
    expected = answer(use)
    for make in MEANT[name].values():
        assert_same(answer(use, **{name: make(USES[use].arguments[name])}), expected)


@pytest.mark.parametrize(("use", "name"), [(u, n) for u, n in ARGUMENTS if isinstance(USES[u].arguments[n], Tensor)])
def test_arrays_and_lists_are_taken_where_tensors_are(use, name):
    """Of every kind in a cheap function; all take them in the same way."""
    expected, kinds = answer(use), AS_TENSORS if use in ("__call__", "Ball", "margins") else ["a list", "an array"]
    for kind in kinds:
        assert_same(answer(use, **{name: AS_TENSORS[kind](USES[use].arguments[name])}), expected)


@pytest.mark.parametrize("use", USES)
def test_all_of_them_at_once(use):
    given = {
        name: value.tolist() if isinstance(value, Tensor) else value for name, value in USES[use].arguments.items()
    }
    assert_same(answer(use, **given), answer(use))


def test_lists_have_the_precision_of_the_network_and_radii_that_of_double():
    exact, images = NETWORK.double(), IMAGES.double() / 3
    assert torch.equal(exact(images.tolist()), exact(images))
    assert torch.equal(Ball(IMAGES, [0.1, 0.2]).epsilon, torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert BoundedNetwork(net().double(), IMAGES.tolist()).example.dtype == torch.float64
    with pytest.raises(InputError, match="^the images are torch.float64, the network torch.float32; convert one of"):
        NETWORK.bounds(images.numpy(), 0.1)


def test_a_region_does_not_change_with_the_array_it_was_made_of():
    array = IMAGES.numpy().copy()
    ball = Ball(array, 0.01)
    array += 1
    assert torch.equal(ball.centre, IMAGES)


def test_a_property_takes_lists():
    unsafe = verify.Halfspaces([[1, -1, 0]], [0.1])
    assert unsafe.rows.dtype == unsafe.limits.dtype == torch.float64 and unsafe.limits.item() == 0.1
    case = verify.Case(Box(IMAGES[:1].tolist(), IMAGES[:1].numpy()), (unsafe,))
    assert verify.prove_property(NETWORK, verify.Property((case,)), time_limit=5).verdict != "unknown"


def tensors_made_anew(value: Any) -> Any:
    """The argument, with tensors that were made in the mode that is on."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Ball):
        return Ball(value.centre.clone(), value.epsilon.clone(), value.norm, value.domain)
    if isinstance(value, dict):
        return {name: (low.clone(), high.clone()) for name, (low, high) in value.items()}
    return value


MODES = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_change_no_answer(mode, use):
    expected = answer(use)
    with MODES[mode]():
        found = answer(use, **{name: tensors_made_anew(value) for name, value in USES[use].arguments.items()})
    assert_same(found, expected)


def test_what_was_made_in_inference_mode_serves_later():
    with torch.inference_mode():
        model, images = net(), IMAGES.clone()
    network = BoundedNetwork(model, images)
    bounds = network.bounds(images, 0.01)
    assert_same(sides(bounds), sides(NETWORK.bounds(IMAGES, 0.01)))
    assert_same(network.double()(images.double()), NETWORK(IMAGES).double())


# Models


class Compiled(nn.Module):
    """A model with a part that is compiled, and one that is compiled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.compile(net()[:3]), net()[3:]
        self.last.compile()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def around(forward: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    model = Function(forward)
    model.inner = net()
    return model.eval()


def exported(batch: Any) -> nn.Module:
    return torch.export.export(net(), (IMAGES,), dynamic_shapes=({0: batch},)).module()


UNWRAPPED = {
    "data parallel": lambda: nn.DataParallel(net()),
    "compiled": lambda: torch.compile(net()),
    "compiled and data parallel": lambda: nn.DataParallel(torch.compile(net())),
    "compiled in parts": Compiled,
    "exported for any batch": lambda: exported(torch.export.Dim("b")),
    "traced by fx": lambda: torch.fx.symbolic_trace(net()),
    "detached input": lambda: around(lambda m, x: m.inner(x.detach())),
    "detached output": lambda: around(lambda m, x: m.inner(x).detach()),
    "detached inside": lambda: around(lambda m, x: m.inner[3:](m.inner[:3](x).detach())),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNWRAPPED)
def test_models_in_another_form_are_bounded_as_they_are(name):
    model = UNWRAPPED[name]()
    network = BoundedNetwork(model, IMAGES)
    assert_same(sides(network.bounds(BALL)), sides(NETWORK.bounds(BALL)))
    assert_same(network.vector_jacobian(**USES["vector_jacobian"].arguments), answer("vector_jacobian"))
    for use in ("attack_radius", "certified_radius"):
        assert_same(answer(use, network=network), answer(use))


def raising(error: Exception) -> Callable[[], nn.Module]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        raise error

    return lambda: Function(forward)


REFUSED = {
    "a function": lambda: torch.relu,
    "a class": lambda: nn.Flatten,
    "an exported program": lambda: torch.export.export(net(), (IMAGES,)),
    "exported for one batch": lambda: torch.export.export(net(), (IMAGES,)).module(),
    "exported for a batch of 1": lambda: torch.export.export(net(), (IMAGES[:1],)).module(),
    "script": lambda: torch.jit.script(net()),
    "a trace": lambda: torch.jit.trace(net(), IMAGES),
    "a script inside": lambda: nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(4, 3))),
    "quantised": lambda: torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8),
    "half": lambda: net().half(),
    "bfloat16": lambda: net().bfloat16(),
    "half inside": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3).half()),
    "complex": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3, dtype=torch.complex64)),
    "without values": lambda: net().to("meta"),
    "double": lambda: net().double(),
    "lazy": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
    "two inputs": lambda: nn.Bilinear(4, 4, 3),
    "another shape": lambda: nn.Linear(5, 3),
    "a key": raising(KeyError("conv\n1")),
    "no words": raising(AssertionError()),
    "many lines": raising(ValueError("one\ntwo\n")),
    "cast to half": lambda: around(lambda m, x: m.inner(x.half().float())),
    "only for plain tensors": lambda: around(lambda m, x: m.inner({Tensor: x}[type(x)])),
    "only for two": lambda: around(lambda m, x: m.inner(x.view(2, 1, 2, 2))),
    "not for three": lambda: around(lambda m, x: m.inner({1: x, 2: x}[len(x)])),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_bounded_are_refused_in_one_line(name):
    model = REFUSED[name]()
    assert refusal(lambda: BoundedNetwork(model, IMAGES)) == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_in_words(dtype):
    for example in (IMAGES, IMAGES.to(dtype)):
        with pytest.raises(InputError, match=r"which rounds by as much as is certified; use model.float\(\)$"):
            BoundedNetwork(net().to(dtype), example)


def test_a_model_says_what_it_does_not_take():
    with pytest.raises(InputError, match=r"^the model does not take a batch of 2 of shape \(3,\), torch.float32 on cpu: mat1"):
        BoundedNetwork(nn.Linear(5, 3), torch.rand(1, 3))
    with pytest.raises(UnsupportedOperator, match="^the network is fixed to one batch size: 3$"):
        BoundedNetwork(REFUSED["not for three"](), IMAGES)

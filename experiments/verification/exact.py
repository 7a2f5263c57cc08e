"""Does a label win in a box, by a mixed-integer program (HiGHS): exact but for the solver's tolerance of 1e-6.

The encoding of Tjeng, Xiao and Tedrake, "Evaluating Robustness of Neural Networks with Mixed Integer Programming", ICLR
2019: between its ReLUs and max pools a network is affine, and each of these is a choice. Nothing of `verify` is
in it but its box.
"""

from __future__ import annotations

import copy
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from verify import Box, InputError

TOLERANCE = 1e-6
SIGN = 0.999
"""The gap, relative to the best value found, at which the solver may stop: a least value above 0 is known to be so."""
KINKS = (nn.ReLU, nn.MaxPool2d)
CURVES = (nn.Sigmoid, nn.Tanh, nn.Softmax)


class Stage(NamedTuple):
    """A ReLU or a max pool: each of its outputs is the largest of a few affine functions of the variables before it.

    Attributes:
        rows: "n m v": of the m functions of each of n outputs, over the v variables before the stage.
        offsets: "n m".
    """

    rows: np.ndarray
    offsets: np.ndarray


def decide(model: nn.Module, box: Box, label: int, time_limit: float) -> str:
    """`unsat` where the label wins in the whole box, `sat` where it does not, else `timeout`.

    Raises:
        InputError: the network has more than ReLUs, max pools and affine functions.
    """
    deadline = time.perf_counter() + time_limit
    if any(isinstance(part, CURVES) for part in model.modules()):
        raise InputError("the network has smooth functions, which no linear program states")
    model, example = copy.deepcopy(model).double(), box.lower.double()
    stages, logits = _stages(model, example)
    program = _Program(stages, box)
    with torch.no_grad():
        nearest_first = model(box.centre.double())[0].argsort(descending=True).tolist()
    for other in nearest_first:
        if other == label:
            continue
        margin = (logits.rows[label] - logits.rows[other])[0], float((logits.offsets[label] - logits.offsets[other])[0])
        answer = program.least(*margin, deadline - time.perf_counter())
        if answer.lower > TOLERANCE:
            continue
        x = answer.x
        if x is not None and _loses(model, torch.from_numpy(x).view(example.shape), label):
            return "sat"
        return "timeout"
    return "unsat"


@torch.no_grad()
def _loses(model: nn.Module, x: Float[Tensor, "1 *shape"], label: int) -> bool:
    logits = model(x)[0]
    return bool((logits[label] <= torch.cat([logits[:label], logits[label + 1 :]])).any())


def _stages(model: nn.Module, example: Float[Tensor, "1 *shape"]) -> tuple[list[Stage], Stage]:
    """The network's stages in the order of their calls, and its logits as a last one of one function each."""
    outputs = _run(model, example, None)[1]
    variables = [example, *outputs]
    sizes = [variable.numel() for variable in variables]

    def affine(flat: Tensor) -> tuple[Tensor, ...]:
        x, *free = (part.view(like.shape) for part, like in zip(flat.split(sizes), variables, strict=True))
        inner, _, logits = _run(model, x, free)
        return *inner, logits.view(-1, 1)

    zero = torch.zeros(sum(sizes), dtype=torch.float64)
    with torch.no_grad():
        offsets = affine(zero)
    rows = torch.autograd.functional.jacobian(affine, zero)
    made, before = [], sizes[0]
    for size, slope, offset in zip([*sizes[1:], 0], rows, offsets, strict=True):
        made.append(Stage(slope[..., :before].detach().numpy(), offset.numpy()))
        before += size
    return made[:-1], made[-1]


def _run(model: nn.Module, x: Tensor, free: list[Tensor] | None) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What goes into each stage, "n m", and comes out of it, and the logits; with the outputs replaced, if `free`."""
    inner: list[Tensor] = []
    outer: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inner.append(_candidates(module, inputs[0]))
        outer.append(output if free is None else free[len(outer)])
        return outer[-1]

    hooks = [part.register_forward_hook(hook) for part in model.modules() if isinstance(part, KINKS)]
    try:
        logits = model(x)
    finally:
        for each in hooks:
            each.remove()
    return inner, outer, logits


def _candidates(module: nn.Module, x: Tensor) -> Tensor:
    """What a stage takes the largest of, for each output in the order of the flattened tensor."""
    if isinstance(module, nn.MaxPool2d):
        if module.padding != 0 or module.dilation != 1 or module.ceil_mode:
            raise InputError("max pools of windows inside the image are known")
        size = module.kernel_size
        windows = F.unfold(x, size, stride=module.stride)  # 1, c * k * k, places
        return windows.view(x.shape[1], -1, windows.shape[-1]).transpose(1, 2).flatten(0, 1)
    return torch.stack([x.flatten(), torch.zeros_like(x.flatten())], 1)


class Least(NamedTuple):
    """Of a linear function over the program: a proven lower bound, and the input of a solution, if one was found."""

    lower: float
    x: np.ndarray | None


class _Program:
    """Inputs, outputs of the stages, and one binary variable for each function that may be the largest."""

    def __init__(self, stages: list[Stage], box: Box) -> None:
        self.inputs = box.lower.numel()
        self.lower = list(box.lower.double().flatten().tolist())
        self.upper = list(box.upper.double().flatten().tolist())
        self.constraints: list[tuple[dict[int, float], float, float]] = []  # low <= row v <= high
        choices: list[tuple[int, np.ndarray, float, float]] = []
        for stage in stages:
            for rows, offsets in zip(stage.rows, stage.offsets, strict=True):
                choices += self._output(rows, offsets, len(self.lower))
        self.reals = len(self.lower)
        self._choose(choices)

    def _output(self, rows: np.ndarray, offsets: np.ndarray, place: int) -> list[tuple[int, np.ndarray, float, float]]:
        """Add one output; what of its functions may be the largest, where that is open."""
        known = rows.shape[1]
        low, high = np.array(self.lower[:known]), np.array(self.upper[:known])
        least = np.minimum(rows * low, rows * high).sum(1) + offsets
        most = np.maximum(rows * low, rows * high).sum(1) + offsets
        alive = [number for number in range(len(rows)) if most[number] >= least.max()]
        self.lower.append(float(least.max()))
        self.upper.append(float(most.max()))
        exact = len(alive) == 1
        for number in alive:  # output >= each function; equal to the only one
            row = {place: 1.0, **{int(i): -float(rows[number, i]) for i in np.flatnonzero(rows[number])}}
            self.constraints.append((row, float(offsets[number]), float(offsets[number]) if exact else np.inf))
        if exact:
            return []
        slack = float(most.max())
        return [(place, rows[number], float(offsets[number]), slack - float(least[number])) for number in alive]

    def _choose(self, choices: list[tuple[int, np.ndarray, float, float]]) -> None:
        """Binary variables: output <= function + slack (1 - chosen), and one function of each output is chosen."""
        chosen: dict[int, dict[int, float]] = {}
        for number, (place, row, offset, slack) in enumerate(choices):
            binary = self.reals + number
            chosen.setdefault(place, {})[binary] = 1.0
            terms = {place: 1.0, binary: slack, **{int(i): -float(row[i]) for i in np.flatnonzero(row)}}
            self.constraints.append((terms, -np.inf, offset + slack))
        self.constraints += [(terms, 1.0, 1.0) for terms in chosen.values()]
        self.lower += [0.0] * len(choices)
        self.upper += [1.0] * len(choices)

    def least(self, row: np.ndarray, offset: float, seconds: float) -> Least:
        """The least value of row v + offset, over the variables before the logits."""
        if seconds <= 0:
            return Least(-np.inf, None)
        size = len(self.lower)
        matrix = np.zeros((len(self.constraints), size + 1))  # a last variable is 1: the offset counts into the gap
        for number, (terms, _, _) in enumerate(self.constraints):
            matrix[number, list(terms)] = list(terms.values())
        low, high = ([constraint[side] for constraint in self.constraints] for side in (1, 2))
        found = milp(
            np.concatenate([row, np.zeros(size - len(row)), [offset]]),
            integrality=[*(place >= self.reals for place in range(size)), False],
            bounds=Bounds([*self.lower, 1.0], [*self.upper, 1.0]),
            constraints=LinearConstraint(matrix, low, high),
            options={"time_limit": seconds, "mip_rel_gap": SIGN},
        )
        lower = found.mip_dual_bound if found.mip_dual_bound is not None else found.fun
        ends = self.lower[: self.inputs], self.upper[: self.inputs]
        x = None if found.x is None else np.clip(found.x[: self.inputs], *ends)
        return Least(-np.inf if lower is None else float(lower), x)


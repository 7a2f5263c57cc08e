"""Does a property hold? An attack, then bounds, then branch and bound over inputs or neurons."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from verify.bounds import BoundedNetwork, wrapped
from verify.certify.attack import pgd
from verify.checks import inputs as checks
from verify.checks.errors import InputError
from verify.checks.modes import in_own_modes
from verify.complete.input_splitting import MOST_INPUTS, case_margins, split_inputs
from verify.complete.neuron_splitting import split_neurons
from verify.complete.onnx.model import OnnxModel
from verify.complete.property import Case, Property

Answer: TypeAlias = Literal["holds", "violated", "unknown", "timeout"]

STARTS, STEPS, STEPS_LATER = 8, 30, 5
"""Of the attack before anything is bounded: starting points for all unsafe sets and for each, and steps from them. Then
steps from where bounds are least."""
AT_ONCE = 256
"""Points attacked as one batch."""


@dataclass(frozen=True)
class PropertyVerdict:
    """What `prove_property` found.

    Attributes:
        verdict: "holds", "violated", "timeout", or "unknown" (nothing more to try, or bounds that were not finite).
        lower: a proven lower bound, over all inputs and unsafe sets, of the largest of rows y - limits; positive where
            the property holds.
        counterexample: "1 *shape" in float64, in the property's region; it violates the property in the model's own
            precision, where it came from ONNX in onnxruntime too, and in float64.
        outputs: of the model itself at the counterexample (in onnxruntime, where it came from ONNX).
        boxes: parts of the region that were bounded, by splits of inputs or of neurons.
        seconds: spent.
    """

    verdict: Answer
    lower: float
    counterexample: Float[Tensor, "1 *shape"] | None
    outputs: Float[Tensor, "1 k"] | None
    boxes: int
    seconds: float


@in_own_modes
@torch.no_grad()
def prove_property(network: BoundedNetwork, wanted: Property, *, time_limit: float = 60.0) -> PropertyVerdict:
    """Whether no input of a property's regions has an output in its unsafe sets.

    "holds" is a proof about the network in real arithmetic, by bounds in float64 that give way for rounding. Where few
    inputs vary these are split (`verify.complete.input_splitting`); elsewhere the neurons
    (`verify.complete.neuron_splitting`). Both are complete up to time and rounding; the second for networks that are
    linear but for piecewise linear functions of each element (ReLU, LeakyReLU, hardtanh, the absolute value, ...), with
    unsafe sets of one row, or of several in boxes. Elsewhere (max pools, smooth functions) it goes as far as splits do.

    Args:
        network: on the CPU.
        wanted: its regions may be flat, "1 n", in the order of the network's inputs.
        time_limit: seconds; looked at between batches.

    Raises:
        InputError: a property of another number of inputs or outputs, another device, or a limit that is no number.
    """
    network = wrapped(network)
    wanted = checks.instance("wanted", wanted, Property, "or read one from a file by read_vnnlib")
    time_limit = checks.number("time_limit", time_limit, least=0.0, endless=True)
    if network.example.device.type != "cpu":
        raise InputError("branch and bound runs on the CPU; move the network there")
    if wanted.outputs != network.classes:
        raise InputError(f"the property has {wanted.outputs} outputs, the network {network.classes}")
    return _Proof(network, wanted.shaped(network.example.shape[1:]), time_limit).run()


class _Proof:
    """One run of `prove_property`."""

    def __init__(self, network: BoundedNetwork, wanted: Property, time_limit: float) -> None:
        self.network, self.wanted = network, wanted
        self.exact = network.double()
        self.begin = time.perf_counter()
        self.deadline = self.begin + time_limit
        self.boxes = 0

    def run(self) -> PropertyVerdict:
        """Attack every case, then prove them one by one."""
        for case in self.wanted.cases:
            found = self._attacked(case)
            if found is not None:
                return self._violated(found)
        lowers = []
        for case in self.wanted.cases:
            lower, found = self._decided(case)
            if found is not None:
                return self._violated(found)
            lowers.append(lower)
        lower = min(lowers)
        if lower > 0:
            return self._verdict("holds", lower)
        return self._verdict("timeout" if self._seconds_left() <= 0 else "unknown", lower)

    def _decided(self, case: Case) -> tuple[float, Tensor | None]:
        """A lower bound of the margin in a case, and a counterexample if one is met."""
        if self._seconds_left() <= 0:
            return -math.inf, None
        region = case.region
        bounds = case_margins(self.exact, case, region).lower[0].tolist()
        self.boxes += 1
        left = [part for part, lower in zip(case.unsafe, bounds, strict=True) if lower <= 0]
        if not left:
            return min(bounds), None
        split, found = self._split(Case(region, tuple(left)))
        excluded = min((lower for lower in bounds if lower > 0), default=math.inf)
        return min(excluded, max(split, min(bounds))), found

    def _split(self, case: Case) -> tuple[float, Tensor | None]:
        """The same for the unsafe sets that bounds over the whole region leave open."""
        if int((case.region.lower < case.region.upper).sum()) <= MOST_INPUTS:
            split = split_inputs(self.exact, case, self._checked, self.deadline)
            self.boxes += split.boxes
            return split.lower, split.counterexample

        def search(points: Float[Tensor, "b *shape"]) -> Float[Tensor, "1 *shape"] | None:
            return self._descended(case, points, steps=STEPS_LATER)

        branching = split_neurons(self.exact, case, search, self.deadline)
        self.boxes += branching.parts
        return branching.lower, branching.counterexample

    def _attacked(self, case: Case) -> Tensor | None:
        """A counterexample in a case's region: first against all its unsafe sets at once, then against each."""
        generator = torch.Generator().manual_seed(0)
        count = len(case.unsafe)
        targets = [None, *range(1, count + 1)] if count > 1 else [None]
        chunk = max(1, AT_ONCE // STARTS)
        groups = [targets[:1], *(targets[place : place + chunk] for place in range(1, len(targets), chunk))]
        for group in groups:
            start = case.region.repeat(STARTS * len(group)).sample(generator)
            start[0] = case.region.centre[0]
            aims = None if group == [None] else torch.tensor(group).repeat_interleave(STARTS)
            found = self._descended(case, start, aims)
            if found is not None or self._seconds_left() <= 0:
                return found
        return None

    def _descended(
        self, case: Case, start: Float[Tensor, "b *shape"], targets: Tensor | None = None, steps: int = STEPS
    ) -> Tensor | None:
        """A counterexample that gradient descent meets, from points in a case's region or next to it.

        Args:
            targets: the unsafe set that each point is to reach, from 1 on; None for the nearest.
        """
        dtype = self.network.example.dtype
        region, labels = case.region.repeat(len(start)).to(dtype), torch.zeros(len(start), dtype=torch.int64)
        outputs = _Classes(self.network, case)
        x = pgd(outputs, region, labels, steps=steps, start=start.to(dtype), targets=targets)
        return self._checked(case.region.project(torch.cat([start, x.double()])))

    def _checked(self, points: Float[Tensor, "b *shape"]) -> Float[Tensor, "1 *shape"] | None:
        """One of these points, in float64, that violates the whole property however the network is computed."""
        x = points[self.wanted.violated(points, self.exact(points))]
        single = x.to(self.network.example.dtype)
        x = x[self.wanted.violated(x, self.network(single))] if len(x) else x
        for number in range(len(x)):
            point = x[[number]]
            if bool(self.wanted.violated(point, self._own(point))):
                return point
        return None

    def _own(self, x: Float[Tensor, "1 *shape"]) -> Float[Tensor, "1 k"]:
        """The outputs of the model itself."""
        single = x.to(self.network.example.dtype)
        model = self.network.model
        return model.reference(single) if isinstance(model, OnnxModel) else self.network(single)

    def _seconds_left(self) -> float:
        return self.deadline - time.perf_counter()

    def _violated(self, x: Float[Tensor, "1 *shape"]) -> PropertyVerdict:
        return self._verdict("violated", -math.inf, x, self._own(x))

    def _verdict(
        self, verdict: Answer, lower: float, x: Tensor | None = None, outputs: Tensor | None = None
    ) -> PropertyVerdict:
        return PropertyVerdict(verdict, lower, x, outputs, self.boxes, time.perf_counter() - self.begin)


class _Classes:
    """A network as a classifier whose class 0 wins where its outputs are safe: logits 0 and, for each set, -excess."""

    def __init__(self, network: BoundedNetwork, case: Case) -> None:
        self.network, self.case = network, case

    def __call__(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b k"]:
        outputs = self.network(x)
        excess = [-part.excess(outputs) for part in self.case.unsafe]
        return torch.stack([torch.zeros_like(excess[0]), *excess], 1)

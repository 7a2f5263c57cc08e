"""Properties: what must never happen, as a set of inputs and outputs (VNN-LIB's unsafe set)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from verify.checks import inputs as checks
from verify.checks.errors import InputError
from verify.regions import ORDERS, Ball, Box, Region
from verify.specification import margins


@dataclass(frozen=True)
class Halfspaces:
    """A conjunction of linear constraints on the outputs: {y : rows y <= limits}.

    Attributes:
        rows: in float64.
        limits: in float64.

    Raises:
        InputError: no constraint, other shapes, or values that are not finite.
    """

    rows: Float[Tensor, "m k"]
    limits: Float[Tensor, " m"]

    def __post_init__(self) -> None:
        rows, limits = (checks.tensor(name, getattr(self, name), None, torch.float64) for name in ("rows", "limits"))
        if rows.dim() != 2 or limits.shape != rows.shape[:1] or not rows.numel():
            raise InputError(f"rows must be m x k and limits m, not {tuple(rows.shape)} and {tuple(limits.shape)}")
        if not (torch.isfinite(rows).all() and torch.isfinite(limits).all()):
            raise InputError("constraints on the outputs must be finite")
        object.__setattr__(self, "rows", rows.double())
        object.__setattr__(self, "limits", limits.double())

    def excess(self, outputs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        """The largest of rows y - limits, in float64: y is in the set where it is not positive."""
        return (outputs.double() @ self.rows.T - self.limits).amax(1)


@dataclass(frozen=True)
class Case:
    """A region of inputs, and the sets that no output of it may lie in.

    Attributes:
        region: of one input, in float64.
        unsafe: a disjunction; at least one set.
    """

    region: Region
    unsafe: tuple[Halfspaces, ...]

    def __post_init__(self) -> None:
        region = checks.instance("region", self.region, Region, "a Ball or a Box")
        if len(region.centre) != 1:
            raise InputError(f"a property is about one input, not {len(region.centre)}; make one property of each")
        unsafe = tuple(checks.instance("unsafe", part, Halfspaces, "of rows and limits") for part in self.unsafe)
        if not unsafe or len({part.rows.shape[1] for part in unsafe}) > 1:
            raise InputError("a property needs one unsafe set or more, all over the same outputs")
        object.__setattr__(self, "unsafe", unsafe)
        object.__setattr__(self, "region", shaped(region, region.centre.shape[1:]))


@dataclass(frozen=True)
class Property:
    """What must never happen: an input in a case's region whose output is in one of its unsafe sets.

    Attributes:
        cases: a disjunction; one region with one unsafe set or more each.

    Raises:
        InputError: no case, or cases of different networks.

    Example:
        >>> unsafe = Halfspaces(torch.tensor([[1.0, -1.0]]), torch.zeros(1))  # f_0 <= f_1
        >>> Property((Case(Box(lower, upper), (unsafe,)),))
    """

    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        cases = tuple(checks.instance("cases", case, Case, "of a region and unsafe sets") for case in self.cases)
        if not cases:
            raise InputError("a property needs a case: a region and an unsafe set")
        if len({(case.region.centre.numel(), case.unsafe[0].rows.shape[1]) for case in cases}) > 1:
            raise InputError("the cases of a property are about networks of different sizes")
        object.__setattr__(self, "cases", cases)

    @classmethod
    def robust(cls, region: Region, label: int, classes: int) -> Property:
        """The label wins in the whole region: unsafe is f_label <= f_k for any other class k.

        Raises:
            InputError: no region of one input, or the label is none of the classes.
        """
        rows = margins(torch.tensor([checks.whole("label", label, 0)]), classes)[0]
        return cls((Case(region, tuple(Halfspaces(row.unsqueeze(0), torch.zeros(1)) for row in rows)),))

    @property
    def inputs(self) -> int:
        return self.cases[0].region.centre.numel()

    @property
    def outputs(self) -> int:
        return self.cases[0].unsafe[0].rows.shape[1]

    def violated(self, x: Float[Tensor, "b *shape"], outputs: Float[Tensor, "b k"]) -> Bool[Tensor, " b"]:
        """Whether an input, in float64, is in the region of a case and its output in an unsafe set of the case."""
        found = torch.zeros(len(x), dtype=torch.bool)
        for case in self.cases:
            unsafe = torch.stack([part.excess(outputs) <= 0 for part in case.unsafe]).any(0)
            found |= inside(case.region, x) & unsafe
        return found

    def shaped(self, shape: Sequence[int]) -> Property:
        """The same about inputs of this shape.

        Raises:
            InputError: they have another number of elements, or other axes where neither is flat.
        """
        return Property(tuple(Case(shaped(case.region, shape), case.unsafe) for case in self.cases))


def shaped(region: Region, shape: Sequence[int]) -> Region:
    """The region in float64, as one of inputs of this shape; their order is that of the flattened input.

    Raises:
        InputError: their numbers of elements differ, or their axes longer than 1, where neither is flat.
    """
    size = region.centre[0].numel()
    if size != math.prod(shape):
        raise InputError(f"the property has {size} inputs, the network {math.prod(shape)}, of shape {tuple(shape)}")
    axes, others = ([length for length in sizes if length > 1] for sizes in (region.centre.shape[1:], shape))
    if axes != others and min(len(axes), len(others)) > 1:
        given = tuple(region.centre.shape[1:])
        raise InputError(f"the property is about inputs of shape {given}, the network's are {tuple(shape)}")
    if isinstance(region, Ball):
        return Ball(region.centre.double().view(-1, *shape), region.epsilon, region.norm, region.domain)
    return Box(region.lower.double().view(-1, *shape), region.upper.double().view(-1, *shape))


def inside(region: Region, x: Float[Tensor, "b *shape"]) -> Bool[Tensor, " b"]:
    """Whether each input, in float64, lies in the region of one image."""
    x = x.double().flatten(1)
    found = ((x >= region.lower.double().flatten(1)) & (x <= region.upper.double().flatten(1))).all(1)
    if isinstance(region, Ball):
        size = torch.linalg.vector_norm(x - region.centre.double().flatten(1), ORDERS[region.norm], dim=1)
        found &= size <= region.epsilon
    return found

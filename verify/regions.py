"""Input regions: a ball in l-infinity, l2 or l1, inside the unit box or free; a box given pixel by pixel.

A region knows two things: a box around itself, from which intervals start, and the least value of a linear
function on it, with which CROWN ends.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from verify.checks import inputs as checks
from verify.checks.choices import DOMAINS, NORMS
from verify.checks.errors import InputError
from verify.checks.inputs import Array
from verify.checks.modes import in_own_modes

ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
"""Of the vector norm that measures a perturbation; `DUAL_ORDERS` of the one that measures a gradient."""
DUAL_ORDERS = {"linf": 1, "l2": 2, "l1": math.inf}
TIE = 1e-5
"""Coefficients this near to the largest, relative to it, count as equal to it."""
SMALLEST = 1e-7
"""Below this fraction of the scale of radii (`Span`) searches for a radius give up."""
REACH = 100.0
"""How far searches in the free domain go, in radii of the linearised network or sizes of the image."""
FAR = 1e30
"""A radius of the linearised network beyond which it counts as infinite: float32 overflows soon after."""


class Region:
    """A set of inputs an image: all of `centre + delta` that the subclass allows.

    Attributes:
        centre: "b *shape", a point of the region.
        lower, upper: "b *shape", the smallest box around it.
    """

    def __init__(self, centre: Tensor, lower: Tensor, upper: Tensor) -> None:
        self.centre, self.lower, self.upper = centre, lower, upper

    def box(self) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"], Float[Tensor, " b"]]:
        """The smallest box around it: centre, radius in units of a size, and that size, in float64."""
        size = torch.ones(len(self.centre), dtype=torch.float64, device=self.centre.device)
        return (self.lower + self.upper) / 2, (self.upper - self.lower) / 2, size

    def least(self, A: Float[Tensor, "b s n"]) -> Float[Tensor, "b s"]:
        """A lower bound of min <A, x> over the region, for each row of A over the n flattened inputs."""
        return self._ends_on_box(A)[0]

    def ends(self, A: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
        """`least`, and an upper bound of the largest value in the same way."""
        return self._ends_on_box(A)

    def extremes(self, A: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b _ n"], Float[Tensor, "b s n"]]:
        """Middle and half of a line whose ends, middle -+ half, are where <A, x> is least and largest, or nearly so.

        One middle for all rows of A, or one for each.
        """
        lower, upper = (side.flatten(1).unsqueeze(1) for side in (self.lower, self.upper))
        return (lower + upper) / 2, (upper - lower) / 2 * A.sign()

    def take(self, index: Int[Tensor, " m"]) -> Region:
        """The regions of these images."""
        raise NotImplementedError

    def repeat(self, times: int) -> Region:
        """The same regions, one set after the other."""
        raise NotImplementedError

    def to(self, dtype: torch.dtype) -> Region:
        """The same regions in another precision, up to its rounding."""
        raise NotImplementedError

    def project(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """A point of the region near x, for attacks and samples."""
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def sample(self, generator: torch.Generator) -> Float[Tensor, "b *shape"]:
        """A random point an image: half of its pixels uniform in the box, half at its ends; projected."""
        shape = self.centre.shape
        uniform = torch.rand(shape, generator=generator, device=generator.device).to(self.centre)
        ends = torch.randint(0, 2, shape, generator=generator, device=generator.device).to(self.centre)
        pick = torch.randint(0, 2, shape, generator=generator, device=generator.device).bool().to(ends.device)
        return self.project(self.lower + (self.upper - self.lower) * torch.where(pick, uniform, ends))

    def _ends_on_box(self, A: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
        lower, upper = self.lower.flatten(1), self.upper.flatten(1)
        middle, half = torch.einsum("bsn,bn->bs", A, (lower + upper) / 2), (upper - lower) / 2
        spread = torch.einsum("bsn,bn->bs", A.abs(), half)
        return middle - spread, middle + spread


class Box(Region):
    """lower <= x <= upper, pixel by pixel.

    Raises:
        InputError: bounds that are no batch of images, of different shapes or types, not finite, or crossed.
    """

    @in_own_modes
    def __init__(self, lower: Float[Tensor, "b *shape"] | Array, upper: Float[Tensor, "b *shape"] | Array) -> None:
        lower, upper = checks.pixels("lower", lower), checks.pixels("upper", upper)
        if lower.shape != upper.shape:
            raise InputError(f"box: lower is {tuple(lower.shape)} and upper is {tuple(upper.shape)}")
        if lower.dtype != upper.dtype or lower.device != upper.device:
            raise InputError(
                f"box: lower is {lower.dtype} on {lower.device} and upper is {upper.dtype} on {upper.device}"
            )
        if not (torch.isfinite(lower).all() and torch.isfinite(upper).all() and (lower <= upper).all()):
            raise InputError("box: bounds must be finite with lower <= upper everywhere")
        super().__init__((lower + upper) / 2, lower, upper)

    def take(self, index: Int[Tensor, " m"]) -> Box:
        """The boxes of these images."""
        return Box(self.lower[index], self.upper[index])

    def repeat(self, times: int) -> Box:
        """The same boxes, one set after the other."""
        lower, upper = (side.repeat(times, *[1] * (side.dim() - 1)) for side in (self.lower, self.upper))
        return Box(lower, upper)

    def to(self, dtype: torch.dtype) -> Box:
        """The same boxes in another precision, up to its rounding."""
        return Box(self.lower.to(dtype), self.upper.to(dtype))


class Ball(Region):
    """||x - centre||_p <= epsilon, in input units; with domain "unit" also 0 <= x <= 1.

    Args:
        centre: "b *shape", in float32 or float64.
        epsilon: one radius, or one an image ("b").
        norm: "linf", "l2" or "l1".
        domain: "unit" keeps perturbed images in [0, 1], as attacks do; "free" does not.

    Attributes:
        epsilon: "b", in float64 whatever the type of the images: it may be smaller than float32 can hold.

    Raises:
        InputError: unknown norm or domain; a radius negative or not finite, or not one an image; a centre that is no
            batch of images, not finite, or outside [0, 1] in the unit domain.
    """

    @in_own_modes
    def __init__(
        self,
        centre: Float[Tensor, "b *shape"] | Array,
        epsilon: float | Float[Tensor, " b"] | Array,
        norm: str = "linf",
        domain: str = "unit",
    ) -> None:
        norm, domain = checks.choice("norm", norm, NORMS), checks.choice("domain", domain, DOMAINS)
        centre = checks.pixels("images", centre)
        radius = checks.radii("epsilon", epsilon, centre)
        if not torch.isfinite(centre).all():
            raise InputError("the images hold values that are not finite")
        if domain == "unit" and not ((centre >= 0) & (centre <= 1)).all():
            raise InputError("the unit domain needs images in [0, 1]; scale them, or use the free domain")
        self.epsilon, self.norm, self.domain = radius, norm, domain
        wide = per_image(radius, centre).to(centre.dtype)
        lower, upper = centre - wide, centre + wide
        if domain == "unit":
            lower, upper = lower.clamp(min=0), upper.clamp(max=1)
        super().__init__(centre, lower, upper)

    def box(self) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"], Float[Tensor, " b"]]:
        """In units of epsilon, whose limit is taken where it is 0: every pixel that may move then does, by 1."""
        if self.domain == "free":
            return self.centre, torch.ones_like(self.centre), self.epsilon
        x, epsilon = self.centre.double(), per_image(self.epsilon, self.centre)
        divisor = epsilon.clamp(min=torch.finfo(epsilon.dtype).tiny)
        up, down = ((reach / divisor).clamp(max=1) for reach in (1 - x, x))
        centre, radius = x + epsilon * (up - down) / 2, (up + down) / 2
        return centre.to(self.centre.dtype), radius.to(self.centre.dtype), self.epsilon

    def least(self, A: Float[Tensor, "b s n"]) -> Float[Tensor, "b s"]:
        """Exact for l-infinity, and for l2 and l1 in the free domain.

        For l2 and l1 in the unit domain: a coordinate that sits at 0 can only rise, one at 1 only fall, so a
        coefficient that would gain from the forbidden direction adds nothing to the decrease and leaves the
        dual norm. What the box around the ball allows is a second bound; the larger of the two holds.
        """
        if self.norm == "linf":
            return super().least(A)
        centre = self.centre.flatten(1)
        gains = self._gains(A)
        dual = gains.norm(dim=-1) if self.norm == "l2" else gains.abs().amax(-1)
        least = torch.einsum("bsn,bn->bs", A, centre) - self.epsilon.to(A.dtype).unsqueeze(1) * dual
        return least if self.domain == "free" else torch.maximum(least, super().least(A))

    def ends(self, A: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
        """See `least`."""
        return super().ends(A) if self.norm == "linf" else (self.least(A), -self.least(-A))

    def extremes(self, A: Float[Tensor, "b s n"]) -> tuple[Float[Tensor, "b _ n"], Float[Tensor, "b s n"]]:
        """Exact for l-infinity, and for l2 and l1 in the free domain; elsewhere the ends may be too near."""
        if self.norm == "linf":
            return super().extremes(A)
        centre = self.centre.flatten(1).unsqueeze(1)
        if self.domain == "free":
            return centre, self._step(A)
        lower, upper = (side.flatten(1).unsqueeze(1) for side in (self.lower, self.upper))
        least, largest = (
            torch.minimum(torch.maximum(centre - self._step(self._gains(side)), lower), upper) for side in (A, -A)
        )
        return (least + largest) / 2, (largest - least) / 2

    def _step(self, A: Float[Tensor, "b s n"]) -> Float[Tensor, "b s n"]:
        """The step by which <A, x> grows most, of length epsilon in l2 or l1."""
        if self.norm == "l2":
            step = A / A.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(A.dtype).tiny)
        else:
            # Of pixels that are equal, the first: rounding must not choose, or bounds would jump with it.
            size = A.abs()
            ties = size >= (1 - TIE) * size.amax(-1, keepdim=True)
            largest = ties.to(torch.uint8).argmax(-1, keepdim=True)
            step = torch.zeros_like(A).scatter(-1, largest, A.gather(-1, largest).sign())
        return self.epsilon.to(A.dtype).view(-1, 1, 1) * step

    def _gains(self, A: Float[Tensor, "b s n"]) -> Float[Tensor, "b s n"]:
        """A without the coefficients that can only raise <A, x> within the domain."""
        if self.domain == "free":
            return A
        centre = self.centre.flatten(1).unsqueeze(1)
        blocked = ((A > 0) & (centre <= 0)) | ((A < 0) & (centre >= 1))
        return A.masked_fill(blocked, 0)

    def project(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """For l2 and l1: clipped to the box, then shrunk towards the centre, so the result lies in both."""
        x = super().project(x)
        if self.norm == "linf":
            return x
        step = (x - self.centre).flatten(1)
        length = step.norm(p=2 if self.norm == "l2" else 1, dim=1)
        factor = (self.epsilon.to(x.dtype) / length.clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=1)
        return self.centre + (step * factor.unsqueeze(1)).view_as(x)

    def take(self, index: Int[Tensor, " m"]) -> Ball:
        """The balls of these images."""
        return Ball(self.centre[index], self.epsilon[index], self.norm, self.domain)

    def repeat(self, times: int) -> Ball:
        """The same balls, one set after the other."""
        images = self.centre.repeat(times, *[1] * (self.centre.dim() - 1))
        return Ball(images, self.epsilon.repeat(times), self.norm, self.domain)

    def to(self, dtype: torch.dtype) -> Ball:
        """The same balls in another precision."""
        return Ball(self.centre.to(dtype), self.epsilon, self.norm, self.domain)

    def with_epsilon(self, epsilon: Float[Tensor, " b"]) -> Ball:
        """The ball of another radius around the same images."""
        return Ball(self.centre, epsilon, self.norm, self.domain)


def per_image(values: Shaped[Tensor, " b"], like: Tensor) -> Shaped[Tensor, "b *ones"]:
    """One value an image, shaped to broadcast over tensors "b ..." of as many dimensions as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def largest_epsilon(norm: str, shape: torch.Size) -> float:
    """A radius at which the unit-domain ball is the whole unit box: nothing changes beyond it.

    Args:
        shape: of one image.
    """
    pixels = math.prod(shape)
    return {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels)}[norm]


class Span(NamedTuple):
    """The radii that a search goes through, one of each an image.

    Attributes:
        scale: an order of magnitude: below `SMALLEST` of it a search gives up.
        largest: where a search ends.
    """

    scale: Float[Tensor, " b"]
    largest: Float[Tensor, " b"]


def span(balls: Ball, linear: Float[Tensor, " b"], largest: float | None = None) -> Span:
    """The radii to search around these images.

    In the unit domain they end where the ball is the whole box. In the free domain pixels may have any unit: the scale
    is the radius of the linearised network, and the end `REACH` times that, or times the size of the image where that
    is more.

    Args:
        balls: the images; their radii do not matter.
        linear: the radius at which the network linearised at each image changes its answer; infinite for none.
        largest: where the search ends, if not there.

    Raises:
        InputError: `largest` is not positive and finite.
    """
    if largest is not None:
        largest = checks.number("largest", largest)
    if balls.domain == "unit":
        scale = torch.full_like(balls.epsilon, largest_epsilon(balls.norm, balls.centre[0].shape))
        end = scale
    else:
        size = torch.linalg.vector_norm(balls.centre.flatten(1).double(), ORDERS[balls.norm], dim=1)
        linear = torch.where((linear > 0) & (linear < FAR), linear.double(), 0.0)
        scale = torch.where(linear > 0, linear, torch.where(size > 0, size, 1.0))
        end = REACH * torch.maximum(scale, size)
    return Span(scale, end if largest is None else end.new_full(end.shape, largest))

"""Bounds of a network: a network, an input region and a specification give lower and upper bounds."""

from __future__ import annotations

import copy
import math
import time
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from verify.checks import inputs as checks
from verify.checks.errors import InputError, first_line
from verify.checks.inputs import Array
from verify.checks.modes import in_own_modes, uncompiled
from verify.graph.graph import Graph
from verify.graph.tracing import copies, evaluated, trace
from verify.operators import UnsupportedOperator
from verify.operators.normalisation import Moments, moments
from verify.propagation.affine import MEMORY
from verify.propagation.bounds import Bounds, bound, lower_given
from verify.propagation.intervals import IntervalSweep
from verify.propagation.methods import METHODS
from verify.propagation.neurons import Intervals
from verify.regions import Ball, Region
from verify.rounding import IGNORED, rounding_for
from verify.specification import ONE_OUTPUT


class Tangents(NamedTuple):
    """Values and directional derivatives at images.

    Attributes:
        outputs: of the network.
        neurons: value and derivative, "b *shape", of each node whose neurons are relaxed, by its name.
    """

    outputs: Float[Tensor, "b k"]
    neurons: dict[str, tuple[Tensor, Tensor]]


class BoundedNetwork:
    """A network whose outputs can be bounded over input regions.

    The network is traced in the mode it is in. Parameters and buffers are read from it at every call, so a
    network in training can be wrapped once; whatever else it holds (numbers, tensors that are neither, branches on
    shapes) is as it was on `example`; nothing of it is changed (mode, buffers, `requires_grad`). Bounds
    are differentiable in its parameters. What is bounded is the network in real arithmetic.

    Batch norm in training mode: `freeze(images)` first.

    Args:
        model: one input "b *shape", one output "b k"; each output must depend on its own image alone.
        example: an input of the right shape, type and device; its values do not matter.
        memory: MiB that the affine forms of one call may take (methods "affine", "crown" and "alpha-crown"); less is
            looser, never unsound.
        confirms: bounds give way for rounding (`verify.rounding`): what `double` gives, without a copy; float64 only.

    Raises:
        InputError: no torch module, half precision, no example, or an error of the model's own.
        UnsupportedOperator: the network holds an operator with no sound rule (named), or mixes images.

    Example:
        >>> network = BoundedNetwork(model.eval(), images[:1])
        >>> bounds = network.bounds(images, 0.01, "linf", specification=margins(labels, 10), method="crown")
        >>> certified = (bounds.lower > 0).all(1)
    """

    @in_own_modes
    def __init__(
        self,
        model: nn.Module,
        example: Float[Tensor, "b *shape"] | Array,
        memory: float = MEMORY,
        confirms: bool = False,
    ) -> None:
        model = checks.module(model)
        example = checks.pixels("example", example, *checks.place(model))
        if confirms and example.dtype != torch.float64:
            raise InputError(f"certificates are confirmed in float64, not in {example.dtype}; use double()")
        self.model = model
        # Two images: batch norm in training mode needs two, and equal ones could hide a mixing of images.
        random = torch.rand((2, *example.shape[1:]), generator=torch.Generator().manual_seed(0))
        self.example = random.to(example)
        self._modes: list[tuple[nn.Module, bool]] | None = self._current_modes()  # None in a copy
        self.memory = checks.number("memory", memory)
        with uncompiled():
            self.graph = Graph(trace(model, self.example), self.example)
            self.rounding = rounding_for(self.graph.summands) if confirms else IGNORED
            self._check_agreement()

    def __repr__(self) -> str:
        """What is bounded, in one line."""
        shapes = f"images {tuple(self.example.shape[1:])} -> {self.graph.final_shape[-1]} outputs"
        return f"BoundedNetwork({type(self.model).__name__}: {shapes}, {self.example.dtype} on {self.example.device})"

    @in_own_modes
    def __call__(self, x: Float[Tensor, "b *shape"] | Array) -> Float[Tensor, "b k"]:
        """The network's outputs, with frozen statistics where it is in training mode."""
        self._check_mode()
        return self.graph.evaluate(checks.alike(x, self.example))

    @property
    def classes(self) -> int:
        return self.graph.final_shape[-1]

    def check(
        self,
        images: Float[Tensor, "b *shape"] | Array,
        labels: Integer[Tensor, " b"] | Array,
        targets: Integer[Tensor, " b"] | Array | None = None,
    ) -> tuple[Float[Tensor, "b *shape"], Int[Tensor, " b"], Int[Tensor, " b"] | None]:
        """Images of the kind that the network takes, in float32 or float64, and classes of them, as torch.int64.

        Raises:
            InputError: they are not, there are none, or a target is its image's label.
        """
        images = checks.batch(images, self.example)
        if self.classes < 2:
            raise InputError(ONE_OUTPUT)
        labels = checks.classes("labels", labels, self.classes, len(images), images.device)
        return images, labels, checks.others(targets, labels, self.classes)

    @in_own_modes
    def freeze(self, images: Float[Tensor, "b *shape"] | Array, moments: Moments = moments) -> Float[Tensor, "b k"]:
        """Fix batch norm's statistics to those of this clean batch, until the next call. Returns the outputs.

        Every bound, forward pass and attack of one evaluation has to use the same. The statistics keep their
        autograd graph: gradients in the parameters pass through them.

        Args:
            images: the batch.
            moments: gives mean and biased variance a channel of "b c *size"; where several processes share a batch,
                those of all their images.

        Raises:
            InputError: images of another shape or type than the network's; or the model changed mode since it was
                wrapped.
        """
        self._check_mode()
        return self.graph.evaluate(checks.alike(images, self.example), checks.function("moments", moments))

    @in_own_modes
    def bounds(
        self,
        x: Float[Tensor, "b *shape"] | Array | Region,
        epsilon: float | Float[Tensor, " b"] | Array | None = None,
        norm: str = "linf",
        specification: Float[Tensor, "b s k"] | Float[Tensor, "s k"] | Array | None = None,
        method: str = "crown",
        domain: str = "unit",
        within: Intervals | None = None,
        keep_intervals: bool = False,
        time_limit: float = math.inf,
    ) -> Bounds:
        """Bounds of the outputs, or of linear functions of them, over an input region.

        Args:
            x: images, or a region (`Box(lower, upper)`, `Ball(...)`); with a region leave out epsilon, norm
                and domain.
            epsilon: radius of the ball around each image, in input units; one, or one an image.
            norm: "linf", "l2" or "l1".
            specification: rows of linear functions of the outputs, such as `margins(labels, k)`; none bounds
                the outputs themselves (s = k).
            method: "ibp" (intervals, at any depth and epsilon: `verify.propagation.intervals`), "block" (the same with
                every nonlinear operator replaced by its two lines: the paper's literal composition of the bounds of its
                building blocks, eqs. 3-11; looser than "ibp", never tighter. What is linear in a block, depthwise and
                pointwise convolution and batch norm, composes to the same either way, |P D| = |P| |D|), "crown-ibp"
                (one backward pass, neurons bounded by intervals), "affine" (the same, neurons bounded by a forward
                sweep of affine forms), "crown" (in addition a backward pass for every neuron that the sweep leaves
                unstable), "alpha-crown" (in addition slopes raised by gradient: those of the last pass, for the lower
                bounds, and for images with one that is still not positive those of the neurons' own passes, and then
                of the last pass again). Backward passes of the last three choose lower slopes row by row
                (`verify.propagation.worst_points`); gradients take these as constants.
            domain: "unit" (perturbed images stay in [0, 1]) or "free".
            within: `intervals` of an earlier result for regions that contain these, image by image; neurons that
                were stable there need no backward pass here. (Methods "affine", "crown" and "alpha-crown".)
            keep_intervals: give `intervals` with methods "ibp" and "block" too, where they are what neurons read.
            time_limit: seconds after which slopes are left as they are, which is sound. (Method "alpha-crown".)

        Raises:
            InputError: wrong region, images of another shape or type than the network's, wrong method, specification,
                `within` or time limit; or the model changed mode since it was wrapped.
        """
        self._check_mode()
        region = self._region(x, epsilon, norm, domain)
        rows = checks.specification(specification, region.centre, self.classes)
        if within is not None:
            within = checks.intervals("within", within, self.graph.neurons, region.centre)
        return bound(
            self.graph,
            region,
            rows,
            METHODS[checks.choice("method", method, METHODS)],
            memory=self.memory,
            rounding=self.rounding,
            within=within,
            keep=keep_intervals,
            deadline=time.perf_counter() + checks.number("time_limit", time_limit, least=0.0, endless=True),
        )

    @in_own_modes
    def lower_given(
        self, region: Region, specification: Float[Tensor, "b s k"] | Array, intervals: Intervals
    ) -> Float[Tensor, "b s"]:
        """Lower bounds by one backward pass of CROWN, from given bounds of the neurons.

        As true as those are: nothing checks them. With estimates (`tangents`) the result is an estimate too, which
        training may raise and nothing may be certified by.

        Args:
            region: the inputs.
            specification: as for `bounds`.
            intervals: lower and upper bounds of all neurons that are relaxed, by the names that `bounds` and `tangents`
                use.

        Raises:
            InputError: wrong region, specification or intervals; or the model changed mode since it was wrapped.
        """
        self._check_mode()
        region = self._known(region)
        rows = checks.specification(specification, region.centre, self.classes)
        given = checks.intervals("intervals", intervals, self.graph.neurons, region.centre, complete=True)
        return lower_given(self.graph, region, rows, given)

    @in_own_modes
    def tangents(
        self, images: Float[Tensor, "b *shape"] | Array, directions: Float[Tensor, "b *shape"] | Array
    ) -> Tangents:
        """The neurons that would be relaxed, with their derivatives in a direction an image; one forward pass.

        For directions from a standard normal distribution the squared derivative's expectation is the squared l2 norm
        of the neuron's gradient: how far a small l2 ball moves it, over the ball's radius.

        Raises:
            InputError: images or directions of another shape or type than the network's; or the model changed mode
                since it was wrapped.
        """
        self._check_mode()
        images = checks.alike(images, self.example)
        directions = checks.like("directions", directions, images)
        with forward_ad.dual_level():
            values = self.graph.values(forward_ad.make_dual(images.contiguous(), directions))
            pairs = {name: forward_ad.unpack_dual(values[name]) for name in self.graph.relaxed}
            outputs = forward_ad.unpack_dual(values[self.graph.final_name]).primal
        return Tangents(outputs, {name: (pair.primal, pair.tangent) for name, pair in pairs.items()})

    @in_own_modes
    def vector_jacobian(
        self, images: Float[Tensor, "b *shape"] | Array, vectors: Float[Tensor, "r b k"] | Array
    ) -> Float[Tensor, "r b *shape"]:
        """v^T J(x) for r vectors v of each image, J the Jacobian of the outputs; differentiable in the parameters.

        A sweep of the operators' transposes, as in CROWN, where autograd would differentiate its own backward pass:
        torch's second derivative of a convolution computes gradients that nobody asked for, the depthwise ones a group
        at a time.

        Raises:
            InputError: images or vectors of another shape or type than the network's; or the model changed mode since
                it was wrapped.
        """
        self._check_mode()
        images = checks.alike(images, self.example)
        vectors = checks.vectors(vectors, images, self.classes)
        values = self.graph.values(images, constant=True)
        return torch.stack([self.graph.pullback(rows, values) for rows in vectors])

    @in_own_modes
    def width_slope(
        self,
        images: Float[Tensor, "b *shape"] | Array,
        norm: str = "linf",
        specification: Float[Tensor, "b s k"] | Float[Tensor, "s k"] | Array | None = None,
        domain: str = "unit",
    ) -> Float[Tensor, "b s"]:
        """How fast interval bounds widen with epsilon: the natural logarithm of d(upper - lower)/2 / d(epsilon) at 0.

        Of method "ibp", in the limit of a vanishing ball; finite at any depth, -infinity where nothing depends on the
        image, NaN where the outputs are not finite. It compares networks, and is differentiable in their parameters.
        It is not a bound: for bounds choose an epsilon.

        Args:
            images, norm, specification, domain: as for `bounds`; l2 and l1 differ only in `bounds` by other methods.

        Raises:
            InputError: wrong images, norm, domain or specification; or the model changed mode since it was wrapped.
        """
        self._check_mode()
        region = self._region(images, 0.0, norm, domain)
        rows = checks.specification(specification, region.centre, self.classes)
        swept = IntervalSweep(region).run(self.graph.nodes, rows)
        finite = torch.isfinite(swept.centre).all(1, keepdim=True)
        return swept.log_slope.masked_fill(~finite, torch.nan)

    @in_own_modes
    def double(self) -> BoundedNetwork:
        """The same network in float64 with its relaxations widened outward: what confirms a certificate.

        A copy (itself if it is such a copy already): later changes of the model do not reach it. Frozen statistics
        come along.
        """
        return self if self.rounding.step else self._copy(torch.float64, confirms=True)

    @in_own_modes
    def single(self) -> BoundedNetwork:
        """The same network in float32, where bounds are fast: to look for what `double` then confirms.

        A copy, as above (itself if it is in float32).
        """
        return self if self.example.dtype == torch.float32 else self._copy(torch.float32)

    def _copy(self, dtype: torch.dtype, confirms: bool = False) -> BoundedNetwork:
        """The same trace with tensors of its own. What does not depend on the image stays of the model's types, and is
        converted where the image meets it: in float64 the network is the same, to the last bit of its constants."""
        self._check_mode()
        twin = copy.copy(self)
        twin.example, twin._modes = self.example.to(dtype), None
        twin.graph = Graph(self.graph.trace.copy(), twin.example)
        twin.rounding = rounding_for(twin.graph.summands) if confirms else IGNORED
        twin.graph.copy_statistics(self.graph)
        return twin

    def _region(
        self, x: Tensor | Array | Region, epsilon: float | Tensor | Array | None, norm: str, domain: str
    ) -> Region:
        if isinstance(x, Region):
            if epsilon is not None:
                raise InputError("give either a region or images with epsilon, not both")
            return self._known(x)
        images = checks.alike(x, self.example)
        if epsilon is None:
            raise InputError("epsilon is missing: the radius of the ball around each image")
        return Ball(images, epsilon, norm, domain)

    def _known(self, region: Region) -> Region:
        """A region of the network's inputs."""
        region = checks.instance("region", region, Region, "a Ball or a Box")
        checks.alike(region.centre, self.example)
        return region

    def _current_modes(self) -> list[tuple[nn.Module, bool]]:
        return [(module, module.training) for module in self.model.modules()]

    def _check_mode(self) -> None:
        if self._modes is not None and self._current_modes() != self._modes:
            raise InputError(
                "the model changed since it was wrapped, between train and eval or in its modules; wrap it again"
            )

    def _check_agreement(self) -> None:
        """The graph must compute what the model computes, and each image must be on its own.

        Raises:
            UnsupportedOperator: it does not, for example because the model is random or mixes images.
        """
        with torch.no_grad():
            expected = self._model(self.example)
            got = self.freeze(self.example)
            three = torch.cat([self.example[1:], self.example])
            try:
                swapped = self(three)
                others, counted = [self._model(three)], self.freeze(three)
                if not self.graph.batch_norms:  # one image has no variance
                    others.append(self._model(three[:1]))
            except Exception as error:
                raise UnsupportedOperator(f"the network is fixed to one batch size: {first_line(error)}") from error
        self.graph.forget_statistics()
        if not _close(expected, got):
            raise UnsupportedOperator("the traced network does not compute what the model does (is it random?)")
        if not _close(swapped, got[[1, 0, 1]]):
            raise UnsupportedOperator("the network's outputs depend on more than their own image")
        if not all(_close(other, counted[: len(other)]) for other in others):
            raise UnsupportedOperator("the network's outputs depend on how many images there are")

    def _model(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b k"]:
        """The outputs of the model itself, on copies of what it holds."""
        outputs: Tensor = evaluated(self.model, copies(self.model), x.clone())
        return outputs


def wrapped(network: BoundedNetwork) -> BoundedNetwork:
    """The network, if it is one whose outputs can be bounded.

    Raises:
        InputError: it is something else, such as the model itself.
    """
    return checks.instance("network", network, BoundedNetwork, "wrap the model: BoundedNetwork(model, images[:1])")


def _close(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True)

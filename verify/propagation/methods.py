"""The methods of bounds, one record each: every list of methods, and every rule of thumb about one, comes from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One way to bound a network's outputs.

    Attributes:
        forward: it is one forward sweep of intervals, as centre and radius.
        relaxed: that sweep goes by the two lines of nonlinear operators.
        forms: a forward sweep of affine forms bounds the neurons.
        refined: a backward pass bounds those that the sweep leaves unstable.
        optimised: gradient ascent chooses the slopes of the last pass and, where neurons are refined, of their passes.
        phases: the methods that a search for a radius goes through: cheap bounds find where the expensive ones start.
        growth: how far a trial of that search goes at most beyond what is proven: far beyond it, every neuron is
            unstable and bounds are slow.
        cost: of an evaluation, in evaluations by method "affine".
        gain: its radii, in radii by method "affine".
        ends: it keeps the lower and upper ends of intervals, which float32 cannot tell apart at the tiny radii of a
            search; the others keep a radius beside its centre.
        step_images: how many images a step of a search can wait for; 0 where it cannot.
    """

    phases: tuple[str, ...]
    forward: bool = False
    relaxed: bool = False
    forms: bool = False
    refined: bool = False
    optimised: bool = False
    growth: float = 8.0
    cost: float = 1.0
    gain: float = 1.0
    ends: bool = False
    step_images: int = 0


CLIMB = ("affine", "crown", "alpha-crown")

METHODS: dict[str, Method] = {
    "ibp": Method(("ibp",), forward=True, step_images=16),
    "block": Method(("block",), forward=True, relaxed=True, step_images=16),
    "crown-ibp": Method(("crown-ibp",), ends=True, step_images=8),
    "affine": Method(CLIMB[:1], forms=True, growth=3.0, step_images=2),
    "crown": Method(CLIMB[:2], forms=True, refined=True, growth=1.3, cost=3.0, gain=1.15, step_images=1),
    "alpha-crown": Method(CLIMB, forms=True, refined=True, optimised=True, growth=1.1, cost=24.0, gain=1.17),
}
AUTO = "auto"
"""Of `certified_radius`: climb as far as the time allows."""


def radius_methods() -> tuple[str, ...]:
    """What radii are searched by."""
    return (*METHODS, AUTO)


def phases(method: str) -> tuple[str, ...]:
    """The methods of bounds that a search for a radius goes through."""
    return CLIMB if method == AUTO else METHODS[method].phases

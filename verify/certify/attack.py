"""Gradient attacks with a region of its own for each image: what tries to break certificates.

Projected gradient descent on the margin (Madry et al. 2018), from several starts. For published attacks at a
fixed radius see robust_nas.attacks; these serve `audit` and give a radius its ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from verify.checks import inputs as checks
from verify.checks.choices import NORMS
from verify.checks.errors import InputError
from verify.checks.inputs import Array
from verify.checks.modes import in_own_modes
from verify.regions import DUAL_ORDERS, ORDERS, Ball, Region, per_image, span
from verify.specification import margins

Outputs = Callable[[Tensor], Tensor]


def worst_margin(
    logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"], targets: Int[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """f_y - max over k != y of f_k: positive where the label wins. With targets f_y - f_target."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    if targets is not None:
        return own - logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return own - others.amax(1)


def pgd(
    network: Outputs,
    region: Region,
    labels: Int[Tensor, " b"],
    *,
    steps: int,
    start: Float[Tensor, "b *shape"],
    targets: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b *shape"]:
    """The point of each image's region with the smallest margin that gradient descent from `start` meets.

    Step sizes fall from half the region's width to a hundredth of it.
    """
    reach = ((region.upper - region.lower) / 2).flatten(1).amax(1)
    x = best = region.project(start)
    lowest = torch.full_like(reach, torch.inf)
    for step in range(steps + 1):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            margin = worst_margin(network(x), labels, targets)
            gradient = _gradient(margin, x)
        better = margin.detach() < lowest
        lowest = torch.where(better, margin.detach(), lowest)
        best = torch.where(per_image(better, x), x.detach(), best)
        if step < steps:
            size = reach * 0.5 ** (1 + 5.6 * step / max(1, steps - 1))
            x = region.project(x.detach() - per_image(size, x) * _direction(gradient, region))
    return best


def _gradient(
    margin: Float[Tensor, " b"], x: Float[Tensor, "b *shape"], keep: bool = False
) -> Float[Tensor, "b *shape"]:
    """Of each image's margin; if `keep`, others may be taken after it.

    Raises:
        InputError: there is none.
    """
    gradient = None
    if margin.requires_grad:
        (gradient,) = torch.autograd.grad(margin.sum(), x, allow_unused=True, retain_graph=keep)
    if gradient is None:
        raise InputError("the network has no gradient in its images (is there a detach?), and cannot be attacked so")
    return gradient


def _direction(gradient: Float[Tensor, "b *shape"], region: Region) -> Float[Tensor, "b *shape"]:
    """Steepest ascent of unit length in the region's norm; in l1 spread over the strongest 5 % of pixels."""
    norm = region.norm if isinstance(region, Ball) else "linf"
    flat = gradient.flatten(1)
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return (flat / flat.norm(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)).view_as(gradient)
    kept = max(1, flat.shape[1] // 20)
    threshold = flat.abs().topk(kept, dim=1).values[:, -1:]
    return (flat.sign() * (flat.abs() >= threshold) / kept).view_as(gradient)


def linearised_radius(
    network: Outputs, images: Float[Tensor, "b *shape"], rows: Float[Tensor, "b s k"], norm: str
) -> Float[Tensor, " b"]:
    """The radius at which the network linearised at the image would change its answer; it bounds nothing.

    Infinite where the gradient is 0, negative where the answer is wrong.

    Args:
        rows: of the margins, see `margins`.
    """
    x, radii = images.clone().requires_grad_(), []
    with torch.enable_grad():
        values = torch.einsum("bsk,bk->bs", rows.to(x), network(x))
        for row in values.unbind(1):
            gradient = _gradient(row, x, keep=True)
            radii.append(row.detach() / torch.linalg.vector_norm(gradient.flatten(1), DUAL_ORDERS[norm], dim=1))
    return torch.stack(radii).amin(0).nan_to_num(nan=math.inf)


@in_own_modes
def attack_radius(
    network: Outputs,
    images: Float[Tensor, "b *shape"] | Array,
    labels: Integer[Tensor, " b"] | Array,
    norm: str = "linf",
    domain: str = "unit",
    *,
    steps: int = 25,
    rounds: int = 10,
    seed: int = 0,
    targets: Integer[Tensor, " b"] | Array | None = None,
    largest: float | None = None,
) -> Float[Tensor, " b"]:
    """The size of the smallest successful perturbation found, in input units: no certificate can exceed it.

    Bisection on the radius, PGD at each, from the image and from a random point; a success counts with the
    norm it really has. 0 for images that are misclassified, infinity where nothing succeeded.

    Args:
        network: a `BoundedNetwork`, or anything else that gives logits and has a gradient in the images.
        targets: one class an image, the only one that counts: success is f_y <= f_target.
        largest: the largest radius tried, if not that of `verify.regions.span`.

    Raises:
        InputError: images, labels or targets that are not what their names say, an unknown norm or domain, a wrong
            number, or a network that does not take the images or has no gradient.
    """
    checks.choice("norm", norm, NORMS)
    images = Ball(checks.pixels("images", images, *checks.place(network)), 0.0, norm, domain).centre
    steps, rounds = checks.whole("steps", steps, 0), checks.whole("rounds", rounds, 0)
    generator = torch.Generator().manual_seed(checks.whole("seed", seed, 0))
    outputs = partial(checks.logits, checks.function("network", network))
    logits = outputs(images).detach()
    labels = checks.classes("labels", labels, logits.shape[1], len(images), images.device)
    targets = checks.others(targets, labels, logits.shape[1])
    rows = margins(labels, logits.shape[1], targets)
    margin = worst_margin(logits, labels)
    low = torch.zeros_like(margin)
    found = torch.where(margin > 0, torch.full_like(margin, torch.inf), low)
    linear = linearised_radius(network, images, rows, norm)
    radii = span(Ball(images, 0.0, norm, domain), linear, largest)
    end = radii.largest.to(margin)
    # In the free domain the scale is a guess of the radius, in the unit domain the whole box.
    trial = torch.minimum(radii.scale.to(margin) * (0.25 if domain == "unit" else 2.0), end)
    twice, twice_targets = labels.repeat(2), None if targets is None else targets.repeat(2)
    for _ in range(rounds):
        ball = Ball(images, trial, norm, domain)
        start = torch.cat([images, ball.sample(generator)])
        x = pgd(outputs, ball.repeat(2), twice, steps=steps, start=start, targets=twice_targets)
        success = worst_margin(outputs(x).detach(), twice, twice_targets) <= 0
        size = length(x - images.repeat(2, *[1] * (images.dim() - 1)), norm)
        size = torch.where(success, size, torch.full_like(size, torch.inf)).view(2, -1).amin(0)
        found = torch.minimum(found, size)
        # Not where trial < found: rounding can make a success a little larger than its trial.
        low = torch.where(torch.isinf(size), trial, low)
        trial = _between(low, torch.where(torch.isinf(found), torch.minimum(trial * 4, end), found))
    return found


def _between(low: Tensor, high: Tensor) -> Tensor:
    """The geometric mean, or a quarter of the upper end while the lower one is 0."""
    return torch.where(low > 0, (low * high).sqrt(), high / 4)


def length(delta: Float[Tensor, "b *shape"], norm: str) -> Float[Tensor, " b"]:
    """The norm of each image's perturbation."""
    return torch.linalg.vector_norm(delta.flatten(1), ORDERS[norm], dim=1)

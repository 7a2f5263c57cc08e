"""Guard rails: what makes an attack meaningless is refused, and signs of masked gradients are counted.

After Carlini et al., "On Evaluating Adversarial Robustness" (2019), Athalye et al. (ICML 2018) and AutoAttack's flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.attacks.autoattack import BLACK_BOX, PARTS, AutoAttack
from robust_nas.attacks.evaluate import Target
from robust_nas.attacks.gradient import ProjectedGradient
from robust_nas.attacks.outcomes import Attacked
from robust_nas.attacks.sweep import Point
from verify.checks.errors import InputError

SAME = 1e-4
"""Two forward passes may differ by this much of the largest logit: GPUs do not always add in the same order."""

TINY = 1e-8
"""The largest entry of an input gradient under this is tiny: float32 has rounded most of the loss away."""

FLAT_SHARE = 0.05
"""Share of the images that may have no gradient, or a tiny one."""

BLACK_BOX_SHARE = 0.002
"""Share of the images that Square alone may break, as in AutoAttack's own check."""

LEFT_SHARE = 0.01
"""Share of the images that may stand at the largest epsilon of the sweep."""

STEPS_SHARE = 0.05
"""Share of the images that `MANY_STEPS` may break and `FEW_STEPS` not."""

FEW_STEPS, MANY_STEPS = ProjectedGradient(10), ProjectedGradient(100)


@dataclass(frozen=True)
class Finding:
    """What a guard found.

    Attributes:
        name: of the guard.
        words: for people.
        sign: whether it is a sign of masked gradients.
    """

    name: str
    words: str
    sign: bool = False


def check_images(images: Float[Tensor, "n *shape"]) -> None:
    """Attacks clip to [0,1], so the images must lie there.

    Raises:
        InputError: they do not.
    """
    low, high = images.min().item(), images.max().item()
    if not 0 <= low <= high <= 1:
        raise InputError(f"images hold values from {low:g} to {high:g}; attacks need [0,1]: scale inside the network")


def check_network(network: nn.Module, images: Float[Tensor, "b *shape"]) -> None:
    """What attacks need of a network in evaluation mode.

    Raises:
        InputError: its outputs are not finite, are probabilities, change from one pass to the next, or have no gradient
            in the images.
    """
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        first = network(x)
    with torch.no_grad():
        second = network(images)
    if not first.requires_grad:
        raise InputError("the network's outputs have no gradient in its inputs; these attacks need one")
    if not first.isfinite().all():
        raise InputError("the network's outputs hold NaN or infinity; there is nothing to attack")
    if not (first - second).abs().max() <= SAME * first.abs().max():
        raise InputError(
            "two passes of the same images give different outputs; attacks need a network without randomness "
            "(dropout or noise that stays on in evaluation mode)"
        )
    if (first >= 0).all() and torch.allclose(first.sum(1), torch.ones_like(first[:, 0]), atol=1e-4):
        raise InputError("the network's outputs are probabilities; attacks need logits: leave the softmax out")


def gradient_finding(target: Target) -> Finding:
    """Whether the loss has a gradient at the images that are right without attack."""
    batches = target.batches(target.correct)
    sizes = torch.cat([torch.zeros(0), *(_gradient_sizes(target, images, labels) for _, images, labels in batches)])
    zero, tiny = int((sizes == 0).sum()), int(((sizes > 0) & (sizes < TINY)).sum())
    words = f"exactly 0 for {zero} and tiny (< {TINY:g}) for {tiny} of {len(sizes)} images"
    return Finding("input gradients", words, zero + tiny > FLAT_SHARE * len(sizes))


def _gradient_sizes(target: Target, images: Tensor, labels: Tensor) -> Float[Tensor, " b"]:
    """The largest entry of each image's gradient of the cross-entropy, on the CPU."""
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(target.network(x), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient.flatten(1).abs().amax(1).cpu()


def black_box_finding(attacked: Attacked) -> Finding:
    """Whether Square, which sees no gradient, breaks what AutoAttack's gradient attacks left.

    Args:
        attacked: by AutoAttack.
    """
    after = attacked.accuracy_after
    gain = after[PARTS[PARTS.index(BLACK_BOX) - 1]] - after[BLACK_BOX]
    words = f"broke {gain:.1%} of the images, which AutoAttack's gradient attacks had left" if gain else "broke none"
    return Finding(f"Square, a black box, {attacked.threat.norm}", words, gain > BLACK_BOX_SHARE)


def sweep_finding(points: Sequence[Point]) -> Finding:
    """Whether the accuracy falls to 0 as epsilon grows.

    Args:
        points: of a sweep in one norm, epsilon growing.
    """
    last = points[-1]
    words = f"accuracy {last.accuracy:.1%} at epsilon {last.epsilon:.3g}, where every image is within reach"
    return Finding(f"growing epsilon, {last.norm}", words, last.accuracy > LEFT_SHARE)


def steps_finding(few: Attacked, many: Attacked) -> Finding:
    """Whether more steps of PGD find much more.

    Where the few steps cannot cross the ball (MNIST with the paper's step of 2/255), that they find less says nothing.

    Args:
        few, many: by `FEW_STEPS` and `MANY_STEPS`, in one threat model.
    """
    names = f"{few.attack.name} to {many.attack.name}, {few.threat.norm}"
    assert isinstance(few.attack, ProjectedGradient)
    reach, epsilon = few.attack.reach(few.threat), few.threat.epsilon
    if reach < epsilon:
        return Finding(names, f"not compared: {few.attack.name} reaches {reach:.3g}, not epsilon {epsilon:.3g}")
    gain = few.accuracy - many.accuracy
    return Finding(names, f"accuracy falls by {gain:.1%}", gain > STEPS_SHARE)


def look_for_signs(
    target: Target, attacked: Sequence[Attacked], sweeps: Sequence[Sequence[Point]]
) -> list[Finding]:
    """Every guard that has what it needs: the last two need their attacks to have run."""
    ran = {(each.attack.name, each.threat.norm): each for each in attacked}
    findings = [gradient_finding(target), *map(sweep_finding, sweeps)]
    for norm in dict.fromkeys(each.threat.norm for each in attacked):
        few, many = ran.get((FEW_STEPS.name, norm)), ran.get((MANY_STEPS.name, norm))
        if few and many:
            findings.append(steps_finding(few, many))
        auto = ran.get((AutoAttack().name, norm))
        if auto:
            findings.append(black_box_finding(auto))
    return findings


def verdict(findings: Sequence[Finding]) -> str:
    """In words, whether gradients look masked."""
    signs = [finding.name for finding in findings if finding.sign]
    if signs:
        return (
            f"gradients look masked ({'; '.join(signs)}): the accuracies under gradient attacks are too high, "
            "do not quote them as robustness"
        )
    return "no sign of masked gradients" if findings else "not looked for"

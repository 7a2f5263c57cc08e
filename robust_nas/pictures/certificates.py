"""Pictures of certificates: what is certified and what an attack reaches, and the images at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from robust_nas.pictures.style import BLUE, RED, figure, finish, write

_BINS = 20
_BEYOND = 1.05
"""How far the curves go beyond the last radius."""


@dataclass(frozen=True)
class Radii:
    """Radii of some images, in [0, 1] pixels.

    Attributes:
        certified: of each image; 0 where the network is wrong.
        attacked: size of the smallest perturbation that an attack found; 0 where the network is wrong, infinite where
            none was found.
        correct: whether the network is right.
    """

    certified: Float[np.ndarray, " n"]
    attacked: Float[np.ndarray, " n"]
    correct: np.ndarray

    @classmethod
    def of(cls, certified: Sequence[float], attacked: Sequence[float], correct: Sequence[bool]) -> Radii:
        """Radii from plain lists."""
        return cls(np.array(certified, float), np.array(attacked, float), np.array(correct, bool))

    @property
    def end(self) -> float:
        """Where pictures of them end: a little beyond the largest finite one."""
        known = np.concatenate([self.certified, self.attacked])
        return _BEYOND * float(known[np.isfinite(known)].max(initial=0.0)) or 1.0

    def accuracy(self, epsilons: Float[np.ndarray, " e"], attacked: bool) -> Float[np.ndarray, " e"]:
        """Share of the images that are certified at each epsilon, or that the attack leaves standing there."""
        standing = self.attacked[:, None] > epsilons if attacked else self.certified[:, None] >= epsilons
        return (standing & self.correct[:, None]).mean(0)


def plot_radii(radii: Radii, threat_model: str, path: Path) -> Path:
    """Write accuracy against epsilon, certified and under attack, and beside it the histogram of the certified radii.

    True robust accuracy lies between the two curves.
    """
    picture = figure(9.0, 3.6)
    curves, histogram = picture.subplots(1, 2)
    draw_accuracies(curves, radii)
    correct = radii.certified[radii.correct]
    widest = float(correct.max(initial=0.0)) or 1.0
    histogram.hist(correct, bins=_BINS, range=(0.0, widest), color=BLUE, edgecolor="white")
    zero = int((correct == 0).sum())
    note = f" ({zero} of them 0)" if zero else ""
    finish(histogram, f"radii of {len(correct)} correct images{note}", "certified radius", "images")
    histogram.xaxis.set_major_locator(MaxNLocator(6))
    histogram.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    picture.suptitle(threat_model)
    return write(picture, path)


def draw_accuracies(axes: Axes, radii: Radii) -> None:
    """The two curves of accuracy against epsilon, and what lies between them."""
    # Curves fall at the radii: just after a certified one, just at an attacked one.
    steps = np.unique(np.concatenate([[0.0, radii.end], radii.certified, radii.attacked[np.isfinite(radii.attacked)]]))
    places = np.stack([np.nextafter(steps, -np.inf), steps, np.nextafter(steps, np.inf)], 1).ravel()
    certified, attacked = (radii.accuracy(places, attack) for attack in (False, True))
    axes.fill_between(places, certified, attacked, color="0.92", label="not known")
    axes.plot(places, attacked, color=RED, linestyle="--", label="under attack")
    axes.plot(places, certified, color=BLUE, label="certified")
    axes.set(xlim=(0, radii.end), ylim=(0, 1.02))
    axes.legend(framealpha=0.9)
    finish(axes, f"{len(radii.correct)} images", "epsilon ([0, 1] pixels)", "accuracy")


@dataclass(frozen=True)
class Attacked:
    """An image and what an attack made of it.

    Attributes:
        image, perturbed: pixels in [0, 1].
        label, answer: the network's answers to the two; equal where the attack found nothing.
        radius: certified.
        size: of the perturbation, in the norm of the certificate.
    """

    image: Float[Tensor, "c h w"]
    perturbed: Float[Tensor, "c h w"]
    label: int
    answer: int
    radius: float
    size: float


def plot_extremes(smallest: Sequence[Attacked], largest: Sequence[Attacked], path: Path) -> Path:
    """Write the images of the smallest and of the largest radii, the attack's images under them, and the differences.

    A difference is drawn from red (brighter) over white to blue (darker), at the largest change of that image.
    """
    columns = [*smallest, *largest]
    picture = figure(1.5 * len(columns) + 0.8, 5.6)
    grid = picture.subplots(3, len(columns), squeeze=False)
    for place, (found, (first, second, third)) in enumerate(zip(columns, grid.T, strict=True)):
        for axes, pixels in ((first, found.image), (second, found.perturbed)):
            axes.imshow(_shown(pixels), cmap="gray", vmin=0, vmax=1)
        change = (found.perturbed - found.image).mean(0).cpu().numpy()
        most = float(np.abs(change).max()) or 1.0
        third.imshow(change, cmap="RdBu_r", vmin=-most, vmax=most)
        end = "smallest" if place < len(smallest) else "largest"
        first.set_title(f"{end}\nradius {found.radius:.3g}\nclass {found.label}", fontsize="small")
        second.set_title(_verdict(found), fontsize="small")
        third.set_title(f"at most {most:.2g} a pixel" if change.any() else "none", fontsize="small")
    for axes, name in zip(grid[:, 0], ("image", "attacked", "difference"), strict=True):
        axes.set_ylabel(name)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    return write(picture, path)


def _verdict(found: Attacked) -> str:
    if found.answer == found.label:
        return "no attack found"
    return f"class {found.answer}\nsize {found.size:.3g}"


def _shown(pixels: Float[Tensor, "c h w"]) -> np.ndarray:
    """Pixels as matplotlib takes them; channels that are neither 1 nor 3 become their mean."""
    array = pixels.clamp(0, 1).cpu().numpy()
    return array.transpose(1, 2, 0) if len(array) == 3 else array.mean(0)

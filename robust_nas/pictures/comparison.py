"""Pictures of several certifications at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from robust_nas.pictures.certificates import Radii
from robust_nas.pictures.style import COLOURS, MARKERS, figure, finish, write


def plot_comparison(runs: Mapping[str, Radii], path: Path) -> Path:
    """Write certified accuracy against epsilon, a curve a run, and accuracy against mean radius, a point a run.

    Runs are to be of one norm, one domain and the same images: nothing else can be compared.
    """
    picture = figure(10.0, 4.0 + 0.2 * len(runs))
    curves, points = picture.subplots(1, 2)
    end = max(float(radii.certified.max(initial=0.0)) for radii in runs.values()) * 1.05 or 1.0
    for place, (name, radii) in enumerate(runs.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        steps = np.unique(np.concatenate([[0.0, end], radii.certified]))
        places = np.stack([steps, np.nextafter(steps, np.inf)], 1).ravel()
        curves.plot(places, radii.accuracy(places, attacked=False), color=colour, label=name)
        points.scatter(radii.correct.mean(), radii.certified.mean(), color=colour, marker=marker, s=50, label=name)
    curves.set(xlim=(0, end), ylim=(0, 1.02))
    points.set_ylim(bottom=0)
    finish(curves, "certified accuracy", "epsilon ([0, 1] pixels)", "share of the images")
    finish(points, "accuracy against radius", "accuracy", "mean certified radius, all images")
    picture.legend(*points.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return write(picture, path)

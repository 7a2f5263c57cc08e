"""Certificates against attacks: a certified radius beyond a perturbation that succeeded is false."""

import csv
import json
import math
from dataclasses import asdict

import pytest

from robust_nas.attacks.crosscheck import Certified
from robust_nas.attacks.radii import Radius
from robust_nas.certification.records import Certificate
from tests.robust_nas.attacks.helpers import outcome
from verify.checks.errors import InputError

LABELS = PREDICTED = [1] * 4


def certificate(index, radius, label=1, predicted=1, norm="linf"):
    return Certificate(index, label, predicted, label == predicted, norm, radius, math.inf, "crown", 1, 0.1, "certified")


def certified(folder, certificates, domain="unit", norms=("linf",)):
    path = folder / "certify.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(certificates[0])))
        writer.writeheader()
        writer.writerows(map(asdict, certificates))
    (folder / "config.json").write_text(json.dumps({"options": {"domain": domain}}))
    return Certified.read(path, norms)


def fell(index, distance, **values):
    return outcome(index=index, success=True, distance=distance, **values)


def found(index, radius, norm="linf"):
    return Radius(index, 1, 1, True, norm, radius, math.inf, radius, 0.1)


@pytest.mark.parametrize("domain", ["unit", "free"])
def test_a_radius_beyond_the_smallest_success_is_violated(tmp_path, domain):
    held = certified(tmp_path, [certificate(place, radius) for place, radius in enumerate([0.1, 0.1, 0.1, 0.3])], domain)
    outcomes = [
        fell(0, 0.2), fell(0, 0.15, attack="autoattack"),  # the smaller one counts, and it is beyond the radius
        fell(1, 0.2), fell(1, 0.0999, attack="autoattack"),  # one of two is within
        fell(2, 0.1),  # just at it: what is certified is the open ball's closure up to, not beyond
        outcome(index=3),
        fell(3, 0.01, norm="l2"),  # another norm
    ]  # fmt: skip
    rows = held.compare(outcomes, [])
    assert [(row.index, row.smallest, row.attack, row.violated) for row in rows] == [
        (0, 0.15, "autoattack", False),
        (1, 0.0999, "autoattack", True),
        (2, 0.1, "pgd-10", False),
        (3, math.inf, "", False),
    ]


def test_radii_count_as_attacks(tmp_path):
    held = certified(tmp_path, [certificate(0, 0.1), certificate(1, 0.1)])
    rows = held.compare([outcome(index=0), outcome(index=1)], [found(0, 0.05), found(1, 0.11), found(1, 0.05, norm="l2")])
    assert [(row.attack, row.violated) for row in rows] == [("radius", True), ("radius", False)]


def test_images_that_were_not_attacked_are_left_out(tmp_path):
    held = certified(tmp_path, [certificate(0, 0.1), certificate(7, 9.0)])
    held.check(LABELS, PREDICTED)
    assert [row.index for row in held.compare([outcome(index=0), outcome(index=1)], [])] == [0]


@pytest.mark.parametrize(
    ("certificates", "norms", "line"),
    [
        ([certificate(0, 0.1, norm="l2")], ("linf",), "l2 certificates, and no attack in l2 to compare them with"),
        ([certificate(4, 0.1)], ("linf",), "none of its images is attacked; take more --images"),
        ([certificate(0, 0.1, label=2)], ("linf",), "image 0 has label 2 and answer 1 there, 1 and 1 here"),
        ([certificate(2, 0.0, predicted=3)], ("linf",), "image 2 has label 1 and answer 3 there, 1 and 1 here"),
    ],
)
def test_certificates_of_something_else_are_refused(tmp_path, certificates, norms, line):
    with pytest.raises(InputError, match=line):
        certified(tmp_path, certificates, norms=norms).check(LABELS, PREDICTED)

"""Certificates against attacks: no certified radius may pass a perturbation that changed the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robust_nas.attacks.outcomes import Outcome
from robust_nas.attacks.radii import Radius
from robust_nas.certification.records import Certificate, Claim, read_certificates, read_claim, read_target_seed
from verify.checks.errors import InputError

RADIUS_ATTACK = "radius"
"""How crosscheck.csv names what radii.csv holds."""


@dataclass(frozen=True)
class Comparison:
    """A row of crosscheck.csv; its fields are the columns.

    Attributes:
        index: the image's place among the test images.
        norm: of the perturbation.
        method: of the certificate.
        radius: certified, in [0,1] pixels.
        smallest: the smallest perturbation that changed the answer, of all attacks in that norm; inf where none did.
        attack: that found it.
        violated: radius > smallest: the certificate is false.
    """

    index: int
    norm: str
    method: str
    radius: float
    smallest: float
    attack: str
    violated: bool


@dataclass(frozen=True)
class Certified:
    """The certificates of a certify.csv and what they claim.

    Attacks stay in [0,1], so they are in the domain of `unit` and of `free` certificates.
    """

    path: Path
    claim: Claim
    certificates: list[Certificate]

    @classmethod
    def read(cls, path: Path, norms: Sequence[str]) -> Certified:
        """Read the certificates, to be compared with attacks in these norms.

        Raises:
            InputError: the file is not what it should be, its certificates are about one class an image, which these
                attacks do not aim at, or no attack is in its norm.
        """
        certificates = read_certificates(path)
        claim = read_claim(path, certificates)
        if read_target_seed(path) is not None:
            raise InputError(f"{path}: about one class an image; take certificates made without --targeted")
        if claim.norm not in norms:
            raise InputError(f"{path}: {claim.norm} certificates, and no attack in {claim.norm} to compare them with")
        return cls(path, claim, certificates)

    def check(self, labels: Sequence[int], predicted: Sequence[int]) -> None:
        """The certificates must be of the images and of the network that are attacked.

        Args:
            labels, predicted: of the images, by their places; they may be fewer than were certified.

        Raises:
            InputError: they are not, or none of their images is attacked.
        """
        common = [each for each in self.certificates if each.index < len(labels)]
        if not common:
            raise InputError(f"{self.path}: none of its images is attacked; take more --images")
        for each in common:
            here = labels[each.index], predicted[each.index]
            if (each.label, each.predicted) != here:
                raise InputError(
                    f"{self.path}: certificates of other images or of another network: image {each.index} has label "
                    f"{each.label} and answer {each.predicted} there, {here[0]} and {here[1]} here"
                )

    def compare(self, outcomes: Iterable[Outcome], radii: Iterable[Radius]) -> list[Comparison]:
        """Each certificate whose image was attacked beside the smallest success in its norm."""
        norm = self.claim.norm
        found = [(row.index, row.distance, row.attack) for row in outcomes if row.norm == norm]
        found += [(row.index, row.radius, RADIUS_ATTACK) for row in radii if row.norm == norm]
        smallest = {index: (distance, attack) for index, distance, attack in sorted(found, reverse=True)}
        return [
            self._compare(each, *smallest[each.index]) for each in self.certificates if each.index in smallest
        ]

    def _compare(self, each: Certificate, smallest: float, attack: str) -> Comparison:
        by = attack if math.isfinite(smallest) else ""
        return Comparison(each.index, each.norm, each.method, each.radius, smallest, by, each.radius > smallest)

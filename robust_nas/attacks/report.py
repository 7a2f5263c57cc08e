"""What attacks gave, as a row of the paper's tables, as JSON and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from robust_nas.attacks.crosscheck import Certified, Comparison
from robust_nas.attacks.guards import Finding, verdict
from robust_nas.attacks.outcomes import Attacked
from robust_nas.attacks.radii import Radius, median_radius

Summary = list[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """Everything that is said at the end.

    Attributes:
        was_training: the network came in training mode.
        radii: one list a norm that was asked for.
        findings: of the guards; none where they were off.
        certified: the certificates that were given, a file each.
    """

    dataset: str
    was_training: bool
    attacked: Sequence[Attacked]
    radii: Sequence[list[Radius]]
    findings: Sequence[Finding]
    certified: Sequence[Certified]

    @property
    def clean(self) -> float:
        """Accuracy without attack."""
        outcomes = self.attacked[0].outcomes
        return sum(outcome.correct for outcome in outcomes) / len(outcomes)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The certificates against all attacks."""
        outcomes = list(chain(*(each.outcomes for each in self.attacked)))
        radii = list(chain(*self.radii))
        return [comparison for each in self.certified for comparison in each.compare(outcomes, radii)]

    @property
    def violated(self) -> list[int]:
        """The image of each certificate that an attack proved false."""
        return [comparison.index for comparison in self.comparisons if comparison.violated]

    def row(self) -> dict[str, Any]:
        """A row of Tables 1, 3 and 4: accuracies as fractions, all over the same images."""
        accuracies = {each.name.replace(" ", "-"): each.accuracy for each in self.attacked}
        return {"dataset": self.dataset, "images": len(self.attacked[0].outcomes), "clean": self.clean, **accuracies}

    def json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "dataset": self.dataset,
            "images": len(self.attacked[0].outcomes),
            "clean": self.clean,
            "attacks": [
                {
                    "attack": each.attack.name,
                    **asdict(each.threat),
                    "accuracy": each.accuracy,
                    "accuracy_after": each.accuracy_after,
                }
                for each in self.attacked
            ],
            "radii": [{"norm": radii[0].norm, "median": _finite(median_radius(radii))} for radii in self.radii],
            "guards": [asdict(finding) for finding in self.findings],
            "verdict": verdict(self.findings),
            "violated": self.violated,
        }

    def lines(self) -> Summary:
        """All of it, for people."""
        mode = "set to evaluation mode, it was in training mode" if self.was_training else "in evaluation mode"
        lines = [
            ("network", f"{mode}; its outputs are logits and the same each time"),
            ("threat model", "perturbed pixels stay in [0,1]"),
            ("no attack", f"accuracy {self.clean:.1%} of {len(self.attacked[0].outcomes)} images"),
        ]
        for each in self.attacked:
            lines.append((each.name, f"accuracy {each.accuracy:.1%} at epsilon {each.threat.epsilon:.4g}"))
            if len(each.attack.parts) > 1:
                lines += [(f"  after {part}", f"accuracy {value:.1%}") for part, value in each.accuracy_after.items()]
        lines += [
            (f"radius {radii[0].norm}", f"{median_radius(radii):.4g}, median over the correct images")
            for radii in self.radii
        ]
        lines += [(finding.name, f"{'SIGN: ' if finding.sign else ''}{finding.words}") for finding in self.findings]
        lines.append(("masked gradients", verdict(self.findings)))
        return lines + self._certificates()

    def _certificates(self) -> Summary:
        if not self.certified:
            return []
        violated = ", ".join(map(str, self.violated))
        threats = "; ".join(dict.fromkeys(each.claim.threat_model for each in self.certified))
        return [
            ("certificates", f"{len(self.comparisons)} held against the attacks: {threats}"),
            ("violated", f"{len(self.violated)} (images {violated})" if violated else "none"),
        ]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None

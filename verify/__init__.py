"""Certified bounds for torch networks: sound, differentiable in the parameters, on auto_LiRPA's graph.

Example:
    >>> import verify
    >>> network = verify.BoundedNetwork(model.eval(), images[:1])
    >>> result = verify.certified_radius(network, images, labels, norm="linf")
    >>> verify.audit(network, images, labels, result.radius, norm="linf").broken
    0
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from verify.checks.choices import DOMAINS, NORMS
from verify.checks.errors import InputError
from verify.graph.torchvision_operators import declare_on_import
from verify.propagation.methods import METHODS as _METHODS
from verify.propagation.methods import radius_methods as _radius_methods

if TYPE_CHECKING:
    from verify.bounds import BoundedNetwork as BoundedNetwork
    from verify.certify.attack import attack_radius as attack_radius
    from verify.certify.audit import Audit as Audit
    from verify.certify.audit import audit as audit
    from verify.certify.radius import Certificates as Certificates
    from verify.certify.radius import certified_radius as certified_radius
    from verify.certify.radius import verified as verified
    from verify.complete.answer import competition_answer as competition_answer
    from verify.complete.branching import Brackets as Brackets
    from verify.complete.branching import Verdict as Verdict
    from verify.complete.branching import complete_radius as complete_radius
    from verify.complete.branching import prove as prove
    from verify.complete.onnx.export import to_onnx as to_onnx
    from verify.complete.onnx.model import from_onnx as from_onnx
    from verify.complete.property import Case as Case
    from verify.complete.property import Halfspaces as Halfspaces
    from verify.complete.property import Property as Property
    from verify.complete.proving import PropertyVerdict as PropertyVerdict
    from verify.complete.proving import prove_property as prove_property
    from verify.complete.vnnlib import parse_vnnlib as parse_vnnlib
    from verify.complete.vnnlib import read_vnnlib as read_vnnlib
    from verify.complete.vnnlib import vnnlib_text as vnnlib_text
    from verify.operators import UnsupportedOperator as UnsupportedOperator
    from verify.propagation.bounded import BoundedGraph as BoundedGraph
    from verify.propagation.bounds import Bounds as Bounds
    from verify.regions import Ball as Ball
    from verify.regions import Box as Box
    from verify.regions import Region as Region
    from verify.specification import Binary as Binary
    from verify.specification import margins as margins

declare_on_import()

METHODS = tuple(_METHODS)
"""Of `BoundedNetwork.bounds`, from loose and cheap to tight and dear."""
RADIUS_METHODS = _radius_methods()
"""Of `certified_radius`."""

HOMES = {
    "BoundedNetwork": "verify.bounds",
    "attack_radius": "verify.certify.attack",
    "Audit": "verify.certify.audit",
    "audit": "verify.certify.audit",
    "Certificates": "verify.certify.radius",
    "certified_radius": "verify.certify.radius",
    "verified": "verify.certify.radius",
    "competition_answer": "verify.complete.answer",
    "Brackets": "verify.complete.branching",
    "Verdict": "verify.complete.branching",
    "complete_radius": "verify.complete.branching",
    "prove": "verify.complete.branching",
    "to_onnx": "verify.complete.onnx.export",
    "from_onnx": "verify.complete.onnx.model",
    "Case": "verify.complete.property",
    "Halfspaces": "verify.complete.property",
    "Property": "verify.complete.property",
    "PropertyVerdict": "verify.complete.proving",
    "prove_property": "verify.complete.proving",
    "parse_vnnlib": "verify.complete.vnnlib",
    "read_vnnlib": "verify.complete.vnnlib",
    "vnnlib_text": "verify.complete.vnnlib",
    "UnsupportedOperator": "verify.operators",
    "BoundedGraph": "verify.propagation.bounded",
    "Bounds": "verify.propagation.bounds",
    "Ball": "verify.regions",
    "Box": "verify.regions",
    "Region": "verify.regions",
    "Binary": "verify.specification",
    "margins": "verify.specification",
}
"""Where the other names are. Each is imported when it is first asked for: names of methods and norms need no torch."""

__all__ = ["DOMAINS", "METHODS", "NORMS", "RADIUS_METHODS", "InputError", *HOMES]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Certified bounds for torch networks: sound, differentiable in the parameters, on auto_LiRPA's graph.

Example:
    >>> import verify
    >>> network = verify.BoundedNetwork(model.eval(), images[:1])
    >>> result = verify.certified_radius(network, images, labels, norm="linf")
    >>> verify.audit(network, images, labels, result.radius, norm="linf").broken
    0
"""

from verify.bounds import BoundedNetwork
from verify.certify.attack import attack_radius
from verify.certify.audit import Audit, audit
from verify.certify.radius import Certificates, certified_radius, verified
from verify.checks.errors import InputError
from verify.complete.answer import competition_answer
from verify.complete.branching import Brackets, Verdict, complete_radius, prove
from verify.complete.onnx.export import to_onnx
from verify.complete.onnx.model import from_onnx
from verify.complete.property import Case, Halfspaces, Property
from verify.complete.proving import PropertyVerdict, prove_property
from verify.complete.vnnlib import parse_vnnlib, read_vnnlib, vnnlib_text
from verify.graph.torchvision_operators import declare_on_import
from verify.operators import UnsupportedOperator
from verify.propagation.bounded import BoundedGraph
from verify.propagation.bounds import Bounds
from verify.propagation.methods import METHODS as _METHODS
from verify.propagation.methods import PHASES as _PHASES
from verify.regions import DOMAINS, NORMS, Ball, Box, Region
from verify.specification import Binary, margins

declare_on_import()

METHODS = tuple(_METHODS)
"""Of `BoundedNetwork.bounds`, from loose and cheap to tight and dear."""
RADIUS_METHODS = tuple(_PHASES)
"""Of `certified_radius`."""

__all__ = [
    "DOMAINS",
    "METHODS",
    "NORMS",
    "RADIUS_METHODS",
    "Audit",
    "Ball",
    "Binary",
    "BoundedGraph",
    "BoundedNetwork",
    "Bounds",
    "Box",
    "Brackets",
    "Case",
    "Certificates",
    "Halfspaces",
    "InputError",
    "Property",
    "PropertyVerdict",
    "Region",
    "UnsupportedOperator",
    "Verdict",
    "attack_radius",
    "audit",
    "certified_radius",
    "competition_answer",
    "complete_radius",
    "from_onnx",
    "margins",
    "parse_vnnlib",
    "prove",
    "prove_property",
    "read_vnnlib",
    "to_onnx",
    "verified",
    "vnnlib_text",
]

"""Certified bounds for torch networks: sound, differentiable in the parameters, on auto_LiRPA's graph.

Example:
    >>> import verify
    >>> network = verify.BoundedNetwork(model.eval(), images[:1])
    >>> result = verify.certified_radius(network, images, labels, norm="linf")
    >>> verify.audit(network, images, labels, result.radius, norm="linf").broken
    0
"""

from verify.bounds import METHODS, BoundedNetwork, Bounds
from verify.certify.attack import attack_radius
from verify.certify.audit import Audit, audit
from verify.certify.radius import RADIUS_METHODS, Certificates, certified_radius, verified
from verify.complete.branching import Brackets, Verdict, complete_radius, prove
from verify.errors import InputError
from verify.operators import UnsupportedOperator
from verify.regions import DOMAINS, NORMS, Ball, Box, Region
from verify.specification import Binary, margins

__all__ = [
    "DOMAINS",
    "METHODS",
    "NORMS",
    "RADIUS_METHODS",
    "Audit",
    "Ball",
    "Binary",
    "BoundedNetwork",
    "Bounds",
    "Box",
    "Brackets",
    "Certificates",
    "InputError",
    "Region",
    "UnsupportedOperator",
    "Verdict",
    "attack_radius",
    "audit",
    "certified_radius",
    "complete_radius",
    "margins",
    "prove",
    "verified",
]

"""The operators of a bounded graph: one file a family, each call registered under its ATen name.

weighted_sum (add, multiply), product (of two that vary), convolution (and fully connected), pooling, normalisation,
image_norm (by an image's own statistics), slicing, moving and scattering (every rearrangement), resampling, activation,
piecewise (linear functions), smooth and power (curves), log_sum (softmax). To add one: a file here with a class and its
rules, decorated with :func:`operator.rule`.
"""

from importlib import import_module
from pkgutil import iter_modules

from verify.operators.call import Call, Slot
from verify.operators.linear import LinearOperator
from verify.operators.operator import RULES, Constant, Operator, UnsupportedOperator
from verify.operators.relaxation import Elementwise, Relaxation

__all__ = [
    "RULES",
    "Call",
    "Constant",
    "Elementwise",
    "LinearOperator",
    "Operator",
    "Relaxation",
    "Slot",
    "UnsupportedOperator",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

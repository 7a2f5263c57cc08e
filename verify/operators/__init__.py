"""The operators of a bounded graph: one file a family, each call registered under its ATen name.

weighted_sum (add, multiply), convolution (and fully connected), pooling, normalisation, slicing (and every
other rearrangement), activation. To add one: a class with its rules, decorated with :func:`base.rule`.
"""

from verify.operators import activation, convolution, normalisation, pooling, slicing, weighted_sum
from verify.operators.base import RULES, Constant, LinearOperator, Operator, UnsupportedOperator
from verify.operators.call import Call, Slot

__all__ = [
    "RULES",
    "Call",
    "Constant",
    "LinearOperator",
    "Operator",
    "Slot",
    "UnsupportedOperator",
    "activation",
    "convolution",
    "normalisation",
    "pooling",
    "slicing",
    "weighted_sum",
]

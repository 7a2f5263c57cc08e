"""The operators of a bounded graph: one file a family, each call registered under its ATen name.

weighted_sum (add, multiply), product (of two that vary), convolution (and fully connected), pooling, normalisation,
slicing and moving (every rearrangement), resampling, activation, piecewise (linear functions), smooth and power
(curves), log_sum (softmax). To add one: a class with its rules, decorated with :func:`operator.rule`.
"""

from verify.operators import (
    activation,
    convolution,
    log_sum,
    moving,
    normalisation,
    piecewise,
    pooling,
    power,
    resampling,
    slicing,
    smooth,
    weighted_sum,
)
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
    "activation",
    "convolution",
    "log_sum",
    "moving",
    "normalisation",
    "piecewise",
    "pooling",
    "power",
    "resampling",
    "slicing",
    "smooth",
    "weighted_sum",
]

"""Search strategies, one file a family; `robust_nas.registry` has their names."""

from robust_nas.registry import STRATEGIES
from robust_nas.search.strategies.base import Method, Strategy

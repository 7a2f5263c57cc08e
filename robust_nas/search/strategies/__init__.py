"""Search strategies by name. To add one: a file here and a line in `STRATEGIES`."""

from typing import Any

from robust_nas.search.strategies.base import Method, Strategy
from robust_nas.search.strategies.p_darts import Progressive
from robust_nas.search.strategies.pc_darts import PartialChannels
from robust_nas.search.strategies.r_darts import RegularisedDarts
from robust_nas.search.strategies.random_search import RandomSearch
from robust_nas.search.strategies.robnet import RobNet

STRATEGIES: dict[str, type[Method[Any]]] = {
    "darts": Strategy,
    "pc-darts": PartialChannels,
    "p-darts": Progressive,
    "r-darts": RegularisedDarts,
    "robnet": RobNet,
    "random": RandomSearch,
}

"""Search strategies by name. To add one: a file here and a line in `STRATEGIES`."""

from typing import Any

from robust_nas.search.strategies.asap import AnnealAndPrune
from robust_nas.search.strategies.base import Method, Strategy
from robust_nas.search.strategies.early_stopping import CurvatureStop, SkipStop
from robust_nas.search.strategies.enas import ParameterSharing
from robust_nas.search.strategies.p_darts import Progressive
from robust_nas.search.strategies.pc_darts import PartialChannels
from robust_nas.search.strategies.proxyless import BinaryGates
from robust_nas.search.strategies.r_darts import RegularisedDarts
from robust_nas.search.strategies.random_search import RandomSearch
from robust_nas.search.strategies.robnet import RobNet
from robust_nas.search.strategies.sdarts import AdversarialSmoothing, PartialAdversarialSmoothing, RandomSmoothing
from robust_nas.search.strategies.snas import Stochastic

STRATEGIES: dict[str, type[Method[Any]]] = {
    "darts": Strategy,
    "pc-darts": PartialChannels,
    "p-darts": Progressive,
    "sdarts-rs": RandomSmoothing,
    "sdarts-adv": AdversarialSmoothing,
    "pc-darts-adv": PartialAdversarialSmoothing,
    "snas": Stochastic,
    "r-darts": RegularisedDarts,
    "darts-es": CurvatureStop,
    "darts+": SkipStop,
    "asap": AnnealAndPrune,
    "enas": ParameterSharing,
    "proxyless": BinaryGates,
    "robnet": RobNet,
    "random": RandomSearch,
}

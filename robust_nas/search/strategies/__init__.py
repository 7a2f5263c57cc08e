"""Search strategies by name. To add one: a file here and a line in `STRATEGIES`."""

from robust_nas.search.strategies.base import Strategy
from robust_nas.search.strategies.early_stopping import CurvatureStop, SkipStop
from robust_nas.search.strategies.enas import ParameterSharing
from robust_nas.search.strategies.p_darts import Progressive
from robust_nas.search.strategies.pc_darts import PartialChannels

STRATEGIES: dict[str, type[Strategy]] = {
    "darts": Strategy,
    "pc-darts": PartialChannels,
    "p-darts": Progressive,
    "darts-es": CurvatureStop,
    "darts+": SkipStop,
    "enas": ParameterSharing,
}

"""What is known by name: metrics, search strategies, recipes, attacks, data sets, rules that end a search.

To add one: a file where the others of its kind are, and a line here. An entry is imported when it is first asked for,
so that a list of names needs no torch. The lists without entries are choices that a few lines of code make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from verify.checks.errors import InputError, known_names
from verify.propagation.methods import METHODS as BOUND_METHODS

if TYPE_CHECKING:
    from torch import nn

    from robust_nas.attacks.base import Attack
    from robust_nas.datasets.base import DataSet
    from robust_nas.genotype import Architecture
    from robust_nas.metrics.base import MetricSettings, RobustnessMetric
    from robust_nas.search.stopping import StoppingRule
    from robust_nas.search.strategies.base import Method
    from robust_nas.training.recipes.base import Recipe

Entry = TypeVar("Entry")


class Registry(MutableMapping[str, Entry], Generic[Entry]):
    """Entries by name, each imported when it is asked for. A program may add its own: `METRICS["mine"] = Mine.of`.

    Args:
        places: `module:attribute` of each, by its name.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._entries: dict[str, Any] = dict(places)

    def __getitem__(self, name: str) -> Entry:
        found = self._entries[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = attrgetter(attribute)(import_module(module))
        entry: Entry = found
        return entry

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def named(kind: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """The entry of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in registry:
        raise InputError(f"unknown {kind} {name!r}; {known_names(name, registry)}")
    return registry[name]


METRICS: Registry[Callable[[MetricSettings], RobustnessMetric]] = Registry(
    {
        "cb": "robust_nas.metrics.certified_bound:CertifiedBound.of",
        "log-radius": "robust_nas.metrics.log_radius:LogRadius.of",
        "ibp-slope": "robust_nas.metrics.interval_slope:IntervalSlope.of",
        "jacobian": "robust_nas.metrics.jacobian:JacobianNorm.of",
        "combined": "robust_nas.metrics.combined:combined",
    }
)
"""What a search maximises beside accuracy. A search without a metric has none: `none` is not in here."""

STRATEGIES: Registry[type[Method[Any]]] = Registry(
    {
        "darts": "robust_nas.search.strategies.base:Strategy",
        "pc-darts": "robust_nas.search.strategies.pc_darts:PartialChannels",
        "p-darts": "robust_nas.search.strategies.p_darts:Progressive",
        "sdarts-rs": "robust_nas.search.strategies.sdarts:RandomSmoothing",
        "sdarts-adv": "robust_nas.search.strategies.sdarts:AdversarialSmoothing",
        "pc-darts-adv": "robust_nas.search.strategies.sdarts:PartialAdversarialSmoothing",
        "snas": "robust_nas.search.strategies.snas:Stochastic",
        "r-darts": "robust_nas.search.strategies.r_darts:RegularisedDarts",
        "darts-es": "robust_nas.search.strategies.early_stopping:CurvatureStop",
        "darts+": "robust_nas.search.strategies.early_stopping:SkipStop",
        "asap": "robust_nas.search.strategies.asap:AnnealAndPrune",
        "enas": "robust_nas.search.strategies.enas:ParameterSharing",
        "proxyless": "robust_nas.search.strategies.proxyless:BinaryGates",
        "robnet": "robust_nas.search.strategies.robnet:RobNet",
        "random": "robust_nas.search.strategies.random_search:RandomSearch",
        "raced": "robust_nas.search.strategies.raced:RacedSearch",
    }
)
"""How a search goes about it."""

STOPPING_RULES: Registry[Callable[[], StoppingRule]] = Registry(
    {
        "plateau": "robust_nas.search.stopping:LossPlateau",
        "skips": "robust_nas.search.stopping:SkipLimit",
        "ranking": "robust_nas.search.stopping:StableRanking",
        "eigenvalue": "robust_nas.search.stopping:EigenvalueRatio",
        "darts+": "robust_nas.search.stopping:skips_or_ranking",
    }
)
"""What ends a search early; each call makes a rule that remembers nothing yet."""

RECIPES: Registry[type[Recipe]] = Registry(
    {
        "standard": "robust_nas.training.recipes.standard:Standard",
        "jacobian": "robust_nas.training.recipes.jacobian:Jacobian",
        "adversarial": "robust_nas.training.recipes.adversarial:Adversarial",
        "certified": "robust_nas.training.recipes.certified:Certified",
        "tangent": "robust_nas.training.recipes.tangent:Tangent",
    }
)
"""What networks are trained by."""

ATTACKS: Registry[Attack] = Registry(
    {
        "fgsm": "robust_nas.attacks.gradient:FGSM",
        "pgd-10": "robust_nas.attacks.gradient:PGD_10",
        "pgd-20": "robust_nas.attacks.gradient:PGD_20",
        "pgd-100": "robust_nas.attacks.gradient:PGD_100",
        "cw": "robust_nas.attacks.carlini_wagner:CW",
        "autoattack": "robust_nas.attacks.autoattack:AUTOATTACK",
    }
)
"""What tries a trained network."""

ACTIVATIONS: Registry[Callable[[], nn.Module]] = Registry(
    {
        "relu": "torch.nn:ReLU",
        "leaky-relu": "torch.nn:LeakyReLU",
        "elu": "torch.nn:ELU",
        "gelu": "torch.nn:GELU",
        "silu": "torch.nn:SiLU",
        "tanh": "torch.nn:Tanh",
    }
)
"""What cells may have where the published ones have ReLU; torch's modules as they are."""

DATASETS: Registry[DataSet] = Registry(
    {
        "digits": "robust_nas.datasets.digits:DIGITS",
        "mnist": "robust_nas.datasets.mnist:MNIST",
        "fashionmnist": "robust_nas.datasets.fashion_mnist:FASHION_MNIST",
        "kmnist": "robust_nas.datasets.kmnist:KMNIST",
        "cifar10": "robust_nas.datasets.cifar10:CIFAR10",
        "cifar100": "robust_nas.datasets.cifar100:CIFAR100",
        "svhn": "robust_nas.datasets.svhn:SVHN",
        "imagefolder": "robust_nas.datasets.image_folder:IMAGEFOLDER",
        "imagefolder64": "robust_nas.datasets.image_folder:IMAGEFOLDER64",
    }
)
"""Images. Another size of the images is another name: a run's weights and certificates are of one of them."""

NOTATIONS: Registry[Callable[[Architecture], str]] = Registry(
    {
        "json": "robust_nas.converters:to_json",
        "darts": "robust_nas.converters:to_darts",
        "robnet": "robust_nas.converters:to_robnet",
        "enas": "robust_nas.converters:to_enas",
    }
)
"""What writes an architecture."""

PRESETS = ("quick", "small", "paper")
"""Sizes of networks and schedules."""
SPACES = ("darts", "robnet", "robnet-free")
"""DARTS' cells, one RobNet cell for the whole network, or a RobNet cell for every place."""
ORDERS = ("first", "second")
"""Of the bilevel step."""
DEVICES = ("auto", "cpu", "cuda")
"""Where to compute; auto takes CUDA where there is one."""
JUDGES = ("accuracy", "radius")
"""What the best of a search's candidates has."""
BOUNDS = tuple(name for name, method in BOUND_METHODS.items() if method.step_images)
"""Of a search: the methods that its steps can wait for."""
TRAINING_BOUNDS = ("ibp", "crown-ibp")
"""Those that a certified training can begin with."""
JACOBIANS = ("sampled", "exact", "projection")
"""Estimates of the Jacobian norm."""

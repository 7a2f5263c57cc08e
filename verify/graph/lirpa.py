"""The one door to auto_LiRPA: import it on a current torch, and hand on the few names we build on.

auto_LiRPA 0.3, the version on PyPI, was written for torch < 1.13 and numpy 1. Everything it misses is
supplied here, in memory and in one place; its files stay as they are and torch is left as it was found.
Each mend says what it is for. Nothing else in the project imports auto_LiRPA.

Our own networks do not go through its parser (see :mod:`verify.graph.graph`); the mends of the parser let the
stock library run beside ours, as the yardstick of tests and benchmarks.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.onnx.symbolic_helper
import torch.onnx.utils

from verify.checks.errors import InputError

VERSION = "0.3"
_OPSET = 12


def check_installed() -> None:
    """One line for a missing or different auto_LiRPA.

    Raises:
        InputError: when it is not installed, or not the version the mends were written for.
    """
    how = f"install it with: pip install --no-deps auto-LiRPA=={VERSION}"
    try:
        found = importlib.metadata.version("auto-LiRPA")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"auto-LiRPA is not installed; {how}") from None
    if found != VERSION:
        raise InputError(f"auto-LiRPA {found} is installed, dsrna needs {VERSION}; {how}")


@contextmanager
def _attributes(owner: Any, **values: Any) -> Iterator[None]:
    """Give `owner` the attributes it lacks while the body runs, and take them away again."""
    missing = {name: value for name, value in values.items() if not hasattr(owner, name)}
    for name, value in missing.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in missing:
            delattr(owner, name)


@contextmanager
def _module(name: str, **contents: Any) -> Iterator[None]:
    """Offer a module of that name, if there is none, while the body runs."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)
    try:
        yield
    finally:
        del sys.modules[name]


class _Node:
    """A node of a torch graph that still answers `node[key]`, which torch 2 took away.

    `kindOf` names the typed getter of an attribute: "i" for an int, "ts" for a list of tensors.
    """

    def __init__(self, node: Any) -> None:
        self._node = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def __getitem__(self, key: str) -> Any:
        return getattr(self._node, self._node.kindOf(key))(key)


class _Graph:
    """A torch graph whose nodes are :class:`_Node`."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def nodes(self) -> Iterator[_Node]:
        return map(_Node, self._graph.nodes())


def _exporter() -> tuple[Callable[..., Any], Any]:
    """torch's ONNX graph pass and the exporter's settings, wherever this torch keeps them.

    torch 2.9 moved both into a private package, of which torch.onnx.utils re-exports the public part only.
    """
    for package in ("torch.onnx._internal.torchscript_exporter", "torch.onnx"):
        try:
            utils = importlib.import_module(f"{package}.utils")
            settings = importlib.import_module(f"{package}._globals").GLOBALS
            return utils._optimize_graph, settings
        except (ImportError, AttributeError):
            continue
    raise InputError(f"torch {torch.__version__} no longer has the ONNX exporter that auto-LiRPA parses with")


def _optimize_graph(graph: Any, *args: Any, **kwargs: Any) -> _Graph:
    """torch's ONNX pass at the opset auto_LiRPA reads; the opset lives in the exporter's settings now.

    Autograd functions must not be inlined, or custom symbolic operators vanish from the trace.
    """
    optimize, settings = _exporter()
    before = settings.export_onnx_opset_version, settings.autograd_inlining
    settings.export_onnx_opset_version, settings.autograd_inlining = _OPSET, False
    try:
        return _Graph(optimize(graph, *args, **kwargs))
    finally:
        settings.export_onnx_opset_version, settings.autograd_inlining = before


@contextmanager
def _kept_settings() -> Iterator[None]:
    """When it is imported, auto_LiRPA configures the root logger, the warning filters and the recursion limit.

    Undo that: without its limit, a deeply nested JSON file would take the interpreter down.
    """
    root, limit = logging.getLogger(), sys.getrecursionlimit()
    handlers, level = root.handlers[:], root.level
    with warnings.catch_warnings(record=True):  # it decorates with torch.jit.script, which is deprecated
        try:
            yield
        finally:
            root.handlers[:], root.level = handlers, level
            sys.setrecursionlimit(limit)


def _import() -> types.ModuleType:
    """auto_LiRPA, importable: with the names it looks for at import time and has lost since."""
    check_installed()
    with (
        _kept_settings(),
        _module("numpy.lib.arraysetops", isin=np.isin),  # gone in numpy 2
        _attributes(torch.onnx.utils, _optimize_graph=_optimize_graph),
        _attributes(torch.onnx.symbolic_helper, _set_opset_version=lambda version: None),
    ):
        return importlib.import_module("auto_LiRPA")


def _mend_parser() -> None:
    """Parse through `_optimize_graph` above, which also sets the opset: its old setter is gone."""
    parser = importlib.import_module("auto_LiRPA.parse_graph")
    vars(parser).update(_optimize_graph=_optimize_graph, _set_opset_version=lambda version: None)


def _mend_module(module: type[torch.nn.Module]) -> None:
    """`_named_members` gained `remove_duplicate`; `register_parameter` used torch._six, which is gone.

    torch's own `register_parameter` does what the old copy did.
    """
    named_members: Callable[..., Iterator[tuple[str, Any]]] = module._named_members

    def _named_members(self: Any, *args: Any, remove_duplicate: bool = True, **kwargs: Any) -> Any:
        return named_members(self, *args, **kwargs)

    module._named_members = _named_members  # type: ignore[method-assign]
    del module.register_parameter


_auto_lirpa = _import()
_mend_parser()
_mend_module(_auto_lirpa.BoundedModule)

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # noqa: E402
from auto_LiRPA.operators.base import Bound  # noqa: E402
from auto_LiRPA.operators.leaf import BoundInput  # noqa: E402

__all__ = [
    "Bound",
    "BoundInput",
    "BoundedModule",
    "BoundedTensor",
    "PerturbationLpNorm",
]

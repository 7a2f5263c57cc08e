"""Every test runs on one thread and on the same examples each time; some check shapes."""

import zlib

import jaxtyping
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")

CHECKED = 3
"""Shapes and types are checked at run time in one test of so many."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-shapes", action="store_true", help="Check shapes in every test; takes half as long again.")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Its name decides: checks take about as long as what they check, and all functions run in many tests."""
    checked = item.config.getoption("--all-shapes") or zlib.crc32(item.nodeid.encode()) % CHECKED == 0
    jaxtyping.config.update("jaxtyping_disable", not checked)

"""Pictures are drawn in their own tests, in those of the command line and in processes of their own: half of a tiny
search would be drawing."""

import pytest

from robust_nas.search import run as search_run


@pytest.fixture(autouse=True)
def empty_pictures(monkeypatch):
    for plot in ("plot_search", "plot_alphas"):
        monkeypatch.setattr(search_run, plot, lambda *arguments: arguments[-1].write_bytes(b""))

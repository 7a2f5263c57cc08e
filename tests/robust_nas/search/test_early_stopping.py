"""DARTS-ES and DARTS+ are DARTS and a rule, unless another is asked for."""

import pytest

from robust_nas.options import SearchOptions
from robust_nas.search import run as search_run
from robust_nas.search import run_search
from robust_nas.search.stopping import EigenvalueRatio, FirstOf, LossPlateau
from tests.robust_nas.search.helpers import small_data


class Planned(Exception):
    """Holds the plan of a search, in place of the search."""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    def search(plan, *_):
        raise Planned(plan)

    monkeypatch.setattr(search_run, "load", lambda *_: small_data())
    monkeypatch.setattr(search_run, "Search", search)

    def planned(method, **options):
        with pytest.raises(Planned) as caught:
            run_search(SearchOptions(method=method, out=tmp_path, device="cpu", **options))
        return caught.value.args[0]

    return planned


@pytest.mark.parametrize(
    ("method", "rule"), [("darts-es", EigenvalueRatio), ("darts+", FirstOf), ("darts", type(None))]
)
def test_a_method_has_its_rule(plan, method, rule):
    found = plan(method)
    assert isinstance(found.stopping, rule)
    assert found.hessian == (method == "darts-es")
    assert (found.order, found.metric is None) == ("first", False)


@pytest.mark.parametrize("method", ["darts-es", "darts+"])
def test_another_rule_takes_its_place(plan, method):
    found = plan(method, stop="plateau", order="second")
    assert isinstance(found.stopping, LossPlateau)
    assert (found.hessian, found.order) == (False, "second")

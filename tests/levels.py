"""How much a test does: little in `make test`, more in `make test-all`, whose hypothesis profile is `deep`."""

from typing import TypeVar

from hypothesis import settings

T = TypeVar("T")

few = settings(max_examples=settings.default.max_examples // 5)
"""For properties of which one example takes a tenth of a second or more."""


def level(fast: T, deep: T) -> T:
    """What a test does at the level that runs: how many networks, which methods."""
    return deep if settings.get_current_profile_name() == "deep" else fast

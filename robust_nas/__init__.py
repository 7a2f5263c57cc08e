"""Architecture search that maximises a certified robustness bound."""

from typing import TYPE_CHECKING, Any

import verify  # whatever is imported of this package, torchvision can be imported after it

if TYPE_CHECKING:
    from robust_nas.models import create_model as create_model

__all__ = ["create_model"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: names of options and data sets need no torch."""
    if name != "create_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from robust_nas.models import create_model

    return create_model

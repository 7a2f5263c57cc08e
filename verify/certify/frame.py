"""Results as pandas' tables; pandas is imported when one is asked for."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import pandas
    from _typeshed import DataclassInstance


def frame(record: DataclassInstance, **more: Tensor) -> pandas.DataFrame:
    """One row for each image; one column for each field of the record, and for what is given beside them.

    A field that is one value for all images is repeated.
    """
    import pandas

    values: dict[str, Any] = {field.name: getattr(record, field.name) for field in fields(record)} | more
    return pandas.DataFrame(
        {name: value.detach().cpu().numpy() if isinstance(value, Tensor) else value for name, value in values.items()}
    )

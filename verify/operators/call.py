"""ATen calls as data: what a traced graph's node is made of, and an operator evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch


class Slot(NamedTuple):
    """Stands in a call's arguments for the value of the node's n-th input."""

    position: int


@dataclass(frozen=True)
class Call:
    """One ATen call: the function, its arguments with slots for tensors, which of its results."""

    target: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    index: int | None = None

    def __call__(self, *values: Any) -> Any:
        args = list(self.args)
        for position in self._open:
            argument = args[position]
            args[position] = values[argument.position] if isinstance(argument, Slot) else _fill(argument, values)
        result = self.target(*args, **(_fill(self.kwargs, values) if self.kwargs else {}))
        return result if self.index is None else result[self.index]

    def filled(self, values: Sequence[Any]) -> Call:
        """The call with values in its slots."""
        return replace(self, args=_fill(self.args, values), kwargs=_fill(self.kwargs, values))

    @cached_property
    def _open(self) -> list[int]:
        """The positional arguments that hold slots: a call is made often, and most of its arguments are numbers."""
        return [position for position, argument in enumerate(self.args) if _has_slot(argument)]

    def argument(self, position: int, default: Any = None) -> Any:
        """A positional argument, or the default when the call leaves it out."""
        return self.args[position] if position < len(self.args) else default

    @property
    def name(self) -> str:
        return str(self.target)

    @property
    def is_random(self) -> bool:
        """Whether the call may draw random numbers (dropout may, in training mode)."""
        return torch.Tag.nondeterministic_seeded in self.target.tags


def _has_slot(template: Any) -> bool:
    return isinstance(template, Slot) or isinstance(template, (list, tuple)) and any(map(_has_slot, template))


def _fill(template: Any, values: Sequence[Any]) -> Any:
    if isinstance(template, Slot):
        return values[template.position]
    if isinstance(template, (list, tuple)):
        return type(template)(_fill(part, values) for part in template)
    if isinstance(template, dict):
        return {key: _fill(part, values) for key, part in template.items()}
    return template

"""`nn.MultiheadAttention` with the batch first: torch's own function puts the sequence there, and images after it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode


class BatchFirst(TorchFunctionMode):
    """Computes torch's multi-head attention image by image, in uses that need no mask of keys and no added ones.

    Other uses stay as they are, and are refused for what they do.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            given = inspect.signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            if _is_plain(given.arguments):
                return _attention(given.arguments)
        return function(*args, **kwargs)


def _is_plain(given: dict[str, Any]) -> bool:
    absent = ("bias_k", "bias_v", "key_padding_mask", "static_k", "static_v")
    mask = given["attn_mask"]
    return (
        given["query"].dim() == 3
        and all(given[name] is None for name in absent)
        and not given["add_zero_attn"]
        and not (given["training"] and given["dropout_p"])
        and (mask is None or (mask.dim() == 2 and mask.is_floating_point()))
    )


def _attention(given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The result and the weights, as `F.multi_head_attention_forward` has them: "l b e" and "b l s"."""
    if given["use_separate_proj_weight"]:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = given["in_proj_weight"].chunk(3)
    bias = given["in_proj_bias"]
    biases = (None, None, None) if bias is None else bias.chunk(3)
    query, key, value = (
        F.linear(given[name].transpose(0, 1), weight, own).unflatten(-1, (given["num_heads"], -1)).transpose(1, 2)
        for name, weight, own in zip(("query", "key", "value"), weights, biases, strict=True)
    )
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    shares = (scores if given["attn_mask"] is None else scores + given["attn_mask"]).softmax(-1)
    result = F.linear((shares @ value).transpose(1, 2).flatten(2), given["out_proj_weight"], given["out_proj_bias"])
    if not given["need_weights"]:
        return result.transpose(0, 1), None
    return result.transpose(0, 1), shares.mean(1) if given["average_attn_weights"] else shares


def cancel_orders(graph: fx.Graph) -> None:
    """Let what reads a tensor that was put in another order, and then back, read the tensor itself."""
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            continue
        order, before, first = _order(node), _order(source), source.args[0] if source.args else None
        if order and before and isinstance(first, fx.Node) and [before[place] for place in order] == sorted(order):
            node.replace_all_uses_with(first)


def _order(node: fx.Node) -> list[int] | None:
    """Which dimension each of the result's is, of a call that moves dimensions."""
    aten = torch.ops.aten
    arguments: Any = node.args
    if node.target is aten.permute.default:
        return [dim % len(arguments[1]) for dim in arguments[1]]
    if node.target is not aten.transpose.int:
        return None
    order = list(range(node.meta["val"].dim()))
    first, second = arguments[1:3]
    order[first], order[second] = order[second], order[first]
    return order

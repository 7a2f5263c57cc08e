"""How rows of coefficients lie in memory, which decides how fast they are and nothing else.

Rows are thousands of small images with few channels, and all are treated alike. On a CPU they lie innermost, element by
element: whatever is done to an element runs along all rows, and a pointwise convolution is one matrix product. Where
autograd or a GPU is at work they are a batch of images in one of torch's own layouts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

MANY = 16
"""Rows from which on it pays to have them innermost."""
AT_ONCE = {"cpu": 2**18, "cuda": 2**26}
"""Elements of a tensor that a sum over it makes on its way: on a CPU as many as its caches hold."""


def pays(x: Float[Tensor, "n *shape"], weight: Tensor | None = None) -> bool:
    """Whether rows are better off innermost, for a product with `weight`."""
    tracked = torch.is_grad_enabled() and (x.requires_grad or (weight is not None and weight.requires_grad))
    # torch's own convolutions are fast in float32 only, where they bring a derivative that is fast as well.
    return len(x) >= MANY and x.device.type == "cpu" and (not tracked or x.dtype == torch.float64)


def flat(x: Tensor, leading: int = 1) -> Tensor:
    """All dimensions but the first `leading` as one: elements of an image, though it be a single number."""
    return x.flatten(leading) if x.dim() > leading else x.unsqueeze(leading)


def innermost(rows: Float[Tensor, "n *shape"]) -> Float[Tensor, "*shape n"]:
    """The rows as the last dimension, next to each other; a view where they are so already."""
    rows = rows.movedim(0, -1)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def outermost(rows: Float[Tensor, "*shape n"]) -> Float[Tensor, "n *shape"]:
    """The rows as the first dimension, as everybody reads them; always a view."""
    return rows.movedim(-1, 0)


def lies_innermost(rows: Float[Tensor, "n *shape"]) -> bool:
    """Whether `innermost` would be a view."""
    return rows.stride(0) == 1


def extended(rows: Float[Tensor, "r b *shape"], count: int) -> Float[Tensor, "m b *shape"]:
    """These rows and then zeros, m = `count` in all, laid out as these are."""
    images, shape = rows.shape[1], rows.shape[2:]
    if lies_innermost(rows):
        longer = rows.new_empty(*shape, images, count).movedim((-1, -2), (0, 1))
    else:
        longer = rows.new_empty(count, images, *shape)
    longer[: len(rows)] = rows
    longer[len(rows) :] = 0
    return longer


def listed(chosen: Bool[Tensor, "b n"]) -> Int[Tensor, "b k"]:
    """The elements that are chosen, in order; where an image has fewer than the most, then others."""
    most = int(chosen.sum(1).max())
    return chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]


def picked(rows: Float[Tensor, "r b *shape"], index: Int[Tensor, "b k"]) -> Float[Tensor, "r b k"]:
    """Of every row these elements of the flattened images, laid out as the rows are."""
    elements = flat(rows, 2)
    if not lies_innermost(elements):
        return elements.gather(2, index.expand(len(rows), *index.shape))
    picks = elements.permute(2, 1, 0).flatten(0, 1).index_select(0, _places(index))
    return picks.unflatten(0, (-1, len(index))).permute(2, 1, 0)


def added_at(
    rows: Float[Tensor, "r b *shape"], index: Int[Tensor, "b k"], values: Float[Tensor, "r b k"]
) -> Float[Tensor, "r b *shape"]:
    """The rows with values added at these elements of the flattened images; may change `rows` itself."""
    if not lies_innermost(rows):
        change = flat(torch.zeros_like(rows, memory_format=torch.contiguous_format), 2)
        return rows + change.scatter_add(2, index.expand(values.shape), values).view(rows.shape)
    images = rows.movedim((0, 1), (-1, -2))
    # A copy where the images' elements lie in another order, as after a permutation: the result is made of it.
    elements = images.reshape(-1, len(rows))
    elements.index_add_(0, _places(index), values.permute(2, 1, 0).flatten(0, 1))
    return elements.view(images.shape).movedim((-1, -2), (0, 1))


def _places(index: Int[Tensor, "b k"]) -> Int[Tensor, " m"]:
    """Where these elements lie among those of all images, with the rows innermost."""
    images = torch.arange(len(index), device=index.device)
    return (index * len(index) + images.unsqueeze(1)).T.flatten()


def bordered(x: Float[Tensor, "n *some h w"], border: tuple[int, int, int, int]) -> Float[Tensor, "n *some h2 w2"]:
    """F.pad with zeros, in the layout that x has."""
    if not any(border) or not lies_innermost(x):
        return F.pad(x, border)
    return outermost(F.pad(innermost(x), (0, 0, *border)))


def in_parts(rows: Float[Tensor, "r b *shape"]) -> tuple[Float[Tensor, "r b n"], ...]:
    """All rows at some elements, then at the next ones: what is computed of a part stays in a cache."""
    elements = flat(rows, 2)
    return elements.split(max(1, AT_ONCE.get(rows.device.type, 2**26) // max(1, elements[:, :, :1].numel())), dim=2)


def total_magnitude(rows: Float[Tensor, "r b *shape"]) -> Float[Tensor, "b *shape"]:
    """The sum of the magnitudes of all rows."""
    return torch.cat([part.abs().sum(0) for part in in_parts(rows)], dim=1).view(rows.shape[1:])


def merged(rows: Float[Tensor, "r b *shape"], like: Float[Tensor, "r b *some"]) -> Float[Tensor, "n *shape"]:
    """The rows of all images as one batch, in the order in which `like` has them in memory: of itself a view."""
    return (rows.transpose(0, 1) if lies_innermost(like) else rows).flatten(0, 1)


def separated(rows: Float[Tensor, "n *shape"], like: Float[Tensor, "r b *some"]) -> Float[Tensor, "r b *shape"]:
    """The rows again, from a batch in the order of `like`."""
    count, images = like.shape[:2]
    if lies_innermost(like):
        return rows.unflatten(0, (images, count)).transpose(0, 1)
    return rows.unflatten(0, (count, images))


def in_layout_of(A: Float[Tensor, "s b *shape"], x: Float[Tensor, "*some c h w"] | Tensor) -> Tensor:
    """x in the memory layout of A, channels first or last: products of tensors in two layouts are ten times slower."""
    if A.dim() != 5 or A.stride(2) != 1 or x.dim() < 4:
        return x
    images = x.flatten(0, -4).contiguous(memory_format=torch.channels_last)
    return images.view(x.shape) if x.dim() == 4 else images.unflatten(0, x.shape[:-3])

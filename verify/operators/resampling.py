"""Images of another size: weighed sums of neighbours, with weights that the call and the sizes determine."""

from __future__ import annotations

import torch
from torch import Tensor

from verify.operators.call import Call
from verify.operators.linear import LinearOperator
from verify.operators.operator import rule


@rule(
    "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", "_upsample_nearest_exact1d.vec",
    "_upsample_nearest_exact2d.vec", "_upsample_nearest_exact3d.vec",
)  # fmt: skip
class Nearest(LinearOperator):
    """Elements repeated, or left out."""

    exact = True


@rule(
    "upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec", "_upsample_bilinear2d_aa.vec",
)  # fmt: skip
class Interpolated(LinearOperator):
    """Averages of neighbours, with weights that are not negative."""


@rule("upsample_bicubic2d.vec", "_upsample_bicubic2d_aa.vec")
class Bicubic(LinearOperator):
    """Weighed sums of neighbours, with weights of either sign: products of one for the row and one for the column."""

    def magnitude(self, values: list[Tensor]) -> Tensor:
        (x,) = values
        rows, columns = (self._weights(x, axis).abs() for axis in (2, 3))
        return rows @ x @ columns.T

    def _weights(self, x: Tensor, axis: int) -> Tensor:
        """What each element of the result has of each of the image, along one axis: images that vary along it alone."""
        size = x.shape[axis]
        unit = torch.eye(size, dtype=x.dtype, device=x.device).view(1, size, *([size, 1] if axis == 2 else [1, size]))
        result = self.forward(unit.expand(1, size, *x.shape[2:]))
        return (result[0, :, :, 0] if axis == 2 else result[0, :, 0]).T


@rule("grid_sampler.default")
class Sampled(LinearOperator):
    """An image read at places between its pixels, the same in every image."""

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        return True

    def check(self) -> None:
        if self.varying_arguments != [0]:
            raise self.refuse("places that depend on the network's input")
        if self.call.args[2] == _CUBIC:
            raise self.refuse("bicubic sampling")

    def forward(self, *values: Tensor) -> Tensor:
        """The places are of one image, and serve all."""
        grid = self.slot_of(1)
        batch = len(values[self.varying[0]])
        return super().forward(
            *(value.expand(batch, *value.shape[1:]) if slot == grid else value for slot, value in enumerate(values))
        )


_CUBIC = 2

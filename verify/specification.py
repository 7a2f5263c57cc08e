"""What is asked of a network's outputs: margins of a label, of many classes or of two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from verify.checks import inputs as checks
from verify.checks.errors import InputError
from verify.checks.inputs import Array

ONE_OUTPUT = "a network of one output has no classes; verify.Binary makes two of it, by the output's sign"


def margins(
    labels: Integer[Tensor, " b"] | Array, classes: int, targets: Integer[Tensor, " b"] | Array | None = None
) -> Float[Tensor, "b s k"]:
    """The specification f_y - f_k for every class k other than the label y: s = k - 1 rows an image.

    Args:
        labels: of any integer type.
        targets: one class an image, not its label; then f_y - f_target is the only row.

    Raises:
        InputError: fewer than two classes; labels or targets that are not one class an image, or a target that is its
            image's label.
    """
    classes = checks.whole("classes", classes)
    if classes < 2:
        raise InputError(ONE_OUTPUT)
    labels = checks.classes("labels", labels, classes)
    targets = checks.others(targets, labels, classes)
    identity = torch.eye(classes, device=labels.device)
    if targets is not None:
        return (identity[labels] - identity[targets]).unsqueeze(1)
    rows = identity[labels].unsqueeze(1) - identity.unsqueeze(0)
    others = torch.arange(classes, device=labels.device) != labels.unsqueeze(1)
    return rows[others].view(len(labels), classes - 1, classes)


class Binary(nn.Module):
    """A classifier of one output f as one of two classes: logits 0 and f(x), so class 1 is where f(x) > 0.

    The margin of class 1 is f(x), that of class 0 is -f(x): radii are those of the sign of f. Subtract a threshold
    other than 0 inside the model.

    Args:
        model: output "b 1" or "b".

    Example:
        >>> network = BoundedNetwork(Binary(model.eval()), images[:1])
        >>> certified_radius(network, images, labels)  # labels 0 and 1
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 2"]:
        """The logits."""
        return F.pad(self.model(x).reshape(len(x), 1), (1, 0))

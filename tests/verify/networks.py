"""Networks that several tests bound: branches that meet again, and linear classifiers, whose radii are known."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.verify.helpers import DUALS, Function, random_images, randomise
from verify import margins
from verify.propagation.affine import row_size


def branches(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Two ReLUs whose errors have nothing in common, subtracted."""
    return F.relu(m.a(x)) - F.relu(m.b(x))


def meeting_late(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Branches of different depth, an error that comes back by two ways, and one that ends nowhere else."""
    first, second = F.relu(m.a(x)), F.relu(m.b(x))
    third = F.relu(m.c(first - second))
    return m.c(third) - m.c(first) + 0.5 * F.relu(second - third)


def pooled(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Max pools and ReLUs side by side."""
    image = m.a(x).view(-1, 1, 3, 3)
    return (F.max_pool2d(image, 2, 1) - F.relu(image[:, :, 1:, 1:]) - F.max_pool2d(-image, 2, 1)).flatten(1)


NETWORKS = {"branches": (branches, 8), "meeting late": (meeting_late, 8), "pooled": (pooled, 9)}


def network(name: str, seed: int) -> nn.Module:
    function, width = NETWORKS[name]
    model = Function(lambda m, x: m.last(F.relu(function(m, x))))
    model.a, model.b, model.c = nn.Linear(3, width), nn.Linear(3, width), nn.Linear(width, width)
    model.last = nn.Linear(function(model, torch.zeros(1, 3)).shape[1], 2)
    return randomise(model, seed)


def closed_form(model: nn.Linear, images: torch.Tensor, labels: torch.Tensor, norm: str) -> torch.Tensor:
    """The exact robust radius of a linear classifier: min over k of margin_k / ||w_y - w_k||_q."""
    outputs, rows = model(images), margins(labels, model.out_features).to(images)
    distance = torch.einsum("bsk,bk->bs", rows, outputs)
    return (distance / torch.linalg.vector_norm(rows @ model.weight, DUALS[norm], dim=-1)).amin(1).detach()


def classifier(seed: int, classes: int = 4, pixels: int = 20) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A random linear classifier, images away from 0 and 1, and the labels it gives them."""
    model, images = randomise(nn.Linear(pixels, classes), seed), 0.25 + 0.5 * random_images((pixels,), 8, seed)
    return model, images, model(images).argmax(1)


def memory_of(graph, rows: int, batch: int) -> float:
    """MiB in which so many rows fit."""
    return rows * batch * row_size([node for node in graph.nodes if node.from_input], 8)

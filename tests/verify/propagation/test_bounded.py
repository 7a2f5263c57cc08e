"""auto_LiRPA's own call, answered by our walks: as theirs does, or better, where theirs is right."""

import copy

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.helpers import attack, extremes, random_images, random_rows, randomise
from verify import Ball, BoundedGraph, Box, InputError
from verify.graph.lirpa import BoundedModule, BoundedTensor, PerturbationLpNorm


def convnet(seed: int) -> nn.Module:
    """Of operators that stock auto_LiRPA bounds rightly in matrix mode."""
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, 2), nn.ReLU(), nn.Flatten()]
    return randomise(nn.Sequential(*layers, nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)), seed)


def of_stock(model: nn.Module, images: torch.Tensor, rows: torch.Tensor, norm: float, method: str):
    """Bounds by stock auto_LiRPA, which computes in float32."""
    images, model = images.float(), copy.deepcopy(model).float()
    stock = BoundedModule(model, images, bound_opts={"conv_mode": "matrix"})
    x = BoundedTensor(images, PerturbationLpNorm(norm=norm, eps=0.05))
    return [side.detach().double() for side in stock.compute_bounds(x=(x,), C=rows.float(), method=method)]


@pytest.mark.parametrize("norm", [torch.inf, 2, 1])
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN", "alpha-CROWN"])
def test_no_looser_than_stock_and_sound(norm, method):
    gains = []
    for seed in range(level(1, 3)):
        model, images, rows = convnet(seed), random_images((1, 8, 8), 2, seed), random_rows(2, 3, 2, seed)
        x = BoundedTensor(images, PerturbationLpNorm(norm=norm, eps=0.05))
        lower, upper = BoundedGraph(model, images).compute_bounds(x=(x,), C=rows, method=method)
        lower, upper = lower.detach(), upper.detach()
        ball = Ball(images, 0.05, {torch.inf: "linf", 2: "l2", 1: "l1"}[norm], "free")
        low, high = extremes(model, attack(model, ball, rows), rows)
        assert (lower <= low + 1e-9).all() and (high <= upper + 1e-9).all()
        if norm == 1:  # stock takes the l2 dual norm at the first layer
            continue
        below, above = of_stock(model, images, rows, norm, method.replace("alpha-CROWN", "CROWN"))
        gains += [lower - below, above - upper]
        if method == "IBP":
            torch.testing.assert_close((lower, upper), (below, above), rtol=1e-5, atol=1e-5)
        if method == "CROWN-IBP":
            assert min(gain.min() for gain in gains) > -1e-5
    assert norm == 1 or torch.cat(gains).mean() > -1e-5


def test_regions_of_ours_and_boxes():
    model, images = convnet(0), random_images((1, 8, 8), 2)
    graph = BoundedGraph(model, images)
    ball = Ball(images, 0.02)
    ours = graph.compute_bounds(x=(BoundedTensor(images, ball),))
    box = PerturbationLpNorm(norm=torch.inf, x_L=ball.lower, x_U=ball.upper)
    torch.testing.assert_close(graph.compute_bounds(x=(BoundedTensor(images, box),)), ours)
    torch.testing.assert_close(graph.compute_bounds(x=(BoundedTensor(images, Box(ball.lower, ball.upper)),)), ours)
    assert graph.compute_bounds(x=(BoundedTensor(images, ball),), bound_upper=False)[1] is None


def test_what_it_does_not_take_it_names():
    images = random_images((1, 8, 8), 2)
    graph, x = BoundedGraph(convnet(0), images), BoundedTensor(images, Ball(images, 0.02))
    with pytest.raises(InputError, match="return_A"):
        graph.compute_bounds(x=(x,), return_A=True)
    with pytest.raises(InputError, match="'Forward'"):
        graph.compute_bounds(x=(x,), method="Forward")
    for wrong in (images, BoundedTensor(images, PerturbationLpNorm(norm=3, eps=0.1))):
        with pytest.raises(InputError, match="PerturbationLpNorm"):
            graph.compute_bounds(x=(wrong,))

"""Stock auto_LiRPA 0.3 as its users run it: the yardstick.

It is made to import by `verify.graph.lirpa` and otherwise left alone: its parser, its operators, its perturbations,
matrix mode. It gets our DARTS networks in a form that it bounds soundly (`for_stock`), one image at a time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.benchmarks.searches import Evaluation
from robust_nas.spaces.backbone import Backbone
from robust_nas.spaces.relaxation import Relaxation
from verify import Ball, InputError, margins
from verify.graph.lirpa import BoundedModule, BoundedTensor, PerturbationLpNorm

CLOSED_FORM_STEPS = 20
AGREEMENT = 1e-5
ORDERS = {"linf": torch.inf, "l2": 2.0}
DOMAINS = {"linf": "unit", "l2": "free"}
"""What stock bounds; see `Stock`."""


class FoldedStem(nn.Module):
    """Padding, normalisation, first convolution and its batch norm as one convolution and a constant.

    Stock's intervals are wrong on l2 balls unless a convolution comes first. The convolution pads by the network's
    padding and its own at once; what the raw pixel 0 is worth after normalisation, which is not 0, is in the constant.
    """

    offset: Tensor

    def __init__(self, network: Backbone, example: Float[Tensor, "b c h w"]) -> None:
        super().__init__()
        convolution, norm = network.stem
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1, 1)
        self.weight = nn.Parameter(convolution.weight * scale / network.input.std)
        self.stride = convolution.stride
        self.padding = network.input.pad + int(convolution.padding[0])
        self.register_buffer("offset", network.stem(network.input(torch.zeros_like(example[:1]))))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return F.conv2d(x, self.weight, stride=self.stride, padding=self.padding) + self.offset


class FixedAveragePool(nn.Module):
    """An average pool as a depthwise convolution; at the border a constant takes the padding out of the average.

    Stock's own rule for overlapping average pools is wrong.
    """

    weight: Tensor
    share: Tensor

    def __init__(self, pool: nn.AvgPool2d, shape: torch.Size) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = pool.stride, pool.padding, shape[1]
        sides = pool.kernel_size if isinstance(pool.kernel_size, tuple) else (pool.kernel_size, pool.kernel_size)
        ones = torch.ones(self.groups, 1, *sides)
        self.register_buffer("weight", ones / ones[0].numel())
        inside = F.conv2d(torch.ones(1, *shape[1:]), self.weight, None, self.stride, self.padding, 1, self.groups)
        self.register_buffer("share", torch.ones_like(inside) if pool.count_include_pad else 1 / inside)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return F.conv2d(x, self.weight, None, self.stride, self.padding, 1, self.groups) * self.share


@torch.no_grad()
def for_stock(model: nn.Module, images: Float[Tensor, "b c h w"]) -> nn.Module:
    """The same function of raw pixels in operators for which stock is sound; a copy.

    Raises:
        InputError: the network has a max pool, which stock refuses.
    """
    if any(isinstance(module, nn.MaxPool2d) for module in model.modules()):
        raise InputError("stock auto_LiRPA refuses overlapping max pools")
    twin = copy.deepcopy(model).eval()
    for name, shape in _pool_shapes(twin, images[:1]).items():
        pool = twin.get_submodule(name)
        assert isinstance(pool, nn.AvgPool2d)
        twin.set_submodule(name, FixedAveragePool(pool, shape))
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.affine:  # which stock cannot read
            module.weight = nn.Parameter(torch.ones(module.num_features))
            module.bias = nn.Parameter(torch.zeros(module.num_features))
        if isinstance(module, Relaxation):  # a softmax, but for masks that stock has no rule for
            module.forward = partial(torch.softmax, dim=-1)  # type: ignore[method-assign]
    if isinstance(twin, Backbone):
        stem = FoldedStem(twin, images)
        twin.input, twin.stem = nn.Identity(), stem  # type: ignore[assignment]
    expected = model(images)
    difference = (twin(images) - expected).abs().max() / (1 + expected.abs().max())
    assert difference <= AGREEMENT, f"the copy computes something else: logits differ by {difference:.1e}"
    return twin


def _pool_shapes(model: nn.Module, example: Float[Tensor, "b c h w"]) -> dict[str, torch.Size]:
    """What every average pool of the model reads, by the pool's name."""
    shapes: dict[str, torch.Size] = {}

    def reader(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            shapes[name] = inputs[0].shape

        return read

    pools = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.AvgPool2d)]
    hooks = [pool.register_forward_pre_hook(reader(name)) for name, pool in pools]
    model(example)
    for hook in hooks:
        hook.remove()
    return shapes


class Stock:
    """Stock bounds of the margins of one image after another.

    l-infinity balls are clipped to [0, 1]. l2 balls are not: stock does not know the unit domain for them, so its
    radii hold there too but are smaller than they could be.

    Args:
        model: what `for_stock` returns.
        example: one image.
        method: "CROWN-IBP" or "CROWN".
    """

    def __init__(self, model: nn.Module, example: Float[Tensor, "1 c h w"], method: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's tracer: sides are odd or even once and for all
            self.graph = BoundedModule(model, torch.zeros_like(example), bound_opts={"conv_mode": "matrix"})
        self.method = method

    @torch.no_grad()
    def evaluate(
        self,
        image: Float[Tensor, "1 c h w"],
        label: Int[Tensor, " 1"],
        epsilon: float,
        norm: str,
        *,
        closed_form: bool = False,
    ) -> Evaluation:
        """Bounds in the ball of radius epsilon; with `closed_form` also what they prove in smaller balls."""
        rows = margins(label, int(self.graph.final_shape[-1]))
        end, start = self.graph.final_name, self.graph.input_name[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it advises patches mode, which is unsound for these networks
            answer = self.graph.compute_bounds(
                x=(BoundedTensor(image, perturbation(image, epsilon, norm)),),
                C=rows,
                method=self.method,
                bound_upper=False,
                return_A=closed_form,
                needed_A_dict={end: [start]} if closed_form else None,
            )
        lower = answer[0]
        if not closed_form:
            return Evaluation(float(lower.amin()), 0.0)
        coefficients = answer[2][end][start]["lA"].flatten(2).double()
        # Stock's own intercept leaves out what constants of the network add.
        intercept = lower - Ball(image.double(), epsilon, norm, DOMAINS[norm]).least(coefficients)
        radius = smaller_radius(Ball(image.double(), epsilon, norm, "unit"), coefficients, intercept)
        return Evaluation(float(lower.amin()), radius)


def perturbation(image: Float[Tensor, "1 c h w"], epsilon: float, norm: str) -> PerturbationLpNorm:
    """Stock's ball around an image: in l-infinity its intersection with [0, 1]."""
    if norm == "linf":
        lower, upper = (image - epsilon).clamp(min=0), (image + epsilon).clamp(max=1)
        return PerturbationLpNorm(eps=epsilon, norm=ORDERS[norm], x_L=lower, x_U=upper)
    return PerturbationLpNorm(eps=epsilon, norm=ORDERS[norm])


def smaller_radius(ball: Ball, coefficients: Float[Tensor, "1 s n"], intercept: Float[Tensor, "1 s"]) -> float:
    """The largest radius, at most the ball's, at which <coefficients, x> + intercept > 0 in the whole ball.

    That is min over the rows of (A x0 + b) / ||A||_q where the unit domain changes nothing; it is bisected, so that
    stock gains from the domain what we do.
    """
    low, high = 0.0, float(ball.epsilon)
    if _positive(ball, coefficients, intercept, high):
        return high
    for _ in range(CLOSED_FORM_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _positive(ball, coefficients, intercept, middle) else (low, middle)
    return low


def _positive(ball: Ball, coefficients: Tensor, intercept: Tensor, epsilon: float) -> bool:
    least = ball.with_epsilon(torch.full_like(ball.epsilon, epsilon)).least(coefficients) + intercept
    return bool((least > 0).all())

"""What the tests of `verify` share: random networks, an attack on linear functions of the outputs, the checks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from tests.levels import level
from verify import METHODS, Ball, BoundedNetwork, Bounds, Region
from verify.operators.relaxation import Relaxation, Slopes
from verify.propagation import alpha
from verify.propagation.alpha import Choice
from verify.propagation.crown import backward
from verify.propagation.methods import METHODS as METHOD_RECORDS
from verify.propagation.neurons import Neurons
from verify.propagation.prior import bound_neurons
from verify.propagation.worst_points import SlopeChoice, WorstPoints, adaptive

ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}
DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}
RADII = {"linf": 0.1, "l2": 0.3, "l1": 0.8}
"""Radii at which small random networks have unstable neurons, and bounds that still say something."""
BALLS = (("linf", "unit"), ("l2", "free"), ("l1", "unit"))
"""The norms and domains an operator meets; test_regions.py is about all of them."""
FAST = ("ibp", "affine", "crown")
"""The methods that a ball beyond the first one of an operator meets in `make test`."""
ROUNDING = 1e-9
"""What float64 may be off by, relative to the size of the values."""


class Function(nn.Module):
    """A module from a function of itself and its input; tensors given by name become its parameters."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class HeldSlopes:
    """Gives later bounds the slopes that were chosen for the first, one call after the other.

    For finite differences: gradients of bounds hold slopes fixed, also those that an ascent ends with. Call `begin` before
    each computation of bounds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded: list[Slopes | Choice | None] = []
        self.replayed: Iterator[Slopes | Choice | None] | None = None
        for owner, name in ((WorstPoints, "__call__"), (alpha, "ascended")):
            monkeypatch.setattr(owner, name, self._held(getattr(owner, name)))

    def _held(self, choose: Callable[..., Slopes | Choice | None]) -> Callable[..., Slopes | Choice | None]:
        def held(*args: object) -> Slopes | Choice | None:
            if self.replayed is not None:
                return next(self.replayed)
            self.recorded.append(choose(*args))
            return self.recorded[-1]

        return held

    def begin(self) -> None:
        self.replayed = iter(self.recorded) if self.recorded else None


def neurons_of(network: BoundedNetwork, region: Region, method: str = "crown") -> Neurons:
    """What a backward pass by the method reads."""
    return bound_neurons(network.graph, region, METHOD_RECORDS[method], network.memory, network.rounding)


def lower_with(
    network: BoundedNetwork, neurons: Neurons, rows: Tensor, slopes: SlopeChoice = adaptive
) -> Tensor:
    """Lower bounds of rows of the outputs by a backward pass with these slopes."""
    return backward(network.graph, neurons, network.graph.final_node(), rows, upper=False, slopes=slopes).lower


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 and eval mode with random weights, and random batch norms of either sign."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(normal(parameter) * (2 / fan_in) ** 0.5)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.running_mean is not None:
                    module.running_mean.copy_(normal(module.running_mean) / 2)
                    module.running_var.copy_(0.5 + normal(module.running_var).abs())
                if module.weight is not None:
                    module.weight.copy_(normal(module.weight))
    return model


def around(operator: nn.Module, shape: Sequence[int], *, first: bool = False, seed: int = 0) -> nn.Module:
    """A random network with the operator between a convolution and a ReLU, or at its very beginning.

    Args:
        shape: of what the operator reads, "c h w"; a network's images are of that shape if `first`, and else
            have one channel.
    """
    before = [] if first else [nn.Conv2d(1, shape[0], 3, padding=1)]
    head = nn.Sequential(*before, operator.double(), nn.ReLU(), nn.Flatten()).double()
    with torch.no_grad():
        example = torch.zeros(2, shape[0] if first else 1, *shape[1:], dtype=torch.float64)
        features = head.eval()(example).shape[1]
    # The features after the ReLU are many and positive: without their mean the outputs would hardly differ.
    return randomise(nn.Sequential(*head, nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, 3)), seed)


def random_images(shape: Sequence[int], count: int = 3, seed: int = 0) -> Tensor:
    """Images in [0, 1], float64; a third of the pixels of the first are 0 and a third are 1."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((count, *shape), generator=generator, dtype=torch.float64)
    images[0] = ((images[0] - 1 / 3) * 3).clamp(0, 1)
    return images


def random_rows(count: int, classes: int, batch: int, seed: int = 0) -> Tensor:
    """A specification with coefficients of both signs, another one for every image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, count, classes), generator=generator, dtype=torch.float64)


def apply(rows: Tensor, outputs: Tensor) -> Tensor:
    """"b s k" on "b k"."""
    return torch.einsum("bsk,bk->bs", rows, outputs)


def frozen(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy in eval mode whose batch norms hold the statistics of this clean batch.

    What `BoundedNetwork.freeze` promises, made with torch's own modules: the reference in training mode.
    """
    reference = copy.deepcopy(model).train()
    statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor]) -> None:
        dimensions = [d for d in range(inputs[0].dim()) if d != 1]
        statistics[module] = (inputs[0].mean(dimensions), inputs[0].var(dimensions, correction=0))

    norms = [m for m in reference.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [module.register_forward_pre_hook(record) for module in norms]
    with torch.no_grad():
        reference(images)
    for hook, module in zip(hooks, norms, strict=True):
        hook.remove()
        if module in statistics:
            module.running_mean, module.running_var = statistics[module]
            module.track_running_stats = True
    return reference.eval()


def attack(
    function: Callable[[Tensor], Tensor], ball: Ball, rows: Tensor, *, samples: int = 20, steps: int = 8
) -> Tensor:
    """Points of the ball, "n b *shape": random ones, then those of a gradient descent and ascent on every row."""
    generator = torch.Generator().manual_seed(1)
    found = [ball.sample(generator) for _ in range(samples)]
    batch, count = rows.shape[:2]
    many = ball.repeat(2 * count)
    signed = torch.cat([rows, -rows], 1).transpose(0, 1).flatten(0, 1)  # all images, row by row
    x = many.project(many.centre + 1e-3 * many.epsilon.view(-1, *[1] * (ball.centre.dim() - 1)))
    for step in range(steps):
        x = x.detach().requires_grad_()
        value = (function(x) * signed).sum()
        (gradient,) = torch.autograd.grad(value, x)
        size = many.epsilon / (1 + step)
        x = many.project(x.detach() - _wide(size, x) * _direction(gradient, ball.norm)).detach()
        found += x.split(batch)
    return torch.stack(found)


def _direction(gradient: Tensor, norm: str) -> Tensor:
    """Steepest ascent, of length 1 in the norm."""
    flat = gradient.flatten(1)
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-300)).view_as(gradient)
    strongest = flat.abs().argmax(1, keepdim=True)
    return torch.zeros_like(flat).scatter(1, strongest, flat.gather(1, strongest).sign()).view_as(gradient)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


@torch.no_grad()
def extremes(function: Callable[[Tensor], Tensor], points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each row at the points "n b *shape", both "b s"."""
    outputs = function(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    values = torch.einsum("bsk,nbk->nbs", rows, outputs)
    return values.amin(0), values.amax(0)


@torch.no_grad()
def assert_neurons(network: BoundedNetwork, points: Tensor, bounds: Bounds, what: str = "") -> None:
    """Every neuron that was relaxed stays within its interval at the points, and no interval has a negative width."""
    values = network.graph.values(points.flatten(0, 1))
    for name, (lower, upper) in bounds.intervals.items():
        assert (lower <= upper).all(), f"{what}: {name} has crossed ends"
        value = values[name].unflatten(0, points.shape[:2])
        beyond = torch.maximum(lower - value, value - upper).max()
        assert beyond <= ROUNDING * (1 + value.abs().max()), f"{what}: {name} is {beyond} outside of its interval"


def assert_between(bounds: Bounds, low: Tensor, high: Tensor, what: str = "") -> None:
    """lower <= low and high <= upper, up to rounding; NaN anywhere fails."""
    slack = ROUNDING * (1 + high.abs() + low.abs())
    assert (bounds.lower <= low + slack).all(), f"{what}: {(bounds.lower - low).max()} above what is reached"
    assert (bounds.upper >= high - slack).all(), f"{what}: {(high - bounds.upper).max()} below what is reached"


def assert_sound(
    model: nn.Module,
    shape: Sequence[int],
    *,
    train: bool = False,
    balls: Sequence[tuple[str, str]] = BALLS,
    methods: Sequence[str] = METHODS,
    scale: float = 1.0,
    seed: int = 0,
    ties: bool = False,
) -> None:
    """All that holds for the bounds of any network: nothing met in the ball leaves them, neither outputs nor
    neurons; a ball of radius 0 gives the output; a tiny ball gives the output -+ radius times the dual norm of
    the gradient (CROWN). The gradient by the sweep of transposes is autograd's, and what rounding errors are relative to
    is no smaller than the values.

    Args:
        train: batch norm on the statistics of the images.
        scale: of the radii.
        ties: neurons may be equal everywhere, as pools of pools are: then the last of these does not hold.
    """
    images = random_images(shape, seed=seed)
    model.train(train)
    network = BoundedNetwork(model, images[:1])
    function = model
    if train:
        network.freeze(images)
        function = frozen(model, images)
    classes = network.classes
    rows = random_rows(3, classes, len(images), seed)
    assert_terms(network, images)
    assert_vector_jacobian(network, function, images, rows.transpose(0, 1))
    for norm, domain in balls:
        # The last image has radius 0.
        epsilon = scale * RADII[norm] * torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
        ball = Ball(images, epsilon, norm, domain)
        points = attack(function, ball, rows)
        low, high = extremes(function, points, rows)
        for method in methods if (norm, domain) == balls[0] else level([m for m in methods if m in FAST], methods):
            with torch.no_grad():
                bounds = network.bounds(ball, specification=rows, method=method)
            assert_between(bounds, low, high, f"{norm} {domain} {method}")
            assert_neurons(network, points, bounds, f"{norm} {domain} {method}")
            torch.testing.assert_close(bounds.lower[-1], low[-1], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(bounds.upper[-1], high[-1], rtol=1e-9, atol=1e-9)
    if not ties:  # nor in the first image, which has pixels of equal value
        assert_exact_when_tiny(network, function, images[1:], rows[1:], balls[0][0])


@torch.no_grad()
def assert_terms(network: BoundedNetwork, images: Tensor) -> None:
    """No value is larger than the sum of its terms."""
    values = network.graph.values(images)
    for node in network.graph.nodes:
        if node.from_input and node.inputs:
            read = [values[parent.name] for parent in node.inputs]
            if isinstance(node, Relaxation):
                terms = node.terms_over([(value, value) for value in read])
            else:
                magnitudes = [value.abs() if parent.from_input else value for value, parent in zip(read, node.inputs, strict=True)]
                terms = node.terms(magnitudes)
            assert (terms >= (1 - ROUNDING) * values[node.name].abs()).all(), node.name


def assert_vector_jacobian(network: BoundedNetwork, function: nn.Module, images: Tensor, vectors: Tensor) -> None:
    """v^T J, for vectors "r b k", is autograd's."""
    x = images.detach().requires_grad_()
    outputs = function(x)
    expected = [torch.autograd.grad(outputs, x, vector, retain_graph=True)[0] for vector in vectors]
    found = network.vector_jacobian(images, vectors)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


def assert_exact_when_tiny(
    network: BoundedNetwork, function: nn.Module, images: Tensor, rows: Tensor, norm: str, method: str = "crown"
) -> None:
    """The bounds are value -+ radius ||J||_q where nothing is unstable: neither unsound nor loose."""
    radius = 1e-7
    with torch.no_grad():
        bounds = network.bounds(Ball(images, radius, norm, "free"), specification=rows, method=method)
        value = apply(rows, function(images))
    jacobian = vmap(jacrev(lambda x: function(x.unsqueeze(0)).squeeze(0)))(images).flatten(2)
    slope = torch.linalg.vector_norm(rows @ jacobian.detach(), DUALS[norm], dim=-1)
    torch.testing.assert_close((value - bounds.lower) / radius, slope, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((bounds.upper - value) / radius, slope, rtol=1e-5, atol=1e-5)

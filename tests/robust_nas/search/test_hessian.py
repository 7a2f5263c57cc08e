"""The top eigenvalue of a Hessian, against the whole Hessian and known ones."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, hessian

from robust_nas.search.hessian import top_eigenvalue
from robust_nas.spaces.supernet import Supernet

OPERATIONS = (torch.tanh, torch.relu, torch.sin, lambda x: x)
IMAGES, *WEIGHTS = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mixed_loss(first, second, dtype=torch.float64):
    """Of a network of two layers of mixed operations, its weights and images fixed."""
    x = IMAGES.to(dtype)
    for alpha, weight in zip((first, second), WEIGHTS, strict=True):
        x = sum(p * op(x @ weight.to(dtype)) for p, op in zip(torch.softmax(alpha, -1), OPERATIONS, strict=True))
    return F.cross_entropy(x, torch.arange(8))


def alphas(seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(4, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_whole_hessian(seed):
    parameters = alphas(seed)
    blocks = hessian(mixed_loss, argnums=(0, 1))(*parameters)
    whole = torch.cat([torch.cat(row, dim=1) for row in blocks]).detach()
    expected = torch.linalg.eigvalsh(whole)[-1].item()
    assert top_eigenvalue(mixed_loss(*parameters), parameters) == pytest.approx(expected, rel=1e-7)
    single = alphas(seed, torch.float32)
    assert top_eigenvalue(mixed_loss(*single, torch.float32), single) == pytest.approx(expected, rel=1e-3)


def test_agrees_on_a_supernet():
    torch.manual_seed(0)
    model = Supernet(1, 3, channels=1, cells=2, nodes=1, mean=(0.3,), std=(0.4,)).double().eval()
    images, labels = torch.rand(6, 1, 6, 6, dtype=torch.float64), torch.arange(6) % 3

    def loss(normal, reduction):
        overridden = {"alphas.normal": normal, "alphas.reduce": reduction}
        return F.cross_entropy(functional_call(model, overridden, images), labels)

    parameters = model.architecture_parameters()
    blocks = torch.autograd.functional.hessian(loss, tuple(parameters))
    sizes = [parameter.numel() for parameter in parameters]
    rows = [torch.cat([blocks[i][j].reshape(sizes[i], sizes[j]) for j in range(2)], dim=1) for i in range(2)]
    expected = torch.linalg.eigvalsh(torch.cat(rows))[-1].item()
    assert top_eigenvalue(F.cross_entropy(model(images), labels), parameters) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "eigenvalues", [[5.0], [-5.0], [3.0, -7.0], [-2.0, -1.0, -40.0], [1.0, 2.0, 2.0, -9.0, 0.0], list(range(-40, -3)), [0.0] * 5]
)
def test_quadratic(eigenvalues):
    size = len(eigenvalues)
    draw = torch.Generator().manual_seed(size)
    basis = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    x = torch.randn(size, generator=draw, dtype=torch.float64, requires_grad=True)
    assert top_eigenvalue(x @ matrix @ x / 2, [x]) == pytest.approx(max(eigenvalues), rel=1e-7, abs=1e-12)


def test_linear_and_unused():
    x, y = (torch.ones(3, requires_grad=True) for _ in range(2))
    assert top_eigenvalue(x.sum(), [x, y]) == 0
    assert top_eigenvalue(x.pow(3).sum(), [x, y]) == pytest.approx(6)


def test_not_finite():
    x = torch.tensor([1.0, 2.0, 0.0], requires_grad=True)
    assert math.isnan(top_eigenvalue(x.sum() * math.inf, [x]))
    assert math.isnan(top_eigenvalue(x.pow(1.5).sum(), [x]))  # its second derivative at 0 is infinite
    assert math.isnan(top_eigenvalue(x[2:].pow(1.5).sum(), [x]))


def test_deterministic_and_touches_nothing():
    parameters = alphas(1)
    loss = mixed_loss(*parameters)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    values = [top_eigenvalue(loss, parameters) for _ in range(3)]
    assert len(set(values)) == 1
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in parameters)
    torch.autograd.grad(loss, parameters)  # the graph is still there

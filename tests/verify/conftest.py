"""Networks trained on scikit-learn's digits, for the tests of radii, attacks and audits."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


def _digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(digits.target)


def _trained(model: nn.Module, steps: int) -> nn.Module:
    images, labels = _digits()
    optimiser = torch.optim.Adam(model.parameters(), 0.01, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randint(0, 1400, (128,), generator=generator)
        # Noise keeps the networks from being fooled by next to nothing.
        noise = 0.15 * torch.randn(128, 1, 8, 8, generator=generator)
        loss = F.cross_entropy(model(images[batch] + noise), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """Twelve images that the networks were not trained on, and their labels."""
    images, labels = _digits()
    return images[1500:1512], labels[1500:1512]


@pytest.fixture(scope="session")
def mlp() -> nn.Module:
    """A fully connected network, about 90 % accurate."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _trained(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)), 250)


@pytest.fixture(scope="session")
def convnet() -> nn.Module:
    """Convolutions, batch norm and an overlapping max pool, about 90 % accurate."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _trained(
            nn.Sequential(
                nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
            ),
            150,
        )  # fmt: skip

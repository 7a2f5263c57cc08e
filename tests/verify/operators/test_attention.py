"""Products of matrices that both depend on the image, and attention: by hand, of F, of nn."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.verify.helpers import BALLS, Function, assert_sound, random_images, randomise
from verify import BoundedNetwork, UnsupportedOperator
from verify.operators.product import MatrixProduct

PRODUCTS = {
    "x @ x.T": lambda m, x: x @ x.mT,
    "x @ x": lambda m, x: x[:, :, :2] @ x[:, :, :2],
    "bmm": lambda m, x: torch.bmm(x, x.flip(1).mT),
    "baddbmm": lambda m, x: torch.baddbmm(x[:, :, :2], x, x.mT, alpha=0.5),
    "broadcast": lambda m, x: x[:, None] @ x.view(len(x), 2, 3, 1),
    "einsum": lambda m, x: torch.einsum("bid,bjd->bji", x, x.flip(1)),
    "einsum with dots": lambda m, x: torch.einsum("... i R, ... j R -> ... i j", x, x),
    "einsum without a result": lambda m, x: torch.einsum("...id,...jd", x, x.flip(2)),
    "einsum that keeps an index": lambda m, x: torch.einsum("bid,bjd->bijd", x, x.flip(1)),
    "einsum to a number": lambda m, x: torch.einsum("bid,bid->b", x, x.flip(1)).unsqueeze(1),
    "outer product": lambda m, x: torch.einsum("bi,bj->bij", x.flatten(1), x.flip(2).flatten(1)),
    "with a vector": lambda m, x: torch.einsum("bid,bd->bi", x, x[:, 0]),
    "tensordot by hand": lambda m, x: (x.unsqueeze(2) * x.unsqueeze(1)).sum(3),
}
"""Of "b 2 3"."""


def with_head(function, *shape: int) -> nn.Module:
    """A linear layer before the function, one after it."""
    width = math.prod(shape)
    body = nn.Sequential(nn.Linear(3, width), nn.Unflatten(1, shape), Function(function), nn.Flatten())
    return randomise(nn.Sequential(*body, nn.Linear(body(torch.zeros(1, 3)).shape[1], 2)))


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_matrices_is_sound(name):
    assert_sound(with_head(PRODUCTS[name], 2, 3), (3,), balls=BALLS[:1], methods=("ibp", "block", "affine", "crown"))


def test_a_product_of_matrices_has_the_bounds_of_its_sum():
    """Written out by elements it is the same, rows and all."""
    images = random_images((3,))
    together, apart = (
        BoundedNetwork(with_head(PRODUCTS[name], 2, 3), images) for name in ("x @ x.T", "tensordot by hand")
    )
    assert any(isinstance(node, MatrixProduct) for node in together.graph.nodes)
    for method in ("ibp", "block", "crown-ibp", "affine"):
        for exact in (False, True):
            mine, other = ((each.double() if exact else each).bounds(images, 0.1, method=method) for each in (together, apart))
            torch.testing.assert_close(mine.lower, other.lower, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(mine.upper, other.upper, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1) @ x.flatten(1).T @ x.flatten(1),
        lambda x: torch.einsum("bid,cjd->bij", x, x)[:, 0],
        lambda x: torch.einsum("bid,bid->id", x, x),
        lambda x: torch.einsum("bid,bjk->bid", x, x).flatten(1),
        lambda x: torch.einsum("bii,bij->bj", x[:, :2, :2], x[:, :2, :2]),
        lambda x: torch.einsum("bid,bjd,bjk->bik", x, x, x).flatten(1),
        lambda x: (x @ x[0].T).flatten(1),
    ],
)
def test_other_products_are_refused(function):
    with pytest.raises(UnsupportedOperator, match=r"^aten\.\w+"):
        BoundedNetwork(Function(lambda m, x: function(x.unflatten(1, (2, 3)))), torch.rand(2, 6))


def by_hand(m: nn.Module, x: Tensor) -> Tensor:
    query, key, value = m.mix(x).chunk(3, -1)
    return torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(3), -1) @ value


class Kinds(nn.Module):
    """Attention of two heads over three tokens of four numbers, in one of its kinds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.mix = kind, nn.Linear(4, 12)
        self.module = nn.MultiheadAttention(4, 2, batch_first=kind != "sequence first", bias=kind != "without bias")
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, norm_first="first" in kind, activation="gelu", batch_first=True)
        self.mask = torch.tensor([[0.0, -1.0, 2.0]] * 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (3, 4))
        if self.kind == "by hand":
            return by_hand(self, x)
        if self.kind == "of F":
            query, key, value = self.mix(x).unflatten(2, (2, 6)).transpose(1, 2).chunk(3, 3)
            return F.scaled_dot_product_attention(query, key, value, self.mask, scale=0.7)
        if self.kind == "sequence first":
            return self.module(*[x.permute(1, 0, 2)] * 3)[0].transpose(0, 1)
        if self.kind == "of two":
            return torch.cat([part.flatten(1) for part in self.module(x, x.flip(1), x, attn_mask=self.mask.to(x))], 1)
        if "layer" in self.kind:
            return self.layer(x)
        return self.module(x, x, x, need_weights=False)[0]


KINDS = ("by hand", "of F", "of nn", "without bias", "sequence first", "of two", "layer", "layer, norm first")


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_sound(kind):
    model = nn.Sequential(nn.Linear(3, 12), Kinds(kind), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.float64))
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert_sound(model, (3,), balls=BALLS[:1], methods=("ibp", "crown-ibp", "affine"), scale=0.1)


def test_certificates_of_attention_are_computed_in_float64():
    model = nn.Sequential(nn.Linear(3, 12), Kinds("of nn"), nn.Flatten(), nn.Linear(12, 2)).eval()
    network = BoundedNetwork(model, torch.rand(1, 3))
    images = torch.rand(2, 3, dtype=torch.float64)
    bounds = network.double().bounds(images, 0.0, method="ibp")
    output = model.double()(images)
    assert (bounds.lower <= output).all() and (output <= bounds.upper).all()
    assert (bounds.upper - bounds.lower).max() < 1e-9


@pytest.mark.parametrize("words", ["shared heads", "dropout"])
def test_attention_without_a_rule_is_refused_in_words(words):
    options = {"enable_gqa": True} if words == "shared heads" else {"dropout_p": 0.5}
    with pytest.raises(UnsupportedOperator, match=words):
        BoundedNetwork(Function(lambda m, x: F.scaled_dot_product_attention(x, x, x, **options).flatten(1)), torch.rand(1, 2, 3))


CAUSAL = torch.ones(3, 3, dtype=torch.bool).tril()
NOTHING = torch.full((1, 3, 1), -torch.inf)
INFINITE = torch.zeros(3, 3).masked_fill(~CAUSAL, -torch.inf)
MASKED = {
    "masked_fill": lambda m, x: scores(x).masked_fill(~CAUSAL, -torch.inf).softmax(-1) @ x,
    "masked_fill by a tensor": lambda m, x: scores(x).masked_fill(~CAUSAL, torch.tensor(-torch.inf)).softmax(-1) @ x,
    "where": lambda m, x: torch.where(CAUSAL, scores(x), -torch.inf).softmax(-1) @ x,
    "a mask that is added": lambda m, x: (scores(x) + INFINITE.to(x)).softmax(-1) @ x,
    "along another dimension": lambda m, x: (scores(x) + INFINITE.mT.to(x)).softmax(1) @ x,
    "of F, causal": lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "of F, mask of bool": lambda m, x: F.scaled_dot_product_attention(x, x, x, CAUSAL),
    "of F, mask of -inf": lambda m, x: F.scaled_dot_product_attention(x, x, x, INFINITE.to(x)),
    "columns that are put beside": lambda m, x: torch.cat([scores(x)[..., :2], NOTHING.to(x).expand(len(x), 3, 1)], -1).softmax(-1) @ x,
    "huge where it is lost": lambda m, x: (scores(x) + (1e3 * (CAUSAL.logical_not())).to(x) + INFINITE.to(x)).softmax(-1) @ x,
}


def scores(x: Tensor) -> Tensor:
    return 2 * x @ x.flip(1).mT


@pytest.mark.parametrize("name", MASKED)
def test_attention_that_a_mask_cuts_is_sound(name):
    assert_sound(with_head(MASKED[name], 3, 3), (3,), balls=BALLS[:1], methods=("ibp", "block", "crown-ibp", "affine"))


def test_a_sum_over_what_a_mask_keeps_is_that_of_a_smaller_tensor():
    """Nearly, in boxes of all sizes; what is lost may be larger than all that is kept."""
    kept = torch.tensor([True, False, True, True, False])
    whole = Function(lambda m, x: (x * 9).masked_fill(~kept, -torch.inf).softmax(1)[:, [0, 2, 3]])
    part = lambda x: (x * 9)[:, [0, 2, 3]]  # noqa: E731
    small = Function(lambda m, x: torch.exp(part(x) - part(x).logsumexp(1, keepdim=True)))
    images = random_images((5,), 6)
    images[:, 1] = 1.0
    networks = [BoundedNetwork(model, images[:1], confirms=True) for model in (whole, small)]
    for method in ("crown-ibp", "affine", "crown"):
        for radius in (0.0, 1e-6, 0.01, 0.3):
            mine, other = (network.bounds(images, radius, method=method) for network in networks)
            # Intervals go by the derivative a little longer: what is lost counts for the size of the values.
            torch.testing.assert_close(mine.lower, other.lower, rtol=0, atol=1e-3)
            torch.testing.assert_close(mine.upper, other.upper, rtol=0, atol=1e-3)


def test_scores_that_are_infinite_by_the_image_are_no_mask():
    """Where a ReLU is 0 its logarithm is -infinity; where it is not, it counts."""
    model = Function(lambda m, x: torch.relu(x - 0.5).log().softmax(1)).double()
    images = torch.tensor([[0.6, 0.9, 0.2, 0.7]]).double()
    bounds = BoundedNetwork(model, images).bounds(images, 0.35, method="ibp", domain="free")
    output = model(images + torch.tensor([[-0.05, -0.05, 0.34, 0.0]]))
    assert not ((output < bounds.lower) | (output > bounds.upper)).any()

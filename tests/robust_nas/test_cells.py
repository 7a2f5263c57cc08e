"""Cells: the mixed operation's sum, a discrete cell by hand, drop-path."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robust_nas.genotype import Genotype, RobNetGenotype
from robust_nas.spaces.cells import KINDS, Cell, CellShape, MixedOperation, SearchCell, drop_path
from robust_nas.spaces.operations import PRIMITIVES

POOLS = Genotype((("avg_pool_3x3", 0), ("max_pool_3x3", 1)), (2,), (("skip_connect", 0),) * 2, (2,), nodes=1)
SKIPS = Genotype((("skip_connect", 0), ("skip_connect", 1)), (2,), (("skip_connect", 0),) * 2, (2,), nodes=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("operations", [PRIMITIVES, ("none", "skip_connect", "dil_conv_3x3"), ("avg_pool_3x3",)])
def test_mixed_operation_is_the_weighted_sum(stride, operations):
    torch.manual_seed(0)
    mixed = MixedOperation(2, stride, operations).double().eval()
    x, weights = torch.randn(2, 2, 5, 5).double(), torch.rand(len(operations)).double()
    expected = sum(weight * operation(x) for weight, operation in zip(weights, mixed.operations, strict=True))
    assert torch.allclose(mixed(x, weights), expected)


def test_every_pool_of_a_mixed_operation_is_normalised():
    mixed = MixedOperation(2, 1, PRIMITIVES)
    for name in ("max_pool_3x3", "avg_pool_3x3"):
        pool = mixed.operations[PRIMITIVES.index(name)]
        assert isinstance(pool[1], nn.BatchNorm2d) and not pool[1].affine


@given(
    channels=st.integers(1, 3),
    nodes=st.integers(1, 3),
    size=st.integers(2, 9),
    reduction=st.booleans(),
    after_reduction=st.booleans(),
)
def test_search_cell_shape(channels, nodes, size, reduction, after_reduction):
    channels *= 2
    shape = CellShape(3, 5, channels, reduction, after_reduction)
    edges = sum(range(2, 2 + nodes))
    cell = SearchCell(shape, nodes, [PRIMITIVES] * edges, MixedOperation).eval()
    before = torch.rand(2, 3, 2 * size, 2 * size) if after_reduction else torch.rand(2, 3, size, size)
    out = cell(before, torch.rand(2, 5, size, size), torch.rand(edges, len(PRIMITIVES)))
    smaller = (size + 1) // 2 if reduction else size
    assert out.shape == (2, cell.out_channels, smaller, smaller)
    assert cell.out_channels == nodes * channels


def test_strengths_scale_the_edges_of_a_search_cell():
    shape = CellShape(2, 2, 2, reduction=False, after_reduction=False)
    cell = SearchCell(shape, 2, [("skip_connect",)] * 5, MixedOperation).eval()
    x = torch.rand(1, 2, 4, 4)
    zero, one = cell.inputs(x, x)
    two = 0.3 * 0.1 * zero + 0.7 * 0.2 * one
    three = 0.2 * 0.3 * zero + 0.3 * 0.4 * one + 0.5 * 0.5 * two
    weights = torch.tensor([[0.1], [0.2], [0.3], [0.4], [0.5]])
    out = cell(x, x, weights, torch.tensor([0.3, 0.7, 0.2, 0.3, 0.5]))
    assert torch.allclose(out, torch.cat([two, three], dim=1))


def test_skip_dropout_keeps_the_expectation_and_drops_single_elements():
    torch.manual_seed(0)
    mixed = MixedOperation(2, 1, ("skip_connect",))
    mixed.skip_dropout = 0.3
    out = mixed(torch.ones(20, 2, 30, 30), torch.tensor([0.5]))
    assert out.mean().item() == pytest.approx(0.5, abs=0.01)
    assert out.unique().tolist() == pytest.approx([0, 0.5 / 0.7])
    assert all((part[0] != part[1]).any() for part in (out, out[0], out[0, 0], out[0, 0, 0].view(2, -1)))


@pytest.mark.parametrize(
    ("operations", "stride", "training"),
    [(PRIMITIVES, 1, False), (PRIMITIVES, 2, True), (PRIMITIVES[:3] + PRIMITIVES[4:], 1, True)],
)
def test_skip_dropout_spares_evaluation_and_all_but_identities(operations, stride, training):
    torch.manual_seed(0)
    mixed = MixedOperation(2, stride, operations).train(training)
    x, weights = torch.rand(2, 2, 6, 6), torch.rand(len(operations))
    expected = mixed(x, weights)
    mixed.skip_dropout = 0.9
    assert torch.equal(mixed(x, weights), expected)


def test_a_cell_of_skips_adds_its_inputs():
    cell = Cell(SKIPS, CellShape(2, 2, 2, reduction=False, after_reduction=False)).eval()
    x = torch.rand(1, 2, 4, 4)
    assert torch.allclose(cell(x, x), cell.inputs.before(x) + cell.inputs.last(x))


@pytest.mark.parametrize("reduction", [False, True])
def test_a_robnet_cell_by_hand(reduction):
    """Every node adds up one operation on each state before it; nodes, and not inputs, make the output."""
    genotype = RobNetGenotype((("00",) * 5, ("11", "10", "01", "00", "11")), nodes=2)
    shape = CellShape(4, 4, 2, reduction, after_reduction=False, index=1)
    cell = Cell(genotype, shape).double().eval()
    x, y = torch.randn(2, 2, 4, 6, 6).double()
    zero, one = cell.inputs(x, y)
    two = cell.operations[0](zero) + cell.operations[1](one)
    three = cell.operations[2](zero) + cell.operations[4](two)
    assert torch.allclose(cell(x, y), torch.cat([two, three], dim=1))
    assert two.shape[-1] == (3 if reduction else 6)
    assert not any(m.affine for m in cell.modules() if isinstance(m, nn.BatchNorm2d))
    assert Cell(genotype, CellShape(4, 4, 2, reduction, False, index=0)).eval()(x.float(), y.float()).count_nonzero() == 0


def test_reduction_halves_the_inputs_but_not_the_nodes():
    shape = CellShape(2, 2, 2, reduction=True, after_reduction=False)
    assert [shape.stride(source) for source in range(4)] == [2, 2, 1, 1]


@pytest.mark.parametrize("reduction", [False, True])
def test_the_kind_of_a_cell(reduction):
    assert CellShape(2, 2, 2, reduction, after_reduction=False).kind == KINDS[reduction]


def test_drop_path_keeps_the_expectation_and_drops_whole_images():
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(20_000, 2, 1, 2), 0.3)
    assert abs(dropped.mean().item() - 1) < 0.02
    assert torch.equal(dropped, dropped[:, :1, :, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])


@pytest.mark.parametrize(
    ("genotype", "training", "dropped"), [(POOLS, True, True), (POOLS, False, False), (SKIPS, True, False)]
)
def test_drop_path_spares_identities_and_evaluation(genotype, training, dropped):
    cell = Cell(genotype, CellShape(2, 2, 2, reduction=False, after_reduction=False)).train(training)
    cell.drop_path = 0.999999
    x = torch.rand(8, 2, 4, 4)
    assert bool(cell(x, x).count_nonzero() == 0) is dropped

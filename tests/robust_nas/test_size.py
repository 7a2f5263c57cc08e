"""Parameters and multiply-adds against sums by hand."""

import pytest
import torch
from torch import nn

from robust_nas.genotype import Genotype, RobNetGenotype
from robust_nas.spaces.size import Size, size, size_on_cifar10, size_on_imagenet
from robust_nas.zoo import find

EDGES = (("sep_conv_5x5", 0), ("skip_connect", 1))


def test_convolutions_and_linear_layers():
    network = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),  # 6 x 4 x 4 outputs of 2 x 9 products
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, (1, 7), dilation=1, groups=6, bias=False, padding=(0, 3)),  # 6 x 4 x 4 outputs of 7
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    parameters = (6 * 2 * 9 + 6) + 2 * 6 + 6 * 7 + (24 * 5 + 5)
    assert size(network, (4, 8, 8)) == Size(parameters, 96 * 18 + 96 * 7 + 24 * 5)


def test_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    size(network, (1, 5, 5))
    assert network.training and all(m.training for m in network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_frozen_parameters_are_not_counted_and_failures_leave_no_hooks():
    network = nn.Sequential(nn.Conv2d(1, 2, 3))
    network[0].bias.requires_grad_(False)
    assert size(network, (1, 5, 5)).parameters == 18
    with pytest.raises(RuntimeError):
        size(network, (3, 5, 5))
    assert network.training and not network[0]._forward_hooks


def pointwise(inputs, outputs, affine=True):
    """Parameters of a 1x1 convolution and its batch norm."""
    return inputs * outputs + 2 * outputs * affine


def separable(channels, side, affine=True):
    return 2 * (channels * side * side + pointwise(channels, channels, affine))


def network_by_hand(cells, channels, cell):
    """Parameters of a network: stem, cells of `cell(before, last, channels, reduction)` parameters, classifier."""
    before = last = 3 * channels
    total = 3 * 9 * last + 2 * last
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        channels *= 1 + reduction
        parameters, outputs = cell(before, last, channels, reduction)
        total += parameters
        before, last = last, outputs
    return total + 10 * last + 10


def test_a_network_of_darts_by_hand():
    """sep_conv_5x5 on input 0 and a skip connection on input 1, which is a factorised reduction at stride 2."""
    genotype = Genotype(EDGES, (2,), EDGES, (2,), nodes=1)

    def cell(before, last, c, reduction):
        skip = pointwise(c, c) if reduction else 0
        return pointwise(before, c) + pointwise(last, c) + separable(c, 5) + skip, c

    assert size_on_cifar10(genotype, cells=4, channels=6).parameters == network_by_hand(4, 6, cell)


def test_robnet_large_by_hand():
    """20 cells of 36 channels, as in the authors' code: no affine batch norm in a cell, none but the stem's."""
    codes = find("RobNet-large").cells[0]
    sources = [source for node in range(2, 6) for source in range(node)]

    def cell(before, last, c, reduction):
        total = pointwise(before, c, False) + pointwise(last, c, False)
        for code, source in zip(codes, sources, strict=True):
            total += separable(c, 3, False) * (code[1] == "1")
            total += pointwise(c, c, False) * (code[0] == "1" and reduction and source < 2)
        return total, 4 * c

    assert size_on_cifar10(find("RobNet-large")).parameters == network_by_hand(20, 36, cell)


def test_an_architecture_that_has_a_number_of_cells_keeps_it():
    two = RobNetGenotype((("10", "10"),) * 2, nodes=1)
    shared = RobNetGenotype((("10", "10"),), nodes=1)
    assert size_on_cifar10(two, cells=5, channels=2) == size_on_cifar10(shared, cells=2, channels=2)
    assert size_on_cifar10(shared, cells=5, channels=2) != size_on_cifar10(shared, cells=2, channels=2)


@pytest.mark.parametrize(("name", "published"), [("DARTS-V2", 4.7e6), ("PC-DARTS-ImageNet", 5.3e6)])
def test_parameters_on_imagenet_are_those_of_the_papers(name, published):
    """Table 3 of DARTS (Liu et al., ICLR 2019), table 2 of PC-DARTS (Xu et al., ICLR 2020)."""
    assert size_on_imagenet(find(name)).parameters == pytest.approx(published, rel=0.02)

"""What the tests of `robust_nas` share."""

from robust_nas.genotype import Genotype

GENOTYPE = Genotype(
    normal=(("sep_conv_3x3", 0), ("max_pool_3x3", 1)),
    normal_concat=(2,),
    reduce=(("avg_pool_3x3", 0), ("skip_connect", 1)),
    reduce_concat=(2,),
    nodes=1,
)
"""Cells of one node, with a convolution, both pools and a skip connection."""

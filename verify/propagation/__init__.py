"""The walks over a bounded graph: intervals, affine forms, and the slopes of CROWN's lines."""

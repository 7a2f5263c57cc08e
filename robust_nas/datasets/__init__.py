"""Data sets, one file each; `robust_nas.registry` has their names."""

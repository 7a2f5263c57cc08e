"""Search spaces: operations, cells, supernets and the networks they become."""

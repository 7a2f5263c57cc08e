"""The network as a bounded graph: traced, built of operators, held by auto_LiRPA's `BoundedModule`."""

"""Tables 1-6 of the paper, ours beside its figures."""

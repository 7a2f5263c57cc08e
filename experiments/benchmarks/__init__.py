"""Benchmarks: our bounds against the public tools, on networks whose weights lie here."""

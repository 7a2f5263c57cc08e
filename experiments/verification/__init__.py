"""Our complete verification on networks of our own, beside stock bounds and an exact program."""

"""Small studies, a file each: what baselines find, what seeds change, how large published networks are."""

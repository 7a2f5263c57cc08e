"""Pictures of results: one file a kind, one look for all. They take numbers and tensors, and read no files."""

"""How networks learn from batches, one training method per file."""

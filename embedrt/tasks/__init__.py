"""Tasks: validation of call arguments, and arrays to embeddings."""

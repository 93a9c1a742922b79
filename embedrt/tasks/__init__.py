"""Meaning of a call: arguments are checked, and arrays become embeddings."""

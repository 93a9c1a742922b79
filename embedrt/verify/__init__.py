"""Comparison of vectors: parity with a reference, and differences between bundles."""

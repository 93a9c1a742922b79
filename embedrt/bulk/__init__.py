"""Bulk jobs: files of texts to files of vectors, in parts, resumable, each row exactly once."""

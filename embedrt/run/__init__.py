"""Texts to arrays: planning, batching, threads and processes, independent of the task."""

"""Execution providers: from a batch to arrays, one file each."""

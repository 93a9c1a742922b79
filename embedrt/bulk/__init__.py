"""Bulk jobs: files of texts to files of vectors, in parts, resumable, each row exactly once."""

from embedrt.bulk.checking import Check, check
from embedrt.bulk.driver import Report, run
from embedrt.bulk.merging import merge

__all__ = ["Check", "Report", "check", "merge", "run"]

"""Bulk jobs: files of texts to files of vectors, in parts, resumable, each row exactly once."""

from embedrt.bulk.checking import Check, check
from embedrt.bulk.databases.loading import Loaded, load
from embedrt.bulk.driver import Report, run
from embedrt.bulk.merging import merge

__all__ = ["Check", "Loaded", "Report", "check", "load", "merge", "run"]

"""Encode texts with several bundles in one process, whose start takes seconds where the CPU is emulated.

Standard input is JSON, a list of jobs: `{"bundle": ..., "dtype": ..., "texts": [...], "output": ...}`.
"""

import json
import sys

import numpy as np

from embedrt import Embedder


def main() -> None:
    for job in json.load(sys.stdin):
        vectors = Embedder(job["bundle"], dtype=job["dtype"]).encode(job["texts"])
        np.save(job["output"], vectors, allow_pickle=False)


if __name__ == "__main__":
    main()

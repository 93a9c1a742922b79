"""Arithmetic on measurements: medians, quality, kinds of kernels."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WARM_UP = 5
# Parts of the names of CUDA kernels, first match counts.
_KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "matmul": r"gemm|gemv|cutlass|matmul|xmma|nvjet|cublas",
    "normalization": r"norm",
    "activation": r"gelu|silu|sigmoid|relu|tanh",
    "gather": r"gather|embed",
    "copy": r"memcpy|memset|transpose|copy|cast",
    "softmax": r"softmax",
}


def read_texts(path: Path) -> dict[str, list[str]]:
    """The texts by workload."""
    texts: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return texts


def median_ms(run: Callable[[], Any], repeat: int) -> float:
    """The median time of a call in milliseconds, after some that do not count."""
    for _ in range(_WARM_UP):
        run()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds)


def quality(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
    """Cosine similarity and largest absolute error, text by text."""
    ours, theirs = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return {
        "mean_cosine": float(cosines.mean()),
        "min_cosine": float(cosines.min()),
        "max_abs_error": float(np.abs(ours - theirs).max()),
    }


def by_kind(microseconds: Mapping[str, float]) -> dict[str, float]:
    """Share of the time of all kernels by their kind, in percent, largest first."""
    total = sum(microseconds.values())
    shares: Counter[str] = Counter()
    for name, time_taken in microseconds.items():
        kind = next((kind for kind, pattern in _KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")
        shares[kind] += 100 * time_taken / total  # type: ignore[assignment]
    return dict(shares.most_common())

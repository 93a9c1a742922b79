"""Targets, and the verdict on each. Verdicts use the measured values; nothing is rounded in our favor."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.engines import OPENVINO_BFLOAT16, OWN_FLOAT32, REFERENCE, role
from benchmarks.models import Shape
from benchmarks.results import Gemm, Result, by_round, latency_ratio, speed_ratio

# What an embedrt dtype must keep to count as "fast", and what a peer must keep to count as a rival for one text.
MEAN_COSINE, MIN_COSINE, NDCG_POINTS = 0.999, 0.995, 0.3
_RIVAL_COSINE = 0.99


@dataclass(frozen=True)
class Verdict:
    """One line of the table.

    Attributes:
        target: In words, with its bound.
        reached: The measured value, rounded in the direction that flatters less, or "not measured".
        met: True if the target is met; None if nothing was measured.
    """

    target: str
    reached: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """In a word."""
        return {True: "met", False: "missed", None: "-"}[self.met]


@dataclass(frozen=True)
class Fast:
    """The fastest embedrt engine of sufficient quality.

    Attributes:
        name: The engine; None if none does.
        reached: Quality of each candidate.
    """

    name: str | None
    reached: str


def at_least(target: str, bound: float, value: float | None, note: str = "", *, digits: int = 2) -> Verdict:
    """A target of the kind "as much as possible"."""
    return _judge(f"{target} >= {bound:g}", value, note, digits, math.floor, lambda found: found >= bound)


def at_most(target: str, bound: float, value: float | None, note: str = "", *, digits: int = 2) -> Verdict:
    """A target of the kind "as little as possible"."""
    return _judge(f"{target} <= {bound:g}", value, note, digits, math.ceil, lambda found: found <= bound)


def _judge(
    target: str,
    value: float | None,
    note: str,
    digits: int,
    cut: Callable[[float], int],
    holds: Callable[[float], bool],
) -> Verdict:
    if value is None:
        return Verdict(target, "not measured", None)
    shown = cut(round(value * 10**digits, 6)) / 10**digits  # inner rounding: 0.29 * 100 is 28.999999999999996
    return Verdict(target, f"{shown:.{digits}f}{f'  ({note})' if note else ''}", holds(value))


def target_table(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A table of verdicts, as results files have them, in Markdown."""
    yield "| target | reached | verdict |"
    yield "|---|---|---|"
    for row in rows:
        verdict = {True: "met", False: "**missed**", None: "-"}[row["met"]]
        yield f"| {row['target']} | {row['reached']} | {verdict} |"


def verdicts(
    results: dict[str, Result], gemm: Gemm, shape: Shape, lengths: list[int], *, trained: bool
) -> Iterator[Verdict]:
    """The table, line by line.

    Args:
        results: By engine.
        gemm: The machine's own rate.
        shape: Of the model.
        lengths: Tokens of every mixed text, as many as the model reads.
        trained: Whether the weights are those of a real model. If not, there is no retrieval to compare, and the bounds
            of memory and start, which are about all-MiniLM-L6-v2, are left out.
    """
    own, reference = _of(results, OWN_FLOAT32), _of(results, REFERENCE)
    error = own.max_abs_error
    yield Verdict(
        "float32: largest error to sentence-transformers <= 2e-06",
        "not measured" if error is None else f"{error:.2e}",
        None if error is None else error <= 2e-6,
    )
    yield at_least("float32: mixed texts/s to sentence-transformers", 2.2, speed_ratio(own, reference))
    value, peer = _closest_speed(results, own)
    yield at_least("float32: mixed texts/s to the best float32 peer", 1.1, value, peer)
    yield at_least(
        "float32: % of the machine's float32 matmul rate", 80, _gemm_share(own, gemm, shape, lengths), digits=1
    )

    fast = fastest_good(results, search=trained)
    found = _of(results, fast.name if fast is not None else None)
    yield Verdict(
        f"fast: mean cosine >= {MEAN_COSINE}, min >= {MIN_COSINE}"
        + (f", nDCG@10 within {NDCG_POINTS} points" if trained else ""),
        "not measured" if fast is None else fast.reached,
        None if fast is None else fast.name is not None,
    )
    note = fast.name if fast is not None and fast.name is not None else ""

    def of_fast(judged: Verdict) -> Verdict:
        """Miss every target of the fast dtype if no dtype keeps the quality."""
        missed = fast is not None and fast.name is None
        return Verdict(judged.target, "no dtype keeps the quality", False) if missed else judged

    yield of_fast(
        at_least("fast: mixed texts/s to sentence-transformers float32", 6, speed_ratio(found, reference), note)
    )
    rival = _of(results, OPENVINO_BFLOAT16)
    yield of_fast(at_least("fast: mixed texts/s to OpenVINO bfloat16 by hand", 1.2, speed_ratio(found, rival), note))

    yield at_most("one short text, p50 to sentence-transformers: float32", 0.35, latency_ratio(own, reference))
    yield of_fast(
        at_most("one short text, p50 to sentence-transformers: fast", 0.2, latency_ratio(found, reference), note)
    )
    value, peer = _closest_latency(results, own, float32=True)
    yield at_most("one short text, p50 to the best float32 peer: float32", 0.8, value, peer)
    value, peer = _closest_latency(results, found, float32=False)
    yield of_fast(at_most("one short text, p50 to the best peer: fast", 0.8, value, f"{note} to {peer}"))

    if trained:
        yield at_most("float32: process start to first vector, s", 0.5, _start(own))
        yield of_fast(at_most("fast: process start to first vector, s", 0.5, _start(found), note))
        yield at_most("float32: peak RSS, MB", 350, own.peak_rss_mb, digits=0)
        yield at_most("int8: peak RSS, MB", 200, _of(results, "embedrt-int8").peak_rss_mb, digits=0)
    yield at_least("float32: mixed texts/s with all cores to one", 1.85, _scaling(own), _cores(own))


def fastest_good(results: dict[str, Result], *, search: bool) -> Fast | None:
    """Among embedrt's engines but float32 on the CPU: the fastest on mixed texts that keeps the quality.

    Returns:
        None if none of them was measured, or not what the quality goes by.
    """
    reference = results.get(REFERENCE)
    candidates = [
        (name, result)
        for name, result in results.items()
        if role(name) == "own" and name != OWN_FLOAT32 and "mixed" in result.runs
    ]
    if not candidates or reference is None or (search and reference.ndcg is None):
        return None
    found = []
    for name, result in sorted(candidates, key=lambda item: -(speed_ratio(item[1], reference) or 0.0)):
        good, words = _quality(result, reference, search=search)
        found.append(f"{name}: {words}")
        if good:
            return Fast(name, found[-1])
    return Fast(None, "; ".join(found))


def _quality(result: Result, reference: Result, *, search: bool) -> tuple[bool, str]:
    mean, least = result.mean_cosine, result.min_cosine
    if mean is None or least is None:
        return False, "no cosine"
    good = mean >= MEAN_COSINE and least >= MIN_COSINE
    # Cut off at the fifth digit, as 0.99899 must not be shown as 0.999.
    words = f"mean {math.floor(mean * 1e5) / 1e5:.5f}, min {math.floor(least * 1e5) / 1e5:.5f}"
    if not search:
        return good, words
    if result.ndcg is None or reference.ndcg is None:
        return False, f"{words}, no nDCG"
    lost = result.ndcg - reference.ndcg
    return good and abs(lost) <= NDCG_POINTS, f"{words}, nDCG {lost:+.3f}"


def _of(results: dict[str, Result], name: str | None) -> Result:
    """An engine's result; one without any numbers where there is none."""
    return results[name] if name is not None and name in results else Result(None, "", "")


def _peers(results: dict[str, Result]) -> Iterator[tuple[str, Result]]:
    return ((name, result) for name, result in results.items() if role(name) != "own")


def _closest_speed(results: dict[str, Result], own: Result) -> tuple[float | None, str]:
    """The smallest ratio to a float32 peer, and which peer that is."""
    fp32 = ((name, result) for name, result in _peers(results) if result.dtype == "float32")
    return min(_known((speed_ratio(own, peer), name) for name, peer in fp32), default=(None, ""))


def _closest_latency(results: dict[str, Result], own: Result, *, float32: bool) -> tuple[float | None, str]:
    """The largest ratio to a peer, and which peer that is. In any dtype, those with other vectors are no peers."""
    rivals = (
        (name, result)
        for name, result in _peers(results)
        if (result.dtype == "float32" if float32 else (result.mean_cosine or 0.0) >= _RIVAL_COSINE)
    )
    return max(_known((latency_ratio(own, peer), name) for name, peer in rivals), default=(None, ""))


def _known(pairs: Iterable[tuple[float | None, str]]) -> list[tuple[float, str]]:
    return [(value, name) for value, name in pairs if value is not None]


def _start(result: Result) -> float | None:
    return median(result.start_seconds) if result.start_seconds else None


def _gemm_share(own: Result, gemm: Gemm, shape: Shape, lengths: list[int]) -> float | None:
    """Percent of the rate of products: the model's arithmetic over its time, by round.

    What disturbs the products would flatter us, so without an undisturbed round their best rate counts.
    """
    run = own.runs.get("mixed")
    if run is None or not gemm.all or not lengths:
        return None
    per_text = sum(map(shape.flops, lengths)) / len(lengths) / 1e9
    reached = [per_text * speed for speed in run.texts_per_second]
    shares, quiet = by_round(reached, run.other_cores, gemm.all, gemm.other_cores)
    if not quiet:
        shares = [speed / max(gemm.all) for speed in reached]
    return 100 * median(shares)


def _scaling(own: Result) -> float | None:
    if len(own.by_cores) < 2:
        return None
    one, every = list(own.by_cores.values())[:2]
    found, _ = by_round(every.texts_per_second, every.other_cores, one.texts_per_second, one.other_cores)
    return median(found) if found else None


def _cores(own: Result) -> str:
    counts = list(own.by_cores)
    return f"{counts[1]} cores" if len(counts) == 2 else ""

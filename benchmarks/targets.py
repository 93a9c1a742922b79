"""Targets, and the verdict on each. Verdicts use the measured values; nothing is rounded in our favor."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.gemm import Gemm
from benchmarks.long_text import LongText, time_ratio
from benchmarks.models import Shape
from embedrt.bench.engines import OPENVINO_BFLOAT16, OWN, OWN_INT8, REFERENCE, role
from embedrt.bench.results import Result, by_round, efficiency, latency_ratio, speed_ratio

# The quality that int8 must keep.
MEAN_COSINE, MIN_COSINE, NDCG_POINTS = 0.999, 0.995, 0.3
# Instruction sets with which int8 kernels multiply four pairs at once, without saturation.
_DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}


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
class Measured:
    """Everything that the targets are about.

    Attributes:
        results: By engine.
        ndcg: nDCG@10 of the search by engine, in points of 100.
        gemm: The machine's own rate.
        shape: Of the model.
        lengths: Tokens of every mixed text, as many as the model reads.
        long_text: The text of 8,192 tokens, by engine.
        instruction_sets: Of the CPU, as libraries see them.
        trained: True if the weights are those of a real model. If not, there is no retrieval to compare, and the bounds
            of memory and start, which are about all-MiniLM-L6-v2, are left out.
    """

    results: Mapping[str, Result]
    ndcg: Mapping[str, float]
    gemm: Gemm
    shape: Shape
    lengths: list[int]
    long_text: Mapping[str, LongText]
    instruction_sets: list[str]
    trained: bool


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


def verdict_lines(rows: Iterable[Verdict], disturbed: Sequence[str]) -> Iterator[str]:
    """The targets, what was reached, and the verdict, for a terminal.

    Args:
        rows: The lines.
        disturbed: Engines without a single undisturbed round.
    """
    cells = [("target", "reached", "verdict"), *((row.target, row.reached, row.verdict) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(2)]
    for target, reached, verdict in cells:
        yield f"{target:{widths[0]}} | {reached:{widths[1]}} | {verdict}"
    if disturbed:
        yield f"These verdicts say little where they rest on {', '.join(disturbed)}: every round was disturbed."


def target_table(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A table of verdicts, as results files have them, in Markdown."""
    yield "| target | reached | verdict |"
    yield "|---|---|---|"
    for row in rows:
        verdict = {True: "met", False: "**missed**", None: "-"}[row["met"]]
        yield f"| {row['target']} | {row['reached']} | {verdict} |"


def verdicts(measured: Measured) -> Iterator[Verdict]:
    """The table, line by line."""
    results, sets = measured.results, set(measured.instruction_sets)
    own, int8, reference = (_of(results, name) for name in (OWN, OWN_INT8, REFERENCE))
    error = own.max_abs_error
    yield Verdict(
        "float32: largest error to sentence-transformers <= 2e-06",
        "not measured" if error is None else f"{error:.2e}",
        None if error is None else error <= 2e-6,
    )
    kept, quality = _quality(measured)
    yield Verdict(
        f"int8: mean cosine >= {MEAN_COSINE}, min >= {MIN_COSINE}"
        + (f", nDCG@10 within {NDCG_POINTS} points" if measured.trained else ""),
        quality,
        kept,
    )

    def of_int8(judged: Verdict) -> Verdict:
        """Miss every target of int8 if it does not keep the quality."""
        return Verdict(judged.target, "int8 does not keep the quality", False) if kept is False else judged

    bound, kernels = (2.2, "AVX-512") if "avx512f" in sets else (1.8, "AVX2")
    speed = speed_ratio(own, reference, "mixed")
    yield at_least(f"float32: mixed texts/s to sentence-transformers, with {kernels}", bound, speed)
    value, peer = _closest_speed(results, own)
    yield at_least("float32: mixed texts/s to the best float32 peer", 1.1, value, peer)
    yield at_least("float32: % of the machine's float32 matmul rate", 85, _gemm_share(measured, own), digits=1)
    if sets & _DOT_PRODUCTS:
        target = "int8: mixed texts/s to sentence-transformers float32, with VNNI or AMX"
        yield of_int8(at_least(target, 6, speed_ratio(int8, reference, "mixed")))
        rival = _of(results, OPENVINO_BFLOAT16)
        target = "int8: mixed texts/s to OpenVINO bfloat16 by hand, with VNNI or AMX"
        yield of_int8(at_least(target, 1.2, speed_ratio(int8, rival, "mixed")))
    else:
        target = "int8: mixed texts/s to embedrt's float32, without VNNI"
        yield of_int8(at_least(target, 1.6, speed_ratio(int8, own, "mixed")))
    for dtype, result in (("float32", own), ("int8", int8)):
        value, peer = _closest_latency(results, result)
        yield at_most(f"{dtype}: one short text, p50 to the best float32 peer", 0.8, value, peer)
    counts = ", ".join(map(str, sorted(own.by_cores)))
    target = "float32: mixed texts/s per core with all cores, to one core"
    yield at_least(target, 0.95, efficiency(own.by_cores), f"{counts} cores")
    if measured.trained:
        for dtype, result, most in (("float32", own, 300), ("int8", int8, 200)):
            yield at_most(f"{dtype}: process start to first vector, s", 0.3, _start(result))
            yield at_most(f"{dtype}: peak RSS, MB", most, result.peak_rss_mb, digits=0)
    long_own = measured.long_text.get(OWN)
    over = max(long_own.over_mb, default=None) if long_own is not None else None
    yield at_most("float32: one text of 8192 tokens, peak RSS over the model, MB", 300, over, digits=0)
    target = "float32: one text of 8192 tokens, time to sentence-transformers"
    yield at_most(target, 0.5, time_ratio(measured.long_text))


def _quality(measured: Measured) -> tuple[bool | None, str]:
    """True if int8 keeps the quality, None if that was not measured; and in words."""
    result, needs_search = _of(measured.results, OWN_INT8), measured.trained
    mean, least = result.mean_cosine, result.min_cosine
    if mean is None or least is None:
        return None, "not measured"
    good = mean >= MEAN_COSINE and least >= MIN_COSINE
    # Rounded down at the fifth digit, as 0.99899 must not be shown as 0.999.
    words = f"mean {math.floor(mean * 1e5) / 1e5:.5f}, min {math.floor(least * 1e5) / 1e5:.5f}"
    if not needs_search:
        return good, words
    if OWN_INT8 not in measured.ndcg or REFERENCE not in measured.ndcg:
        return (None if good else False), f"{words}, no nDCG"
    lost = measured.ndcg[OWN_INT8] - measured.ndcg[REFERENCE]
    return good and abs(lost) <= NDCG_POINTS, f"{words}, nDCG {lost:+.3f}"


def _of(results: Mapping[str, Result], name: str) -> Result:
    """An engine's result; one without any numbers where there is none."""
    return results.get(name) or Result(None, "", "")


def _float32_peers(results: Mapping[str, Result]) -> Iterator[tuple[str, Result]]:
    return ((name, result) for name, result in results.items() if role(name) != "own" and result.dtype == "float32")


def _closest_speed(results: Mapping[str, Result], own: Result) -> tuple[float | None, str]:
    """The smallest ratio to a float32 peer, and which peer that is."""
    found = ((speed_ratio(own, peer, "mixed"), name) for name, peer in _float32_peers(results))
    return min(_known(found), default=(None, ""))


def _closest_latency(results: Mapping[str, Result], own: Result) -> tuple[float | None, str]:
    """The largest ratio to a float32 peer, and which peer that is."""
    found = ((latency_ratio(own, peer), name) for name, peer in _float32_peers(results))
    return max(_known(found), default=(None, ""))


def _known(pairs: Iterable[tuple[float | None, str]]) -> list[tuple[float, str]]:
    return [(value, name) for value, name in pairs if value is not None]


def _start(result: Result) -> float | None:
    return median(result.start_seconds) if result.start_seconds else None


def _gemm_share(measured: Measured, own: Result) -> float | None:
    """Percent of the matmul rate: the model's arithmetic over its time, by round.

    Programs that disturb the matmuls would flatter us, so without an undisturbed round their best rate counts.
    """
    run, gemm = own.runs.get("mixed"), measured.gemm
    if run is None or not gemm.all or not measured.lengths:
        return None
    per_text = sum(map(measured.shape.flops, measured.lengths)) / len(measured.lengths) / 1e9
    reached = [per_text * speed for speed in run.texts_per_second]
    shares, quiet = by_round(reached, run.other_cores, gemm.all, gemm.other_cores)
    if not quiet:
        shares = [speed / max(gemm.all) for speed in reached]
    return 100 * median(shares)

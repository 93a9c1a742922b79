"""The results as text: quality and memory beside every speed."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import numpy as np

from benchmarks.engines import REFERENCE
from benchmarks.results import Gemm, Result, Run, by_round, ratios
from benchmarks.targets import Verdict

_NONE = "-"


def tables(results: dict[str, Result], gemm: Gemm, missing: Sequence[str]) -> Iterator[str]:
    """The lines of the report.

    Args:
        results: By engine.
        gemm: The machine's own rate.
        missing: Engines that are not installed.
    """
    width = max(map(len, [*results, *missing]))
    workloads = list(dict.fromkeys(workload for result in results.values() for workload in result.runs))
    for workload in workloads:
        yield (
            f"{workload:{width}}   texts/s (min-max)       ratio (min-max)  rounds   CPU ms/text  others  RSS MB  "
            "cosine min  mean      max error"
        )
        reference = results[REFERENCE].runs.get(workload) if REFERENCE in results else None
        for name, result in results.items():
            run = result.runs.get(workload)
            yield f"  {name:{width}} {_throughput(run, reference) if run and run.texts_per_second else 'failed'}"
        yield ""
    yield f"{'one text':{width}}   p50 ms   p99 ms  others   start to first vector, s   RSS MB then"
    for name, result in results.items():
        yield f"  {name:{width}} {_latency(result)}"
    yield ""
    yield from _scaling(results, width)
    yield from _search(results, width)
    yield from _soak(results, width)
    if gemm.all:
        yield f"matmuls in float32, GFLOP/s: one core {_spread(gemm.one, '.0f')}, all {_spread(gemm.all, '.0f')}"
        yield ""
    for name, result in results.items():
        yield f"  {name:{width}} {result.version}, {result.dtype}: {result.settings}"
        if result.error is not None:
            yield f"  {name:{width}} FAILED: {result.error}"
    for name in missing:
        yield f"  {name:{width}} not installed"


def target_table(verdicts: Iterable[Verdict], disturbed: Sequence[str]) -> Iterator[str]:
    """The targets, what was reached, and the verdict.

    Args:
        verdicts: The lines.
        disturbed: Engines without a single undisturbed round.
    """
    rows = [("target", "reached", "verdict"), *((row.target, row.reached, row.verdict) for row in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for target, reached, verdict in rows:
        yield f"{target:{widths[0]}} | {reached:{widths[1]}} | {verdict}"
    if disturbed:
        yield f"These verdicts say little where they rest on {', '.join(disturbed)}: every round was disturbed."


def _throughput(run: Run, reference: Run | None) -> str:
    relative, quiet = ratios(run, reference) if reference is not None else ([], 0)
    share = f"{quiet}/{len(run.texts_per_second)}"
    others, peak = _others(run.other_cores), _number(run.peak_rss_mb, ".0f")
    return (
        f"{_spread(run.texts_per_second, '.1f'):23} {_spread(relative, '.2f'):16} "
        f"{share if relative else _NONE:>6} {median(run.cpu_ms_per_text):13.1f}  {others:>6}  {peak:>6}  "
        f"{_number(run.min_cosine, '.6f'):>10}  {_number(run.mean_cosine, '.6f')} "
        f"{_number(run.max_abs_error, '.1e'):>10}"
    )


def _latency(result: Result) -> str:
    if not result.one_text_ms:
        return "failed"
    p50, p99 = np.percentile(np.concatenate(result.one_text_ms), [50, 99])
    start = _spread(result.start_seconds, ".2f")
    others, loaded = _others(result.one_text_other_cores), _number(result.loaded_rss_mb, ".0f")
    return f"{p50:8.2f} {p99:8.2f}  {others:>6}   {start:26} {loaded:>7}"


def _scaling(results: dict[str, Result], width: int) -> Iterator[str]:
    scaled = {name: result for name, result in results.items() if len(result.by_cores) == 2}
    if not scaled:
        return
    _, most = next(iter(scaled.values())).by_cores
    yield f"{'mixed':{width}}   texts/s with 1 core   with {most:24} ratio"
    for name, result in scaled.items():
        one, every = result.by_cores.values()
        found, _ = by_round(every.texts_per_second, every.other_cores, one.texts_per_second, one.other_cores)
        speeds = (_spread(run.texts_per_second, ".1f") for run in (one, every))
        yield f"  {name:{width}} {next(speeds):26} {next(speeds):29} {_spread(found, '.2f')}"
    yield ""


def _search(results: dict[str, Result], width: int) -> Iterator[str]:
    expected = results[REFERENCE].ndcg if REFERENCE in results else None
    if expected is None:
        return
    yield f"{'search':{width}}   nDCG@10   difference in points"
    for name, result in results.items():
        if result.ndcg is not None:
            yield f"  {name:{width}} {result.ndcg:8.2f}   {result.ndcg - expected:+.2f}"
        elif result.same_vectors:
            yield f"  {name:{width}} {_NONE:>8}   none: the same vectors to 1e-05"
    yield ""


def _soak(results: dict[str, Result], width: int) -> Iterator[str]:
    soaked = {name: result.soak for name, result in results.items() if result.soak is not None}
    if not soaked:
        return
    yield f"{'stream':{width}}      texts  texts/s  RSS MB"
    for name, soak in soaked.items():
        speed = soak.texts / soak.seconds
        yield f"  {name:{width}} {soak.texts:8}  {speed:7.1f}  {_number(soak.peak_rss_mb, '.0f'):>6}"
    yield ""


def _others(cores: Sequence[float | None]) -> str:
    """The most that others used in any round: a round was disturbed, or none was."""
    known = [value for value in cores if value is not None]
    return f"{max(known):.2f}" if known else _NONE


def _spread(values: Sequence[float], form: str) -> str:
    """Median, minimum and maximum."""
    if not values:
        return _NONE
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else f"{value:{form}}"

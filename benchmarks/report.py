"""The results as text: quality and memory beside every speed."""

from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from benchmarks.engines import REFERENCE
from benchmarks.measure import Result, Run, disturbed

_NONE = "-"


def tables(results: dict[str, Result], missing: Sequence[str]) -> Iterator[str]:
    """The lines of the report.

    Args:
        results: By engine.
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
    for name, result in results.items():
        yield f"  {name:{width}} {result.version}: {result.settings}"
        if result.error is not None:
            yield f"  {name:{width}} FAILED: {result.error}"
    for name in missing:
        yield f"  {name:{width}} not installed"


def ratios(run: Run, reference: Run) -> tuple[list[float], int]:
    """Speed relative to the reference, by round, because both sides of a round ran at nearly the same time.

    Returns:
        The ratios of the rounds in which neither side was disturbed, or of all if there are none; and how many were not
        disturbed.
    """
    rounds = list(
        zip(run.texts_per_second, run.other_cores, reference.texts_per_second, reference.other_cores, strict=False)
    )
    quiet = [ours / theirs for ours, a, theirs, b in rounds if not disturbed(a) and not disturbed(b)]
    return quiet or [ours / theirs for ours, _, theirs, _ in rounds], len(quiet)


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
    p50, p99 = np.percentile(result.one_text_ms, [50, 99])
    start = _spread(result.start_seconds, ".2f")
    others, loaded = _others(result.one_text_other_cores), _number(result.loaded_rss_mb, ".0f")
    return f"{p50:8.2f} {p99:8.2f}  {others:>6}   {start:26} {loaded:>7}"


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

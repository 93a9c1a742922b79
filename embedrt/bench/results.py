"""Measurements of each engine, and the comparison of two engines."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

# A turn counts as disturbed if anything but the engine used more than this share of all cores meanwhile.
_DISTURBED = 0.05


@dataclass
class Run:
    """One engine on one workload.

    Attributes:
        texts_per_second: By round.
        cpu_ms_per_text: CPU time of the whole process, by round.
        other_cores: Cores that everything but the engine used meanwhile, by round; None where that is not known.
        peak_rss_mb: Peak memory of the process up to the end of this workload, in 10^6 bytes.
        min_cosine: Smallest cosine to the reference.
        mean_cosine: Mean cosine to the reference.
        max_abs_error: Largest difference of a coordinate to the reference.
    """

    texts_per_second: list[float] = field(default_factory=list)
    cpu_ms_per_text: list[float] = field(default_factory=list)
    other_cores: list[float | None] = field(default_factory=list)
    peak_rss_mb: float | None = None
    min_cosine: float | None = None
    mean_cosine: float | None = None
    max_abs_error: float | None = None


@dataclass
class Soak:
    """A long stream of texts of any mix of lengths.

    Attributes:
        texts: How many.
        seconds: How long it took.
        peak_rss_mb: Peak memory of a process that did nothing else, in 10^6 bytes.
    """

    texts: int
    seconds: float
    peak_rss_mb: float | None


@dataclass
class Result:
    """Measurements of one engine.

    Attributes:
        version: Installed version.
        dtype: See `Engine`.
        settings: See `Engine`.
        error: Reason of a failure, or None. Earlier measurements are kept.
        start_seconds: From starting a process to its first vector, by round.
        loaded_rss_mb: Peak memory of the process up to its first vector, in 10^6 bytes.
        one_text_ms: Time of each call with one short text, by block of calls.
        one_text_other_cores: As in `Run`, by block of calls.
        runs: By workload.
        by_cores: Throughput with that many cores.
        soak: The long stream, or None.
    """

    version: str | None
    dtype: str
    settings: str
    error: str | None = None
    start_seconds: list[float] = field(default_factory=list)
    loaded_rss_mb: float | None = None
    one_text_ms: list[list[float]] = field(default_factory=list)
    one_text_other_cores: list[float | None] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    by_cores: dict[int, Run] = field(default_factory=dict)
    soak: Soak | None = None

    @property
    def max_abs_error(self) -> float | None:
        """Over all workloads; None if it is known of none."""
        return max((run.max_abs_error for run in self.runs.values() if run.max_abs_error is not None), default=None)

    @property
    def mean_cosine(self) -> float | None:
        """The smallest of the workloads' means."""
        return min((run.mean_cosine for run in self.runs.values() if run.mean_cosine is not None), default=None)

    @property
    def min_cosine(self) -> float | None:
        """Over all workloads."""
        return min((run.min_cosine for run in self.runs.values() if run.min_cosine is not None), default=None)

    @property
    def peak_rss_mb(self) -> float | None:
        """Over all workloads and the long stream."""
        peaks = [run.peak_rss_mb for run in self.runs.values()] + ([self.soak.peak_rss_mb] if self.soak else [])
        return max((peak for peak in peaks if peak is not None), default=None)


def disturbed(other_cores: float | None) -> bool:
    """True if other programs used so much of the machine that the numbers are not the engine's own."""
    return other_cores is not None and other_cores > _DISTURBED * (os.cpu_count() or 1)


def never_quiet(results: dict[str, Result], workload: str) -> list[str]:
    """The engines that were disturbed in every round: numbers that rest on them say little."""
    runs = {name: result.runs.get(workload) for name, result in results.items()}
    return [name for name, run in runs.items() if run and run.other_cores and all(map(disturbed, run.other_cores))]


def by_round(
    ours: Sequence[float],
    our_others: Sequence[float | None],
    theirs: Sequence[float],
    their_others: Sequence[float | None],
) -> tuple[list[float], int]:
    """One series relative to another, by round, because both sides of a round ran at nearly the same time.

    Returns:
        The ratios of the rounds in which neither side was disturbed, or of all if there are none; and how many were not
        disturbed.
    """
    rounds = list(zip(ours, our_others, theirs, their_others, strict=False))
    quiet = [own / other for own, a, other, b in rounds if not disturbed(a) and not disturbed(b)]
    return quiet or [own / other for own, _, other, _ in rounds], len(quiet)


def ratios(run: Run, reference: Run) -> tuple[list[float], int]:
    """Speed relative to another engine's; see `by_round`."""
    return by_round(run.texts_per_second, run.other_cores, reference.texts_per_second, reference.other_cores)


def latency_ratio(result: Result, reference: Result) -> float | None:
    """The p50 of one short text relative to another engine's: the median over the blocks."""
    ours, theirs = ([median(block) for block in some.one_text_ms] for some in (result, reference))
    found, _ = by_round(ours, result.one_text_other_cores, theirs, reference.one_text_other_cores)
    return median(found) if found else None


def speed_ratio(result: Result, reference: Result, workload: str) -> float | None:
    """Texts a second relative to another engine's: the median over the rounds."""
    if workload not in result.runs or workload not in reference.runs:
        return None
    found, _ = ratios(result.runs[workload], reference.runs[workload])
    return median(found) if found else None


def scaling_ratios(by_cores: Mapping[int, Run]) -> dict[int, list[float]]:
    """Throughput with each number of cores, relative to the smallest number in the same round; see `by_round`."""
    counts = sorted(by_cores)
    return {count: ratios(by_cores[count], by_cores[counts[0]])[0] for count in counts}


def efficiency(by_cores: Mapping[int, Run]) -> float | None:
    """Throughput of each core with the largest number of cores, relative to a core with the smallest."""
    if len(by_cores) < 2:
        return None
    few, many = min(by_cores), max(by_cores)
    found = scaling_ratios(by_cores)[many]
    return median(found) * few / many if found else None

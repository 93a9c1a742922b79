"""`embedrt tune`: the search for the fastest dtype, device, threads and token budget.

The accuracy of every pair of dtype and device is measured first; each pair has its own candidates. In each round all
candidates encode the same texts in turn, and `candidates` chooses which remain. Rounds take equal shares of the time.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, groupby, islice
from pathlib import Path
from time import perf_counter

import numpy as np

from embedrt.bundle.manifest import FLOAT32, Bundle, Manifest, open_bundle
from embedrt.bundle.reports import QualityReport, RankReport
from embedrt.engine import Device
from embedrt.engine.devices import DEVICES, find_device
from embedrt.engine.machine import available_threads
from embedrt.engine.placement import place
from embedrt.errors import DeviceError, EmbedrtError
from embedrt.hub.resolve import resolve
from embedrt.inputs.check import check_texts
from embedrt.inputs.values import shown, truth
from embedrt.run.runner import Runner
from embedrt.tasks.graph_values import graph_values
from embedrt.tune.candidates import (
    FEWEST_TEXTS,
    MOST_TEXTS,
    Candidate,
    best,
    candidates,
    mixture,
    rounds,
    survivors,
    texts_for,
)
from embedrt.tune.result import FORMAT_VERSION, Setting, Tuning, conditions, require_writable, write
from embedrt.types import Task, Vectors
from embedrt.verify.difference import difference
from embedrt.verify.parity import Item, read_parity_items, verify_route

logger = logging.getLogger("embedrt")

SECONDS = 60.0
MIN_TEXTS = 20
"""The minimum number of texts for a choice that also suits other texts."""

# The number of texts by default, and the maximum number of texts to measure accuracy with.
_DEFAULT_TEXTS, _ACCURACY_TEXTS = 256, 128
# Allowed loss of mean cosine similarity against the export, whose texts are not quite the same.
_SLACK = 0.002
# The number of times each candidate is timed in a round, and in the last round.
_VISITS, _LAST_VISITS = 2, 3
# Bounds on the latency measurement of a single text: number of runs, and seconds.
_SINGLES, _SINGLES_SECONDS = 15, 1.0


def tune(
    bundle: str | Path,
    texts: Iterable[str] | None = None,
    *,
    seconds: float = SECONDS,
    show_progress_bar: bool | None = None,
) -> Tuning:
    """Measure the fastest settings on this machine and store them beside the bundle; see `embedrt.tune`.

    Raises:
        ValueError: Too few texts, or no time.
        ModelNotFoundError: The name leads to no bundle here.
        BundleError: The bundle is damaged, or its folder cannot be written.
        ParityError: The vectors in float32 are wrong on every device.
        QualityError: The bundle has no float32, and its vectors are wrong on every device.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | np.number) or not seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {shown(seconds)}")
    generated = texts is None
    items = None if texts is None else check_texts(texts)[0]
    if items is not None and len(items) < MIN_TEXTS:
        raise ValueError(f"texts: expected at least {MIN_TEXTS}, got {len(items)}")
    if show_progress_bar is None:
        show_progress_bar = logger.isEnabledFor(logging.INFO)
    show_progress_bar = truth(show_progress_bar, "show_progress_bar")
    folder = resolve(bundle, local_files_only=True).absolute()
    opened = open_bundle(folder)
    manifest = opened.manifest
    require_writable(folder)
    if items is None:
        parity_texts = _texts(read_parity_items(opened.files, manifest.routes[_timed_route(manifest)], manifest.task))
        items = [*parity_texts, *mixture(parity_texts, max(0, _DEFAULT_TEXTS - len(parity_texts)))]
    # Shuffled, so that the first few texts have all lengths.
    items = random.Random(0).sample(items, min(len(items), MOST_TEXTS))  # noqa: S311
    with _progress(show_progress_bar) as advance:
        tuning = _Search(
            opened, _items(items, manifest.task), perf_counter() + seconds, advance, generated=generated
        ).run()
    write(folder, tuning)
    return tuning


def _texts(items: Sequence[Item]) -> list[str]:
    """All texts of a list of texts or pairs, without duplicates."""
    return list(dict.fromkeys(text for item in items for text in ([item] if isinstance(item, str) else item)))


def _items(texts: list[str], task: Task) -> list[Item]:
    """The texts; for a model that scores pairs, each text with the one before it."""
    return [(texts[i - 1], text) for i, text in enumerate(texts)] if task == "score" else list(texts)


def _timed_route(manifest: Manifest) -> str:
    """The route to time: that of calls without a task, else of documents, else the first."""
    return manifest.tasks.get("", manifest.tasks.get("document", next(iter(manifest.routes))))


def _pair(dtype: str, device: str) -> str:
    return f"{dtype} on {device}"


@dataclass(frozen=True)
class _Accuracy:
    """Cosine similarities of a dtype on a device to float32, and a rough time per text."""

    mean_cosine: float
    min_cosine: float
    seconds_per_text: float


class _Search:
    """One search: measure the accuracy of every pair of dtype and device, then time the pairs that work.

    Args:
        bundle: The bundle.
        texts: The texts, or pairs, in random order.
        deadline: The time to finish, by `perf_counter`.
        advance: Called with the current step and the fraction of the work that is done.
        generated: True if the texts are the parity texts and generated ones.
    """

    def __init__(
        self,
        bundle: Bundle,
        texts: Sequence[Item],
        deadline: float,
        advance: Callable[[str, float], None],
        *,
        generated: bool,
    ) -> None:
        self._files = bundle.files
        self._manifest = bundle.manifest
        self._route = _timed_route(bundle.manifest)
        self._texts = texts
        self._generated = generated
        self._deadline = deadline
        self._advance = advance
        self._excluded: dict[str, str] = {}
        self._latencies: dict[tuple[str, str, int], float] = {}  # of one text, in milliseconds
        self._rates: dict[Candidate, float] = {}
        self._usual = find_device(None)
        self._devices = {self._usual.name: self._usual, **_available()}

    def run(self) -> Tuning:
        """Run the search."""
        accuracies = self._measure_accuracies()
        groups = {pair: candidates(pair[0], self._devices[pair[1]], available_threads()) for pair in accuracies}
        chosen = self._time(groups, max(accuracy.seconds_per_text for accuracy in accuracies.values()))

        def setting(candidate: Candidate) -> Setting:
            accuracy = accuracies[candidate.dtype, candidate.device]
            return Setting(
                candidate.dtype,
                candidate.device,
                candidate.threads,
                candidate.max_tokens,
                round(self._rates[candidate], 3),
                round(self._latencies[candidate.engine], 3),
                accuracy.mean_cosine,
                accuracy.min_cosine,
            )

        return Tuning(
            format_version=FORMAT_VERSION,
            conditions=conditions(self._manifest),
            usual_device=self._usual.name,
            usual_dtype=self._manifest.default_dtype,
            texts=len(self._texts),
            settings=tuple(map(setting, chosen)),
            others=tuple(setting(candidate) for candidate in self._rates if candidate not in chosen),
            excluded=self._excluded,
        )

    def _measure_accuracies(self) -> dict[tuple[str, str], _Accuracy]:
        """Measure the accuracy of every dtype on every device; pairs that fail are excluded.

        Raises:
            EmbedrtError: The usual dtype fails on every device; the error of the first one.
        """
        accuracies: dict[tuple[str, str], _Accuracy] = {}
        reference: Vectors | None = None
        failed: EmbedrtError | None = None
        pairs = [(dtype, device) for device in self._devices for dtype in _dtypes(self._manifest, device)]
        usual = self._manifest.default_dtype
        for dtype, device in sorted(pairs, key=lambda pair: pair[0] != usual):
            if not accuracies and failed is not None and dtype != usual:
                break
            self._advance(f"checking {_pair(dtype, device)}", 0.0)
            try:
                vectors, took = self._vectors(dtype, device)
            except EmbedrtError as error:
                failed = failed or error
                self._exclude(_pair(dtype, device), error)
                continue
            reference = vectors if reference is None and dtype == FLOAT32 else reference
            accuracies[dtype, device] = _Accuracy(*self._cosines(dtype, reference, vectors), took)
        if not accuracies and failed is not None:
            raise failed
        return accuracies

    def _cosines(self, dtype: str, reference: Vectors | None, vectors: Vectors) -> tuple[float, float]:
        """Mean and lowest cosine similarity to float32: over the texts, or as measured at export.

        Parity texts include many edge cases. The export measured natural texts, which is more representative as long
        as this machine computes the same vectors. Without float32 in the bundle, `verify_route` has checked that.
        """
        proofs = [
            route.variants_in(dtype)[0].proof for route in self._manifest.routes.values() if dtype in route.dtypes
        ]
        if any(isinstance(proof, RankReport) for proof in proofs):
            return 1.0, 1.0  # the order of scores, which the export measured, is what counts
        reports = [proof for proof in proofs if isinstance(proof, QualityReport)]
        reported = bool(reports) and len(reports) == len(self._manifest.routes)
        if reference is not None:
            cosines = difference(reference, vectors).cosine
            at_export = min((report.parity_mean_cosine for report in reports), default=1.0) - _SLACK
            if not (reported and self._generated and cosines.mean() >= at_export):
                return float(cosines.mean()), float(cosines.min())
        if not reported:
            return 1.0, 1.0  # within the tolerance of the parity report
        return min(report.mean_cosine for report in reports), min(report.min_cosine for report in reports)

    def _vectors(self, dtype: str, device: str) -> tuple[Vectors, float]:
        """Encode the texts with all routes; return the concatenated vectors and the seconds per text.

        Raises:
            EmbedrtError: The vectors of the reference dtype fail the parity check.
        """
        texts, vectors, took = self._texts[:_ACCURACY_TEXTS], [], 0.0
        for name, route in self._manifest.routes.items():
            placement = place(self._files.folder, route, self._devices[device], dtype, size_of=self._manifest.size_of)
            runner = Runner(self._files, route, self._manifest, placement)
            if dtype == FLOAT32 or FLOAT32 not in self._manifest.dtypes:
                verify_route(runner)
            else:
                graph_values(runner, texts[:FEWEST_TEXTS])
            start = perf_counter()
            vectors.append(graph_values(runner, texts))
            if name == self._route:
                took = (perf_counter() - start) / len(texts)
        return np.concatenate(vectors), took

    def _time(self, groups: Mapping[tuple[str, str], list[Candidate]], seconds_per_text: float) -> list[Candidate]:
        """Time the candidates, and return the best one of every pair."""
        left = dict(groups)
        total = max(rounds(len(group)) for group in groups.values())
        for number in range(total):
            last = number == total - 1
            running = [candidate for group in left.values() for candidate in group]
            visits = _LAST_VISITS if last else _VISITS
            seconds = (self._deadline - perf_counter()) / (total - number)
            largest = max(candidate.max_tokens for candidate in running)
            count = texts_for(seconds, visits * len(running), seconds_per_text, largest)
            start = perf_counter()
            rates = self._round(running, visits, list(islice(cycle(self._texts), count)), number / total, 1 / total)
            seconds_per_text = (perf_counter() - start) / (visits * len(running) * count)
            self._rates |= rates
            working = {pair: {c: rates[c] for c in group if c in rates} for pair, group in left.items()}
            choose = _only if last else survivors
            left = {pair: choose(group) for pair, group in working.items() if group}
        return [candidate for group in left.values() for candidate in group]

    def _round(
        self, running: list[Candidate], visits: int, texts: list[Item], done: float, part: float
    ) -> dict[Candidate, float]:
        """Median throughput in texts/s of every candidate that works, measured in alternating order."""
        rates: dict[Candidate, list[float]] = {candidate: [] for candidate in running}
        for visit in range(visits):
            order = [candidate for candidate in running[:: 1 if visit % 2 == 0 else -1] if candidate in rates]
            for engine, group in groupby(order, key=lambda candidate: candidate.engine):
                runner = None  # frees the sessions before the next ones are created
                for candidate in group:
                    self._advance(f"timing {candidate}", done)
                    done += part / (visits * len(running))
                    try:
                        runner = runner or self._warm(engine)
                        start = perf_counter()
                        graph_values(runner.with_max_tokens(candidate.max_tokens), texts)
                        rates[candidate].append(len(texts) / (perf_counter() - start))
                    except EmbedrtError as error:
                        self._exclude(str(candidate), error)
                        del rates[candidate]
        return {candidate: float(np.median(measured)) for candidate, measured in rates.items()}

    def _warm(self, engine: tuple[str, str, int]) -> Runner:
        """Make a runner and warm up its sessions; for a new engine, also measure the latency of one text."""
        dtype, device, threads = engine
        route = self._manifest.routes[self._route]
        placement = place(self._files.folder, route, self._devices[device], dtype, threads)
        runner = Runner(self._files, route, self._manifest, placement)
        single = runner.with_max_tokens(1)  # one text per batch, so that every thread gets some
        graph_values(single, list(islice(cycle(self._texts), max(FEWEST_TEXTS, 2 * threads))))
        if engine not in self._latencies:
            text = sorted(self._texts, key=lambda item: len("".join(item)))[len(self._texts) // 2]
            graph_values(single, [text])
            times: list[float] = []
            while len(times) < _SINGLES and sum(times) < _SINGLES_SECONDS:
                start = perf_counter()
                graph_values(single, [text])
                times.append(perf_counter() - start)
            self._latencies[engine] = 1000 * float(np.median(times))
        return runner

    def _exclude(self, what: str, error: EmbedrtError) -> None:
        self._excluded[what] = str(error).splitlines()[0]
        logger.warning("%s is excluded: %s", what, self._excluded[what])


def _only(rates: Mapping[Candidate, float]) -> list[Candidate]:
    return [best(rates)]


def _dtypes(manifest: Manifest, device: str) -> list[str]:
    """The dtypes of the bundle, and those that a device computes from them."""
    computes = DEVICES[device].computes
    computed = [dtype for dtype, stored in computes.items() if stored in manifest.dtypes]
    return list(dict.fromkeys([*manifest.dtypes, *computed]))


def _available() -> dict[str, Device]:
    """The devices of this machine by name."""
    devices = {}
    for name in DEVICES:
        with suppress(DeviceError):
            devices[name] = find_device(name)
    return devices


@contextmanager
def _progress(show: bool) -> Iterator[Callable[[str, float], None]]:
    if not show:
        yield lambda *_: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=100, desc="Tuning", bar_format="{desc} {percentage:3.0f}%|{bar:30}| {elapsed}{postfix}") as bar:

        def advance(what: str, done: float) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update(round(100 * done) - bar.n)
            bar.refresh()

        yield advance
        bar.set_postfix_str("", refresh=False)
        bar.update(100 - bar.n)

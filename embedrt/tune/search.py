"""`embedrt tune`: which dtype, device, threads and token budget are fastest here.

Every pair of dtype and device is judged by its vectors, and has candidates of its own. In each round all of them
encode the same texts in turn, and `candidates` decides which stay. Rounds take equal parts of the time.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, groupby, islice
from pathlib import Path
from time import perf_counter

import numpy as np

from embedrt.bundle.manifest import FLOAT32, Manifest, read_bundle
from embedrt.bundle.reports import QualityReport
from embedrt.engine import Device
from embedrt.engine.devices import DEVICES, find_device
from embedrt.engine.machine import available_threads
from embedrt.engine.placement import place
from embedrt.errors import DeviceError, EmbedrtError
from embedrt.hub.resolve import resolve
from embedrt.inputs.check import check_texts
from embedrt.run.runner import Runner
from embedrt.tasks.embed import graph_vectors
from embedrt.tune import result as tuned
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
from embedrt.tune.result import Setting, Tuning
from embedrt.types import Vectors
from embedrt.verify.difference import difference
from embedrt.verify.parity import read_parity_texts, verify_route

logger = logging.getLogger("embedrt")

SECONDS = 60.0
MIN_TEXTS = 20
"""Fewer say too little about the lengths of texts that are still to come."""

# How many texts there are of the built-in kind, and over how many of any kind quality is measured at most.
_MADE, _JUDGED = 256, 128
# How far the mean cosine here may be below that of the export, over texts that are not quite the same.
_SLACK = 0.002
# How often each candidate is timed in a round, and in the last.
_VISITS, _LAST_VISITS = 2, 3
# One text alone is timed so often at most, and for so many seconds.
_SINGLES, _SINGLES_SECONDS = 15, 1.0


def tune(
    bundle: str | Path,
    texts: Iterable[str] | None = None,
    *,
    seconds: float = SECONDS,
    show_progress_bar: bool | None = None,
) -> Tuning:
    """Measures which dtype, device, threads and token budget are fastest here, and keeps the result at the bundle.

    From then on `Embedder` takes them where its arguments leave the choice, as long as processor, software and bundle
    stay the same. Its dtype stays the usual one unless it is told another, or "auto".

    Args:
        bundle: A bundle's folder, or a name in the local store.
        texts: Texts like those to encode later, at least `MIN_TEXTS`. None takes those of the bundle's proof, and
            random ones of mixed lengths made of their words.
        seconds: About how long it may take. Proving a large model on every device may take longer.
        show_progress_bar: None shows it where the logger "embedrt" is at level INFO or below.

    Returns:
        What was measured, as it is stored.

    Raises:
        ValueError: Too few texts, or no time.
        ModelNotFoundError: The name leads to no bundle here.
        BundleError: The bundle is damaged, or its folder cannot be written.
        ParityError: The vectors in float32 are wrong on every device.
        QualityError: The bundle has no float32, and its vectors are wrong on every device.
    """
    if not seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {seconds!r}")
    made_up = texts is None
    items = None if texts is None else check_texts(texts)[0]
    if items is not None and len(items) < MIN_TEXTS:
        raise ValueError(f"texts: {len(items)}, but a choice that holds for other texts needs {MIN_TEXTS} or more")
    folder = resolve(bundle, local_files_only=True).absolute()
    manifest = read_bundle(folder)
    tuned.require_writable(folder)
    if items is None:
        proof = read_parity_texts(folder, manifest.routes[_timed_route(manifest)])
        items = [*proof, *mixture(proof, max(0, _MADE - len(proof)))]
    # In another order, so that the first few are of all lengths.
    items = random.Random(0).sample(items, min(len(items), MOST_TEXTS))  # noqa: S311
    if show_progress_bar is None:
        show_progress_bar = logger.isEnabledFor(logging.INFO)
    with _progress(show_progress_bar) as advance:
        tuning = _Search(folder, manifest, items, perf_counter() + seconds, advance, made_up=made_up).run()
    tuned.write(folder, tuning)
    return tuning


def _timed_route(manifest: Manifest) -> str:
    """The route whose speed counts: that of calls without a task, of documents, or the first."""
    return manifest.tasks.get("", manifest.tasks.get("document", next(iter(manifest.routes))))


def _pair(dtype: str, device: str) -> str:
    return f"{dtype} on {device}"


@dataclass(frozen=True)
class _Verdict:
    """What is known of a dtype on a device before it is timed: cosines to float32, and about how long a text takes."""

    mean_cosine: float
    min_cosine: float
    seconds_per_text: float


class _Search:
    """One tuning: first every pair of dtype and device is judged, then the good ones are timed.

    Args:
        folder: The bundle.
        manifest: What it says of itself.
        texts: The texts, in an order without meaning.
        deadline: When to be done, on `perf_counter`'s clock.
        advance: Called with a line about what is going on, and with the share of the work that is done.
        made_up: Whether the texts are those of the proof and others made of them.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        texts: list[str],
        deadline: float,
        advance: Callable[[str, float], None],
        *,
        made_up: bool,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._route = _timed_route(manifest)
        self._texts = texts
        self._made_up = made_up
        self._deadline = deadline
        self._advance = advance
        self._excluded: dict[str, str] = {}
        self._singles: dict[tuple[str, str, int], float] = {}  # in milliseconds
        self._rates: dict[Candidate, float] = {}
        self._usual = find_device(None)
        self._devices = {self._usual.name: self._usual, **_available()}

    def run(self) -> Tuning:
        verdicts = self._judged()
        groups = {pair: candidates(pair[0], self._devices[pair[1]], available_threads()) for pair in verdicts}
        chosen = self._timed(groups, max(verdict.seconds_per_text for verdict in verdicts.values()))

        def setting(candidate: Candidate) -> Setting:
            verdict = verdicts[candidate.dtype, candidate.device]
            return Setting(
                candidate.dtype,
                candidate.device,
                candidate.threads,
                candidate.max_tokens,
                round(self._rates[candidate], 3),
                round(self._singles[candidate.engine], 3),
                verdict.mean_cosine,
                verdict.min_cosine,
            )

        return Tuning(
            format_version=tuned.FORMAT_VERSION,
            conditions=tuned.conditions(self._manifest),
            usual_device=self._usual.name,
            usual_dtype=self._manifest.default_dtype,
            texts=len(self._texts),
            settings=tuple(map(setting, chosen)),
            others=tuple(setting(candidate) for candidate in self._rates if candidate not in chosen),
            excluded=self._excluded,
        )

    def _judged(self) -> dict[tuple[str, str], _Verdict]:
        """Computes the vectors of every dtype on every device. What fails or is wrong is excluded.

        Raises:
            EmbedrtError: The usual dtype works nowhere; what the first device said.
        """
        verdicts: dict[tuple[str, str], _Verdict] = {}
        reference: Vectors | None = None
        failed: EmbedrtError | None = None
        pairs = [(dtype, device) for device in self._devices for dtype in _dtypes(self._manifest, device)]
        usual = self._manifest.default_dtype
        for dtype, device in sorted(pairs, key=lambda pair: pair[0] != usual):
            if not verdicts and failed is not None and dtype != usual:
                break
            self._advance(f"judging {_pair(dtype, device)}", 0.0)
            try:
                vectors, took = self._vectors(dtype, device)
            except EmbedrtError as error:
                failed = failed or error
                self._exclude(_pair(dtype, device), error)
                continue
            reference = vectors if reference is None and dtype == FLOAT32 else reference
            verdicts[dtype, device] = _Verdict(*self._cosines(dtype, reference, vectors), took)
        if not verdicts and failed is not None:
            raise failed
        return verdicts

    def _cosines(self, dtype: str, reference: Vectors | None, vectors: Vectors) -> tuple[float, float]:
        """Mean and least cosine to float32: over the texts, or as the export found them.

        Texts of the proof are odd on purpose. The export judged by natural ones, which says more, as long as this
        machine computes what that one did. Without float32 in the bundle, `verify_route` has made sure of that.
        """
        proofs = [
            route.variants_in(dtype)[0].proof for route in self._manifest.routes.values() if dtype in route.dtypes
        ]
        reports = [proof for proof in proofs if isinstance(proof, QualityReport)]
        judged = bool(reports) and len(reports) == len(self._manifest.routes)
        if reference is not None:
            found = difference(reference, vectors).cosine
            as_exported = min((report.parity_mean_cosine for report in reports), default=1.0) - _SLACK
            if not (judged and self._made_up and found.mean() >= as_exported):
                return float(found.mean()), float(found.min())
        if not judged:
            return 1.0, 1.0  # within the tolerance of its parity report
        return min(report.mean_cosine for report in reports), min(report.min_cosine for report in reports)

    def _vectors(self, dtype: str, device: str) -> tuple[Vectors, float]:
        """The vectors of the texts by all routes, one below the other, and the seconds that a text took.

        Raises:
            EmbedrtError: Those that others are compared with are not what the bundle's proof says.
        """
        texts, vectors, took = self._texts[:_JUDGED], [], 0.0
        for name, route in self._manifest.routes.items():
            placement = place(self._folder, route, self._devices[device], dtype)
            runner = Runner(self._folder, route, self._manifest, placement)
            if dtype == FLOAT32 or FLOAT32 not in self._manifest.dtypes:
                verify_route(runner)
            else:
                graph_vectors(runner, texts[:FEWEST_TEXTS])
            start = perf_counter()
            vectors.append(graph_vectors(runner, texts))
            if name == self._route:
                took = (perf_counter() - start) / len(texts)
        return np.concatenate(vectors), took

    def _timed(self, groups: Mapping[tuple[str, str], list[Candidate]], seconds_per_text: float) -> list[Candidate]:
        """The best candidate of every pair."""
        left = dict(groups)
        total = max(rounds(len(group)) for group in groups.values())
        for number in range(total):
            last = number == total - 1
            running = [candidate for group in left.values() for candidate in group]
            visits = _LAST_VISITS if last else _VISITS
            seconds = (self._deadline - perf_counter()) / (total - number)
            count = texts_for(seconds, visits * len(running), seconds_per_text)
            start = perf_counter()
            rates = self._round(running, visits, list(islice(cycle(self._texts), count)), number / total, 1 / total)
            seconds_per_text = (perf_counter() - start) / (visits * len(running) * count)
            self._rates |= rates
            working = {pair: {c: rates[c] for c in group if c in rates} for pair, group in left.items()}
            choose = _only if last else survivors
            left = {pair: choose(group) for pair, group in working.items() if group}
        return [candidate for group in left.values() for candidate in group]

    def _round(
        self, running: list[Candidate], visits: int, texts: list[str], done: float, part: float
    ) -> dict[Candidate, float]:
        """Texts per second of every candidate that works: the median of its visits, which take turns."""
        rates: dict[Candidate, list[float]] = {candidate: [] for candidate in running}
        for visit in range(visits):
            order = [candidate for candidate in running[:: 1 if visit % 2 == 0 else -1] if candidate in rates]
            for engine, group in groupby(order, key=lambda candidate: candidate.engine):
                runner = None  # its sessions go before the next are made
                for candidate in group:
                    self._advance(f"timing {candidate}", done)
                    done += part / (visits * len(running))
                    try:
                        runner = runner or self._warm(engine)
                        start = perf_counter()
                        graph_vectors(runner.with_max_tokens(candidate.max_tokens), texts)
                        rates[candidate].append(len(texts) / (perf_counter() - start))
                    except EmbedrtError as error:
                        self._exclude(str(candidate), error)
                        del rates[candidate]
        return {candidate: float(np.median(measured)) for candidate, measured in rates.items()}

    def _warm(self, engine: tuple[str, str, int]) -> Runner:
        """A runner whose sessions are made. At the first time one text alone is timed too."""
        dtype, device, threads = engine
        route = self._manifest.routes[self._route]
        placement = place(self._folder, route, self._devices[device], dtype, threads)
        runner = Runner(self._folder, route, self._manifest, placement)
        single = runner.with_max_tokens(1)  # every text is a batch, so that every thread gets some
        graph_vectors(single, list(islice(cycle(self._texts), max(FEWEST_TEXTS, 2 * threads))))
        if engine not in self._singles:
            text = sorted(self._texts, key=len)[len(self._texts) // 2]
            graph_vectors(single, [text])
            times: list[float] = []
            while len(times) < _SINGLES and sum(times) < _SINGLES_SECONDS:
                start = perf_counter()
                graph_vectors(single, [text])
                times.append(perf_counter() - start)
            self._singles[engine] = 1000 * float(np.median(times))
        return runner

    def _exclude(self, what: str, error: EmbedrtError) -> None:
        self._excluded[what] = str(error).splitlines()[0]
        logger.warning("%s is left out: %s", what, self._excluded[what])


def _only(rates: Mapping[Candidate, float]) -> list[Candidate]:
    return [best(rates)]


def _dtypes(manifest: Manifest, device: str) -> list[str]:
    """The dtypes of the bundle, and those that a device may compute from float32."""
    return list(dict.fromkeys([*manifest.dtypes, *DEVICES[device].computes]))


def _available() -> dict[str, Device]:
    """The devices that this machine has."""
    found = {}
    for name in DEVICES:
        with suppress(DeviceError):
            found[name] = find_device(name)
    return found


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

"""A soak: random calls of the whole API with random faults, for as long as asked.

    python -m tests.endurance.soak --minutes 30

Faults are interrupts and deadlines at any moment, full disks, killed workers of pools, and bundles that are replaced
while they are loaded, copied and encoded with. Three threads encode all the while. Every vector is compared with that
of its text alone, from the model that its fingerprint names. A call that hangs ends the run with the stacks of all
threads; memory, threads, descriptors and shared memory may not grow from the middle of the run to its end.
"""

import argparse
import asyncio
import faulthandler
import gc
import pickle
import random
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import embedrt
from embedrt import Embedder, EmbeddingsError, EmbedrtError, load_embeddings, save_embeddings
from embedrt.bundle.atomic import publish
from embedrt.bundle.staging import staging
from embedrt.cli.main import INTERRUPTED
from embedrt.cli.main import main as command
from tests.kit.models import WORDS, make_model

BOUND = 2e-6
"""Largest difference of a coordinate between batches."""
GROWTH = {"memory MB": 24.0, "threads": 0.0, "descriptors": 16.0, "shared memory": 0.0}
"""Largest growth from the middle of a run to its end. Python leaks pipes if the start of a process is interrupted."""
HANG_S = 120
_THREADS = 3
_ENOUGH = 20  # findings that end a run
_LONG_S = 120  # a shorter run still warms up, and ends before what was interrupted has come to its end
_PROMPT = "query: "


class DeadlineError(Exception):
    """What a caller's own signal handler raises."""


@dataclass
class Soak:
    """The state of a run.

    Attributes:
        folder: Everything is in it.
        draw: The source of chance.
        texts: The texts.
        expected: Per fingerprint, and per prompt, the vector of each text alone.
        model: The model that is loaded.
        wrong: Descriptions of wrong results and errors.
        done: Calls by name.
        faults: Faults by name.
        samples: Time since the start, as a share, and what may not grow.
        ended: Set at the end.
    """

    folder: Path
    draw: random.Random
    texts: list[str]
    expected: dict[str, dict[str, NDArray[np.float32]]]
    model: Embedder
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def some(self, most: int) -> list[int]:
        """Random indexes of texts."""
        return [self.draw.randrange(len(self.texts)) for _ in range(self.draw.randint(1, most))]

    def check(self, model: Embedder, rows: list[int], vectors: Any, prompt: str = "") -> None:
        """Compare vectors with those of each text alone."""
        wanted = self.expected[model.fingerprint][prompt][rows]
        error = float(np.abs(np.asarray(vectors, np.float32) - wanted).max(initial=0.0))
        if not error <= BOUND:
            self.wrong.append(f"a vector is wrong by {error}")


def _lists(soak: Soak, model: Embedder) -> None:
    rows = soak.some(900)
    soak.check(model, rows, model.encode([soak.texts[i] for i in rows], batch_size=soak.draw.choice([1, 7, 32, 500])))


def _one(soak: Soak, model: Embedder) -> None:
    for row in soak.some(40):
        soak.check(model, [row], model.encode(soak.texts[row])[None])


def _query(soak: Soak, model: Embedder) -> None:
    rows = soak.some(60)
    soak.check(model, rows, model.encode([soak.texts[i] for i in rows], prompt=_PROMPT), _PROMPT)


def _stream(soak: Soak, model: Embedder) -> None:
    rows = soak.some(300)
    soak.check(model, rows, list(model.encode_iter((soak.texts[i] for i in rows), batch_size=64)))


def _stopped_stream(soak: Soak, model: Embedder) -> None:
    """A stream that nobody reads to its end."""
    stream = model.encode_iter(soak.texts, batch_size=16)
    soak.check(model, [0], next(stream)[None])


def _async(soak: Soak, model: Embedder) -> None:
    rows = soak.some(40)

    async def encode() -> None:
        calls = [model.aencode(soak.texts[i]) for i in rows]
        for row, vector in zip(rows, await asyncio.gather(*calls), strict=True):
            soak.check(model, [row], vector[None])

    # In a thread of its own: an interrupt in the making of an event loop is not what is tried here.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, encode()).result()


def _dimensions(soak: Soak, model: Embedder) -> None:
    rows = soak.some(30)
    vectors = model.encode([soak.texts[i] for i in rows], truncate_dim=8)
    if vectors.shape != (len(rows), 8):
        soak.wrong.append(f"shape {vectors.shape}")


def _tokens(soak: Soak, model: Embedder) -> None:
    rows = soak.some(20)
    items = [soak.texts[i] for i in rows]
    found = model.encode(items, output_value="token_embeddings")
    if [len(item) for item in found] != model.token_count(items):
        soak.wrong.append("token embeddings of other lengths than the texts")


def _lengths(soak: Soak, model: Embedder) -> None:
    """A copy with another limit; short texts have the same vectors."""
    try:
        other = pickle.loads(pickle.dumps(model))
    except embedrt.BundleError as error:
        if "another bundle than when the model was pickled" in str(error):  # it was replaced, and this is told
            return
        raise
    with other:
        other.max_seq_length = soak.draw.choice([8, 20, 40])
        vectors = other.encode(["one two", "three"])
        alone = model.encode(["one two", "three"])
    if not np.abs(vectors - alone).max() <= BOUND:
        soak.wrong.append("another limit changed a short text")


def _long(soak: Soak, model: Embedder) -> None:
    model.encode_long([" ".join(soak.texts[i] for i in soak.some(30))], overlap=4)
    model.encode('{"a":1,"b":[2,3]},' * soak.draw.randint(1, 20_000))


def _search(soak: Soak, model: Embedder) -> None:
    rows = soak.some(100)
    vectors = soak.expected[model.fingerprint][""][rows]
    hits = embedrt.semantic_search(vectors[:1], vectors, top_k=1)
    if not hits[0][0]["score"] >= 1 - 1e-4:
        soak.wrong.append(f"a text is not most similar to itself: {hits[0][0]}")


def _save(soak: Soak, model: Embedder) -> None:
    rows = soak.some(200)
    vectors = soak.expected[model.fingerprint][""][rows]
    path = soak.folder / f"v{soak.draw.choice(['.npy', '.safetensors', '.parquet'])}"
    texts = [soak.texts[i] for i in rows]
    save_embeddings(path, texts, vectors, model)
    loaded = load_embeddings(path)
    if loaded.texts != texts or not np.array_equal(loaded.vectors, vectors):
        soak.wrong.append(f"{path.name} has other vectors than were saved")


def _command(soak: Soak, model: Embedder) -> None:
    del model
    target = soak.folder / "out.npy"
    if status := command(["encode", "-m", str(soak.folder / "live"), "one", "two", "--output", str(target)]):
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        raise OSError(f"embedrt encode: status {status}")
    if np.load(target).shape != (2, 32):
        soak.wrong.append("the command wrote another shape")


def _pretrained(soak: Soak, model: Embedder) -> None:
    target = soak.folder / f"copy-{sum(soak.done.values())}"
    model.save_pretrained(target)
    with Embedder(target, verify="always") as other:
        rows = soak.some(5)
        soak.check(other, rows, other.encode([soak.texts[i] for i in rows]))


def _pool(soak: Soak, model: Embedder) -> None:
    rows = soak.some(800)
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        killed = soak.draw.random() < 0.5
        timer = threading.Timer(soak.draw.uniform(0, 0.3), _kill_a_child, [soak])
        if killed:
            timer.start()
        try:
            soak.check(model, rows, model.encode([soak.texts[i] for i in rows], pool=pool, chunk_size=40))
        finally:
            timer.cancel()
            if killed:
                timer.join()


def _kill_a_child(soak: Soak) -> None:
    import multiprocessing

    for child in multiprocessing.active_children()[:1]:
        soak.faults["killed worker"] += 1
        child.kill()


def _tokenizer(soak: Soak, model: Embedder) -> None:
    items = [soak.texts[i] for i in soak.some(20)]
    if [len(ids) for ids in model.tokenizer(items)["input_ids"]] != model.token_count(items, truncation=False):
        soak.wrong.append("the tokenizer for scripts counts other tokens")


def _verify(soak: Soak, model: Embedder) -> None:
    del soak
    embedrt.verify(model)


CALLS: dict[str, tuple[int, Callable[[Soak, Embedder], None]]] = {
    "lists": (20, _lists),
    "one text": (20, _one),
    "prompt": (8, _query),
    "stream": (8, _stream),
    "stopped stream": (4, _stopped_stream),
    "async": (6, _async),
    "truncate_dim": (4, _dimensions),
    "token embeddings": (4, _tokens),
    "max_seq_length, pickle": (4, _lengths),
    "long texts": (4, _long),
    "search": (4, _search),
    "save, load": (8, _save),
    "embedrt encode": (3, _command),
    "save_pretrained": (3, _pretrained),
    "pool": (1, _pool),
    "tokenizer": (3, _tokenizer),
    "verify": (1, _verify),
}
"""Calls by name, with their weights."""


def _replace(soak: Soak) -> None:
    """Put the other model in the place of the live one, and load it again now and then."""
    soak.faults["replaced bundle"] += 1
    with staging(soak.folder / "live") as fresh:
        shutil.copytree(soak.folder / soak.draw.choice(["bundle-a", "bundle-b"]), fresh, dirs_exist_ok=True)
        publish(fresh, soak.folder / "live", overwrite=True)
    if soak.draw.random() < 0.7:
        soak.model = Embedder(soak.folder / "live")


def _with_signal(soak: Soak, kind: type[BaseException], call: Callable[[], None]) -> None:
    """Raise an exception in this thread at a random moment of a call."""

    def strike(*_: object) -> None:
        soak.faults[kind.__name__] += 1
        raise kind

    before = signal.signal(signal.SIGALRM, strike)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, 10 ** soak.draw.uniform(-4, -0.7))
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except kind:
        pass
    finally:
        signal.signal(signal.SIGALRM, before)


def _with_full_disk(soak: Soak, call: Callable[[], None]) -> None:
    """Limit the size of files, so that larger writes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    soak.faults["full disk"] += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (soak.draw.choice([100, 5_000, 60_000]), hard))
    try:
        call()
    except (EmbeddingsError, embedrt.BundleError, OSError) as error:
        if not re.search(r"File too large|status 1", str(error)):
            soak.wrong.append(f"full disk: {type(error).__name__}: {error}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _background(soak: Soak, number: int) -> None:
    """Encode small calls until the end."""
    draw = random.Random(number)
    while not soak.ended.is_set():
        model = soak.model
        rows = [draw.randrange(len(soak.texts)) for _ in range(draw.choice([1, 1, 2, 5]))]
        try:
            soak.check(model, rows, model.encode([soak.texts[i] for i in rows]))
        except Exception as error:  # noqa: BLE001 - whatever comes out is a finding
            soak.wrong.append(f"thread {number}: {type(error).__name__}: {error}")
        soak.done["in threads"] += 1


def _step(soak: Soak) -> None:
    names, weights = list(CALLS), [weight for weight, _ in CALLS.values()]
    name = soak.draw.choices(names, weights)[0]
    model = soak.model

    def call() -> None:
        CALLS[name][1](soak, model)

    soak.done[name] += 1
    fault = soak.draw.choices(["", "interrupt", "deadline", "disk", "replace"], [50, 20, 20, 5, 5])[0]
    try:
        if fault == "interrupt":
            _with_signal(soak, KeyboardInterrupt, call)
        elif fault == "deadline":
            _with_signal(soak, DeadlineError, call)
        elif fault == "disk" and name in {"save, load", "embedrt encode", "save_pretrained"}:
            _with_full_disk(soak, call)
        elif fault == "replace":
            _replace(soak)
            call()
        else:
            call()
    except Exception as error:  # noqa: BLE001 - whatever comes out is a finding
        soak.wrong.append(f"{name}, {fault}: {type(error).__name__}: {error}")
    for copy in soak.folder.glob("copy-*"):
        shutil.rmtree(copy)


def _sample() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return {
        "memory MB": int(found[1]) / 1024,
        "threads": _entries("/proc/self/task"),
        "descriptors": _entries("/proc/self/fd"),
        "shared memory": _entries("/dev/shm"),
    }


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def growth(samples: list[tuple[float, dict[str, float]]], name: str) -> float:
    """The median of the last fifth of a run less that of the fifth in its middle."""

    def median(low: float, high: float) -> float:
        return statistics.median(sample[name] for share, sample in samples if low <= share <= high)

    return median(0.8, 1.1) - median(0.4, 0.6)


def run(seconds: float, seed: int) -> Soak:
    """Run a soak; `wrong` of the result has the findings."""
    draw = random.Random(seed)
    words = [word for word in WORDS.split() if not word.startswith("##")]
    texts = [" ".join(draw.choices(words, k=draw.choice([1, 2, 5, 10, 30]))) for _ in range(200)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        expected = {}
        for i, letter in enumerate("ab"):
            embedrt.export(make_model(folder / letter, seed=i), folder / f"bundle-{letter}")
            with Embedder(folder / f"bundle-{letter}") as model:
                expected[model.fingerprint] = {
                    prompt: np.stack([model.encode(text, prompt=prompt) for text in texts]) for prompt in ("", _PROMPT)
                }
        shutil.copytree(folder / "bundle-a", folder / "live")
        soak = Soak(folder, draw, texts, expected, Embedder(folder / "live"))
        threads = [threading.Thread(target=_background, args=(soak, i)) for i in range(_THREADS)]
        for thread in threads:
            thread.start()
        started = sampled = time.monotonic()
        with tqdm(total=round(seconds), unit="s", disable=not sys.stderr.isatty()) as bar:
            while (now := time.monotonic()) - started < seconds and len(soak.wrong) < _ENOUGH:
                faulthandler.dump_traceback_later(HANG_S, exit=True)
                with suppress(KeyboardInterrupt):
                    _step(soak)
                if now - sampled > seconds / 200:
                    sampled = now
                    soak.samples.append(((now - started) / seconds, _sample()))
                    bar.update(round(now - started) - bar.n)
        soak.ended.set()
        for thread in threads:
            thread.join(HANG_S)
            if thread.is_alive():
                soak.wrong.append(f"{thread.name} hangs")
        faulthandler.cancel_dump_traceback_later()
        soak.model.close()
        gc.collect()  # models that were replaced
        left = [path.name for path in folder.glob(".unfinished-*")]
        if left and seconds >= _LONG_S:
            with staging(folder / "live"):
                pass
            if still := [path.name for path in folder.glob(".unfinished-*")]:
                soak.wrong.append(f"left over: {left}, after the next run {still}")
    for kind, most in GROWTH.items() if seconds >= _LONG_S else ():
        grown = growth(soak.samples, kind)
        print(f"{kind}: {soak.samples[-1][1][kind]:.0f} at the end, {grown:+.1f} since the middle")
        if grown > most:
            soak.wrong.append(f"{kind} grew by {grown}")
    return soak


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    try:
        soak = run(60 * arguments.minutes, arguments.seed)
    except EmbedrtError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    for title, counts in (("calls", soak.done), ("faults", soak.faults)):
        print(f"{title}: {', '.join(f'{name} {count}' for name, count in counts.most_common())}")
    for finding in soak.wrong:
        print(f"wrong: {finding}")
    print(f"{sum(soak.done.values())} calls, {sum(soak.faults.values())} faults, {len(soak.wrong)} wrong")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

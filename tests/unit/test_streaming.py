"""Texts one after the other: in order, in bounded memory, and from an event loop."""

import asyncio
import itertools
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder, NonFiniteError, TruncationError, TruncationWarning
from embedrt.run.request import Result
from embedrt.run.runner import Runner
from embedrt.tasks import stream
from embedrt.types import Vectors
from tests.kit.bundles import change, copy_bundle, poison

WORDS = ("river", "bank", "vector", "the", "cat", "one", "two")


def texts_of(count: int) -> list[str]:
    return [" ".join(WORDS[(i + j) % 7] for j in range(i % 9)) for i in range(count)]


class TestIter:
    def test_the_vectors_of_encode_in_order(self, tiny: Embedder) -> None:
        texts = texts_of(5000)
        vectors = list(tiny.encode_iter(texts))
        assert {(vector.shape, vector.dtype) for vector in vectors} == {((32,), np.dtype(np.float32))}
        assert np.abs(np.stack(vectors) - tiny.encode(texts)).max() <= 2e-6

    def test_arguments_are_those_of_encode(self, tiny: Embedder) -> None:
        texts, ranges = texts_of(300), np.array([[-0.5] * 8, [0.5] * 8])
        options: dict[str, Any] = {"prompt": "two ", "truncate_dim": 8, "normalize_embeddings": True}
        found = np.stack(list(tiny.encode_iter(texts, **options)))
        assert np.abs(found - tiny.encode(texts, **options)).max() <= 2e-6
        codes = np.stack(list(tiny.encode_iter(texts, truncate_dim=8, precision="int8", ranges=ranges)))
        assert codes.dtype == np.int8
        expected = tiny.encode(texts, truncate_dim=8, precision="int8", ranges=ranges)
        assert np.abs(codes.astype(int) - expected).max() <= 1
        assert np.stack(list(tiny.encode_iter(texts, precision="ubinary"))).shape == (300, 4)

    def test_texts_are_read_as_they_are_needed(self, tiny: Embedder) -> None:
        read = 0

        def endless() -> Iterator[str]:
            nonlocal read
            for i in itertools.count():
                read += 1
                yield f"one {i}"

        vectors = tiny.encode_iter(endless())
        assert read == 0
        for taken in range(1, 9000):
            next(vectors)
            assert read <= taken + 4096
        before = threading.active_count()
        vectors.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before
        assert read < 9000 + 4096

    @pytest.mark.parametrize(
        ("threads", "max_tokens", "expected"), [(1, 100, 128), (1, 300, 300), (2, 100, 256), (5, 300, 640)]
    )
    def test_a_large_token_budget_and_many_workers_are_read_ahead(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, threads: int, max_tokens: int, expected: int
    ) -> None:
        monkeypatch.setattr(stream, "_LARGEST_WINDOW", 100)
        read = 0

        def endless() -> Iterator[str]:
            nonlocal read
            for i in itertools.count():
                read += 1
                yield f"one {i}"

        vectors = Embedder(tiny_bundle, threads=threads, max_tokens=max_tokens).encode_iter(endless())
        assert max(read - taken for taken, _ in enumerate(itertools.islice(vectors, 2000))) == expected

    def test_a_kept_vector_does_not_keep_its_window(self, tiny: Embedder) -> None:
        vector = next(iter(tiny.encode_iter(texts_of(100))))
        assert vector.base is None

    def test_a_window_is_gone_before_the_next_one_is_computed(
        self, tiny: Embedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its vectors, that is; those of two windows together would double the memory of a stream."""
        run, windows = Runner.run, 0
        alive: list[weakref.ref[Vectors]] = []

        def note(*arguments: Any, **options: Any) -> Result:
            nonlocal windows
            assert all(values() is None for values in alive)
            result = run(*arguments, **options)
            alive.append(weakref.ref(result.values))
            windows += 1
            return result

        monkeypatch.setattr(Runner, "run", note)
        assert sum(1 for _ in tiny.encode_iter(texts_of(500))) == 500
        assert windows == 4

    def test_the_error_of_the_texts_comes_through(self, tiny: Embedder) -> None:
        def failing() -> Iterator[str]:
            yield from texts_of(64)
            raise ZeroDivisionError

        vectors = tiny.encode_iter(failing())
        assert len(list(itertools.islice(vectors, 64))) == 64
        with pytest.raises(ZeroDivisionError):
            next(vectors)

    def test_errors_have_the_index_in_the_stream(self, tiny: Embedder, tiny_bundle: Path, tmp_path: Path) -> None:
        bad: list[Any] = [*texts_of(1000), None]
        with pytest.raises(TypeError, match=r"^texts\[1000\]: expected str, got NoneType$"):
            list(tiny.encode_iter(bad))
        poison(copy_bundle(tiny_bundle, tmp_path / "b"), "boat", np.nan)
        with pytest.raises(NonFiniteError, match=r"^texts\[700\]: "):
            list(Embedder(tmp_path / "b").encode_iter([*texts_of(700), "boat"]))
        with pytest.raises(TruncationError, match=r"^texts\[700\]: "):
            list(tiny.encode_iter([*texts_of(700), "one " * 99], on_truncation="error"))
        with pytest.warns(TruncationWarning, match=r"^1 of 701 texts truncated to 48 tokens: texts\[700\]$"):
            list(tiny.encode_iter([*texts_of(700), "one " * 99], on_truncation="warn"))

    def test_wrong_arguments_before_a_text_is_read(self, tiny: Embedder) -> None:
        texts = iter(["one"])
        with pytest.raises(TypeError, match="expected an iterable of str, got one str; use encode"):
            tiny.encode_iter("one")
        with pytest.raises(ValueError, match="prompt_name: expected one of 'query', 'document', got 'x'"):
            tiny.encode_iter(texts, prompt_name="x")
        with pytest.raises(ValueError, match="ranges: precision='int8' needs ranges for a stream; pass ranges="):
            tiny.encode_iter(texts, precision="int8")
        assert next(texts) == "one"

    def test_a_calibrated_bundle(self, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "b")
        change(bundle, lambda raw: raw.update(vector_ranges=[[-1.0] * 32, [1.0] * 32]))
        (codes,) = Embedder(bundle).encode_iter(["one"], precision="uint8")
        assert codes.dtype == np.uint8


CODE = """
import re, sys
from embedrt import Embedder
model = Embedder(sys.argv[1])
count = sum(1 for vector in model.encode_iter(f"text number {i}" for i in range(int(sys.argv[2]))))
assert count == int(sys.argv[2])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


def peak(bundle: Path, texts: int) -> int:
    """Megabytes that a process needs to encode so many short texts as a stream."""
    command = [sys.executable, "-c", CODE, str(bundle), str(texts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_stream(tiny_bundle: Path) -> None:
    assert peak(tiny_bundle, 100_000) <= peak(tiny_bundle, 10_000) + 30


class TestAsync:
    def test_many_at_once(self, tiny: Embedder) -> None:
        texts = texts_of(60)

        async def all_of_them() -> list[Vectors]:
            return await asyncio.gather(*(tiny.aencode(text) for text in texts))

        assert np.abs(np.stack(asyncio.run(all_of_them())) - tiny.encode(texts)).max() <= 2e-6

    def test_the_loop_goes_on_meanwhile(self, tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        entered, go_on = threading.Event(), threading.Event()
        run = tiny.runners["default"].engine.run

        def stand_still(*arguments: Any, **options: Any) -> Any:
            entered.set()
            assert go_on.wait(30)
            return run(*arguments, **options)

        monkeypatch.setattr(tiny.runners["default"].engine, "run", stand_still)

        async def loop() -> Vectors:
            task = asyncio.create_task(tiny.aencode("one two"))
            until = time.monotonic() + 30
            while not entered.is_set():  # turns of the loop, while the other thread comes so far
                assert time.monotonic() < until
                await asyncio.sleep(0)
            assert not task.done()
            go_on.set()
            return await task

        assert asyncio.run(loop()).shape == (32,)

    def test_errors(self, tiny: Embedder) -> None:
        with pytest.raises(TypeError, match=r"^texts\[0\]: expected str, got int$"):
            asyncio.run(tiny.aencode([3]))  # type: ignore[list-item]

"""`ProcessPool` with real processes: the same vectors, and every way in which a worker, a call or a parent may end."""

import copy
import gc
import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import (
    BundleError,
    DeviceError,
    Embedder,
    InferenceError,
    NonFiniteError,
    PoolError,
    TruncationError,
    TruncationWarning,
)
from embedrt.engine import machine
from embedrt.engine.devices import DEVICES
from embedrt.run import processes as pool_module
from embedrt.run.processes import ProcessPool, default_devices
from embedrt.run.request import Request
from embedrt.tasks.embed import SentenceVectors
from tests.kit import faulty_workers
from tests.kit.bundles import change, copy_bundle, poison

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="FIFOs, signals and /proc"),
]

REQUEST = Request(SentenceVectors(32), 8)
CLOSE = 2e-6  # another chunk is another batch
TEXTS = [f"{word} by the river " * (i % 7) + word for i, word in enumerate(["cat", "money", "千里", "", "a\0b"] * 5)]
CPUS = ["cpu", "cpu"]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def pool(tiny: Embedder) -> Iterator[ProcessPool]:
    """Two workers; tests leave them idle and alive."""
    with tiny.start_multi_process_pool(CPUS) as started:
        yield started


@pytest.fixture
def model(tiny_bundle: Path, tmp_path: Path) -> Embedder:
    """A model of the test's own, in a bundle to change."""
    return Embedder(copy_bundle(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def obedient(tiny: Embedder) -> Iterator[ProcessPool]:
    """Two workers that do what the texts say. Whatever that is, the pool is as good as new afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "serve", faulty_workers.serve)
        started = tiny.start_multi_process_pool(CPUS)
    with started:
        yield started


@pytest.fixture
def faulty(obedient: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> ProcessPool:
    """The same, and those who replace them obey too."""
    monkeypatch.setattr(pool_module, "serve", faulty_workers.serve)
    return obedient


class Fifo:
    """Where a worker that holds tells its id."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.order = f"!hold {path}"
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # its own writer too, so that it never ends

    def pid(self) -> int:
        assert select.select([self._handle], [], [], PATIENCE)[0], "no worker holds"
        return int(os.read(self._handle, 100))

    def close(self) -> None:
        os.close(self._handle)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    made = Fifo(tmp_path / "fifo")
    yield made
    made.close()


def ended(pid: int) -> bool:
    """Waits for the end of a process, which need not be a child of this one."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], PATIENCE)[0])
    finally:
        os.close(handle)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)


def assert_same(actual: Any, expected: Any) -> None:
    """Equal types, keys, dtypes and shapes, and near values."""
    assert type(actual) is type(expected)
    if isinstance(expected, list):
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name, other in expected.items():
            assert_same(actual[name], other)
    else:
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=CLOSE)


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one at a time": {"chunk_size": 1},
    "one chunk": {"chunk_size": 1000},
    "odd chunks": {"chunk_size": 7, "batch_size": 2},
    "tokens": {"output_value": "token_embeddings", "chunk_size": 4},
    "all": {"output_value": None},
    "cut": {"truncate_dim": 5, "normalize_embeddings": True},
    "prompt": {"prompt": "that is "},
    "binary": {"precision": "ubinary"},
}


class TestAnswers:
    @pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS)
    def test_as_in_one_process(self, tiny: Embedder, pool: ProcessPool, arguments: dict[str, Any]) -> None:
        alone = {name: value for name, value in arguments.items() if name != "chunk_size"}
        assert_same(tiny.encode(TEXTS, pool=pool, **arguments), tiny.encode(TEXTS, **alone))

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_the_ranges_of_a_call_are_those_of_all_chunks(self, tiny: Embedder, pool: ProcessPool) -> None:
        numbers = tiny.encode(TEXTS, pool=pool, precision="uint8").astype(int)
        assert numbers.min() == 0
        assert numbers.max() == 255
        assert abs(numbers - tiny.encode(TEXTS, precision="uint8")).max() <= 1

    def test_one_text_and_none(self, tiny: Embedder, pool: ProcessPool) -> None:
        assert_same(tiny.encode("one cat", pool=pool), tiny.encode("one cat"))
        assert_same(tiny.encode([], pool=pool), np.empty((0, 32), np.float32))
        assert_same(tiny.encode([], pool=pool, truncate_dim=3), np.empty((0, 3), np.float32))
        assert tiny.encode([], pool=pool, output_value=None) == []

    def test_results_belong_to_the_caller(self, tiny: Embedder, pool: ProcessPool) -> None:
        """Another call leaves them alone, and the caller may write into them."""
        first = tiny.encode(TEXTS, pool=pool, output_value=None)
        kept = copy.deepcopy(first)
        tiny.encode(TEXTS[::-1], pool=pool, output_value=None)
        assert_same(first, kept)
        for row in first:
            for array in row.values():
                array[...] = 1

    def test_truncated_texts_have_the_numbers_of_the_call(self, tiny: Embedder, pool: ProcessPool) -> None:
        texts = ["short"] * 5 + ["long " * 600] + ["short"] * 4 + ["long " * 700]
        with pytest.warns(TruncationWarning, match=r"^2 of 11 texts truncated .*: texts\[5\], texts\[10\]$"):
            tiny.encode(texts, pool=pool, chunk_size=2, on_truncation="warn")
        with pytest.raises(TruncationError, match=r"^texts\[5\]: longer than") as caught:
            tiny.encode(texts[:10], pool=pool, chunk_size=2, on_truncation="error")
        assert "worker.py" in str(caught.value.__cause__)
        assert_same(tiny.encode(texts, pool=pool, chunk_size=1), tiny.encode(texts))

    def test_the_settings_are_those_of_the_call(self, model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        with model.start_multi_process_pool(["cpu"]) as pool:
            model.max_seq_length = 6
            model.truncate_dim = 9
            model.prompts["new"] = "a new prompt "
            model.default_prompt_name = "new"
            assert_same(model.encode(TEXTS, pool=pool), model.encode(TEXTS))

    def test_every_route(self, model: Embedder) -> None:
        def add(raw: dict[str, Any]) -> None:
            raw["routes"]["short"] = {**raw["routes"]["default"], "max_seq_length": 5}
            raw["tasks"]["query"] = "short"

        change(model.folder, add)
        routed = Embedder(model.folder)
        with routed.start_multi_process_pool(["cpu"]) as pool:
            for encode in (routed.encode, routed.encode_query):
                assert_same(encode(TEXTS, pool=pool), encode(TEXTS))

    def test_threads_get_their_own(self, tiny: Embedder, pool: ProcessPool) -> None:
        work = [[f"{thread} {text}" for text in TEXTS] for thread in range(6)]
        with ThreadPoolExecutor(3) as threads:
            answers = list(threads.map(lambda texts: tiny.encode(texts, pool=pool, chunk_size=3), work))
        assert_same(answers, [tiny.encode(texts) for texts in work])

    def test_an_interrupt_while_busy_workers_stop(
        self, tiny: Embedder, pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("multiprocessing.process.BaseProcess.kill", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.run(["other"] * 6, REQUEST, chunk_size=1, advance=interrupt)
        assert_same(tiny.encode(TEXTS, pool=pool, chunk_size=1), tiny.encode(TEXTS))

    def test_a_call_inside_another_one(self, tiny: Embedder, pool: ProcessPool) -> None:
        def encode(_: int) -> None:
            tiny.encode(TEXTS, pool=pool)

        with pytest.raises(PoolError, match=r"signal handler has interrupted; start another pool$"):
            pool.run(["other"] * 6, REQUEST, chunk_size=1, advance=encode)
        assert_same(tiny.encode(TEXTS, pool=pool), tiny.encode(TEXTS))

    @pytest.mark.parametrize(
        ("texts", "size", "chunks"),
        [(45, None, [3] * 15), (1, None, [1]), (3, None, [1] * 3), (7, 5, [5, 2]), (21, None, [2] * 10 + [1])],
    )
    def test_chunks(self, pool: ProcessPool, texts: int, size: int | None, chunks: list[int]) -> None:
        done: list[int] = []
        pool.run(["a"] * texts, REQUEST, chunk_size=size, advance=done.append)
        assert sorted(done, reverse=True) == chunks

    def test_the_bar_counts_texts(self, tiny: Embedder, pool: ProcessPool, capsys: pytest.CaptureFixture[str]) -> None:
        tiny.encode(TEXTS, pool=pool, show_progress_bar=True)
        assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err

    def test_the_old_name(self, tiny: Embedder, pool: ProcessPool) -> None:
        with pytest.warns(DeprecationWarning, match=r"encode\(\.\.\., pool=pool\)"):
            vectors = tiny.encode_multi_process(
                TEXTS, pool, None, "that is ", 4, 3, False, "float32", normalize_embeddings=True, truncate_dim=6
            )
        assert_same(vectors, tiny.encode(TEXTS, prompt="that is ", normalize_embeddings=True, truncate_dim=6))


class TestDevices:
    def test_a_list_of_devices_is_a_pool_for_the_call(self, tiny: Embedder) -> None:
        assert_same(tiny.encode(TEXTS, device=CPUS, show_progress_bar=False), tiny.encode(TEXTS))

    @pytest.mark.parametrize("devices", [[], "cpu"])
    def test_wrong_lists(self, tiny: Embedder, devices: Any) -> None:
        with pytest.raises(ValueError, match=r"^devices: expected at least one, as in \['cpu', 'cpu'\], got "):
            tiny.start_multi_process_pool(devices)
        with pytest.raises(ValueError, match=r"^devices: expected at least one"):
            tiny.encode(TEXTS, device=[])

    def test_unknown_devices_start_nothing(self, tiny: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_module, "_Worker", None)
        for device in ("tpu", "cuda:0"):
            with pytest.raises(DeviceError, match=f"^device: '{device}'(:| is unknown)"):
                tiny.start_multi_process_pool(["cpu", device])

    def test_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_module, "available_threads", lambda: 3)
        assert default_devices(DEVICES["cpu"]) == ["cpu"] * 3
        monkeypatch.setattr(pool_module, "available_threads", lambda: 64)
        assert default_devices(DEVICES["cpu"]) == ["cpu"] * 4
        assert default_devices(DEVICES["coreml"]) == ["coreml"]
        for count, devices in ((0, ["cuda:0"]), (2, ["cuda:0", "cuda:1"])):
            monkeypatch.setattr(pool_module, "cards", lambda count=count: [object()] * count)
            assert default_devices(DEVICES["cuda"]) == devices

    @pytest.mark.parametrize(("threads", "share"), [(5, 2), (1, 1), (None, max(1, machine.available_threads() // 2))])
    def test_workers_share_the_processors(
        self, tiny_bundle: Path, threads: int | None, share: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "serve", faulty_workers.serve_lightly)
        with Embedder(tiny_bundle, threads=threads).start_multi_process_pool(["cpu", None]) as pool:
            assert [settings.placement.threads for settings in pool._settings] == [share] * 2
            assert pool.devices == CPUS
            with pytest.raises(ValueError, match=rf"^{share}\b"):
                pool.run(["!tell RAYON_NUM_THREADS"], REQUEST)


class TestDeath:
    @pytest.mark.parametrize("fault", ["die", "exit 3", "half a message"])
    def test_the_chunk_is_tried_once_more(
        self, tiny: Embedder, faulty: ProcessPool, fault: str, tmp_path: Path
    ) -> None:
        texts = [*TEXTS[:10], f"!once {tmp_path / 'flag'} {fault}", *TEXTS[10:]]
        before = set(faulty.processes)
        assert_same(tiny.encode(texts, pool=faulty), tiny.encode(texts))
        assert len(before & set(faulty.processes)) == 1
        assert len(faulty.processes) == 2

    def test_killed_from_outside(self, tiny: Embedder, faulty: ProcessPool, fifo: Fifo, tmp_path: Path) -> None:
        texts = [f"!once {tmp_path / 'flag'} {fifo.order[1:]}", *TEXTS]
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(tiny.encode, texts, pool=faulty)
            kill(fifo.pid())
            assert_same(answer.result(PATIENCE), tiny.encode(texts))

    @pytest.mark.parametrize(
        ("fault", "ending"),
        [
            ("die", r"exit code -9 \(SIGKILL, often the out-of-memory killer: take fewer workers or a smaller max_tok"),
            ("exit 3", "exit code 3$"),
        ],
    )
    def test_a_text_that_kills_every_worker(self, tiny: Embedder, faulty: ProcessPool, fault: str, ending: str) -> None:
        texts = [*TEXTS[:10], f"!{fault}", *TEXTS[10:]]
        with pytest.raises(PoolError, match=rf"^texts\[9:12\]: two workers died on it, the second with {ending}"):
            tiny.encode(texts, pool=faulty, chunk_size=3)
        assert_same(tiny.encode(TEXTS, pool=faulty), tiny.encode(TEXTS))
        assert len(faulty.processes) == 2

    def test_killed_while_idle(self, tiny: Embedder, faulty: ProcessPool) -> None:
        before = faulty.processes
        kill(before[0])
        assert_same(tiny.encode(TEXTS, pool=faulty), tiny.encode(TEXTS))
        assert before[1] in faulty.processes
        for pid in faulty.processes:
            kill(pid)
        assert_same(tiny.encode(TEXTS, pool=faulty), tiny.encode(TEXTS))

    def test_two_at_once(self, tiny: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """While one is replaced, what the other had in hand is not forgotten."""
        fifos = [Fifo(tmp_path / name) for name in "ab"]
        orders = [f"!once {tmp_path / f'flag{i}'} {fifo.order[1:]}" for i, fifo in enumerate(fifos)]

        def kill_both(_: int) -> None:
            for fifo in fifos:
                kill(fifo.pid())
                fifo.close()
            fifos.clear()

        monkeypatch.setattr(pool_module, "serve", faulty_workers.serve)
        with tiny.start_multi_process_pool(["cpu"] * 3) as pool:
            texts = [*orders, "one cat", "two"]
            request = Request(SentenceVectors(32), tiny.max_seq_length)
            answer = pool.run(texts, request, chunk_size=1, advance=kill_both)
            assert_same(answer.values, tiny.encode(texts))

    def test_an_idle_death_is_no_suspicion(self, tiny: Embedder, faulty: ProcessPool, tmp_path: Path) -> None:
        for pid in faulty.processes:
            kill(pid)
        texts = [f"!once {tmp_path / 'flag'} die", "one cat"]
        assert_same(tiny.encode(texts, pool=faulty), tiny.encode(texts))


class TestExceptions:
    @pytest.mark.parametrize(
        ("order", "kind", "message"),
        [
            ("value of a text", ValueError, "of a text"),
            ("key k", KeyError, "'k'"),
            ("non-finite: texts[3]", NonFiniteError, ": texts[3]"),
            (
                "unpicklable",
                PoolError,
                "texts[0:1]: a worker on 'cpu' failed with tests.kit.faulty_workers.UnpicklableError: code 3, none",
            ),
            (
                "speechless",
                PoolError,
                "texts[0:1]: a worker on 'cpu' failed with tests.kit.faulty_workers.SpeechlessError: an exception",
            ),
            (
                "unicode",
                PoolError,
                "texts[0:1]: a worker on 'cpu' failed with builtins.UnicodeDecodeError: 'ascii' codec can't decode",
            ),
            ("leave 3", PoolError, "texts[0:1]: a worker on 'cpu' failed with builtins.SystemExit: 3"),
        ],
    )
    def test_they_arrive_with_their_traceback(
        self, faulty: ProcessPool, order: str, kind: type[Exception], message: str
    ) -> None:
        before = faulty.processes
        with pytest.raises(kind) as caught:
            faulty.run([f"!{order}"], REQUEST)
        assert type(caught.value) is kind
        assert str(caught.value).startswith(message)
        trace = str(caught.value.__cause__)
        assert "Traceback (most recent call last)" in trace
        assert "in obey" in trace
        if kind is not PoolError:
            assert caught.value.__notes__ == ["texts[0:1]: a worker on 'cpu' failed"]
        assert faulty.run(["a"], REQUEST).truncated == []
        assert len(faulty.processes) == len(before)

    def test_a_model_that_returns_nan_names_the_text(self, model: Embedder) -> None:
        poison(model.folder, "river", float("nan"))
        with Embedder(model.folder) as bad, bad.start_multi_process_pool(["cpu"]) as pool:
            with pytest.raises(NonFiniteError, match=r"^texts\[7\]: the model returned NaN"):
                bad.encode(["one cat"] * 7 + ["river", "one cat"], pool=pool, chunk_size=2)
            assert bad.encode(["one cat"], pool=pool).shape == (1, 32)

    def test_the_other_workers_stop(self, tiny: Embedder, faulty: ProcessPool, fifo: Fifo) -> None:
        """Nothing computes on after a call that failed, and nothing of it is in the answer of the next."""

        def interrupt(_: int) -> None:
            busy.append(fifo.pid())
            raise ZeroDivisionError

        busy: list[int] = []
        with pytest.raises(ZeroDivisionError):
            faulty.run([fifo.order, "one cat"], REQUEST, chunk_size=1, advance=interrupt)
        assert ended(busy[0])
        assert_same(tiny.encode(TEXTS, pool=faulty), tiny.encode(TEXTS))


class TestStart:
    def test_the_bundle_is_gone(self, model: Embedder) -> None:
        (model.folder / "tokenizer.json").unlink()
        with pytest.raises(BundleError, match=r"tokenizer\.json") as caught:
            model.start_multi_process_pool(CPUS)
        assert caught.value.__notes__ == ["a worker on 'cpu' could not start"]
        assert "in serve" in str(caught.value.__cause__)

    def test_the_bundle_is_gone_when_a_worker_is_replaced(self, model: Embedder) -> None:
        with model.start_multi_process_pool(CPUS) as pool:
            (model.folder / "tokenizer.json").rename(model.folder / "away")
            for pid in pool.processes:
                kill(pid)
            for _ in range(2):
                with pytest.raises(BundleError, match=r"tokenizer\.json"):
                    model.encode(TEXTS, pool=pool)
            (model.folder / "away").rename(model.folder / "tokenizer.json")
            assert_same(model.encode(TEXTS, pool=pool), model.encode(TEXTS))

    def test_the_bundle_is_another_when_a_worker_is_replaced(self, model: Embedder) -> None:
        with model.start_multi_process_pool(["cpu"]) as pool:
            path = model.folder / "onnx" / "model.onnx_data"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
            kill(pool.processes[0])
            with pytest.raises(BundleError, match="expected the file that was there when the model was loaded"):
                model.encode(TEXTS, pool=pool)

    @pytest.mark.parametrize(
        ("start", "ending"),
        [
            ("exit_at_once", r"exit code 7\. A script must start its pool below .*"),
            ("die_at_once", r"exit code -9 \(SIGKILL, often .*\)"),
        ],
    )
    def test_an_end_without_a_word(
        self, tiny: Embedder, monkeypatch: pytest.MonkeyPatch, start: str, ending: str
    ) -> None:
        monkeypatch.setattr(pool_module, "serve", getattr(faulty_workers, start))
        with pytest.raises(PoolError, match=rf"^a worker on 'cpu' ended before it was ready, with {ending}$"):
            tiny.start_multi_process_pool(CPUS)

    def test_a_script_without_a_guard(self, tiny_bundle: Path, tmp_path: Path) -> None:
        done = run_script(
            tmp_path,
            """
            import sys, embedrt
            print("here")
            embedrt.Embedder(sys.argv[1]).start_multi_process_pool(["cpu", "cpu"])
            """,
            tiny_bundle,
        )
        assert done.returncode == 1
        assert 2 <= done.stdout.count("here") <= 3
        assert "ended before it was ready, with exit code 1. A script must" in done.stderr
        assert 'below `if __name__ == "__main__":`' in done.stderr


class TestClose:
    def test_use_after_close(self, tiny: Embedder) -> None:
        pool = tiny.start_multi_process_pool(["cpu"])
        (pid,) = pool.processes
        tiny.stop_multi_process_pool(pool)
        assert ended(pid)
        pool.close()
        assert pool.processes == []
        for texts in (TEXTS, []):
            with pytest.raises(PoolError, match=r"^the pool is closed; start another one$"):
                tiny.encode(texts, pool=pool)

    def test_the_last_reference(self, tiny: Embedder) -> None:
        pool = tiny.start_multi_process_pool(["cpu"])
        tiny.encode(TEXTS, pool=pool)
        (pid,) = pool.processes
        del pool
        gc.collect()
        assert ended(pid)

    def test_pools_of_others(self, tiny: Embedder, model: Embedder, pool: ProcessPool) -> None:
        change(model.folder, lambda raw: raw.update(fingerprint="0" * 64))
        with Embedder(model.folder) as other, pytest.raises(ValueError, match=r"^pool: it runs another model"):
            other.encode(TEXTS, pool=pool)
        with pytest.raises(TypeError, match=r"^pool: expected the result of start_multi_process_pool, got dict$"):
            tiny.encode(TEXTS, pool={})  # type: ignore[call-overload]
        model.close()
        for use in (lambda: model.encode(TEXTS, pool=pool), model.start_multi_process_pool):
            with pytest.raises(InferenceError, match="is closed; load it again"):
                use()


def run_script(folder: Path, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own."""
    return subprocess.run(
        [sys.executable, write_script(folder, code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(),
    )


def write_script(folder: Path, code: str) -> Path:
    lines = code.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    path = folder / "script.py"
    path.write_text("\n".join(line[indent:] for line in lines), encoding="utf-8")
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "error"}


ROUNDS = """
    import gc, multiprocessing, os, sys, threading
    from pathlib import Path
    from tests.kit import faulty_workers
    from embedrt.run import processes as pool_module
    from embedrt.loaded import Loaded
    from embedrt.run.processes import ProcessPool
    from embedrt.run.request import Request
    from embedrt.tasks.embed import SentenceVectors

    def state():
        gc.collect()
        return (
            sorted(os.listdir("/proc/self/fd")), threading.active_count(), multiprocessing.active_children(),
            Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(),
        )

    class Stop(BaseException):
        pass

    def stop(_):
        raise Stop

    def encode(round, pool):
        fault = {0: ["a"], 1: ["!value x"], 2: ["!die"], 3: ["!unpicklable"]}.get(round % 5, ["a", "b"])
        advance = stop if round % 5 == 4 else lambda _: None
        pool.run(fault, Request(SentenceVectors(1000), 8), chunk_size=1, advance=advance)

    if __name__ == "__main__":
        pool_module.serve = faulty_workers.serve_lightly
        failures = 0
        loaded = Loaded(Path(sys.argv[1]), "cpu", dtype=None, threads=None, max_tokens=None)
        placements = loaded.pool_placements(["cpu"])
        for round in range(int(sys.argv[2])):
            pool = ProcessPool(loaded.bundle, placements)
            try:
                encode(round, pool)
            except (Exception, Stop):
                failures += 1
            if round % 2:
                pool.close()
            del pool
            if round == 0:
                first = state()
        assert state() == first, (first, state())
        print(failures)
"""


class TestParents:
    """What the process that has the pool may do, as scripts."""

    @pytest.mark.slow
    def test_nothing_piles_up(self, tiny_bundle: Path, tmp_path: Path) -> None:
        """Of 50 pools."""
        done = run_script(tmp_path, ROUNDS, tiny_bundle, 50)
        assert (done.stdout, done.stderr) == ("40\n", "")

    def test_a_parent_that_never_closes(self, tiny_bundle: Path, tmp_path: Path) -> None:
        code = """
            import os, sys, embedrt
            if __name__ == "__main__":
                model = embedrt.Embedder(sys.argv[1])
                pool = model.start_multi_process_pool(["cpu"])
                model.encode(["a", "b"], pool=pool)
                print(*pool.processes)
        """
        done = run_script(tmp_path, code, tiny_bundle)
        assert (done.returncode, done.stderr) == (0, "")
        assert ended(int(done.stdout))

    def test_a_forked_child_leaves_the_pool_alone(self, tiny_bundle: Path, tmp_path: Path) -> None:
        code = """
            import os, sys, warnings, embedrt
            warnings.simplefilter("ignore", DeprecationWarning)
            if __name__ == "__main__":
                model = embedrt.Embedder(sys.argv[1])
                pool = model.start_multi_process_pool(["cpu"])
                before = pool.processes
                child = os.fork()
                if child == 0:
                    try:
                        model.encode(["a"], pool=pool)
                    except embedrt.InferenceError as error:
                        print(error, file=sys.stderr, flush=True)
                    pool.close()
                    del pool
                    os._exit(1)
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                print(model.encode(["a"], pool=pool).shape, pool.processes == before)
        """
        done = run_script(tmp_path, code, tiny_bundle)
        assert done.stdout == "1\n(1, 32) True\n"
        assert done.stderr.startswith("this model was loaded before the process forked")

    def test_ctrl_c(self, tiny_bundle: Path, tmp_path: Path, fifo: Fifo) -> None:
        code = """
            import signal, sys, embedrt
            from tests.kit import faulty_workers
            from embedrt.run import processes as pool_module
            if __name__ == "__main__":
                signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background too
                pool_module.serve = faulty_workers.serve
                model = embedrt.Embedder(sys.argv[1])
                with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
                    try:
                        model.encode([sys.argv[2], "a"], pool=pool)
                    except KeyboardInterrupt:
                        print("interrupted", model.encode(["a", "b"], pool=pool).shape)
                    model.encode([sys.argv[2], "a"], pool=pool)
        """
        script = write_script(tmp_path, code)
        command = [sys.executable, str(script), str(tiny_bundle), fifo.order]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=environment(),
        ) as process:
            try:
                for _ in range(2):
                    holder = fifo.pid()
                    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                    assert ended(holder)
                out, err = process.communicate(timeout=PATIENCE)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        assert out == "interrupted (2, 32)\n"
        assert err.count("Traceback") == 1
        assert err.endswith("KeyboardInterrupt\n")
        assert process.returncode == -signal.SIGINT

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_workers_begin_with_interrupts_blocked(self, tiny_bundle: Path) -> None:
        """Ctrl-C cannot end a worker that is still starting."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with Embedder(tiny_bundle).start_multi_process_pool(["cpu"]) as pool:
            (worker,) = pool._workers
            assert worker is not None
            status = Path(f"/proc/{worker.process.pid}/status").read_text()
            assert int(status.split("SigBlk:")[1].split()[0], 16) & (1 << (signal.SIGINT - 1))
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    def test_a_parent_that_is_killed(self, tiny_bundle: Path, tmp_path: Path, fifo: Fifo) -> None:
        code = """
            import sys, embedrt
            from tests.kit import faulty_workers
            from embedrt.run import processes as pool_module
            if __name__ == "__main__":
                pool_module.serve = faulty_workers.serve
                model = embedrt.Embedder(sys.argv[1])
                pool = model.start_multi_process_pool(["cpu", "cpu"])
                print(*pool.processes, flush=True)
                model.encode([sys.argv[2], "a"], pool=pool)
        """
        command = [sys.executable, str(write_script(tmp_path, code)), str(tiny_bundle), fifo.order]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as process:
            holder = fifo.pid()
            process.kill()
            out, err = process.communicate(timeout=PATIENCE)
        workers = [int(pid) for pid in out.split()]
        assert holder in workers
        assert all(ended(pid) for pid in workers)
        assert err == ""


class TestPickle:
    @pytest.mark.parametrize("copied", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy, copy.copy])
    def test_a_copy_has_the_settings(self, model: Embedder, copied: Any) -> None:
        model.max_seq_length = 6
        model.truncate_dim = 9
        model.similarity_fn_name = "dot"
        model.prompts["new"] = "a new prompt "
        model.default_prompt_name = "new"
        other = copied(model)
        assert_same(other.encode(TEXTS), model.encode(TEXTS))
        vectors = model.encode(TEXTS)
        assert_same(other.similarity(vectors, vectors), vectors @ vectors.T)
        assert (other.max_seq_length, other.fingerprint, other.device) == (6, model.fingerprint, model.device)
        model.close()
        assert other.encode("one cat").shape == (9,)

    def test_small(self, tiny: Embedder) -> None:
        assert len(pickle.dumps(tiny)) < 50_000

    def test_what_cannot_be_copied(self, model: Embedder, pool: ProcessPool) -> None:
        data = pickle.dumps(model)
        change(model.folder, lambda raw: raw.update(fingerprint="0" * 64))
        with pytest.raises(BundleError, match="another bundle than when the model was pickled; load it by its name"):
            pickle.loads(data)
        model.close()
        with pytest.raises(InferenceError, match="is closed"):
            pickle.dumps(model)
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(pool)

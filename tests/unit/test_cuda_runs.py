"""The engine of packed graphs on CUDA, with everything but the GPU: it runs on ONNX Runtime's CPU kernels here.

Kernels, scratch memory, rounding, staging and the thread of the CUDA graphs are the real thing; a replay is a run.
"""

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedrt import EngineError
from embedrt.bundle.manifest import Packing, Tokenization, Variant
from embedrt.engine import Batch, Device, Providers, cpu, cuda, cuda_graphs, cuda_runs, one_thread
from embedrt.engine.cuda_graphs import captured_shapes, stage
from embedrt.engine.cuda_runs import PackedCudaEngine, choose_kernels, rounded
from embedrt.engine.faults import SHRINK
from embedrt.engine.native import NativeError, stack
from embedrt.engine.opening import open_engine
from embedrt.engine.placement import Placement
from embedrt.engine.session import Interface, SessionEngine
from embedrt.engine.stream import INPUTS, Shape
from embedrt.errors import OutOfMemory
from embedrt.inputs.packing import packed_input_names
from embedrt.inputs.text import Tokens, flat, offsets_of
from embedrt.run.batches import make_batch
from tests.kit.library_failures import failing
from tests.kit.two_layouts import PACKING, WITH_SCRATCH, graph, with_tokens_in

WAIT = 30.0
HOW = Tokenization(pad_id=0, padding_side="right", token_type_ids=False, pooling_mask=False, embedding_rows=133)
DEVICE = Device("cpu", cpu.PROVIDER, cpu.configure, workers=2)
SENTENCE, BOTH = ("sentence_embedding",), ("token_embeddings", "sentence_embedding")
WIDTHS = dict.fromkeys(BOTH, 32)


@dataclass
class Runs:
    """The sessions that run, and how: "run", or "bound" with the number of a CUDA graph."""

    calls: list[tuple[int, str]] = field(default_factory=list)
    options: list[Any] = field(default_factory=list)

    def hows(self) -> list[str]:
        return [how for _, how in self.calls]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    kind = onnxruntime.InferenceSession
    run, run_bound = kind.run, kind.run_with_iobinding

    def note(session: Any, how: str, options: Any) -> None:
        found.calls.append((id(session), how))
        found.options.append(options)

    def noted_run(self: Any, outputs: Any, feeds: Any, options: Any = None) -> Any:
        note(self, "run", options)
        return run(self, outputs, feeds, options)

    def noted_bound(self: Any, binding: Any, options: Any = None) -> None:
        number = "" if options is None else options.get_run_config_entry("gpu_graph_id")
        note(self, f"bound {number}".strip(), options)
        run_bound(self, binding, options)

    monkeypatch.setattr(kind, "run", noted_run)
    monkeypatch.setattr(kind, "run_with_iobinding", noted_bound)
    return found


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def adjusted(_: object, __: object, providers: Providers, more: Mapping[str, str] | None = None) -> Providers:
        return providers

    monkeypatch.setattr(cuda_runs, "_adjusted", adjusted)
    monkeypatch.setattr(cuda_runs, "compute_capability", lambda _: (9, 0))


def make_engine(folder: Path, packing: Packing, content: bytes | None = None, weights: int = 1000) -> PackedCudaEngine:
    path = folder / "packed.onnx"
    path.write_bytes(content or graph(packing, positions=1024))
    variant = Variant("float32", path.name, None, "onnxruntime", (), "packed", None, packing)
    return PackedCudaEngine(
        path,
        DEVICE,
        Placement(DEVICE, variant, "float32", 4, 4096),
        packing,
        interface=Interface(packed_input_names(packing), WIDTHS),
        weights_bytes=weights,
        load=lambda make: make(path),
    )


def texts_of(*lengths: int) -> Tokens:
    rng = np.random.default_rng(sum(lengths))
    rows = [rng.integers(1, 133, length).tolist() for length in lengths]
    return Tokens(flat(rows), offsets_of(np.array(lengths, np.int64)), None, [])


def batch_of(*lengths: int, packing: Packing = PACKING, alone: bool = False) -> Batch:
    return make_batch(texts_of(*lengths), np.arange(len(lengths)), max(lengths), HOW, packing, alone=alone)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SessionEngine:
    """The same graph without any of what the engine does."""
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    path.write_bytes(graph(PACKING, positions=1024))
    return SessionEngine(path, cpu.DEVICE, 1)


def require_same(engine: PackedCudaEngine, plain: SessionEngine, packing: Packing, *lengths: int, alone: bool) -> None:
    batch = batch_of(*lengths, packing=packing, alone=alone)
    expected = plain.run(batch_of(*lengths), BOTH)
    for outputs in (SENTENCE, BOTH):
        found = engine.run(batch, outputs)
        assert list(found) == [*outputs]
        for name, array in found.items():
            assert array.dtype == np.float32
            wanted = expected[name]
            if name == "sentence_embedding":
                assert array.shape == wanted.shape
            np.testing.assert_allclose(array[: len(wanted)], wanted, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("packing", [PACKING, WITH_SCRATCH])
@pytest.mark.parametrize(
    "lengths", [(1,), (16,), (17,), (3, 5, 9), (1,) * 8, (1,) * 9, (64,), (65, 2), (500, 12), (513,), (20,) * 100]
)
def test_the_same_numbers(
    tmp_path: Path, plain: SessionEngine, packing: Packing, lengths: tuple[int, ...], alone: bool
) -> None:
    engine = make_engine(tmp_path, packing)
    for _ in range(2):  # what one batch leaves behind does not reach the next
        require_same(engine, plain, packing, *lengths, alone=alone)
    require_same(engine, plain, packing, 2, 1, alone=alone)
    require_same(engine, plain, packing, *lengths, alone=alone)


class TestKernels:
    @pytest.mark.parametrize(
        ("capability", "megabytes", "expected"),
        [
            ((9, 0), 45, [("0", 64), ("19", None)]),
            ((12, 0), 499, [("0", 64), ("19", None)]),
            ((9, 0), 500, [("19", None)]),
            ((8, 9), 45, [("0", None)]),
            ((7, 5), 5000, [("0", None)]),
            ((0, 0), 45, [("0", None)]),
        ],
    )
    def test_by_gpu_and_weights(
        self, capability: tuple[int, int], megabytes: int, expected: list[tuple[str, int | None]]
    ) -> None:
        chosen = choose_kernels(capability, megabytes * 1_000_000, PACKING)
        assert [(kernels.sdpa_kernel, kernels.longest) for kernels in chosen] == expected
        assert choose_kernels(capability, megabytes * 1_000_000, WITH_SCRATCH) == chosen[-1:]

    def test_by_the_longest_text(self, tmp_path: Path, runs: Runs) -> None:
        engine = make_engine(tmp_path, PACKING)
        runs.calls.clear()
        for lengths in ((64, 3), (65, 3), (1,) * 300, (600,)):
            engine.run(batch_of(*lengths), SENTENCE)
        short, long = map(id, engine._sessions)
        assert runs.calls == [(short, "run"), (long, "run"), (short, "run"), (long, "run")]

    def test_the_description_names_them(self, tmp_path: Path) -> None:
        version = onnxruntime.__version__
        assert make_engine(tmp_path, PACKING).description == (
            f"onnxruntime {version} CPUExecutionProvider, packed: ONNX Runtime's choice of attention up to 64 tokens, "
            "flash attention, CUDA graphs up to 512 tokens"
        )
        large = make_engine(tmp_path, PACKING, weights=600_000_000)
        assert large.description == f"onnxruntime {version} CPUExecutionProvider, packed: flash attention"
        assert large.workers == 2

    def test_the_settings_of_a_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        options = onnxruntime.SessionOptions()
        providers: Providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
        kernels = choose_kernels((9, 0), 600_000_000, PACKING)[0]
        assert cuda_runs._adjusted(kernels, options, providers) == [
            ("CUDAExecutionProvider", {"use_tf32": "0", "sdpa_kernel": "19"})
        ]
        assert cuda_runs._adjusted(kernels, options, providers, more={"enable_cuda_graph": "1"}) == [
            ("CUDAExecutionProvider", {"use_tf32": "0", "sdpa_kernel": "19", "enable_cuda_graph": "1"})
        ]
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"

    def test_no_capability_without_a_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        monkeypatch.setattr("embedrt.engine.cuda_setup._driver", lambda: {"cards": None})
        assert cuda_runs.compute_capability(0) == (0, 0)


class TestShapes:
    @given(st.integers(1, 40_000), st.integers(1, 2000), st.integers(1, 9000))
    def test_few_numbers_of_tokens(self, tokens: int, rows: int, longest: int) -> None:
        shape = Shape(tokens, rows, longest)
        larger = rounded(shape)
        assert larger.tokens % (256 if tokens <= 8192 else 512) == 0
        assert 0 <= larger.tokens - tokens < 512
        assert larger.longest == longest
        assert larger.tokens <= larger.rows * longest  # attention wants no more
        assert larger.rows >= rows

    def test_tokens_and_texts_are_added(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = make_engine(tmp_path, PACKING)
        fed: list[Mapping[str, NDArray[Any]]] = []
        run = onnxruntime.InferenceSession.run

        def note(session: Any, outputs: Any, feeds: Any, options: Any) -> Any:
            fed.append(feeds)
            return run(session, outputs, feeds, options)

        monkeypatch.setattr(onnxruntime.InferenceSession, "run", note)
        assert engine.run(batch_of(20, 30), SENTENCE)["sentence_embedding"].shape == (2, 32)
        assert {name: array.shape for name, array in fed[0].items()} == {
            "input_ids": (256,),
            "position_ids": (256,),
            "starts": (10,),
            "token_index": (9, 30),
            "offsets": (30,),
            "mean_weights": (9, 1, 30),
        }
        assert fed[0]["starts"].tolist() == [0, 20, *[50] * 8]

    def test_a_length_that_is_rounded_up(self, tmp_path: Path, plain: SessionEngine) -> None:
        packing = replace(WITH_SCRATCH, length_step=48)
        assert {shape.longest for shape in captured_shapes(packing)} == {48, 96, 144, 288, 528}
        engine = make_engine(tmp_path, packing)
        for alone in (False, True):
            require_same(engine, plain, packing, 49, 3, alone=alone)

    @pytest.mark.parametrize("shape", captured_shapes(PACKING))
    def test_inputs_in_one_piece(self, shape: Shape) -> None:
        names = [name for name in INPUTS if name != "longest"]
        staging = stage(names, shape)
        assert staging.numbers.dtype == np.int32
        for number, (name, array) in enumerate(staging.inputs.items()):
            assert array.shape == INPUTS[name].sizes(shape)
            assert array.dtype == INPUTS[name].dtype
            assert staging.starts[name] % 64 == 0
            array[...] = number + 1
        for number, (name, array) in enumerate(staging.inputs.items()):
            assert (array == number + 1).all(), name
            place = staging.numbers[staging.starts[name] :][: array.size].view(INPUTS[name].dtype)
            assert np.shares_memory(place, array)


class TestCudaGraphs:
    def test_only_small_calls_that_are_alone(self, tmp_path: Path, runs: Runs) -> None:
        engine = make_engine(tmp_path, PACKING)
        assert sorted(runs.hows()) == sorted(f"bound {number}" for number in range(1, 13))
        for lengths, alone, how in [
            ((16,), True, "bound 1"),
            ((3, 4), True, "bound 2"),
            ((17,), True, "bound 3"),
            ((100, 28), True, "bound 8"),
            ((512,), True, "bound 11"),
            ((500, 12), True, "bound 12"),
            ((16,), False, "run"),
            ((513,), True, "run"),
            ((1,) * 9, True, "run"),
        ]:
            runs.calls.clear()
            engine.run(batch_of(*lengths, alone=alone), SENTENCE)
            assert runs.hows() == [how], lengths
        runs.calls.clear()
        engine.run(batch_of(16, alone=True), BOTH)
        assert runs.hows() == ["run"]

    def test_many_threads_at_once(self, tmp_path: Path, plain: SessionEngine) -> None:
        engine = make_engine(tmp_path, WITH_SCRATCH)
        work = [(1 + i % 40, 1 + i % 7) if i % 3 else (1 + i % 60,) for i in range(120)]
        expected = [plain.run(batch_of(*lengths), SENTENCE)["sentence_embedding"] for lengths in work]

        def run(lengths: tuple[int, ...]) -> NDArray[np.float32]:
            return engine.run(batch_of(*lengths, packing=WITH_SCRATCH, alone=True), SENTENCE)["sentence_embedding"]

        with ThreadPoolExecutor(8) as pool:
            for found, wanted in zip(pool.map(run, work), expected, strict=True):
                np.testing.assert_allclose(found, wanted, atol=2e-6)

    def test_large_weights_have_none(self, tmp_path: Path, runs: Runs) -> None:
        engine = make_engine(tmp_path, PACKING, weights=500_000_000)
        assert not runs.calls
        engine.run(batch_of(16, alone=True), SENTENCE)
        assert runs.hows() == ["run"]

    def test_a_failed_capture_is_logged(
        self, tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: object) -> None:
            raise NativeError("CUDA failure 901: operation failed")

        monkeypatch.setattr(cuda_graphs.Capture, "graphs", fail)
        engine = make_engine(tmp_path, PACKING)
        assert [(record.name, record.levelno) for record in caplog.records] == [("embedrt", logging.WARNING)]
        assert (
            "packed.onnx: small calls take longer, because no CUDA graph can be captured: CUDA failure 901"
            in caplog.text
        )
        assert "CUDA graphs" not in engine.description
        engine.run(batch_of(16, alone=True), SENTENCE)
        assert runs.hows() == ["run"]

    def test_its_thread_ends_with_the_engine(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, PACKING)
        engine.run(batch_of(16, alone=True), SENTENCE)
        assert engine._graphs is not None
        own = engine._graphs._thread.call(threading.get_ident)
        assert own in one_threads()
        del engine
        gc.collect()
        turns = threading.Event()
        for _ in range(3000):
            if own not in one_threads():
                return
            turns.wait(0.01)
        raise AssertionError("the thread goes on")

    @pytest.mark.subprocess
    def test_the_end_of_the_process(self, tmp_path: Path) -> None:
        """Calls after the threads are kept from native code do not wait for the thread of the graphs."""
        script = tmp_path / "script.py"
        script.write_text(
            "import atexit\n"
            "late = []\n"
            "atexit.register(lambda: print(late[0]().shape))\n"  # registered first, called last
            "from pathlib import Path\n"
            "import tests.unit.test_cuda_runs as here\n"
            "from embedrt.engine import cuda_runs\n"
            "cuda_runs._adjusted = lambda kernels, options, providers, more=None: providers\n"
            "engine = here.make_engine(Path(__file__).parent, here.PACKING)\n"
            "def call():\n"
            "    return engine.run(here.batch_of(16, alone=True), here.SENTENCE)['sentence_embedding']\n"
            "late.append(call)\n"
            "print(call().shape)\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, script],
            cwd=root,
            env={"PYTHONPATH": str(root), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("(1, 32)\n(1, 32)\n", "", 0)


class TestScratchMemory:
    def test_it_is_kept_and_grows(self, tmp_path: Path) -> None:
        engine = make_engine(tmp_path, WITH_SCRATCH, weights=600_000_000)
        for lengths in ((3,), (3, 4), (300, 5), (700,), (2,)):
            engine.run(batch_of(*lengths, packing=WITH_SCRATCH), SENTENCE)
        (scratch,) = engine._scratch
        assert scratch._blocks >= 32  # 32 texts of 8 tokens each make room for 256 tokens

    def test_each_run_has_its_own(self, tmp_path: Path, plain: SessionEngine) -> None:
        engine = make_engine(tmp_path, WITH_SCRATCH, weights=600_000_000)
        expected = plain.run(batch_of(300, 5), SENTENCE)["sentence_embedding"]

        def run(_: int) -> NDArray[np.float32]:
            return engine.run(batch_of(300, 5, packing=WITH_SCRATCH), SENTENCE)["sentence_embedding"]

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(run, range(40)):
                np.testing.assert_allclose(found, expected, atol=2e-6)
        assert 1 <= len(engine._scratch) <= 4

    def test_it_comes_back_after_a_failure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = make_engine(tmp_path, WITH_SCRATCH, weights=600_000_000)
        with monkeypatch.context() as patched:
            failure = failing(RuntimeError("Failed to allocate memory for requested buffer"), "onnxruntime.capi")
            patched.setattr(onnxruntime.InferenceSession, "run_with_iobinding", failure)
            with pytest.raises(OutOfMemory, match="on a batch of 2 texts with 12 tokens"):
                engine.run(batch_of(9, 3, packing=WITH_SCRATCH), SENTENCE)
        assert len(engine._scratch) == 1
        engine.run(batch_of(9, 3, packing=WITH_SCRATCH), SENTENCE)
        assert len(engine._scratch) == 1

    def test_no_memory_for_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = make_engine(tmp_path, WITH_SCRATCH, weights=600_000_000)
        with monkeypatch.context() as patched:
            failure = failing(RuntimeError("CUDA failure 2: out of memory"), "onnxruntime.capi")
            patched.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", failure)
            with pytest.raises(OutOfMemory):
                engine.run(batch_of(9, 3, packing=WITH_SCRATCH), SENTENCE)
        assert engine.run(batch_of(9, 3, packing=WITH_SCRATCH), SENTENCE)["sentence_embedding"].shape == (2, 32)


class TestFailures:
    """What `Faults` makes of them is in its own tests."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> PackedCudaEngine:
        return make_engine(tmp_path, PACKING)

    @pytest.mark.parametrize("alone", [False, True])
    def test_a_lost_device(self, engine: PackedCudaEngine, monkeypatch: pytest.MonkeyPatch, alone: bool) -> None:
        calls: list[int] = []
        failure = failing(RuntimeError("CUDA failure 700: an illegal memory access"), "onnxruntime.capi")
        for name in ("run", "run_with_iobinding"):
            monkeypatch.setattr(onnxruntime.InferenceSession, name, failure)
        monkeypatch.setattr(engine, "_run", counted(engine._run, calls))
        messages = set()
        for _ in range(3):
            with pytest.raises(EngineError, match="can no longer use the device 'cpu'; restart the process") as caught:
                engine.run(batch_of(16, alone=alone), SENTENCE)
            messages.add(str(caught.value))
        assert len(calls) == len(messages) == 1

    def test_a_capture_of_another_model(self, engine: PackedCudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing else may be asked of CUDA meanwhile; a run that was is tried once more."""
        failures = iter(["CUDA failure 900: operation not permitted when stream is capturing"])
        run = engine._run

        def fail_first(batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
            for message in failures:
                raise NativeError(message)
            return run(batch, outputs)

        monkeypatch.setattr(engine, "_run", fail_first)
        assert engine.run(batch_of(16), SENTENCE)["sentence_embedding"].shape == (1, 32)

    def test_a_capture_that_does_not_end(self, engine: PackedCudaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []

        def fail(_: Batch, __: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
            calls.append(1)
            raise NativeError("cudaErrorStreamCaptureUnsafe")

        monkeypatch.setattr(engine, "_run", fail)
        with pytest.raises(EngineError, match="StreamCaptureUnsafe"):
            engine.run(batch_of(16), SENTENCE)
        assert len(calls) == 2

    def test_memory_is_returned(self, engine: PackedCudaEngine, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("embedrt.engine.faults._ARENAS", {"cpu": "cpu"})
        with monkeypatch.context() as patched:
            failure = failing(RuntimeError("out of memory"), "onnxruntime.capi")
            patched.setattr(onnxruntime.InferenceSession, "run", failure)
            with pytest.raises(OutOfMemory):
                engine.run(batch_of(16), SENTENCE)
        runs.options.clear()
        for _ in range(2):
            engine.run(batch_of(16), SENTENCE)
        assert [options and options.get_run_config_entry(SHRINK) for options in runs.options] == ["cpu:0", None]


def one_threads() -> set[int]:
    """The threads of all `OneThread` objects."""
    return {
        thread
        for thread, frame in sys._current_frames().items()
        if any(caller.f_code is one_thread._serve.__code__ for caller in stack(frame))
    }


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def count(*arguments: Any) -> Any:
        calls.append(1)
        return function(*arguments)

    return count


@pytest.mark.parametrize(("number", "tolerance"), [(10, 2e-3), (16, 2e-2)])
@pytest.mark.parametrize("packing", [PACKING, WITH_SCRATCH])
def test_outputs_of_16_bits(
    tmp_path: Path, plain: SessionEngine, packing: Packing, number: int, tolerance: float
) -> None:
    engine = make_engine(tmp_path, packing, with_tokens_in(graph(packing, positions=1024), number))
    found = engine.run(batch_of(9, 3, packing=packing), BOTH)
    expected = plain.run(batch_of(9, 3), BOTH)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found["token_embeddings"][:12], expected["token_embeddings"], atol=tolerance)
    np.testing.assert_allclose(found["sentence_embedding"], expected["sentence_embedding"], atol=2e-6)
    assert (found["token_embeddings"][:12] != expected["token_embeddings"]).any()


class TestOpening:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        kinds: list[str] = []

        def fake(kind: str) -> Callable[..., Any]:
            return lambda *_, **__: kinds.append(kind)

        monkeypatch.setattr("embedrt.engine.cuda_runs.PackedCudaEngine", fake("packed on CUDA"))
        monkeypatch.setattr("embedrt.engine.opening.SessionEngine", fake("a session"))
        return kinds

    @pytest.mark.parametrize(
        ("device", "packing", "expected"),
        [
            (cuda.DEVICE, PACKING, "packed on CUDA"),
            (cuda.DEVICE, None, "a session"),
            (cpu.DEVICE, PACKING, "a session"),
            (cpu.DEVICE, None, "a session"),
        ],
    )
    def test_the_placement_decides(
        self, opened: list[str], device: Device, packing: Packing | None, expected: str
    ) -> None:
        layout: Any = "packed" if packing else "padded"
        variant = Variant("float32", "x.onnx", None, "portable", (), layout, None, packing)
        open_engine(
            Path("x.onnx"),
            device,
            Placement(device, variant, "float32", 1, 512),
            interface=Interface((), {}),
            weights_bytes=1,
            prepack=True,
            load=lambda make: make(Path("x.onnx")),
        )
        assert opened == [expected]

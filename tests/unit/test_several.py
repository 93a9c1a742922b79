"""Several devices in one process: lists of devices, the queue that they share, and a limit on their memory."""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedrt import Embedder
from embedrt.engine import Batch, Device, cpu
from embedrt.engine.devices import DEVICES, find_devices
from embedrt.engine.make import make_engine
from embedrt.engine.session import SessionEngine
from embedrt.engine.several import SeveralEngines
from embedrt.errors import DeviceError, OutOfMemory
from embedrt.inputs.values import byte_count
from embedrt.run.runner import Runner
from embedrt.run.threads import Team

TEXTS = [f"{'one cat ' * (i % 11)}and {i} dogs" for i in range(60)]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU engines by the names of GPUs, one worker each, with small batches."""
    fake = replace(
        DEVICES["cpu"], kind="cuda", suffix=r"\d+", first="0", parallel=False, limits_memory=True, token_budget=64
    )
    monkeypatch.setitem(DEVICES, "cuda", fake)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The device and the tokens of every batch."""
    batches: list[tuple[str, int]] = []
    run = SessionEngine.run

    def spy(self: SessionEngine, batch: Batch, *given: Any) -> Any:
        rows, length = batch.shape
        batches.append((self.device.name, rows * length))
        return run(self, batch, *given)

    monkeypatch.setattr(SessionEngine, "run", spy)
    return batches


@pytest.mark.usefixtures("gpus")
class TestLists:
    @pytest.mark.parametrize(
        ("devices", "message"),
        [
            ([], "device: expected at least one, as in ['cuda:0', 'cuda:1'], got []"),
            (["cuda:0", "cuda:1", "cuda:0"], "device[2]: 'cuda:0' is listed twice; list each device once"),
            (["cuda", "cuda:0"], "device[1]: 'cuda:0' is listed twice; "),
            (["cpu", "cpu"], "device[1]: 'cpu' is listed twice; "),
            (["cuda:0", "cpu"], "device[1]: expected 'cuda' like the first, got 'cpu'; vectors of different kinds of"),
        ],
    )
    def test_lists_that_are_not_valid(self, tiny_bundle: Path, devices: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            Embedder(tiny_bundle, devices)

    def test_an_unknown_device(self, tiny_bundle: Path) -> None:
        for unknown in ("tpu", 3):
            with pytest.raises(DeviceError, match=f"^device: {unknown!r} is unknown"):
                Embedder(tiny_bundle, ["cuda:0", unknown])  # type: ignore[list-item]

    def test_a_list_for_one_call(self, tiny: Embedder, seen: list[tuple[str, int]]) -> None:
        """Nothing is started, and the engines stay for the next call."""
        expected = tiny.encode(TEXTS, device="cuda:0")
        seen.clear()
        assert (tiny.encode(TEXTS, device=["cuda:0", "cuda:1"]) == expected).all()
        assert {name for name, _ in seen} == {"cuda:0", "cuda:1"}
        runners = tiny.loaded.runners(("cuda:0", "cuda:1"))
        tiny.encode(TEXTS, device=("cuda:0", "cuda:1"))
        assert tiny.loaded.runners(("cuda:0", "cuda:1")) is runners
        with pytest.raises(ValueError, match="'cuda:1' is listed twice"):
            tiny.encode(TEXTS, device=["cuda:1", "cuda:1"])

    def test_a_model_on_several_devices(self, tiny_bundle: Path, tiny: Embedder, seen: list[tuple[str, int]]) -> None:
        model = Embedder(tiny_bundle, ["cuda:1", "cuda:0"])
        assert model.device == "cuda:1, cuda:0"
        assert model.engine.endswith("(cuda:1, cuda:0)")
        assert repr(model).endswith("['cuda:1', 'cuda:0'])")
        vectors = model.encode(TEXTS)
        assert {name for name, _ in seen} == {"cuda:0", "cuda:1"}
        assert (vectors == tiny.encode(TEXTS, device="cuda:0")).all()
        again = pickle.loads(pickle.dumps(model))
        assert again.device == model.device
        assert (again.encode(TEXTS) == vectors).all()

    def test_a_device_has_one_engine_by_all_its_names(self, tiny: Embedder) -> None:
        names = ("cuda", "cuda:0", ("cuda:0",), ("cuda",))
        first, *others = (tiny.loaded.runners(name) for name in names)
        assert all(other is first for other in others)
        assert tiny.loaded.runners("cuda:1") is not first

    def test_one_in_a_list(self, tiny_bundle: Path) -> None:
        model = Embedder(tiny_bundle, ["cuda:1"])
        assert model.device == "cuda:1"
        assert isinstance(model.runners["default"].engine, SessionEngine)
        assert Embedder(tiny_bundle, ["auto"]).device == "cpu"


class Scripted:
    """An engine that calls a function for every batch."""

    def __init__(self, name: str, script: Any, workers: int = 1) -> None:
        self.device: Device = replace(cpu.DEVICE, at=name)
        self.threads = 1
        self.workers = workers
        self.description = f"scripted on {name}"
        self.script = script
        self.lengths: list[int] = []

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        self.lengths.append(batch.shape[1])
        self.script(self)
        return {}


def batch_of(length: int) -> Batch:
    return Batch({"input_ids": np.zeros((1, length), np.int64)})


class TestQueue:
    def test_a_slow_device_gets_fewer_batches(self) -> None:
        """It has one until the other has done the rest, without any plan of who computes what."""
        rest_is_done = Event()

        def slow(_: Scripted) -> None:
            assert rest_is_done.wait(60)

        def fast(engine: Scripted) -> None:
            if len(engine.lengths) == 9:
                rest_is_done.set()

        engines = [Scripted("slow", slow), Scripted("fast", fast)]
        several = SeveralEngines(engines)
        assert (several.workers, several.description) == (2, "scripted on slow (cpu:slow, cpu:fast)")

        def compute(length: int) -> int:
            several.run(batch_of(length), [])
            return length

        with Team(several.workers) as team:
            tasks = [team.start(partial(compute, length)) for length in range(10, 0, -1)]
            assert [task.result() for task in tasks] == list(range(10, 0, -1))
        assert len(engines[0].lengths) == 1
        assert engines[1].lengths == sorted(engines[1].lengths, reverse=True)
        assert sorted(engines[0].lengths + engines[1].lengths) == list(range(1, 11))

    def test_more_callers_than_workers_take_turns(self) -> None:
        """As with nested calls, which must not wait for the call that they interrupt."""
        depths: list[str] = []

        def nest(engine: Scripted) -> None:
            depths.append(engine.device.at or "")
            if len(depths) < 6:
                several.run(batch_of(1), [])

        several = SeveralEngines([Scripted("a", nest), Scripted("b", nest)])
        several.run(batch_of(1), [])
        assert sorted(depths) == ["a"] * 3 + ["b"] * 3

    def test_an_engine_is_free_again_after_an_error(self) -> None:
        def fail(engine: Scripted) -> None:
            raise OutOfMemory("no room")

        engines = [Scripted("a", fail), Scripted("b", lambda _: None)]
        several = SeveralEngines(engines)
        for _ in range(2):
            with pytest.raises(OutOfMemory, match="no room"):
                several.run(batch_of(1), [])
            several.run(batch_of(1), [])
        assert [len(engine.lengths) for engine in engines] == [2, 2]

    def test_workers_of_each(self) -> None:
        """The first batches go to different devices, whatever the number of their workers."""
        order: list[str] = []

        def nest(engine: Scripted) -> None:
            order.append(engine.device.at or "")
            if len(order) < 5:
                several.run(batch_of(1), [])

        several = SeveralEngines([Scripted("a", nest, 2), Scripted("b", nest, 3)])
        assert several.workers == 5
        several.run(batch_of(1), [])
        assert order == ["a", "b", "a", "b", "b"]

    def test_one_device_has_its_own_engine(self) -> None:
        engine = Scripted("a", None)
        assert make_engine([engine.device], 1, lambda _: engine) is engine


def test_two_cpu_engines(tiny: Embedder, tiny_bundle: Path, seen: list[tuple[str, int]]) -> None:
    """The real runner with the real engines, which share the batches of a call."""
    runner = tiny.runners["default"]
    placement = replace(runner.placement, max_tokens=64, others=(replace(cpu.DEVICE, at="other"),))
    expected = tiny.encode(TEXTS)
    seen.clear()
    shared = Runner(runner.files, runner.route, tiny.manifest, placement)
    assert placement.name == "cpu, cpu:other"
    tiny.loaded.runners("cpu")["default"] = shared
    try:
        assert (tiny.encode(TEXTS, device="cpu") == expected).all()
    finally:
        tiny.loaded.runners("cpu")["default"] = runner
    assert {name for name, _ in seen} == {"cpu", "cpu:other"}


@pytest.mark.usefixtures("gpus")
class TestMemoryLimit:
    def test_it_reaches_every_device(self, tiny_bundle: Path) -> None:
        model = Embedder(tiny_bundle, ["cuda:0", "cuda:1"], gpu_mem_limit="2GiB")
        for one in (model, pickle.loads(pickle.dumps(model))):
            placement = one.runners["default"].placement
            assert [device.memory_limit for device in placement.devices] == [2 << 30] * 2
        model.encode(TEXTS[:3], device="cpu")
        assert model.loaded.placements("cpu")["default"].device == cpu.DEVICE

    @pytest.mark.parametrize("device", ["cpu", "auto", None])
    def test_other_devices_have_none(
        self, tiny_bundle: Path, device: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        message = "gpu_mem_limit: expected a device with a limit on its memory, as device='cuda', got 'cpu'; leave"
        with pytest.raises(ValueError, match=f"^{message}"):
            Embedder(tiny_bundle, device, gpu_mem_limit=1 << 30)

    def test_numbers_of_bytes(self) -> None:
        for value, count in (
            (1, 1),
            (np.int64(7), 7),
            ("20GB", 20 * 10**9),
            ("20GiB", 20 << 30),
            ("1.5 gib", 3 << 29),
            ("512MB", 512 * 10**6),
            ("100kb", 10**5),
            ("12345", 12345),
        ):
            assert byte_count(value, "n") == count

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "", "0GB", "GB", "-1GB", "20G", "20 TB", "1e9", b"1 GB", []])
    def test_what_is_no_number_of_bytes(self, tiny_bundle: Path, value: Any) -> None:
        message = re.escape(f"gpu_mem_limit: expected bytes, or a text such as '20GB' or '20GiB', got {value!r}")
        with pytest.raises(ValueError, match=f"^{message}$"):
            Embedder(tiny_bundle, "cuda:0", gpu_mem_limit=value)


@pytest.mark.usefixtures("gpus")
def test_devices_keep_their_order() -> None:
    assert [device.name for device in find_devices(["cuda:3", "cuda"])] == ["cuda:3", "cuda"]

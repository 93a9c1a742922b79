"""Failures of a device: memory is returned to it, and a lost device is left alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import EngineError
from embedrt.engine import Batch, Device, cpu, cuda
from embedrt.engine.faults import SHRINK, Faults
from embedrt.engine.native import NativeError
from embedrt.engine.session import SessionEngine, returned_memory, run_options
from embedrt.errors import OutOfMemory
from tests.kit.library_failures import failing

PADDED = Batch({"input_ids": np.zeros((2, 3), np.int64)})
PACKED = Batch({"input_ids": np.zeros(256, np.int32)}, spans=np.array([[0, 3], [3, 4]]))
LOST = [
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=x ; expr=cudaStreamSynchronize(s)",
    "CUDA failure 719: unspecified launch failure ; GPU=0",
    "CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered",
    "cudaErrorLaunchFailure",
    "CUDA failure 710: device-side assert triggered ; GPU=1",
    "CUDA failure 214: uncorrectable ECC error encountered ; GPU=0",
    "[ONNXRuntimeError] : ORT_DEVICE_RESET : the device was reset",
]
OTHER = [
    "CUDA failure 2: out of memory ; GPU=0",
    "Failed to allocate memory for requested buffer of size 700",
    "CUDA failure 900: operation not permitted when stream is capturing ; GPU=0",
    "CUDA failure 98: invalid device function ; GPU=0",
    "Got invalid dimensions for input: input_ids Expected: 719",
    "CUBLAS_STATUS_ALLOC_FAILED",
]


@pytest.mark.parametrize("message", LOST)
def test_a_lost_device_is_left_alone(message: str) -> None:
    faults = Faults(cuda.DEVICE.with_suffix("1"))
    faults.require_usable()
    error = faults.error(NativeError(message), PADDED)
    assert type(error) is EngineError
    assert str(error).startswith("this process can no longer use the device 'cuda:1'; restart the process (")
    assert message in str(error)
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            faults.require_usable()
        assert str(caught.value) == str(error)


@pytest.mark.parametrize("message", OTHER)
def test_other_failures_pass(message: str) -> None:
    faults = Faults(cuda.DEVICE)
    error = faults.error(NativeError(message), PADDED)
    assert str(error) == f"ONNX Runtime failed on a batch of 2 x 3 tokens: {message}"
    assert isinstance(error, OutOfMemory) == bool("memory" in message or "ALLOC" in message)
    faults.require_usable()


def test_a_packed_batch_has_no_padding() -> None:
    error = Faults(cuda.DEVICE).error(NativeError("no"), PACKED)
    assert str(error) == "ONNX Runtime failed on a batch of 2 texts with 4 tokens: no"


def test_the_run_after_a_lack_of_memory_returns_the_rest() -> None:
    faults = Faults(cuda.DEVICE.with_suffix("3"))
    assert faults.run_config() == {}
    faults.error(NativeError("other"), PADDED)
    assert faults.run_config() == {}
    faults.error(NativeError("out of memory"), PADDED)
    assert faults.run_config() == {SHRINK: "gpu:3"}
    assert faults.run_config() == {}
    first = Faults(cuda.DEVICE)
    first.error(NativeError("out of memory"), PADDED)
    assert first.run_config() == {SHRINK: "gpu:0"}


def test_a_cpu_keeps_its_memory() -> None:
    faults = Faults(cpu.DEVICE)
    faults.error(NativeError("bad_alloc"), PADDED)
    assert faults.run_config() == {}


def test_run_options_are_those_of_the_engine() -> None:
    assert run_options({}) is None
    assert run_options({SHRINK: "gpu:0"}).get_run_config_entry(SHRINK) == "gpu:0"


class Session:
    """A session that fails with scripted messages, then stops failing; it notes the run options."""

    def __init__(self, *messages: str) -> None:
        self._messages = list(messages)
        self.runs: list[Any] = []

    @property
    def run(self) -> Callable[..., list[Any]]:
        if self._messages:
            self.runs.append(None)
            return failing(RuntimeError(self._messages.pop(0)), "onnxruntime.capi")
        return self._succeed

    def _succeed(self, outputs: Sequence[str], feeds: Any, options: Any) -> list[Any]:
        self.runs.append(options)
        return [np.zeros((2, 4), np.float32) for _ in outputs]


def engine_over(session: Session, monkeypatch: pytest.MonkeyPatch) -> SessionEngine:
    monkeypatch.setattr("embedrt.engine.session.create_session", lambda *_, **__: session)
    return SessionEngine(Path("model.onnx"), cuda.DEVICE)


def test_an_engine_that_lost_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(LOST[0])
    engine = engine_over(session, monkeypatch)
    messages = []
    for _ in range(3):
        with pytest.raises(EngineError, match="restart the process") as caught:
            engine.run(PADDED, ["sentence_embedding"])
        messages.append(str(caught.value))
    assert len(session.runs) == 1
    assert len(set(messages)) == 1


def test_an_engine_that_lacked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("CUDA failure 2: out of memory")
    engine = engine_over(session, monkeypatch)
    with pytest.raises(OutOfMemory):
        engine.run(PADDED, ["sentence_embedding"])
    for _ in range(2):
        assert engine.run(PADDED, ["sentence_embedding"])["sentence_embedding"].shape == (2, 4)
    assert [options and options.get_run_config_entry(SHRINK) for options in session.runs] == [None, "gpu:0", None]
    assert engine.workers == 2


@pytest.mark.parametrize(
    ("device", "length", "config"),
    [(cpu.DEVICE, 1023, {}), (cpu.DEVICE, 1024, {SHRINK: "cpu:0"}), (cuda.DEVICE, 1024, {})],
)
def test_a_run_with_a_long_text_on_a_cpu_returns_its_memory(
    device: Device, length: int, config: dict[str, str]
) -> None:
    assert returned_memory(device, Batch({"input_ids": np.zeros((1, length), np.int64)})) == config

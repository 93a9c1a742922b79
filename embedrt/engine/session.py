"""The engine: the only module that imports onnxruntime. From a device's name to vectors, or an error."""

import ctypes
import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch, openvino
from embedrt.engine.machine import available_threads, require_process
from embedrt.errors import DeviceError, InferenceError, MissingDependencyError

# Making sessions from several threads at once is not safe in ONNX Runtime; running them is.
_CREATING = threading.Lock()
# Every session of this process, for a child that it may fork.
_ALIVE: weakref.WeakSet[Any] = weakref.WeakSet()


def _abandon_sessions() -> None:
    """Keeps a forked child from destroying its parent's sessions, which waits for threads that it does not have."""
    for session in _ALIVE:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_sessions)


@dataclass(frozen=True)
class Computing:
    """How a device computes a precision that users name.

    Attributes:
        graph: Which precision of the bundle's graphs it runs.
        hint: OpenVINO's `INFERENCE_PRECISION_HINT`.
        capability: What OpenVINO lists for hardware that computes so; others would fall back to another precision.
    """

    graph: str
    hint: str
    capability: str


@dataclass(frozen=True)
class Device:
    """A way to run the graph.

    Attributes:
        name: What users write; an index may follow, as in "cuda:1".
        provider: ONNX Runtime's execution provider.
        options: The provider's options.
        token_budget: Tokens of one batch (`rows x longest`). Small on a CPU, where a batch should stay in the cache;
            large where a launch costs more than the arithmetic.
        run_cost: What a batch costs before its first token, in tokens; the planner weighs it against padding.
        parallel: Whether several threads run batches at once, each on one processor.
        indexed: Whether the name may carry a device index.
        target: OpenVINO's name of the hardware, where the provider is its plug-in; the name may carry another.
        computes: The precisions that users may name; empty for a device that runs any graph of a bundle as it is.
        length_step: Batches are padded to a multiple of this many tokens, which keeps an engine that compiles for
            every shape to few of them; see `planning.padded_length`.
    """

    name: str
    provider: str
    options: Mapping[str, str] = field(default_factory=dict)
    token_budget: int = 16384
    run_cost: int = 512
    parallel: bool = False
    indexed: bool = False
    target: str | None = None
    computes: Mapping[str, Computing] = field(default_factory=dict)
    length_step: int = 1


DEVICES = {
    device.name: device
    for device in (
        Device("cpu", "CPUExecutionProvider", token_budget=512, run_cost=16, parallel=True),
        # A growing arena doubles its size at every new maximum; asking for what is needed keeps the memory bounded.
        Device("cuda", "CUDAExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"}, indexed=True),
        Device("coreml", "CoreMLExecutionProvider", {"ModelFormat": "MLProgram"}),
        # One wide session is as fast as narrow ones and answers a single text sooner. Every new shape of a batch costs
        # milliseconds and 0.6 MB that is not given back.
        Device(
            "openvino",
            openvino.PROVIDER,
            token_budget=1024,
            run_cost=16,
            target="CPU",
            computes={"fp32": Computing("fp32", "f32", "FP32"), "bf16": Computing("fp32", "bf16", "BF16")},
            length_step=8,
        ),
    )
}
_ALIASES = {"mps": "coreml"}
# A device, and after a colon an index or what OpenVINO calls the hardware.
_NAME = re.compile(r"([a-z]+)(?::(?:(\d+)|(CPU|(?:GPU|NPU)(?:\.\d+)?)))?")
# From here on weights are large: they are not held twice for the sake of speed.
LARGE_BYTES = 1 << 30


def onnxruntime() -> ModuleType:
    """Imports ONNX Runtime with its telemetry off.

    Raises:
        MissingDependencyError: It is not installed; the message has the line that installs it.
    """
    # Read when the library is loaded; the Python call afterwards covers a user who imported it before.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime as module
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX Runtime is not installed; run `pip install 'embedrt[cpu]'` or `pip install 'embedrt[gpu]'`"
        ) from error
    module.disable_telemetry_events()
    loaded: ModuleType = module
    return loaded


def find_device(name: str | None) -> Device:
    """Looks a device up by the name that users write, such as "cpu", "cuda:1", "openvino:GPU" or "auto" (also None).

    "auto" is CUDA where the installed ONNX Runtime has it, else the CPU. What it chose is what must work: a CUDA
    installation that fails is an error and not a reason to compute elsewhere.

    Raises:
        DeviceError: The name is unknown, or the installed ONNX Runtime has no such provider.
    """
    available = onnxruntime().get_available_providers()
    if name is None or name == "auto":
        return DEVICES["cuda"] if DEVICES["cuda"].provider in available else DEVICES["cpu"]
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    base, index, target = match.groups() if match else (None, None, None)
    device = DEVICES.get(_ALIASES.get(base or "", base or ""))
    if device is None or (index is not None and not device.indexed) or (target is not None and device.target is None):
        raise DeviceError(
            f"device: {name!r} is unknown; known: auto, {', '.join(DEVICES)}, cuda:INDEX, openvino:GPU, openvino:NPU, "
            "mps"
        )
    if device.target is not None:
        device = replace(device, name=str(name), target=target or device.target)
        try:
            openvino.find(onnxruntime(), str(device.target))
        except DeviceError as error:
            raise DeviceError(f"device: {name!r}: {error}") from error
        return device
    if device.provider not in available:
        raise DeviceError(
            f"device: {name!r} needs {device.provider}, but the installed onnxruntime {onnxruntime().__version__} has "
            f"only {', '.join(available)}; install the wheel that has it (`pip install 'embedrt[gpu]'` for CUDA, after "
            "`pip uninstall onnxruntime`), or use device='cpu'"
        )
    if index is None:
        return device
    return replace(device, name=str(name), options={**device.options, "device_id": index})


class Engine:
    """One graph on one device.

    A session's thread count is fixed when it is made. Many batches run fastest on several threads over a narrow session
    of one thread each; one batch alone runs fastest on a wide session. Each is made on first use; the weights that no
    kernel repacks are mapped from the file and shared between them.

    Args:
        graph: The ONNX file.
        device: Where to run.
        threads: Processors to use; None takes what affinity and cgroup quota allow.
        precision: Which of the ways that the device computes in, if it has several.
        weights_bytes: Size of the graph's weights. Each session repacks them in memory, which makes a short text
            several times as fast; from `LARGE_BYTES` on one session, the wide one, does for everything.
        proving: Large weights stay as they are mapped: without a copy in memory, quick to load and slow to run.

    Raises:
        DeviceError: The device is not to be had. On a CPU, which is always there, sessions are made on first use.
    """

    def __init__(
        self,
        graph: Path,
        device: Device,
        threads: int | None = None,
        *,
        precision: str = "fp32",
        weights_bytes: int = 0,
        proving: bool = False,
    ) -> None:
        self.device = device
        self.precision = precision
        self.threads = available_threads() if threads is None else threads
        self._graph = graph
        large = weights_bytes >= LARGE_BYTES
        self._repack = not (large and proving)
        self._parallel = device.parallel and not large
        self._sessions: dict[int, Any] = {}
        self._process = os.getpid()
        if not device.parallel:
            self._session(self.threads)

    @property
    def workers(self) -> int:
        """How many threads should run batches at once that are not alone."""
        return self.threads if self._parallel else 1

    @property
    def description(self) -> str:
        """Engine, version and execution provider, as reports name it."""
        name = f"onnxruntime {onnxruntime().__version__} {self.device.provider}"
        return name if self.device.target is None else f"{name} on {self.device.target} in {self.precision}"

    def run(self, batch: Batch, outputs: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Computes some outputs of the graph, by name.

        Args:
            batch: The graph's inputs.
            outputs: Names of the outputs to compute.

        Raises:
            InferenceError: ONNX Runtime failed.
            DeviceError: The session could not be made on the device.
        """
        session = self._session(self.threads if batch.alone or not self._parallel else 1)
        try:
            results = session.run(list(outputs), batch.feeds)
        except Exception as error:
            rows, length = batch.shape
            raise InferenceError(f"ONNX Runtime failed on a batch of {rows} x {length} tokens: {error}") from error
        return dict(zip(outputs, results, strict=True))

    def _session(self, threads: int) -> Any:
        require_process(self._process)
        with _CREATING:
            if threads not in self._sessions:
                self._sessions[threads] = _create_session(
                    self._graph, self.device, threads, repack=self._repack, precision=self.precision
                )
            return self._sessions[threads]


def _create_session(graph: Path, device: Device, threads: int, *, repack: bool, precision: str) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it keeps a plan for every input shape ever seen
    options.log_severity_level = 4  # errors arrive as exceptions
    if not repack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    providers = [(device.provider, dict(device.options))]
    if device.target is not None:
        _add_openvino(options, device.target, device.computes[precision], threads)
        providers = []  # the options have it
    elif device.provider != "CPUExecutionProvider":
        options.log_severity_level = 3  # why a provider did not load is told by the log alone
        providers.append(("CPUExecutionProvider", {}))  # for shape arithmetic, which has no other kernel
    try:
        session = ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise DeviceError(f"ONNX Runtime cannot load {graph} on {device.name!r}: {error}") from error
    _ALIVE.add(session)
    session.disable_fallback()
    if (obtained := session.get_providers()[0]) != device.provider:
        raise DeviceError(
            f"device {device.name!r} needs {device.provider}, but ONNX Runtime loaded {obtained} instead; its log "
            "above tells why (often a missing CUDA or cuDNN library); device='cpu' runs on the processor"
        )
    return session


def _add_openvino(options: Any, target: str, computing: Computing, threads: int) -> None:
    """Has the session run on one of OpenVINO's devices, the whole graph, in the precision asked for."""
    found = openvino.find(onnxruntime(), target)
    if computing.capability not in (known := openvino.capabilities(found)):
        raise DeviceError(
            f"OpenVINO's device {target!r} does not compute in {computing.capability} on this machine, but in "
            f"{', '.join(known) or 'nothing that it names'}; use another precision, or device='cpu'"
        )
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # nodes left over are an error
    options.add_provider_for_devices([found], openvino.settings(target, computing.hint, threads))

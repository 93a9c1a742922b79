"""ONNX Runtime: the only module that imports it, and the only one that makes sessions."""

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch, Device, Providers, numa
from embedrt.engine.faults import SHRINK, Faults
from embedrt.engine.machine import available_threads, require_process
from embedrt.engine.native import NativeError, call_native
from embedrt.engine.outputs import in_bfloat16, named, run_bound
from embedrt.errors import BundleError, DeviceError, MissingDependencyError

# Making sessions from several threads at once is not safe in ONNX Runtime; running them is.
CREATING = threading.RLock()  # a signal handler may encode meanwhile
"""Held while a session is made."""
# Every session of this process, for a child that it may fork.
_ALIVE: weakref.WeakSet[Any] = weakref.WeakSet()
# After so long a text, a run on a CPU returns its memory. To get it back takes less than 1 % of the next run.
_LONG_TEXT = 1024
# From here on weights are large: they are not held twice for the sake of speed.
LARGE_BYTES = 1 << 30


def _abandon_sessions() -> None:
    """Keeps a forked child from destroying its parent's sessions, which waits for threads that it does not have."""
    for session in _ALIVE:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_sessions)


def onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry off.

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


def plain_session(graph: Path | bytes, *, config: Mapping[str, str] | None = None, optimize: bool = True) -> Any:
    """A session on the CPU for looking at a graph: probes, checks and references, not for encoding.

    Args:
        graph: An ONNX file, or its bytes.
        config: Session config entries.
        optimize: False computes the graph node by node, as it stands.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _return_free_memory() -> None:
    """Return what making a session has freed to the system, with glibc.

    Weights that are reordered leave gaps in its heap, half as large as the weights.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(ctypes.c_size_t(0))


Load = Callable[[Callable[[Path], Any]], Any]
"""Calls a function with the path to open a graph with, and returns its result."""


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a graph, as the manifest has them.

    Attributes:
        inputs: The names of all inputs.
        outputs: The sizes of the last axis of the outputs that are used, by name.
    """

    inputs: tuple[str, ...]
    outputs: Mapping[str, int]


class SessionEngine:
    """One graph on one device.

    A session's thread count is fixed when it is made. Many batches run fastest on several threads over a narrow session
    of one thread each; one batch alone runs fastest on a wide session. Each is made on first use; the weights that no
    kernel repacks are mapped from the file and shared between them.

    If there are more threads than one NUMA node has cores, each node has a narrow session, whose weights lie on it, and
    the wide session has as many threads as a node has cores, on one node.

    Args:
        graph: The ONNX file.
        device: Where to run.
        threads: Threads to use; None takes what affinity and cgroup quota allow.
        interface: The inputs and outputs that the graph must have; None does not check them.
        dtype: The dtype to compute in.
        weights_bytes: Size of the graph's weights. Each session repacks them in memory, which makes a short text
            several times as fast; from `LARGE_BYTES` on one session, the wide one, does for everything.
        prepack: False leaves large weights as they are mapped: without a copy in memory, quick to load, slow to run.
        load: Calls a function with the path to open the graph with, and returns its result; None takes `graph`, which
            messages name either way.
        nodes: The NUMA nodes of the machine; None takes those that this process may use.

    Raises:
        BundleError: The graph has another interface. This too is found when the first session is made.
        DeviceError: The device is not to be had. On a CPU, which is always there, sessions are made on first use.
    """

    def __init__(
        self,
        graph: Path,
        device: Device,
        threads: int | None = None,
        *,
        interface: Interface | None = None,
        dtype: str = "float32",
        weights_bytes: int = 0,
        prepack: bool = True,
        load: Load | None = None,
        nodes: Sequence[numa.Node] | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.threads = available_threads() if threads is None else threads
        self._graph = graph
        self._load = load
        self._interface = interface
        large = weights_bytes >= LARGE_BYTES
        self._prepack = prepack or not large
        self._parallel = device.parallel and not large
        self._faults = Faults(device)
        nodes = (numa.nodes() if nodes is None else nodes) if self._parallel else ()
        largest = max((len(node.cores) for node in nodes), default=self.threads)
        self._nodes = nodes if self.threads > largest else ()
        self._wide = min(self.threads, largest)
        self._sessions: dict[tuple[int, numa.Node | None], Any] = {}
        self._process = os.getpid()
        if device.parallel:  # sessions wait for their first use, errors do not
            device.configure(onnxruntime().SessionOptions(), device, dtype, self.threads)
        else:
            self._session(self.threads)

    @property
    def workers(self) -> int:
        """Threads that should call `run` at once with batches that are not alone."""
        return self.threads if self._parallel else self.device.workers

    @property
    def description(self) -> str:
        """Engine, version and execution provider, as reports name it."""
        name = f"onnxruntime {onnxruntime().__version__} {self.device.provider}"
        return f"{name} on {self.device.name} in {self.dtype}" if self.device.computes else name

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Compute some outputs of the graph, by name.

        Args:
            batch: The graph's inputs.
            outputs: Names of the graph's outputs, such as "sentence_embedding" `[rows, dim]` and "token_embeddings"
                `[rows, longest, hidden]`.

        Raises:
            OutOfMemory: The batch does not fit into the device's memory.
            EngineError: ONNX Runtime failed.
            DeviceError: The session could not be made on the device.
        """
        self._faults.require_usable()
        if batch.alone or not self._parallel:
            session = self._session(self._wide)
        else:
            session = self._session(1, numa.node_of_thread(self._nodes) if self._nodes else None)
        try:
            options = run_options({**self._faults.run_config(), **returned_memory(self.device, batch)})
            if self.dtype == "bfloat16" and not in_bfloat16(session).isdisjoint(outputs):
                return run_bound(session, session.io_binding(), outputs, batch.feeds, options)
            return named(outputs, call_native(session.run, list(outputs), batch.feeds, options))
        except NativeError as failure:
            raise self._faults.error(failure, batch) from failure.__cause__

    def _session(self, threads: int, node: numa.Node | None = None) -> Any:
        require_process(self._process)
        session = self._sessions.get((threads, node))
        return call_native(self._create, threads, node) if session is None else session

    def _create(self, threads: int, node: numa.Node | None) -> Any:
        with CREATING:
            if (threads, node) not in self._sessions:
                with numa.bound_to(node or (numa.node_of_thread(self._nodes) if self._nodes else None)):
                    self._sessions[threads, node] = create_session(
                        self._graph,
                        self.device,
                        threads,
                        dtype=self.dtype,
                        prepack=self._prepack,
                        interface=self._interface,
                        load=self._load,
                    )
            return self._sessions[threads, node]


def returned_memory(device: Device, batch: Batch) -> dict[str, str]:
    """Config entries of a run after which memory that no other run needs goes back to the system."""
    _, length = batch.shape
    return {SHRINK: device.shrinks} if device.shrinks and length >= _LONG_TEXT else {}


def run_options(config: Mapping[str, str]) -> Any:
    """Run options with config entries; None without any."""
    if not config:
        return None
    options = onnxruntime().RunOptions()
    for key, value in config.items():
        options.add_run_config_entry(key, value)
    return options


def _check_interface(graph: Path, session: Any, interface: Interface) -> None:
    """Check that a graph has the inputs and outputs of the manifest, which no file but the graph itself tells.

    Raises:
        BundleError: It has others; the message names them.
    """
    inputs = {value.name for value in session.get_inputs()}
    if inputs != set(interface.inputs):
        raise BundleError(
            f"{graph}: expected the inputs {', '.join(interface.inputs)}, as in the manifest, got "
            f"{', '.join(sorted(inputs))}; export the model again"
        )
    widths = {value.name: value.shape[-1] if value.shape else None for value in session.get_outputs()}
    for name, width in interface.outputs.items():
        if name not in widths:
            raise BundleError(
                f"{graph}: expected the output {name}, as in the manifest, got {', '.join(widths)}; export the model "
                "again"
            )
        if isinstance(widths[name], int) and widths[name] != width:
            raise BundleError(
                f"{graph}: expected {name} of width {width}, as in the manifest, got {widths[name]}; export the model "
                "again"
            )


def create_session(
    graph: Path,
    device: Device,
    threads: int,
    *,
    dtype: str,
    prepack: bool = True,
    interface: Interface | None = None,
    load: Load | None = None,
    adjust: Callable[[Any, Providers], Providers] = lambda _, providers: providers,
) -> Any:
    """Make a session on a device, and check what it has; for a thread that holds `CREATING`.

    Args:
        graph: The ONNX file.
        device: Where to run.
        threads: Threads of the session.
        dtype: The dtype to compute in.
        prepack: False leaves large weights as they are mapped.
        interface: The inputs and outputs that the graph must have; None does not check them.
        load: Calls a function with the path to open the graph with; None takes `graph`.
        adjust: Changes the session options and the providers that the device sets.

    Raises:
        BundleError: The graph has another interface.
        DeviceError: ONNX Runtime cannot load the graph on the device.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it keeps a plan for every input shape ever seen
    options.log_severity_level = 4  # errors arrive as exceptions
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    providers = adjust(options, device.configure(options, device, dtype, threads))

    def make(opened: Path) -> Any:
        try:
            return call_native(ort.InferenceSession, opened, options, providers=providers, enable_fallback=0)
        except NativeError as failure:
            message = str(failure).replace(str(opened.parent), str(graph.parent))
            raise DeviceError(f"ONNX Runtime cannot load {graph} on {device.name!r}: {message}") from failure.__cause__

    session = make(graph) if load is None else load(make)
    _return_free_memory()
    _ALIVE.add(session)
    session.disable_fallback()
    if (obtained := session.get_providers()[0]) != device.provider:
        raise DeviceError(
            f"device {device.name!r} needs {device.provider}, but ONNX Runtime loaded {obtained} instead; its log "
            "above says why (often a missing CUDA or cuDNN library); device='cpu' runs on the CPU"
        )
    if interface is not None:
        _check_interface(graph, session, interface)
    return session

"""The nodes of a graph by the execution provider that the real CUDA provider leaves them to, and runs of the graph."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnxruntime

from tests.cuda.feeds import Feeds

Options = Mapping[str, str]
# Graph inputs that operators read on the host.
ON_CPU = ("longest",)
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_STRICT = {"session.disable_cpu_ep_fallback": "1"}
_REPORT = {"session.record_ep_graph_assignment_info": "1"}


@dataclass(frozen=True)
class Placement:
    """What ONNX Runtime makes of a graph on a CUDA device.

    Attributes:
        nodes: How many nodes of an operator each provider takes; the key is provider and operator.
        operators: How many nodes of each operator the graph has that runs, after all fusions.
    """

    nodes: Counter[tuple[str, str]]
    operators: Counter[str]

    @property
    def on_cpu(self) -> Counter[str]:
        """Operators that are left to the CPU."""
        return Counter({operator: n for (provider, operator), n in self.nodes.items() if provider == CPU})

    @property
    def copies(self) -> int:
        """Nodes that copy between host and device."""
        return sum(n for operator, n in self.operators.items() if operator.startswith("Memcpy"))


def placement(graph: Path, options: Options | None = None) -> Placement:
    """Load a graph on CUDA, with the CPU for whatever has no CUDA kernel, and report the result."""
    with TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session = make_session(graph, options, config=_REPORT, optimized=optimized, providers=(CUDA, CPU))
        # Only the operators are of interest, and the weights are beside the original graph.
        operators = Counter(node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node)
    nodes = Counter(
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )
    return Placement(nodes, operators)


def run_on_cuda(graph: Path, feeds: Feeds, options: Options | None = None, *, strict: bool = True) -> list[list[int]]:
    """Run a graph that has no node on the CPU, and return the shapes of its outputs.

    Kernels check shapes and the limits of their card here, which loading does not.
    """
    providers, config = ((CUDA,), _STRICT) if strict else ((CUDA, CPU), {})
    session = make_session(graph, options, config=config, providers=providers)
    bindings = _bind(session, feeds)
    session.run_with_iobinding(bindings)
    return [value.shape() for value in bindings.get_outputs()]


def run_captured(graph: Path, feeds: Feeds, shapes: Sequence[Sequence[int]]) -> int:
    """Capture a graph as a CUDA graph in a first run and replay it in a second; return how many runs passed."""
    session = make_session(graph, {"enable_cuda_graph": "1"}, config=_STRICT)
    bindings = _bind(session, feeds)
    for output, shape in zip(session.get_outputs(), shapes, strict=True):  # fixed addresses
        bindings.bind_ortvalue_output(output.name, _device_value(list(shape), output.type))
    for _ in range(2):
        session.run_with_iobinding(bindings)
    return 2


def make_session(
    graph: Path,
    options: Options | None = None,
    *,
    config: Mapping[str, str],
    optimized: Path | None = None,
    providers: Sequence[str] = (CUDA,),
) -> Any:
    """A session on CUDA that fails rather than falls back to the CPU as a whole."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.enable_mem_pattern = False
    if optimized is not None:
        settings.optimized_model_filepath = str(optimized)
    for key, value in config.items():
        settings.add_session_config_entry(key, value)
    arguments = {CUDA: {"use_tf32": "0", **(options or {})}, CPU: {}}
    wanted = [(provider, arguments[provider]) for provider in providers]
    session = onnxruntime.InferenceSession(graph, settings, providers=wanted, enable_fallback=0)
    assert session.get_providers()[0] == CUDA
    return session


def _bind(session: Any, feeds: Feeds) -> Any:
    """Bind every input in the memory that its operators read."""
    bindings = session.io_binding()
    for value in session.get_inputs():
        if value.name in feeds.arrays:
            device = "cpu" if value.name in ON_CPU else "cuda"
            bound = onnxruntime.OrtValue.ortvalue_from_numpy(feeds.arrays[value.name], device, 0)
        else:
            bound = _device_value([feeds.blocks, *value.shape[1:]], value.type)
        bindings.bind_ortvalue_input(value.name, bound)
    for output in session.get_outputs():
        bindings.bind_output(output.name, "cuda", 0)
    return bindings


def _device_value(shape: list[int], kind: str) -> Any:
    """Device memory; numpy has no bfloat16, ONNX's number does."""
    types = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(bfloat16)": 16, "tensor(int32)": 6, "tensor(int64)": 7}
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, types[kind], "cuda", 0)

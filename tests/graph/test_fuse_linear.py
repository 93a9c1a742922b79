"""Feed-forward layers as convolutions: they compute the same, and what differs anyhow is left alone."""

import ctypes
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from embedrt import Embedder
from embedrt.engine import cpu
from embedrt.engine.devices import DEVICES
from embedrt.engine.machine import is_x86
from embedrt.engine.session import onnxruntime
from embedrt_export import export
from embedrt_export.dtypes import float32
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.fuse_linear import convolve
from embedrt_export.layers.activations import activation
from embedrt_export.layers.linear import Linear, project
from tests.kit.models import make_model

WIDTH, INNER = 128, 160
RANDOM = np.random.default_rng(0)


def layer(outputs: int, inputs: int, *, bias: bool = True) -> Linear:
    weight = (RANDOM.normal(size=(outputs, inputs)) / inputs**0.5).astype(np.float32)
    return Linear(weight, RANDOM.normal(size=outputs).astype(np.float32) if bias else None)


def write(
    folder: Path,
    *,
    width: int = WIDTH,
    inner: int = INNER,
    outputs: int | None = None,
    function: str = "gelu",
    bias: bool = True,
    layers: int = 1,
) -> onnx.ModelProto:
    """A graph with feed-forward layers, each added to its input; returns it, its weights in the data file."""
    with DataFile(folder / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        ids = graph.input("input_ids")
        table = RANDOM.normal(size=(11, width)).astype(np.float32)
        x = graph.op("Reshape", graph.op("Gather", graph.weight("table", table), ids), graph.ints(-1, width))
        for number in range(layers):
            inside = project(graph, x, f"in{number}", layer(inner, width, bias=bias))
            inside = activation(graph, function, inside)
            y = project(graph, inside, f"out{number}", layer(outputs or width, inner, bias=bias))
            x = graph.op("Add", y, x) if outputs is None else y
        graph.output("y", x, ["tokens", outputs or width])
        graph.save(folder / "m.onnx")
    return onnx.load(folder / "m.onnx", load_external_data=False)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def node_of(model: onnx.ModelProto, op_type: str, number: int = 0) -> onnx.NodeProto:
    node: onnx.NodeProto = [node for node in model.graph.node if node.op_type == op_type][number]
    return node


def run(model: onnx.ModelProto, folder: Path, ids: NDArray[Any]) -> NDArray[Any]:
    onnx.save_model(model, folder / "run.onnx")
    session = onnxruntime().InferenceSession(folder / "run.onnx", providers=["CPUExecutionProvider"])
    y: NDArray[Any] = session.run(["y"], {"input_ids": ids})[0]
    return y


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [None, 144])
@pytest.mark.parametrize("function", ["gelu", "gelu_new", "relu"])
def test_the_same_numbers(tmp_path: Path, function: str, outputs: int | None, *, bias: bool) -> None:
    model = write(tmp_path, function=function, outputs=outputs, bias=bias)
    built = convolve(model)
    assert built is not None
    onnx.save_model(built, tmp_path / "built.onnx")
    onnx.checker.check_model(tmp_path / "built.onnx", full_check=True)
    assert operators(built)["Conv"] == 2
    assert operators(built)["Gemm"] == 0
    for shape in ((1, 1), (1, 7), (3, 5), (2, 64)):
        ids = RANDOM.integers(0, 11, shape)
        expected, found = run(model, tmp_path, ids), run(built, tmp_path, ids)
        evaluated: Any = ReferenceEvaluator(onnx.load(tmp_path / "built.onnx")).run(["y"], {"input_ids": ids})
        for result in (found, evaluated[0]):
            np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6)


def test_the_graph_and_the_places_of_the_weights_stay(tmp_path: Path) -> None:
    model = write(tmp_path, layers=2)
    before = model.SerializeToString()
    built = convolve(model)
    assert built is not None
    assert model.SerializeToString() == before
    assert built.opset_import == model.opset_import
    assert list(built.graph.input) == list(model.graph.input)
    assert list(built.graph.output) == list(model.graph.output)

    def places(graph: onnx.GraphProto) -> dict[tuple[int, ...], set[str]]:
        found: dict[tuple[int, ...], set[str]] = {}
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                shape = tuple(size for size in tensor.dims if size != 1)
                found.setdefault(shape, set()).add(str(tensor.external_data))
        return found

    assert places(built.graph) == places(model.graph)
    assert len(places(model.graph)[INNER, WIDTH]) == 2


def changed_transposition(model: onnx.ModelProto) -> None:
    del node_of(model, "Gemm").attribute[:]


def scaled(model: onnx.ModelProto) -> None:
    node_of(model, "Gemm", 1).attribute.append(helper.make_attribute("alpha", 0.5))


def inner_as_output(model: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info(node_of(model, "Gelu").output[0], TensorProto.FLOAT, ["tokens", INNER])
    model.graph.output.append(value)


def read_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [node_of(model, "Gemm").output[0]], ["more"]))


def foreign(model: onnx.ModelProto) -> None:
    node_of(model, "Gelu").domain = "com.example"


def another_activation(model: onnx.ModelProto) -> None:
    node_of(model, "Gelu").op_type = "Mish"


def a_residual(model: onnx.ModelProto) -> None:
    """A third input that is no bias."""
    node_of(model, "Gemm", 1).input[2] = node_of(model, "Reshape").output[0]


EDITS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "a weight that is not transposed": changed_transposition,
    "a factor": scaled,
    "an output between": inner_as_output,
    "a value that others read": read_twice,
    "another domain": foreign,
    "another activation": another_activation,
    "no bias": a_residual,
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_differs_is_left_alone(tmp_path: Path, edit: str) -> None:
    model = write(tmp_path)
    assert convolve(model) is not None
    EDITS[edit](model)
    assert convolve(model) is None


@pytest.mark.parametrize("sizes", [{"width": 96}, {"inner": 112}, {"width": 132}, {"inner": 168}, {"outputs": 136}])
def test_narrow_layers_and_parts_of_blocks_are_left_alone(tmp_path: Path, sizes: dict[str, Any]) -> None:
    assert convolve(write(tmp_path, **sizes)) is None


def test_a_layer_between_two_activations_is_replaced_once(tmp_path: Path) -> None:
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        x = graph.op("Reshape", graph.weight("x", RANDOM.normal(size=WIDTH).astype(np.float32)), graph.ints(-1, WIDTH))
        x = graph.op("Add", x, graph.op("Cast", graph.op("Reshape", graph.input("input_ids"), graph.ints(-1, 1)), to=1))
        for number in range(4):
            x = graph.op("Relu", project(graph, x, f"w{number}", layer(WIDTH, WIDTH)))
        graph.output("y", x, ["tokens", WIDTH])
        graph.save(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    built = convolve(model)
    assert built is not None
    assert (operators(built)["Conv"], operators(built)["Gemm"]) == (4, 0)
    ids = RANDOM.integers(0, 3, (2, 5))
    np.testing.assert_allclose(run(built, tmp_path, ids), run(model, tmp_path, ids), rtol=0, atol=2e-6)


@pytest.mark.skipif(not is_x86(), reason="ONNX Runtime has no kernels for blocks of channels on this CPU")
@pytest.mark.parametrize("function", ["gelu", "gelu_new", "relu"])
def test_values_between_the_layers_stay_in_blocks(tmp_path: Path, function: str) -> None:
    """Reordering once before and once after a layer; another time would take longer than it saves."""
    built = convolve(write(tmp_path, function=function, layers=2))
    assert built is not None
    onnx.save_model(built, tmp_path / "built.onnx")
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(tmp_path / "built.onnx", options, providers=["CPUExecutionProvider"])
    optimized = operators(onnx.load(tmp_path / "optimized.onnx"))
    assert (optimized["Conv"], optimized["ReorderInput"], optimized["ReorderOutput"]) == (4, 2, 2)
    assert optimized["Transpose"] == 0


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    source = make_model(folder / "source", hidden_size=WIDTH, intermediate_size=INNER)
    return export(source, folder / "bundle")


def test_x86_runs_convolutions_and_every_other_cpu_matmuls(wide_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat", "a river bank", "the cat sat on the mat"]
    files, vectors = [], []
    for device in (replace(cpu.DEVICE, subkinds=(cpu.X86,)), replace(cpu.DEVICE, subkinds=())):
        monkeypatch.setitem(DEVICES, "cpu", device)
        model = Embedder(wide_bundle, device="cpu")
        files.append(model.runners["default"].placement.variant.file)
        vectors.append(model.encode(texts))
    assert files == ["onnx/model_cpu_x86.onnx", "onnx/model_cpu.onnx"]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=2e-6)
    assert cpu.DEVICE.subkinds == ((cpu.X86,) if is_x86() else ())


def test_each_graph_has_a_proof_of_its_own(wide_bundle: Path) -> None:
    variants = Embedder(wide_bundle).manifest.routes["default"].variants
    assert [(one.file, one.devices) for one in variants] == [
        ("onnx/model_cpu_x86.onnx", (cpu.X86,)),
        ("onnx/model_cpu.onnx", ("cpu",)),
        ("onnx/model.onnx", ()),
    ]
    counts = [operators(onnx.load(wide_bundle / one.file, load_external_data=False)) for one in variants]
    assert [count["Conv"] > 0 for count in counts] == [True, False, False]
    assert [count["Attention"] > 0 for count in counts] == [True, True, False]
    assert all(one.proof is not None for one in variants)


def test_models_whose_weights_should_not_be_copied_have_no_convolutions(
    wide_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float32, "LARGE_BYTES", 1 << 10)
    made = export(wide_bundle.parent / "source", tmp_path / "bundle")
    assert {path.name for path in (made / "onnx").iterdir()} == {"model.onnx", "model_cpu.onnx", "model.onnx_data"}


FREE = """
import ctypes, re, sys
from pathlib import Path
from embedrt.engine import cpu
from embedrt.engine.session import CREATING, create_session
def resident():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
with CREATING:
    session = create_session(Path(sys.argv[1]), cpu.DEVICE, 1, dtype="float32")
before = resident()
ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
print(before - resident())
"""


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_making_a_session_leaves_no_gaps_in_the_heap(tmp_path: Path) -> None:
    """Weights that are reordered were there twice for a moment."""
    write(tmp_path, width=512, inner=1024, layers=4)
    built = convolve(onnx.load(tmp_path / "m.onnx", load_external_data=False))
    assert built is not None
    onnx.save_model(built, tmp_path / "built.onnx")
    command = [sys.executable, "-c", FREE, str(tmp_path / "built.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert float(done.stdout) < 2  # MB; a layer has 4

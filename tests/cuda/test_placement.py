"""Graphs written by hand on the real CUDA provider: the operators of packed graphs, and that the checks can fail."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.cuda import graphs
from tests.cuda.feeds import Feeds, packed_feeds
from tests.cuda.placement import CUDA, placement, run_captured, run_on_cuda
from tests.cuda.stubs import StubCuda

CARDS = (75, 80, 90)
LENGTHS = [5, 300, 1]
DECODER_DTYPES = {"float16": graphs.FLOAT16, "bfloat16": graphs.BFLOAT16}
NOT_LOADED = onnxruntime.capi.onnxruntime_pybind11_state.Fail


def write(kind: str, path: Path) -> Path:
    if kind == "encoder":
        return graphs.packed_encoder(path)
    return graphs.packed_decoder(path, DECODER_DTYPES[kind.removeprefix("decoder in ")])


KINDS = ("encoder", "decoder in float16", "decoder in bfloat16")


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_graph_runs_on_cuda_alone(kind: str, graph: Path) -> None:
    found = placement(write(kind, graph))
    assert {provider for provider, _ in found.nodes} == {CUDA}
    assert found.copies == 0
    assert found.operators == Counter(node.op_type for node in onnx.load(graph).graph.node), "nothing is rewritten"


@pytest.mark.parametrize("capability", CARDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_graph_runs_and_can_be_captured(kind: str, capability: int, graph: Path, cuda: StubCuda) -> None:
    cuda.configure(capability)
    feeds = feeds_of(write(kind, graph))
    if kind == "decoder in bfloat16" and capability < 80:
        with pytest.raises(RuntimeError, match="PagedAttention requires"):
            run_on_cuda(graph, feeds)
        return
    shapes = run_on_cuda(graph, feeds)
    assert shapes == [[len(LENGTHS), 128 if kind == "encoder" else 256]]
    assert run_captured(graph, feeds, shapes) == 2


def feeds_of(graph: Path) -> Feeds:
    names = [value.name for value in onnx.load(graph).graph.input]
    return packed_feeds(names, LENGTHS)


def test_shape_arithmetic_is_found_on_the_cpu(graph: Path) -> None:
    found = placement(graphs.shape_arithmetic(graph))
    assert set(found.on_cpu) == {"Gather", "Concat"}
    assert found.copies == 0
    with pytest.raises(NOT_LOADED, match="fallback to CPU EP has been explicitly disabled"):
        run_on_cuda(graph, Feeds({"x": np.zeros((2, 3), np.float32)}))


def test_an_int8_linear_layer_is_found_on_the_cpu_between_copies(graph: Path) -> None:
    found = placement(graphs.int8_matmul(graph))
    assert set(found.on_cpu) == {"DynamicQuantizeLinear", "MatMulInteger"}
    assert found.copies == 2
    with pytest.raises(NOT_LOADED, match="fallback to CPU EP has been explicitly disabled"):
        run_on_cuda(graph, Feeds({"x": np.zeros((2, 4), np.float32)}))


def test_a_kernel_of_a_missing_library_is_found_by_running(graph: Path) -> None:
    found = placement(graphs.convolution(graph))
    assert not found.on_cpu
    with pytest.raises(RuntimeError, match="cuDNN is unavailable"):
        run_on_cuda(graph, Feeds({"x": np.zeros((1, 4, 8), np.float16)}))


def test_an_operator_that_reads_a_size_back_cannot_be_captured(graph: Path) -> None:
    assert placement(graphs.packing(graph)).nodes == {(CUDA, "RemovePadding"): 1}
    feeds = Feeds({"x": np.ones((2, 4, 8), np.float16), "lengths": np.array([3, 4], np.int32)})
    shapes = run_on_cuda(graph, feeds)
    with pytest.raises(RuntimeError, match="CUDA failure 900"):
        run_captured(graph, feeds, shapes)


def test_a_copied_vector_is_the_vector(cuda: StubCuda) -> None:
    """Device memory is real memory, so that bindings can be tested."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0).numpy(), values)


def test_a_machine_with_two_cards(cuda: StubCuda, graph: Path) -> None:
    graphs.packed_encoder(graph)
    with pytest.raises(RuntimeError, match="Invalid device ID: 1"):
        run_on_cuda(graph, feeds_of(graph), {"device_id": "1"})
    cuda.configure(capability=80, devices=2)
    assert placement(graph, {"device_id": "1"}).copies == 0

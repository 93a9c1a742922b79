"""The largest pair of int8 weights, read from a graph file without the onnx package."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedrt.bundle.manifest import Variant
from embedrt.engine.int8_weights import require_pairs
from embedrt.errors import BundleError

DATA = "model.onnx_data"


def matmul(weight: str) -> onnx.NodeProto:
    return helper.make_node("MatMulIntegerToFloat", ["x", weight], ["y"], name="y", domain="com.microsoft")


def write(folder: Path, weight: NDArray[np.int8], *, outside: bool, nodes: list[onnx.NodeProto] | None = None) -> Path:
    """A graph with one matrix, named "weight"."""
    tensor = numpy_helper.from_array(weight, "weight")
    (folder / DATA).write_bytes(bytes(64) + weight.tobytes())
    if outside:
        tensor = TensorProto(name="weight", data_type=TensorProto.INT8, dims=weight.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": DATA, "offset": "64", "length": str(weight.nbytes)}.items():
            tensor.external_data.add(key=key, value=value)
    others = [numpy_helper.from_array(np.array(5, np.int8), "zero"), numpy_helper.from_array(np.ones((3, 3)), "other")]
    graph = helper.make_graph(nodes or [matmul("weight")], "graph", [], [], [tensor, *others])
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=9).SerializeToString())
    return path


def variant(largest_pair: int | None, data: str | None = DATA) -> Variant:
    return Variant("int8", "model.onnx", data, "onnxruntime", ("cpu",), "padded", None, largest_pair=largest_pair)


def found(path: Path) -> int:
    """The smallest bound that the file keeps to."""
    for bound in range(257):
        try:
            require_pairs(path, variant(bound), path)
        except BundleError:
            continue
        return bound
    raise AssertionError


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[100, -100], [28, -29]], 129),
        ([[100, 100], [-100, -27]], 100),
        ([[1, 1], [60, 60], [127, 60], [1, 1]], 128),  # rows 1 and 2 are no pair
        ([[-128, 0], [-128, 0]], 256),
        ([[1, 1], [1, 1], [-77, 3]], 77),  # a last row alone
        ([[0, 0], [0, 0]], 0),
    ],
)
def test_pairs_of_one_sign_are_added(rows: list[list[int]], expected: int, outside: bool, tmp_path: Path) -> None:
    path = write(tmp_path, np.array(rows, np.int8), outside=outside)
    assert found(path) == expected


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (513, 2049), (2, 1 << 21)])
def test_large_matrices_are_read_in_blocks(shape: tuple[int, int], tmp_path: Path) -> None:
    weight = np.zeros(shape, np.int8)
    weight[-1, -1] = 99
    path = write(tmp_path, weight, outside=True)
    require_pairs(path, variant(99), path)
    with pytest.raises(BundleError, match="add up to at most 98, as in the manifest, got 99; export the model again"):
        require_pairs(path, variant(98), path)


def test_an_embedding_table_is_no_weight(tmp_path: Path) -> None:
    table = np.full((4, 4), 127, np.int8)
    gather = helper.make_node("Gather", ["weight", "ids"], ["y"])
    assert found(write(tmp_path, table, outside=True, nodes=[gather])) == 0
    assert found(write(tmp_path, table, outside=True, nodes=[gather, matmul("weight")])) == 254


def test_a_weight_that_only_an_inner_graph_reads(tmp_path: Path) -> None:
    inner = helper.make_graph([matmul("weight")], "inner", [], [])
    node = helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner)
    assert found(write(tmp_path, np.full((4, 4), 127, np.int8), outside=True, nodes=[node])) == 254


def test_nothing_stated_is_nothing_to_check(tmp_path: Path) -> None:
    require_pairs(tmp_path / "none.onnx", variant(None), tmp_path / "none.onnx")


@pytest.mark.parametrize("data", [None, "onnx/other.onnx_data"])
def test_weights_in_a_file_that_the_manifest_does_not_name(data: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, np.ones((2, 2), np.int8), outside=True)
    with pytest.raises(BundleError, match=r"cannot be read: expected values in .*, as in the manifest, got 'model\.on"):
        require_pairs(path, variant(128, data), path)


def test_a_data_file_that_is_too_short(tmp_path: Path) -> None:
    path = write(tmp_path, np.ones((20, 20), np.int8), outside=True)
    (tmp_path / DATA).write_bytes(bytes(100))
    with pytest.raises(BundleError, match="its int8 weights cannot be read"):
        require_pairs(path, variant(128), path)


@given(data=st.data())
def test_damaged_files(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("damaged"), np.ones((4, 4), np.int8), outside=True)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        require_pairs(path, variant(128), path)
    except BundleError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - either outcome is right

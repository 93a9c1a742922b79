"""Operators of old opsets compute the same after they were rewritten, by ONNX Runtime on both sides."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph.builder import OPSET
from embedrt_export.graph.opsets import OLDEST, upgrade

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)

CASES: dict[str, tuple[int, str, int, dict[str, Any]]] = {
    "ReduceMean, axes": (11, "ReduceMean", 1, {"axes": [-1], "keepdims": 1}),
    "ReduceMean, all": (17, "ReduceMean", 1, {"keepdims": 0}),
    "ReduceMax": (12, "ReduceMax", 1, {"axes": [1], "keepdims": 0}),
    "ReduceSum": (11, "ReduceSum", 1, {"axes": [0, 2]}),
    "ReduceSum, all": (12, "ReduceSum", 1, {}),
    "ReduceL2": (13, "ReduceL2", 1, {"axes": [2]}),
    "Unsqueeze": (11, "Unsqueeze", 1, {"axes": [0, 3]}),
    "Split, equal": (13, "Split", 2, {"axis": 2}),
    "Split, stated": (11, "Split", 2, {"axis": 2, "split": [1, 3]}),
    "Softmax, last": (11, "Softmax", 1, {"axis": -1}),
    "Softmax, by number": (12, "Softmax", 1, {"axis": 2}),
    "Softmax, flattened": (11, "Softmax", 1, {}),
    "Softmax, at 0": (11, "Softmax", 1, {"axis": 0}),
    "LogSoftmax": (11, "LogSoftmax", 1, {"axis": 1}),
    "Dropout": (11, "Dropout", 1, {"ratio": 0.5}),
    "Identity": (11, "Identity", 1, {}),
    "ArgMax": (11, "ArgMax", 1, {"axis": 1, "keepdims": 0}),
}


def model_of(nodes: list[onnx.NodeProto], version: int, outputs: list[str]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, None])
    graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name=name) for name in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=9)


def upgraded(nodes: list[onnx.NodeProto], version: int, outputs: tuple[str, ...] = ("y",)) -> list[onnx.NodeProto]:
    return list(upgrade(model_of(nodes, version, list(outputs)), OPSET, "a.onnx").node)


def run(nodes: list[onnx.NodeProto], version: int, outputs: list[str]) -> list[NDArray[Any]]:
    model = model_of(nodes, version, outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, {"x": X})
    return found


@pytest.mark.parametrize(("version", "op_type", "outputs", "attributes"), CASES.values(), ids=CASES)
def test_operators(version: int, op_type: str, outputs: int, attributes: dict[str, Any]) -> None:
    names = [f"y{i}" for i in range(outputs)]
    expected = run([helper.make_node(op_type, ["x"], names, **attributes)], version, names)
    nodes = upgraded([helper.make_node(op_type, ["x"], names, **attributes)], version, tuple(names))
    for found, value in zip(run(nodes, OPSET, names), expected, strict=True):
        assert found.shape == value.shape
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-6)


def test_squeeze() -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["wide"], axes=[1]),
        helper.make_node("Squeeze", ["wide"], ["y"], axes=[1]),
    ]
    np.testing.assert_array_equal(run(upgraded(nodes, OLDEST), OPSET, ["y"])[0], X)


def test_inner_graphs() -> None:
    y = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("ReduceSum", ["x"], ["inner"], axes=[1])], "branch", [], [y])
    yes = numpy_helper.from_array(np.array([True]))
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    (found,) = run(upgraded(nodes, 12), OPSET, ["y"])
    np.testing.assert_allclose(found, X.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node("Unsqueeze", ["nowhere"], ["y"], axes=[0]),
            "operators Unsqueeze changed between opset 11 and 20",
        ),
        (helper.make_node("BatchNormalization", list("xsbmv"), ["y", "m2"]), "2 outputs is for training"),
        (helper.make_node("Gelu", ["x"], ["y"]), "no operator 'Gelu' in opset 11"),
    ],
)
def test_what_cannot_be_converted_is_refused(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        upgraded([node], OLDEST)


def test_a_later_opset_with_other_definitions_is_refused() -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    with pytest.raises(UnsupportedModelError, match=r"Cast changed between opset 24 and 20 and cannot be converted"):
        upgraded([node], 24)


def test_a_later_opset_with_the_same_definitions_stays() -> None:
    node = helper.make_node("Tanh", ["x"], ["y"])
    assert upgraded([node], 24) == [node]


def test_values_of_large_tensors_are_not_copied() -> None:
    """They are megabytes to gigabytes, and the converter copies a model several times."""
    large, small = np.ones((100, 100), np.float32), np.ones(3, np.float32)
    nodes = [helper.make_node("Add", ["x", "large"], ["z"]), helper.make_node("ReduceSum", ["z"], ["y"], axes=[0])]
    model = model_of(nodes, 11, ["y"])
    model.graph.initializer.extend([numpy_helper.from_array(large, "large"), numpy_helper.from_array(small, "small")])
    before = model.SerializeToString()
    tensors = {tensor.name: tensor for tensor in upgrade(model, OPSET, "a.onnx").initializer}
    assert list(tensors["large"].dims) == [100, 100]
    assert tensors["large"].ByteSize() < 100
    np.testing.assert_array_equal(numpy_helper.to_array(tensors["small"]), small)
    assert model.SerializeToString() == before


def test_operators_of_other_domains_stay() -> None:
    node = helper.make_node("FusedMatMul", ["x", "x"], ["z"], domain="com.microsoft", alpha=0.5, name="fused")
    found = upgraded([node, helper.make_node("ReduceSum", ["z"], ["y"], axes=[0])], 11)
    assert found[0] == node


def test_resize() -> None:
    nodes = [
        helper.make_node("Constant", [], ["roi"], value=numpy_helper.from_array(np.zeros(0, np.float32))),
        helper.make_node("Constant", [], ["scales"], value=numpy_helper.from_array(np.array([1, 2, 1.5], np.float32))),
        helper.make_node("Resize", ["x", "roi", "scales"], ["y"], mode="linear"),
    ]
    (expected,) = run(nodes, OLDEST, ["y"])
    np.testing.assert_allclose(run(upgraded(nodes, OLDEST), OPSET, ["y"])[0], expected, rtol=0, atol=1e-6)


def test_inputs_that_are_left_out() -> None:
    nodes = [
        helper.make_node("Constant", [], ["most"], value=numpy_helper.from_array(np.array(0.5, np.float32))),
        helper.make_node("Clip", ["x", "", "most"], ["clipped"]),
        helper.make_node("ReduceSum", ["clipped"], ["y"], axes=[0]),
    ]
    np.testing.assert_allclose(
        run(upgraded(nodes, 12), OPSET, ["y"])[0], X.clip(max=0.5).sum(axis=0, keepdims=True), atol=1e-6
    )

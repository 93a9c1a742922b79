"""Operators of old opsets compute the same after they were rewritten, by ONNX Runtime on both sides."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from embedrt.errors import UnsupportedModelError
from embedrt_export.graph import fuse_cpu as fusion
from embedrt_export.graph.builder import OPSET
from embedrt_export.graph.opsets import _ONLY_GREW, OLDEST, upgrade

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


def run(nodes: list[onnx.NodeProto], version: int, outputs: list[str]) -> list[NDArray[Any]]:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, None])
    graph = helper.make_graph(nodes, "g", [x], [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, {"x": X})
    return found


@pytest.mark.parametrize(("version", "op_type", "outputs", "attributes"), CASES.values(), ids=CASES)
def test_operators(version: int, op_type: str, outputs: int, attributes: dict[str, Any]) -> None:
    names = [f"y{i}" for i in range(outputs)]
    expected = run([helper.make_node(op_type, ["x"], names, **attributes)], version, names)
    nodes = upgrade([helper.make_node(op_type, ["x"], names, **attributes)], version, OPSET, "a.onnx")
    for found, value in zip(run(nodes, OPSET, names), expected, strict=True):
        assert found.shape == value.shape
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-6)


def test_squeeze() -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["wide"], axes=[1]),
        helper.make_node("Squeeze", ["wide"], ["y"], axes=[1]),
    ]
    np.testing.assert_array_equal(run(upgrade(nodes, OLDEST, OPSET, "a.onnx"), OPSET, ["y"])[0], X)


def test_inner_graphs() -> None:
    y = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("ReduceSum", ["x"], ["inner"], axes=[1])], "branch", [], [y])
    yes = numpy_helper.from_array(np.array([True]))
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    (found,) = run(upgrade(nodes, 12, OPSET, "a.onnx"), OPSET, ["y"])
    np.testing.assert_allclose(found, X.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Resize", ["x", "r", "s"], ["y"]), "a.onnx: the operator Resize changed between opset 11"),
        (helper.make_node("BatchNormalization", list("xsbmv"), ["y", "m2"]), "2 outputs is for training"),
        (helper.make_node("Gelu", ["x"], ["y"]), "no operator 'Gelu' in opset 11"),
    ],
)
def test_what_may_have_changed_is_refused(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        upgrade([node], OLDEST, OPSET, "a.onnx")


@pytest.mark.parametrize("op_type", sorted(_ONLY_GREW))
def test_what_only_grew_means_the_same_without_what_it_learned(op_type: str) -> None:
    """By its definitions: inputs stay at their places, attributes keep their defaults, what came new is optional."""
    first = next(version for version in range(OLDEST, OPSET + 1) if defs.has(op_type, max_inclusive_version=version))
    for target in (OPSET, fusion.OPSET):
        old, new = (defs.get_schema(op_type, version, "") for version in (first, target))
        assert [one.name for one in new.inputs][: len(old.inputs)] == [one.name for one in old.inputs]
        optional = {defs.OpSchema.FormalParameterOption.Optional}
        assert {one.option for one in new.inputs[len(old.inputs) :]} <= optional
        assert len(new.outputs) >= len(old.outputs)
        for name, attribute in old.attributes.items():
            assert new.attributes[name].default_value == attribute.default_value
        assert not any(new.attributes[name].required for name in set(new.attributes) - set(old.attributes))

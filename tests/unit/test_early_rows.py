"""Rows that are picked before they are computed: the same values, from fewer rows."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from embedrt_export.graph.early_rows import pick_early

WIDTH = 4
IDS = np.array([[3, 1, 2], [2, 3, 0]])
FEEDS = {"ids": IDS, "first": np.array([[0], [1]])}


def value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("picked",)) -> onnx.ModelProto:
    """A graph of embeddings `x` `[tokens, 4]`, some nodes that make `y` of it, and the pick of one row of each text."""
    draw = np.random.default_rng(0)
    tensors = {
        "table": draw.standard_normal((5, WIDTH)).astype(np.float32),
        "weight": draw.standard_normal((WIDTH, WIDTH)).astype(np.float32),
        "bias": draw.standard_normal(WIDTH).astype(np.float32),
        "half": np.float32(0.5),
        "by_token": draw.standard_normal((6, WIDTH)).astype(np.float32),
        "last": np.array([-1]),
        "first_axis": np.array([0]),
        "flat": np.array([-1, WIDTH]),
        "width": np.array([WIDTH]),
    }
    before = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], name="embedded"),
        helper.make_node("Reshape", ["embedded", "flat"], ["x"], name="x"),
    ]
    after = [
        helper.make_node("Shape", ["ids"], ["sizes"], name="sizes"),
        helper.make_node("Concat", ["sizes", "width"], ["shape"], name="shape", axis=0),
        helper.make_node("Reshape", ["y", "shape"], ["tokens"], name="tokens"),
        helper.make_node("GatherND", ["tokens", "first"], ["picked"], name="picked", batch_dims=1),
    ]
    graph = helper.make_graph(
        [*before, *nodes, *after],
        "rows",
        [value("ids", TensorProto.INT64, ["batch", "sequence"]), value("first", TensorProto.INT64, ["batch", 1])],
        [value(name, TensorProto.FLOAT, ["rows", WIDTH]) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def linear(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Gemm", [x, "weight", "bias"], [y], name=y, transB=1)


def norm(x: str, y: str, axis: int = -1) -> onnx.NodeProto:
    return helper.make_node("LayerNormalization", [x, "bias"], [y], name=y, axis=axis, epsilon=1e-5)


def node(op_type: str, *inputs: str, name: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, list(inputs), [name], name=name, **attributes)


LAYERS = {
    "a linear layer": [linear("x", "y")],
    "a layer with a residual": [
        linear("x", "a"),
        node("Gelu", "a", name="b"),
        linear("b", "c"),
        node("Add", "c", "x", name="d"),
        norm("d", "y"),
    ],
    "a norm from parts": [
        node("Mul", "x", "x", name="square"),
        node("ReduceMean", "square", "last", name="mean", keepdims=1),
        node("Add", "mean", "half", name="more"),
        node("Sqrt", "more", name="root"),
        node("Div", "x", "root", name="scaled"),
        node("Mul", "scaled", "bias", name="y"),
    ],
    "rows that are mixed before": [
        node("Softmax", "x", name="mixed", axis=0),
        linear("mixed", "y"),
    ],
}


@pytest.mark.parametrize("nodes", LAYERS.values(), ids=LAYERS)
def test_the_same_values_from_the_picked_rows(nodes: list[onnx.NodeProto]) -> None:
    plain, early = model(*nodes), model(*nodes)
    assert pick_early(early)
    onnx.checker.check_model(early, full_check=True)
    (expected,), (found,) = (computed(one) for one in (plain, early))
    assert np.abs(found - expected).max() <= 1e-6
    names = [one.name for one in early.graph.node]
    assert names.index("early_rows/0") < names.index(nodes[-1].name), "the last node works on picked rows"
    assert "tokens" not in names


def computed(graph: onnx.ModelProto) -> list[Any]:
    return list(ReferenceEvaluator(graph).run(None, FEEDS))


MIXED = {
    "values of every token": [node("Add", "x", "by_token", name="y")],
    "a mean over tokens": [
        node("ReduceMean", "x", "first_axis", name="mean", keepdims=1),
        node("Sub", "x", "mean", name="y"),
    ],
    "a softmax over tokens": [node("Softmax", "x", name="y", axis=0)],
    "a norm over everything": [norm("x", "y", axis=0)],
}


@pytest.mark.parametrize("name", MIXED)
def test_what_is_not_by_row_stays(name: str) -> None:
    graph = model(*MIXED[name])
    before = graph.SerializeToString()
    assert not pick_early(graph)
    assert graph.SerializeToString() == before


def test_values_that_are_read_elsewhere_stay() -> None:
    graph = model(linear("x", "y"), outputs=("picked", "y"))
    assert not pick_early(graph)

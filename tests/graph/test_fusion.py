"""Attention as one node: what is replaced computes the same, and what differs anyhow is left alone."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from embedrt import Embedder, ParityError
from embedrt.bundle.manifest import Variant
from embedrt.engine import cpu
from embedrt.engine.devices import DEVICES
from embedrt.engine.session import onnxruntime
from embedrt_export import export
from embedrt_export.dtypes import float32
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.fuse_cpu import OPSET, fuse
from embedrt_export.layers.attention import AttentionBias, AttentionWindow, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.relative import bucket_bias
from embedrt_export.layers.scope import Scope
from embedrt_export.proof.reference import Reference
from tests.kit.chains import write_static
from tests.kit.scopes import scope_of

WORDS, HEADS, SIZE = 11, 6, 8
RANDOM = np.random.default_rng(0)
Bias = Callable[[Scope], AttentionBias]


def by_offset(scope: Scope) -> str:
    table = np.random.default_rng(1).normal(size=(32, HEADS)).astype(np.float32)
    return bucket_bias(scope, table, "table", 128)


BIASES: dict[str, Bias] = {
    "padding": attention_bias,
    "causal": lambda scope: attention_bias(scope, AttentionWindow(after=0)),
    "window": lambda scope: attention_bias(scope, AttentionWindow(before=1, after=1)),
    "by offset": lambda scope: AttentionBias(by_offset(scope)),
    "by offset, padding": lambda scope: attention_bias(scope, relative=by_offset(scope)),
}


def write(
    folder: Path,
    bias: Bias = attention_bias,
    *,
    groups: int = 1,
    value_size: int = SIZE,
    layers: int = 1,
    turned: bool = False,
) -> onnx.ModelProto:
    """A graph with attention of vectors that the tokens have, and its weights beside it; `turned` as rotated heads are.

    Returns:
        The graph, its weights in the data file.
    """
    with DataFile(folder / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        scope = scope_of(graph)
        added = bias(scope)
        results = []
        for layer in range(layers):
            parts = []
            for name, heads, size in (
                ("q", HEADS, SIZE),
                ("k", HEADS // groups, SIZE),
                ("v", HEADS // groups, value_size),
            ):
                table = RANDOM.normal(size=(WORDS, heads * size)).astype(np.float32)
                rows = graph.op("Gather", graph.weight(f"{name}{layer}", table), scope.inputs.input_ids)
                rows = graph.op("Reshape", rows, graph.ints(-1, heads * size))
                part = split_heads(scope, rows, heads, size)
                parts.append(graph.op("Neg", part) if turned else part)
            query, key, value = parts
            attended = attend(scope, query, key, value, added, Heads(HEADS, value_size, groups))
            results.append(attended)
        graph.output("y", graph.op("Concat", *results, axis=-1), ["tokens", layers * HEADS * value_size])
        graph.save(folder / "m.onnx")
    return onnx.load(folder / "m.onnx", load_external_data=False)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def node_of(model: onnx.ModelProto, op_type: str, number: int = 0) -> onnx.NodeProto:
    node: onnx.NodeProto = [node for node in model.graph.node if node.op_type == op_type][number]
    return node


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def run(model: onnx.ModelProto, folder: Path, ids: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    onnx.save_model(model, folder / "run.onnx")
    session = onnxruntime().InferenceSession(folder / "run.onnx", providers=["CPUExecutionProvider"])
    y: NDArray[Any] = session.run(["y"], {"input_ids": ids, "attention_mask": mask})[0]
    return y


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("groups", "value_size"), [(1, SIZE), (1, 12), (2, SIZE), (HEADS, SIZE)])
@pytest.mark.parametrize("bias", BIASES)
def test_the_same_numbers(tmp_path: Path, bias: str, groups: int, value_size: int, *, turned: bool) -> None:
    """Rows of several lengths, padded on both sides, and one that is nothing but padding."""
    model = write(tmp_path, BIASES[bias], groups=groups, value_size=value_size, turned=turned)
    fused = fuse(model)
    assert fused is not None
    onnx.save_model(fused, tmp_path / "fused.onnx")
    onnx.checker.check_model(tmp_path / "fused.onnx", full_check=True)
    assert operators(fused)["Attention"] == 1
    assert not {"Softmax", "Transpose", "MatMul"} & set(operators(fused))
    heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS // groups}
    assert attributes_of(node_of(fused, "Attention")) == {**heads, "scale": 1.0}

    for length in (1, 2, 9):
        ids = RANDOM.integers(0, WORDS, (4, length))
        mask = np.stack([np.arange(length) < length, np.arange(length) < 1, np.arange(length) > 0, np.zeros(length)])
        mask = mask.astype(np.int64)
        expected, found = run(model, tmp_path, ids, mask), run(fused, tmp_path, ids, mask)
        assert np.isfinite(found).all()
        feeds = {"input_ids": ids, "attention_mask": mask}
        evaluated: Any = ReferenceEvaluator(onnx.load(tmp_path / "fused.onnx")).run(["y"], feeds)
        token = mask.reshape(-1) == 1
        for result in (found, evaluated[0]):
            np.testing.assert_allclose(result[token], expected[token], rtol=0, atol=2e-6)


def test_the_portable_graph_and_the_places_of_the_weights_stay(tmp_path: Path) -> None:
    model = write(tmp_path, layers=2)
    before = model.SerializeToString()
    fused = fuse(model)
    assert fused is not None
    assert model.SerializeToString() == before
    assert {opset.domain: opset.version for opset in fused.opset_import} == {"": OPSET}
    assert [value.name for value in fused.graph.input] == [value.name for value in model.graph.input]
    assert list(fused.graph.output) == list(model.graph.output)
    tensors = {tensor.name: tensor for tensor in fused.graph.initializer}
    weights = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert weights
    for tensor in weights:
        assert tensors[tensor.name] == tensor


def test_layers_share_what_is_made_of_their_bias(tmp_path: Path) -> None:
    fused = fuse(write(tmp_path, layers=3))
    assert fused is not None
    assert operators(fused)["Attention"] == 3
    assert operators(fused)["Expand"] == 1


def between(model: onnx.ModelProto, op_type: str, node: onnx.NodeProto, number: int) -> None:
    """Puts an operator before an input of a node."""
    added = helper.make_node(op_type, [node.input[number]], [f"{node.input[number]}/added"])
    node.input[number] = added.output[0]
    model.graph.node.insert(list(model.graph.node).index(node), added)


def permuted(number: int, *perm: int) -> Callable[[onnx.ModelProto], None]:
    """Changes a transposition: of queries, keys, values, context, in this order."""

    def edit(model: onnx.ModelProto) -> None:
        node = node_of(model, "Transpose", number)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("perm", perm))

    return edit


def other_softmax(model: onnx.ModelProto) -> None:
    del node_of(model, "Softmax").attribute[:]
    node_of(model, "Softmax").attribute.append(helper.make_attribute("axis", 2))


def implied_softmax(model: onnx.ModelProto) -> None:
    del node_of(model, "Softmax").attribute[:]


def without_bias(model: onnx.ModelProto) -> None:
    node_of(model, "Softmax").input[0] = node_of(model, "MatMul").output[0]


def swapped_sum(model: onnx.ModelProto) -> None:
    node = node_of(model, "Add")
    node.input[:] = reversed(node.input)


def scores_as_output(model: onnx.ModelProto) -> None:
    shape = [None, HEADS, None, None]
    model.graph.output.append(
        helper.make_tensor_value_info(node_of(model, "Softmax").output[0], TensorProto.FLOAT, shape)
    )


def read_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [node_of(model, "MatMul").output[0]], ["more"]))


def flat_bias(model: onnx.ModelProto) -> None:
    """One of two axes, `[sequence, sequence]`, from one row of padding."""
    axes = numpy_helper.from_array(np.array([0, 1]), "axes")
    squeezed = helper.make_node("Squeeze", [node_of(model, "Where").output[0], "axes"], ["flat"])
    model.graph.initializer.append(axes)
    node_of(model, "Add").input[1] = "flat"
    model.graph.node.insert(list(model.graph.node).index(node_of(model, "Add")), squeezed)


def foreign(model: onnx.ModelProto) -> None:
    node_of(model, "Softmax").domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def other_width(model: onnx.ModelProto) -> None:
    """Rows of half a context each."""
    constant = numpy_helper.from_array(np.array([-1, HEADS * SIZE // 2]), "width")
    model.graph.initializer.append(constant)
    node_of(model, "Reshape", -1).input[1] = "width"


def unknown_heads(model: onnx.ModelProto) -> None:
    """Head count and size that only the engine knows."""
    for number in (-2, -3, -4):
        node = node_of(model, "Reshape", number)
        model.graph.input.append(helper.make_tensor_value_info(f"shape{number}", TensorProto.INT64, [4]))
        node.input[1] = f"shape{number}"


def changed_meaning(model: onnx.ModelProto) -> None:
    """GroupNormalization has scales of another shape since opset 21."""
    model.graph.node.append(helper.make_node("GroupNormalization", ["x", "s", "b"], ["z"], num_groups=2))


EDITS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "queries": permuted(0, 0, 2, 3, 1),
    "keys": permuted(1, 0, 2, 1, 3),
    "values": permuted(2, 2, 0, 1, 3),
    "context": permuted(3, 0, 1, 2, 3),
    "softmax over queries": other_softmax,
    "softmax without an axis": implied_softmax,
    "no bias": without_bias,
    "bias first": swapped_sum,
    "bias of two axes": flat_bias,
    "scaled products": lambda model: between(model, "Neg", node_of(model, "Add"), 0),
    "changed weights": lambda model: between(model, "Relu", node_of(model, "MatMul", 1), 0),
    "changed context": lambda model: between(model, "Neg", node_of(model, "Transpose", 3), 0),
    "weights that are an output": scores_as_output,
    "products that others read": read_twice,
    "another domain": foreign,
    "another width": other_width,
    "unknown heads": unknown_heads,
    "an operator that changes its meaning": changed_meaning,
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_differs_is_left_alone(tmp_path: Path, edit: str) -> None:
    model = write(tmp_path)
    assert fuse(model) is not None
    EDITS[edit](model)
    assert fuse(model) is None


def test_what_fits_beside_it_is_replaced(tmp_path: Path) -> None:
    model = write(tmp_path, layers=2)
    swapped_sum(model)
    fused = fuse(model)
    assert fused is not None
    assert (operators(fused)["Attention"], operators(fused)["Softmax"]) == (1, 1)
    ids, mask = RANDOM.integers(0, WORDS, (2, 5)), np.ones((2, 5), np.int64)
    np.testing.assert_allclose(run(fused, tmp_path, ids, mask), run(model, tmp_path, ids, mask), rtol=0, atol=2e-6)


def test_heads_that_are_repeated_otherwise_stay_repeated(tmp_path: Path) -> None:
    """Query head i gets key head i modulo their number, where neighbours share one in `Attention`."""
    model = write(tmp_path, groups=2)
    for op_type, values in (("Unsqueeze", [2]), ("Expand", [1, 1, 2, 1, 1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), f"other {op_type}"))
        for number in (-1, -2):
            node_of(model, op_type, number).input[1] = f"other {op_type}"
    fused = fuse(model)
    assert fused is not None
    assert attributes_of(node_of(fused, "Attention"))["kv_num_heads"] == HEADS
    ids, mask = RANDOM.integers(0, WORDS, (2, 5)), np.ones((2, 5), np.int64)
    np.testing.assert_allclose(run(fused, tmp_path, ids, mask), run(model, tmp_path, ids, mask), rtol=0, atol=2e-6)


def test_operators_of_other_domains_stay(tmp_path: Path) -> None:
    model = write(tmp_path)
    between(model, "QuickGelu", node_of(model, "Reshape", -2), 0)
    node_of(model, "QuickGelu").domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    fused = fuse(model)
    assert fused is not None
    assert (operators(fused)["Attention"], operators(fused)["QuickGelu"]) == (1, 1)
    ids, mask = RANDOM.integers(0, WORDS, (2, 5)), np.ones((2, 5), np.int64)
    np.testing.assert_allclose(run(fused, tmp_path, ids, mask), run(model, tmp_path, ids, mask), rtol=0, atol=2e-6)


def test_a_processor_runs_the_one_and_every_other_device_the_other(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICES, "other", replace(cpu.DEVICE, kind="other"))
    models = {device: Embedder(tiny_bundle, device=device) for device in ("cpu", "other")}
    files = {device: model.runners["default"].placement.variant.file for device, model in models.items()}
    assert files == {"cpu": "onnx/model_cpu.onnx", "other": "onnx/model.onnx"}
    vectors = [model.encode(["the cat", "a river bank"]) for model in models.values()]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=2e-6)


def test_a_model_without_attention_has_one_graph(tmp_path: Path) -> None:
    table = RANDOM.normal(size=(133, 24)).astype(np.float32)
    bundle = Embedder(export(write_static(tmp_path / "static", {"embedding.weight": table}), tmp_path / "bundle"))
    assert len(bundle.manifest.routes["default"].variants) == 1
    assert not (bundle.folder / "onnx" / "model_cpu.onnx").exists()


def halve(model: onnx.ModelProto) -> None:
    """Halves all scores: of attention that is one node, or from several."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Attention" and attribute.name == "scale":
                attribute.f = 0.5
    for node in [node for node in model.graph.node if node.op_type == "Softmax"]:
        between(model, "Tanh", node, 0)


@pytest.mark.parametrize("wrong", ["model.onnx", "model_cpu.onnx"])
def test_the_proof_covers_both_graphs(
    tiny_source: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    vectors = np.load(tiny_bundle / "parity" / "vectors.npy")
    monkeypatch.setattr(float32, "find_reference", lambda *_: Reference("the right vectors", False, vectors))
    save = float32._fused

    def save_wrong(folder: Path, route: str, portable: Variant, longest: int | None) -> list[Variant]:
        saved = save(folder, route, portable, longest)
        path = folder / "onnx" / wrong
        model = onnx.load(path, load_external_data=False)
        halve(model)
        onnx.save_model(model, path)
        return saved

    assert export(tiny_source, tmp_path / "right").is_dir()
    monkeypatch.setattr(float32, "_fused", save_wrong)
    with pytest.raises(ParityError, match=rf"\(onnx/{wrong}\) differ from the right vectors"):
        export(tiny_source, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()

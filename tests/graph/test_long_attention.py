"""Attention of long texts in blocks: the same numbers at every length, in memory that does not grow with its square."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from embedrt.engine.session import onnxruntime
from embedrt_export.graph import long_attention
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.graph.fuse_cpu import OnCpu, fuse
from embedrt_export.graph.opsets import all_nodes
from embedrt_export.layers.attention import AttentionBias, AttentionWindow, Heads, attend, attention_bias, split_heads
from embedrt_export.layers.relative import bucket_bias
from embedrt_export.layers.rotary import Rope, rotate, rotation
from embedrt_export.layers.scope import Scope
from tests.kit.scopes import scope_of

WORDS, HEADS, SIZE = 61, 2, 8
TOLERANCE = 2e-6
Bias = Callable[[Scope], AttentionBias]


def by_offset(scope: Scope) -> str:
    table = np.random.default_rng(1).normal(size=(32, HEADS)).astype(np.float32)
    return bucket_bias(scope, table, "table", 128)


def windowed(before: int | None, after: int | None) -> Bias:
    return lambda scope: attention_bias(scope, AttentionWindow(before, after))


BIASES: dict[str, Bias] = {
    "all tokens": attention_bias,
    "causal": windowed(None, 0),
    "window": windowed(64, 64),
    "uneven window": windowed(3, 100),
    "wide window": windowed(300, 300),
    "token itself": windowed(0, 0),
    "causal window": windowed(127, 0),
    "tokens after it": windowed(0, None),
    "by offset": lambda scope: attention_bias(scope, relative=by_offset(scope)),
    "by offset, causal": lambda scope: attention_bias(scope, AttentionWindow(after=0), by_offset(scope)),
}
EDGES = (1, 2, 127, 128, 129, 130, 511, 512, 513, 514, 575, 576, 577, 768, 769, 1023, 1024, 1025)


def write(
    folder: Path, bias: Bias, *, groups: int = 1, value_size: int = SIZE, rope: Rope | None = None, heads: int = HEADS
) -> onnx.ModelProto:
    """Two layers of attention over vectors that the words have, and their weights beside the graph."""
    random = np.random.default_rng(0)
    with DataFile(folder / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        scope = scope_of(graph)
        added = bias(scope)
        results, read = [], [added.term]
        for layer in range(2):
            parts = []
            sizes = (("q", heads, SIZE), ("k", heads // groups, SIZE), ("v", heads // groups, value_size))
            for name, count, size in sizes:
                table = random.normal(size=(WORDS, count * size)).astype(np.float32)
                table *= np.float32(SIZE**-0.5 if name == "q" else 1)
                rows = graph.op("Gather", graph.weight(f"{name}{layer}", table), scope.inputs.input_ids)
                part = split_heads(scope, graph.op("Reshape", rows, graph.ints(-1, count * size)), count, size)
                if rope is not None and name != "v":
                    part = rotate(graph, part, rotation(scope, rope, SIZE), SIZE)
                parts.append(part)
            read += parts
            query, key, value = parts
            results.append(attend(scope, query, key, value, added, Heads(heads, value_size, groups)))
        graph.output("y", graph.op("Concat", *results, axis=-1), ["tokens", 2 * heads * value_size])
        graph.save(folder / "m.onnx")
        graph.save_values(folder / "values.onnx", read)
    return onnx.load(folder / "m.onnx", load_external_data=False)


def in_blocks(model: onnx.ModelProto, folder: Path, longest: int | None = None) -> onnx.ModelProto:
    fused = fuse(model, OnCpu(longest))
    assert fused is not None
    onnx.save_model(fused, folder / "fused.onnx")
    onnx.checker.check_model(folder / "fused.onnx", full_check=True)
    return fused


def exact(folder: Path, ids: NDArray[Any], mask: NDArray[Any], groups: int) -> NDArray[np.float64]:
    """The same attention in float64, from its inputs in the portable graph."""
    made = onnxruntime().InferenceSession(folder / "values.onnx", providers=["CPUExecutionProvider"])
    bias, *parts = (value.astype(np.float64) for value in made.run(None, {"input_ids": ids, "attention_mask": mask}))
    results = []
    for query, key, value in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        repeated = (query, np.repeat(key, groups, axis=2), np.repeat(value, groups, axis=2))
        q, k, v = (part.transpose(0, 2, 1, 3) for part in repeated)
        context = np.empty(v.shape)
        for row in range(len(ids)):  # in place: fresh memory for large arrays costs more than the sums
            scores = q[row] @ k[row].swapaxes(1, 2)
            scores += np.broadcast_to(bias, (len(ids), *scores.shape))[row]
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            context[row] = scores @ v[row] / scores.sum(axis=-1, keepdims=True)
        results.append(context.transpose(0, 2, 1, 3).reshape(*ids.shape, -1))
    return np.concatenate(results, axis=-1)


def session(folder: Path, name: str) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]:
    made = onnxruntime().InferenceSession(folder / name, providers=["CPUExecutionProvider"])

    def run(ids: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float32]:
        y: NDArray[np.float32] = made.run(["y"], {"input_ids": ids, "attention_mask": mask})[0]
        return y.reshape(*ids.shape, -1)

    return run


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in all_nodes(model.graph.node))


def require_equal(model: onnx.ModelProto, folder: Path, lengths: tuple[int, ...], groups: int = 1) -> None:
    """Rows without padding, padded on either side, with one token, and with padding alone; and each row by itself.

    The sum over a thousand keys in float32 is off by a few millionths in plain operators too; blocks may be off three
    times as far.
    """
    in_blocks(model, folder)
    plain, fused = session(folder, "m.onnx"), session(folder, "fused.onnx")
    random = np.random.default_rng(2)
    for length in lengths:
        at = np.arange(length)
        full = np.ones(length)
        rows = [full, at < max(1, length - 70), at >= min(length - 1, 133), at == length // 2, full * 0]
        ids, mask = random.integers(0, WORDS, (len(rows), length)), np.array(rows, np.int64)
        expected, before, found = exact(folder, ids, mask, groups), plain(ids, mask), fused(ids, mask)
        assert np.isfinite(found).all()
        token = mask == 1
        allowed = max(TOLERANCE, 3 * float(np.abs(before - expected)[token].max()))
        np.testing.assert_allclose(found[token], expected[token], rtol=0, atol=allowed, err_msg=str(length))
        for row in range(3):
            alone = fused(ids[[row]], mask[[row]])[0]
            np.testing.assert_allclose(alone[token[row]], found[row, token[row]], rtol=0, atol=allowed)
        cut = token[1]
        shorter = fused(ids[[1]][:, cut], mask[[1]][:, cut])[0]
        np.testing.assert_allclose(shorter, found[1, cut], rtol=0, atol=allowed)


@pytest.mark.parametrize(
    "bias", [pytest.param(name, marks=[pytest.mark.slow] if i > 3 else []) for i, name in enumerate(BIASES)]
)
def test_the_same_numbers_at_the_edges_of_blocks(tmp_path: Path, bias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_attention, "_SHORT_BY_HEAD", 200)
    require_equal(write(tmp_path, BIASES[bias]), tmp_path, EDGES)


ROPES = (None, Rope(), Rope(partial_rotary_factor=0.5))


@pytest.mark.parametrize(
    ("bias", "groups", "value_size", "rope"),
    [  # every two of the three, not all three
        (bias, groups, value_size, ROPES[(i + j) % len(ROPES)])
        for i, bias in enumerate(["all tokens", "causal", "window"])
        for j, (groups, value_size) in enumerate([(1, 12), (2, SIZE), (4, SIZE)])
    ],
)
def test_heads_of_all_kinds(tmp_path: Path, bias: str, groups: int, value_size: int, rope: Rope | None) -> None:
    model = write(tmp_path, BIASES[bias], groups=groups, value_size=value_size, rope=rope, heads=4)
    require_equal(model, tmp_path, (5, 512, 515, 1000), groups)
    assert operators(in_blocks(model, tmp_path))["RotaryEmbedding"] == (0 if rope is None else 4)


@pytest.mark.parametrize("bias", ["all tokens", "causal", "window"])
def test_two_thousand_tokens(tmp_path: Path, bias: str) -> None:
    require_equal(write(tmp_path, BIASES[bias]), tmp_path, (2049,))


def test_a_bias_for_each_head_is_computed_in_blocks_from_2049_tokens_on(tmp_path: Path) -> None:
    require_equal(write(tmp_path, BIASES["by offset"]), tmp_path, (2048, 2049))


WAYS = {
    "all tokens": {"MultiHeadAttention": 4, "Attention": 2},
    "causal": {"Loop": 2, "Attention": 4},
    "window": {"Loop": 2, "Attention": 4},
    "by offset": {"Loop": 2, "Attention": 4},
}


@pytest.mark.parametrize("bias", WAYS)
def test_the_way_of_each_kind(tmp_path: Path, bias: str) -> None:
    found = operators(in_blocks(write(tmp_path, BIASES[bias]), tmp_path))
    assert {name: found[name] for name in ("MultiHeadAttention", "Loop", "Attention") if found[name]} == WAYS[bias]


@pytest.mark.parametrize(("bias", "most"), [("all tokens", 512), ("window", 512), ("causal", 768), ("by offset", 2048)])
def test_a_model_of_short_texts_has_no_branches(tmp_path: Path, bias: str, most: int) -> None:
    model = write(tmp_path, BIASES[bias])
    assert operators(in_blocks(model, tmp_path, most))["If"] == 0
    assert operators(in_blocks(model, tmp_path, most + 1))["If"] > 0


def test_a_graph_for_any_device_has_neither_branches_nor_rotary_embedding(tmp_path: Path) -> None:
    fused = fuse(write(tmp_path, attention_bias, rope=Rope()))
    assert fused is not None
    assert not {"If", "RotaryEmbedding"} & set(operators(fused))


def test_layers_share_what_is_made_of_their_bias_and_positions(tmp_path: Path) -> None:
    fused = in_blocks(write(tmp_path, BIASES["window"], rope=Rope()), tmp_path)
    top = Counter(node.op_type for node in fused.graph.node)
    assert top["If"] == 3  # one for each layer, one for the bias
    assert (top["Where"], top["Range"], top["Greater"]) == (0, 2, 1)


def test_a_bias_of_both_tokens_stays_as_it_is(tmp_path: Path) -> None:
    """Like that of DeBERTa, which is picked from scores of its own."""

    def picked(scope: Scope) -> AttentionBias:
        graph, mask = scope.graph, attention_bias(scope).term
        square = graph.op("Add", graph.op("Transpose", mask, perm=[0, 1, 3, 2]), mask)
        return AttentionBias(graph.op("Add", graph.op("Slice", square, graph.ints(0), graph.ints(9999)), mask))

    assert operators(in_blocks(write(tmp_path, picked), tmp_path))["If"] == 0


def other_edge(model: onnx.ModelProto) -> None:
    """Positions that do not count tokens: they are each their own, times two."""
    node = next(node for node in model.graph.node if node.op_type == "Range")
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "step"))
    node.input[2] = "step"
    length = next(i for i, one in enumerate(model.graph.node) if one is node)
    doubled = onnx.helper.make_node("Add", [node.input[1], node.input[1]], ["doubled"])
    node.input[1] = "doubled"
    model.graph.node.insert(length, doubled)


def test_a_window_of_other_positions_reads_all_keys(tmp_path: Path) -> None:
    model = write(tmp_path, BIASES["window"])
    other_edge(model)
    values = onnx.load(tmp_path / "values.onnx", load_external_data=False)
    other_edge(values)
    onnx.save_model(values, tmp_path / "values.onnx")
    require_equal(model, tmp_path, (513, 900))


MEASURE = """
import sys
import numpy as np
from embedrt.engine.session import plain_session

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024

session = plain_session(sys.argv[1])
feeds = lambda length: {name: np.ones((1, length), np.int64) for name in ("input_ids", "attention_mask")}
session.run(["y"], feeds(64))
before = peak()
session.run(["y"], feeds(4096))
print(peak() - before)
"""


def memory_of_4096_tokens(graph: Path) -> float:
    """Growth of the peak RSS of a process of its own, MB."""
    command = [sys.executable, "-c", MEASURE, str(graph)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("bias", ["all tokens", "causal", "window", "by offset"])
def test_memory_of_4096_tokens(tmp_path: Path, bias: str) -> None:
    """The scores of all pairs are 134 MB; those of a block of 128 queries are 4 MB, and all vectors together 4 MB."""
    in_blocks(write(tmp_path, BIASES[bias]), tmp_path)
    assert memory_of_4096_tokens(tmp_path / "fused.onnx") < 40
    assert memory_of_4096_tokens(tmp_path / "m.onnx") > 130

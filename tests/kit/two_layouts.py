"""A small model with attention as a padded and as a packed graph, both of operators that a CPU runs."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from embedrt.bundle.manifest import Packing, Scratch
from tests.kit.bundles import Json, change, copy_bundle, read_raw, rehash

PACKING = Packing(("input_ids", "position_ids", "starts", "token_index", "offsets", "mean_weights"), None, 1, None)
# The same with more inputs, of which the graph uses some: blocks of scratch memory, and what stays on the host.
WITH_SCRATCH = dataclasses.replace(
    PACKING, inputs=(*PACKING.inputs, "block_table", "past_lengths", "longest"), length_step=8, scratch=Scratch(2, 8)
)
_HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
# From vectors of tokens and a mask, both by text, to vectors of tokens.
_ATTENTION = """
    q = MatMul(x, w_query)
    k = MatMul(x, w_key)
    v = MatMul(x, w_value)
    k_turned = Transpose<perm = [0, 2, 1]>(k)
    products = MatMul(q, k_turned)
    absent = Sub(one, mask)
    punished = Mul(absent, minus)
    punishment = Unsqueeze(punished, axis_1)
    scores = Add(products, punishment)
    shares = Softmax<axis = -1>(scores)
    attended = MatMul(shares, v)
    sums = Add(x, attended)
    y = Tanh(sums)
"""
_PADDED = f"""{_HEADER}
padded (int64[b, s] input_ids, int64[b, s] attention_mask)
    => (float[b, s, 32] token_embeddings, float[b, 32] sentence_embedding) {{
    counts = CumSum(attention_mask, axis_1_0)
    after = Sub(counts, one_i)
    positions = Max(after, zero_i)
    words = Gather(word_table, input_ids)
    places = Gather(position_table, positions)
    x = Add(words, places)
    mask = Cast<to = 1>(attention_mask)
    {_ATTENTION}
    token_embeddings = Identity(y)
    lengths = ReduceSum<keepdims = 1>(mask, axis_1)
    least = Max(lengths, one)
    weights = Div(mask, least)
    weights_row = Unsqueeze(weights, axis_1)
    pooled = MatMul(weights_row, y)
    pooled_flat = Squeeze(pooled, axis_1)
    sentence_embedding = LpNormalization<axis = 1, p = 2>(pooled_flat)
}}"""
_PACKED = f"""{_HEADER}
packed (int32[t] input_ids, int32[t] position_ids, int32[e] starts, int32[b, s] token_index, int32[s] offsets,
        float[b, 1, s] mean_weights MORE)
    => (float[t, 32] token_embeddings, float[b, 32] sentence_embedding) {{
    words = Gather(word_table, input_ids)
    places = Gather(position_table, position_ids)
    stream = Add(words, places)
    x = Gather(stream, token_index)
    firsts = Slice(starts, from_0, to_last)
    ends = Slice(starts, from_1, to_end)
    lengths = Sub(ends, firsts)
    lengths_column = Unsqueeze(lengths, axis_1)
    is_token = Less(offsets, lengths_column)
    mask = Cast<to = 1>(is_token)
    {_ATTENTION}
    ids_64 = Cast<to = 7>(input_ids)
    zeros = Mul(ids_64, zero_i)
    ones = Add(zeros, one_i)
    counts = CumSum(ones, axis_0_0)
    rows = Sub(counts, one_i)
    rows_column = Unsqueeze(rows, axis_1)
    firsts_64 = Cast<to = 7>(firsts)
    begun = GreaterOrEqual(rows_column, firsts_64)
    begun_64 = Cast<to = 7>(begun)
    texts_begun = ReduceSum<keepdims = 0>(begun_64, axis_1)
    text = Sub(texts_begun, one_i)
    offsets_64 = Cast<to = 7>(offsets)
    last_offset = ReduceMax<keepdims = 0>(offsets_64)
    width = Add(last_offset, one_i)
    before = Mul(text, width)
    positions_64 = Cast<to = 7>(position_ids)
    index = Add(before, positions_64)
    y_flat = Reshape(y, flat_shape)
    token_embeddings = Gather(y_flat, index)
    pooled = MatMul(mean_weights, y)
    pooled_flat = Squeeze(pooled, axis_1)
    USED
    sentence_embedding = LpNormalization<axis = 1, p = 2>(pooled_sum)
}}"""
_MORE = (
    ", int32[b, m] block_table, int32[b] past_lengths, int32[2] longest, float[n, 256, 2, 8] key_scratch, "
    "float[n, 256, 2, 8] value_scratch"
)
# The block table and the scratch memory must fit together, or the numbers are wrong: n = b * m, and longest = [s, s].
_USED = """
    key_size = Size(key_scratch)
    value_size = Size(value_scratch)
    table_size = Size(block_table)
    expected_size = Mul(table_size, block_size)
    key_excess = Sub(key_size, expected_size)
    value_excess = Sub(value_size, expected_size)
    longest_64 = Cast<to = 7>(longest)
    longest_excess = Sub(longest_64, width)
    longest_wrong = ReduceSum<keepdims = 0>(longest_excess)
    past_64 = Cast<to = 7>(past_lengths)
    past_wrong = ReduceSum<keepdims = 0>(past_64)
    key_f = Cast<to = 1>(key_excess)
    value_f = Cast<to = 1>(value_excess)
    longest_f = Cast<to = 1>(longest_wrong)
    past_f = Cast<to = 1>(past_wrong)
    wrong = Sum(key_f, value_f, longest_f, past_f)
    pooled_sum = Add(pooled_flat, wrong)
"""


def _constants(words: int, positions: int) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    return {
        "word_table": weights(words, 32),
        "position_table": weights(positions, 32),
        "w_query": weights(32, 32),
        "w_key": weights(32, 32),
        "w_value": weights(32, 32),
        "one": np.array(1, np.float32),
        "minus": np.array(-1e9, np.float32),
        "one_i": np.array(1, np.int64),
        "zero_i": np.array(0, np.int64),
        "axis_1": np.array([1], np.int64),
        "axis_1_0": np.array(1, np.int64),
        "axis_0_0": np.array(0, np.int64),
        "from_0": np.array([0], np.int64),
        "from_1": np.array([1], np.int64),
        "to_last": np.array([-1], np.int64),
        "to_end": np.array([2**31], np.int64),
        "flat_shape": np.array([-1, 32], np.int64),
        "block_size": np.array(256 * 2 * 8, np.int64),
    }


def graph(packing: Packing | None, words: int = 133, positions: int = 64) -> bytes:
    """The model as a padded graph, or as a packed one with the inputs of `PACKING` or `WITH_SCRATCH`."""
    text = _PADDED
    if packing is not None:
        more, used = (_MORE, _USED) if packing.scratch else ("", "pooled_sum = Identity(pooled_flat)")
        text = _PACKED.replace(" MORE", more).replace("USED", used)
    model = onnx.parser.parse_model(text)
    taken = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in _constants(words, positions).items()
        if name in taken
    )
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def with_tokens_in(content: bytes, number: int) -> bytes:
    """The graph with token embeddings in another dtype, by ONNX's number."""
    model = onnx.load_from_string(content)
    (node,) = (node for node in model.graph.node if "token_embeddings" in node.output)
    node.output[:] = ["exact"]
    model.graph.node.append(onnx.helper.make_node("Cast", ["exact"], ["token_embeddings"], to=number))
    (output,) = (output for output in model.graph.output if output.name == "token_embeddings")
    output.type.tensor_type.elem_type = number
    serialized: bytes = model.SerializeToString()
    return serialized


def bundle(tiny: Path, folder: Path, packing: Packing | None) -> Path:
    """A bundle of the model, with the tokenizer of the tiny one, in one layout.

    Its proof is that of the tiny bundle, which says nothing about this model.
    """
    copy_bundle(tiny, folder)
    route = read_raw(folder)["routes"]["default"]
    for variant in route["variants"]:
        for name in filter(None, (variant["file"], variant["data"])):
            (folder / name).unlink(missing_ok=True)
    file = "onnx/packed.onnx" if packing else "onnx/model.onnx"
    words, positions = route["tokenization"]["embedding_rows"], route["position_limit"]
    (folder / file).write_bytes(graph(packing, words, positions))

    def swap(raw: Json) -> None:
        (route,) = raw["routes"].values()
        variant = route["variants"][0] | {
            "file": file,
            "data": None,
            "devices": [],
            "layout": "packed" if packing else "padded",
            "packing": dataclasses.asdict(packing) if packing else None,
        }
        gone = {name for one in route["variants"] for name in (one["file"], one["data"])}
        route["variants"] = [variant]
        raw["files"] = {name: record for name, record in raw["files"].items() if name not in gone}
        raw["files"][file] = {"size": 0, "sha256": ""}

    change(folder, swap)
    rehash(folder)
    return folder

"""Packing: every input of a packed graph against a formula for one text and one token at a time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from math import ceil, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedrt import BundleError
from embedrt.bundle.manifest import Packing, Scratch, Tokenization
from embedrt.engine import Batch
from embedrt.engine.stream import INPUTS, Shape, laid_out, shape_of
from embedrt.inputs.packing import pack, packed_input_names, spans
from embedrt.inputs.text import Tokens, flat, offsets_of
from embedrt.run.batches import batch_tokens, make_batch

PAD = 1
HOW = Tokenization(pad_id=PAD, padding_side="right", token_type_ids=True, pooling_mask=True, embedding_rows=100)
ALL = Packing(tuple(INPUTS), padding_id=None, length_step=1, scratch=None)
TEXTS = st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=6)


def tokens_of(rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Tokens:
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    return Tokens(flat(rows), offsets, None if types is None else flat(types), [])


def packed(rows: Sequence[Sequence[int]], packing: Packing = ALL, unpooled: Any = 0, extra: int = 0) -> dict[str, Any]:
    tokens = tokens_of(rows, [[number % 2 for number in row] for row in rows])
    return pack(tokens, np.arange(len(rows)), max(map(len, rows)) + extra, HOW, packing, unpooled)


@dataclasses.dataclass(frozen=True)
class Text:
    """One text of a batch: its ids, its first row in the stream, and the numbers of its pooled tokens."""

    ids: list[int]
    start: int
    pooled: list[int]


def positions(ids: list[int], padding_id: int | None) -> list[int]:
    if padding_id is None:
        return [*range(len(ids))]
    return [0 if ids[j] == padding_id else sum(one != padding_id for one in ids[: j + 1]) for j in range(len(ids))]


def weight(mode: str, text: Text, j: int) -> float:
    if j not in text.pooled:
        return 0.0
    count = len(text.pooled)
    return {
        "mean": 1 / count,
        "mean_sqrt_len": 1 / sqrt(count),
        "weightedmean": (j + 1) / sum(k + 1 for k in text.pooled),
    }[mode]


def expected(rows: list[list[int]], packing: Packing, unpooled: list[int], extra: int) -> dict[str, Any]:
    texts: list[Text] = []
    for row, skipped in zip(rows, unpooled, strict=True):
        start = sum(len(text.ids) for text in texts)
        texts.append(Text(row or [PAD], start, [*range(skipped, len(row))]))
    step = packing.length_step
    length = ceil(max(1, max(map(len, rows)) + extra) / step) * step
    blocks = ceil(length / 256)
    places = range(length)
    first = [text.start + (text.pooled[0] if text.pooled else len(text.ids) - 1) for text in texts]
    ids = [token for text in texts for token in text.ids]

    def of_places(make: Callable[[int, Text, int], Any]) -> list[Any]:
        return [[make(i, text, j) for j in places] for i, text in enumerate(texts)]

    return {
        "input_ids": ids,
        "token_type_ids": [number % 2 for row in rows for number in row or [0]],
        "position_ids": [place for text in texts for place in positions(text.ids, packing.padding_id)],
        "starts": [*(text.start for text in texts), len(ids)],
        "token_index": of_places(lambda _, text, j: text.start + (j if j < len(text.ids) else 0)),
        "pooled_index": of_places(lambda i, text, j: text.start + j if j in text.pooled else first[i]),
        "first_rows": first,
        "last_rows": [text.start + len(text.ids) - 1 for text in texts],
        "has_tokens": [[float(bool(text.pooled))] for text in texts],
        "offsets": [*places],
        "past_lengths": [0] * len(texts),
        "block_table": [[i * blocks + j for j in range(blocks)] for i in range(len(texts))],
        "longest": [length, length],
        **{
            f"{mode}_weights": [[weights] for weights in of_places(lambda _, text, j: weight(mode, text, j))]  # noqa: B023
            for mode in ("mean", "mean_sqrt_len", "weightedmean")
        },
    }


def require_equal(feeds: Mapping[str, NDArray[Any]], wanted: Mapping[str, Any]) -> None:
    assert set(feeds) == set(wanted)
    for name, array in feeds.items():
        assert array.dtype == INPUTS[name].dtype, name
        assert array.flags["C_CONTIGUOUS"], name
        np.testing.assert_array_equal(array, np.array(wanted[name], INPUTS[name].dtype), name, strict=True)


@given(
    TEXTS,
    st.lists(st.integers(0, 10), min_size=6, max_size=6),
    st.integers(0, 3),
    st.sampled_from([1, 8]),
    st.sampled_from([None, 1, 3]),
)
def test_every_input(rows: list[list[int]], unpooled: list[int], extra: int, step: int, padding_id: int | None) -> None:
    packing = dataclasses.replace(ALL, length_step=step, padding_id=padding_id)
    skipped = unpooled[: len(rows)]
    feeds = packed(rows, packing, np.array(skipped), extra)
    require_equal(feeds, expected(rows, packing, skipped, extra))
    shape = Shape(len(feeds["input_ids"]), len(rows), int(feeds["longest"][0]))
    assert {name: array.shape for name, array in feeds.items()} == {name: INPUTS[name].sizes(shape) for name in feeds}


@given(TEXTS, st.integers(0, 3), st.integers(0, 5), st.integers(0, 2), st.integers(0, 300))
def test_a_larger_shape_says_the_same(
    rows: list[list[int]], unpooled: int, tokens: int, more: int, longer: int
) -> None:
    """The texts keep their places; what is added has no tokens, no weight, and points into the stream."""
    batch = make_batch(tokens_of(rows), np.arange(len(rows)), max(map(len, rows)), HOW, ALL, unpooled)
    feeds, before = batch.feeds, shape_of(batch)
    shape = Shape(before.tokens + tokens, before.rows + more, before.longest + longer)
    found = laid_out(feeds, shape)
    assert shape_of(Batch(found, spans=batch.spans)) == dataclasses.replace(shape, rows=before.rows)
    for name, large in found.items():
        array, one = feeds[name], INPUTS[name]
        assert large.dtype == array.dtype
        assert large.shape == one.sizes(shape)
        if name not in {"block_table", "longest"}:
            np.testing.assert_array_equal(large[tuple(map(slice, array.shape))], array)
        if name == "starts":
            assert (large[len(rows) :] == array[-1]).all()
        elif name.endswith("_index"):
            assert (large[: len(rows), array.shape[1] :] == array[:, :1]).all()
            assert 0 <= large.min() <= large.max() < shape.tokens
        elif one.dtype == np.float32:
            assert np.count_nonzero(large) == np.count_nonzero(array)
    assert all(array is feeds[name] for name, array in laid_out(feeds, before).items() if INPUTS[name].make is None)


def test_some_rows_in_another_order() -> None:
    rows = [[2, 3], [4], [5, 6, 7]]
    feeds = pack(tokens_of(rows), np.array([2, 1]), 3, HOW, ALL)
    require_equal(feeds, expected([rows[2], rows[1]], ALL, [0, 0], 0) | {"token_type_ids": [0] * 4})


def test_texts_without_any_token() -> None:
    feeds = pack(tokens_of([[], []]), np.arange(2), 0, HOW, ALL)
    require_equal(feeds, expected([[], []], ALL, [0, 0], 0))
    assert feeds["has_tokens"].sum() == feeds["mean_weights"].sum() == 0


def test_only_the_inputs_that_the_graph_has() -> None:
    packing = Packing(("starts", "key_scratch", "input_ids", "value_scratch"), None, 1, Scratch(2, 8))
    assert list(packed([[2]], packing)) == ["starts", "input_ids"]
    assert packed_input_names(packing) == ("starts", "input_ids", "key_scratch", "value_scratch")
    assert packed_input_names(dataclasses.replace(packing, inputs=("starts",)))[1:] == ("key_scratch", "value_scratch")
    assert packed_input_names(ALL) == tuple(INPUTS)


def test_an_unknown_input() -> None:
    packing = dataclasses.replace(ALL, inputs=("input_ids", "phases"))
    with pytest.raises(BundleError, match=r"packing\.inputs of embedrt\.json: phases unknown; update embedrt"):
        packed([[2]], packing)


def test_an_id_beyond_the_table() -> None:
    """On a GPU its embedding would be zeros, without an error."""
    packed([[99]])
    with pytest.raises(BundleError, match=r"token id 100: expected less than embedding_rows, 100, of embedrt\.json"):
        packed([[2], [3, 100]])


def test_a_row_that_is_too_long_is_an_error() -> None:
    with pytest.raises(ValueError, match="length: expected at least 3, the tokens of the longest row, got 2"):
        pack(tokens_of([[2], [2, 3, 4]]), np.arange(2), 2, HOW, ALL)


class TestBatch:
    """Where the rows of a batch are."""

    @pytest.mark.parametrize("packing", [None, ALL])
    def test_rows_of_an_array_by_token(self, packing: Packing | None) -> None:
        rows = [[2, 3], [], [4, 5, 6], [7]]
        batch = make_batch(tokens_of(rows, rows), np.arange(4), 3, HOW, packing, alone=True)
        assert batch.alone
        assert batch.shape == (4, 3)
        assert batch.tokens == (12 if packing is None else 6)
        assert [batch.of_row(batch.feeds["input_ids"], i).tolist() for i in range(4)] == rows

    @pytest.mark.parametrize("packing", [None, ALL])
    def test_a_part_of_the_rows(self, packing: Packing | None) -> None:
        rows = [[2, 3], [], [4, 5, 6], [7]]
        batch = make_batch(tokens_of(rows, rows), np.arange(4), 3, HOW, packing, alone=True)
        ids = batch.feeds["input_ids"].astype(np.float32)
        results = {"sentence_embedding": np.arange(4, dtype=np.float32)[:, np.newaxis], "token_embeddings": ids}
        part, found = batch.part(1, 3), batch.part_of(results, 1, 3)
        assert part.alone
        assert (part.shape, part.tokens) == ((2, 3), 6 if packing is None else 3)
        assert found["sentence_embedding"].tolist() == [[1], [2]]
        assert [part.of_row(found["token_embeddings"], i).tolist() for i in range(2)] == rows[1:3]

    def test_tokens_that_are_not_attended_to_are_part_of_their_row(self) -> None:
        rows = [[2, 3], [4, 5, 6], [7]]
        tokens = dataclasses.replace(tokens_of(rows, rows), attended=np.array([1, 3, 0]))
        batch = make_batch(tokens, np.arange(3), 3, HOW, None)
        assert batch.feeds["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
        assert [batch.of_row(batch.feeds["input_ids"], i).tolist() for i in range(3)] == rows
        part = batch.part(1, 3)
        assert [part.of_row(part.feeds["input_ids"], i).tolist() for i in range(2)] == rows[1:]
        with pytest.raises(ValueError, match="attended"):
            make_batch(tokens, np.arange(3), 3, HOW, ALL)

    def test_tokens_of_a_batch_to_come(self) -> None:
        tokens, rows = tokens_of([[2, 3], [], [4, 5, 6]]), np.array([2, 1])
        assert batch_tokens(tokens, rows, 3, None) == 6
        assert batch_tokens(tokens, rows, 3, ALL) == 3

    def test_no_rows(self) -> None:
        batch = make_batch(tokens_of([], []), np.arange(0), 0, HOW, ALL)
        assert (batch.shape, batch.tokens) == ((0, 0), 0)
        assert spans(tokens_of([]), np.arange(0)).shape == (0, 2)
        assert isinstance(batch, Batch)

"""Padding: every token stays, at its place, and the rest is filling."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedrt import BundleError
from embedrt.bundle.manifest import Tokenization
from embedrt.inputs.padding import input_names, pad, real_tokens
from embedrt.inputs.text import Tokens, flat, offsets_of

RIGHT = Tokenization(pad_id=9, padding_side="right", token_type_ids=True, pooling_mask=True, embedding_rows=2**31)
LEFT = dataclasses.replace(RIGHT, padding_side="left")
ROWS = st.lists(st.lists(st.integers(1, 2**31 - 1), max_size=9), min_size=1, max_size=6)


def tokens_of(rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Tokens:
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    return Tokens(flat(rows), offsets, None if types is None else flat(types), [])


def padded(
    tokens: Tokens, length: int, how: Tokenization, unpooled: int | NDArray[np.int64] = 0
) -> dict[str, NDArray[np.int64]]:
    return pad(tokens, np.arange(len(tokens)), length, how, unpooled)


@given(ROWS, st.integers(0, 5), st.integers(0, 4), st.booleans())
def test_tokens_stay_and_the_rest_is_filling(rows: list[list[int]], extra: int, unpooled: int, left: bool) -> None:
    length = max(map(len, rows)) + extra
    types = [[number % 2 for number in row] for row in rows]
    feeds = padded(tokens_of(rows, types), length, LEFT if left else RIGHT, unpooled)
    assert list(feeds) == ["input_ids", "attention_mask", "token_type_ids", "pooling_mask"]
    assert {(array.dtype, array.shape) for array in feeds.values()} == {(np.dtype(np.int64), (len(rows), length))}

    def expected(row: list[int], fill: int) -> list[int]:
        filling = [fill] * (length - len(row))
        return filling + row if left else row + filling

    for i, row in enumerate(rows):
        assert feeds["input_ids"][i].tolist() == expected(row, 9)
        assert feeds["attention_mask"][i].tolist() == expected([1] * len(row), 0)
        assert feeds["token_type_ids"][i].tolist() == expected(types[i], 0)
        assert feeds["pooling_mask"][i].tolist() == expected([int(at >= unpooled) for at in range(len(row))], 0)


@given(ROWS, st.data(), st.booleans())
def test_tokens_that_are_not_attended_to(rows: list[list[int]], data: st.DataObject, left: bool) -> None:
    attended = np.array([data.draw(st.integers(0, len(row))) for row in rows], np.int64)
    length, how = max(map(len, rows)) + 1, LEFT if left else RIGHT
    tokens, order = tokens_of(rows, rows), np.arange(len(rows))[::-1]
    part = dataclasses.replace(tokens, attended=attended)
    feeds, whole = pad(part, order, length, how), pad(tokens, order, length, how)
    assert all((feeds[name] == whole[name]).all() for name in ("input_ids", "token_type_ids", "pooling_mask"))
    np.testing.assert_array_equal(real_tokens(part, order, length, how), whole["attention_mask"] == 1)
    for mask, row in zip(feeds["attention_mask"], order, strict=True):
        before = length - len(rows[row]) if left else 0
        assert np.flatnonzero(mask).tolist() == [before + place for place in range(attended[row])]


def test_an_id_beyond_the_table() -> None:
    """On a GPU its embedding would be zeros, without an error."""
    few = dataclasses.replace(RIGHT, embedding_rows=10)
    assert padded(tokens_of([[1, 9]], [[0, 0]]), 2, few)["input_ids"].tolist() == [[1, 9]]
    with pytest.raises(BundleError, match=r"token id 10: expected less than embedding_rows, 10, of embedrt\.json"):
        padded(tokens_of([[1], [2, 10]], [[0], [0, 0]]), 2, few)


def test_the_names_of_the_inputs() -> None:
    for types, mask in ((False, False), (True, False), (False, True), (True, True)):
        how = dataclasses.replace(RIGHT, token_type_ids=types, pooling_mask=mask)
        assert input_names(how) == tuple(padded(tokens_of([[1]], [[0]] if types else None), 1, how))


@pytest.mark.parametrize("how", [LEFT, RIGHT])
def test_by_hand(how: Tokenization) -> None:
    feeds = padded(tokens_of([[1, 2], [], [3]], [[0, 1], [], [1]]), 3, how, np.array([1, 0, 0]))
    expected = {
        "input_ids": [[1, 2, 9], [9, 9, 9], [3, 9, 9]],
        "attention_mask": [[1, 1, 0], [0, 0, 0], [1, 0, 0]],
        "token_type_ids": [[0, 1, 0], [0, 0, 0], [1, 0, 0]],
        "pooling_mask": [[0, 1, 0], [0, 0, 0], [1, 0, 0]],
    }
    if how is LEFT:
        expected = {
            "input_ids": [[9, 1, 2], [9, 9, 9], [9, 9, 3]],
            "attention_mask": [[0, 1, 1], [0, 0, 0], [0, 0, 1]],
            "token_type_ids": [[0, 0, 1], [0, 0, 0], [0, 0, 1]],
            "pooling_mask": [[0, 0, 1], [0, 0, 0], [0, 0, 1]],
        }
    assert {name: array.tolist() for name, array in feeds.items()} == expected


def test_some_rows_in_another_order() -> None:
    feeds = pad(tokens_of([[1, 2], [3], [4, 5]], [[0, 1], [1], [0, 0]]), np.array([2, 1]), 3, LEFT, np.array([1, 0]))
    assert {name: array.tolist() for name, array in feeds.items()} == {
        "input_ids": [[9, 4, 5], [9, 9, 3]],
        "attention_mask": [[0, 1, 1], [0, 0, 1]],
        "token_type_ids": [[0, 0, 0], [0, 0, 1]],
        "pooling_mask": [[0, 0, 1], [0, 0, 1]],
    }


def test_only_the_inputs_that_the_graph_has() -> None:
    plain = dataclasses.replace(RIGHT, pooling_mask=False)
    assert list(padded(tokens_of([[1]]), 1, plain)) == ["input_ids", "attention_mask"]


def test_no_rows() -> None:
    assert padded(tokens_of([], []), 0, RIGHT)["input_ids"].shape == (0, 0)


@pytest.mark.parametrize("how", [LEFT, RIGHT])
def test_a_row_that_is_too_long_is_an_error(how: Tokenization) -> None:
    with pytest.raises(ValueError, match="length: expected at least 4, the tokens of the longest row, got 3"):
        padded(tokens_of([[1, 2, 3, 4]]), 3, how)


@given(ROWS, st.data())
def test_rows_taken_and_joined_again(rows: list[list[int]], data: st.DataObject) -> None:
    tokens = tokens_of(rows, rows)
    order = data.draw(st.permutations(range(len(rows))))
    parts = [tokens.take(np.array(order[:2], np.int64)), tokens.take(np.array(order[2:], np.int64))]
    joint = Tokens.joined(parts)
    assert len(joint) == len(rows)
    assert joint.type_ids is not None
    for place, row in enumerate(order):
        start, end = joint.offsets[place : place + 2]
        assert joint.ids[start:end].tolist() == joint.type_ids[start:end].tolist() == rows[row]
    assert joint.lengths.tolist() == [len(rows[row]) for row in order]

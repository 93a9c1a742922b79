"""Query expansion against rows written out, and flat tokens that are taken and joined with it."""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt.bundle.manifest import Expansion
from embedrt.inputs.expansion import ExpandedQueries, expand
from embedrt.inputs.text import Tokens, flat, offsets_of

ROWS = st.lists(st.lists(st.integers(1, 99), max_size=6), max_size=5)


def tokens_of(rows: Sequence[Sequence[int]], *, types: bool = False) -> Tokens:
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    return Tokens(flat(rows), offsets, flat([1] * len(row) for row in rows) if types else None, [])


def rows_of(tokens: Tokens) -> list[list[int]]:
    return [tokens.ids[start:end].tolist() for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)]


@given(ROWS, st.integers(1, 8), st.booleans(), st.booleans())
def test_shorter_queries_get_more_tokens(rows: list[list[int]], length: int, attend: bool, types: bool) -> None:
    found = expand(tokens_of(rows, types=types), Expansion("min", length, attend, 103))
    assert rows_of(found) == [row + [103] * (length - len(row)) for row in rows]
    if types:
        assert found.type_ids is not None
        assert [*found.type_ids] == [t for row in rows for t in [1] * len(row) + [0] * (length - len(row))]
    else:
        assert found.type_ids is None
    if attend:
        assert found.attended is None
    else:
        assert found.attended is not None
        assert found.attended.tolist() == [len(row) for row in rows]


@given(ROWS.filter(bool), ROWS.filter(bool))
def test_expanded_and_other_texts_are_joined(queries: list[list[int]], documents: list[list[int]]) -> None:
    expanded = expand(tokens_of(queries), Expansion("fixed", 4, attend=False, token_id=103))
    joined = Tokens.joined([tokens_of(documents), expanded])
    assert rows_of(joined) == documents + rows_of(expanded)
    assert joined.attended is not None
    assert joined.attended.tolist() == [len(row) for row in documents + queries]
    order = np.arange(len(joined))[::-1]
    taken = joined.take(order)
    assert taken.attended is not None
    assert taken.attended.tolist() == joined.attended[order].tolist()


def test_it_is_picklable() -> None:
    reading = ExpandedQueries(Expansion("fixed", 32, attend=False, token_id=103))
    assert pickle.loads(pickle.dumps(reading)) == reading


@pytest.mark.parametrize("attend", [True, False])
def test_texts_without_expansion_stay_joined_without(attend: bool) -> None:
    expanded = expand(tokens_of([[1]]), Expansion("fixed", 4, attend, 103))
    assert (Tokens.joined([tokens_of([[1, 2]]), expanded]).attended is None) == attend

"""Searches against brute force in float64, and against themselves in other chunks."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import embedrt.vectors.nearest
import embedrt.vectors.search
from embedrt import Embedder
from embedrt.types import Precision
from embedrt.vectors.nearest import ScoreFunction
from embedrt.vectors.quantization import dequantize_embeddings, quantize_embeddings, vector_ranges
from embedrt.vectors.search import (
    community_detection,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    semantic_search,
)
from embedrt.vectors.similarity import SIMILARITIES, cos_sim, dot_score

Array = NDArray[Any]
FUNCTIONS = {name: similarity.matrix for name, similarity in SIMILARITIES.items()}
BITS: list[Precision] = ["binary", "ubinary"]
SCALARS: list[Precision] = ["int8", "uint8"]


def vectors(count: int, dim: int = 16, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(dtype)


def clusters(count: int, groups: int, dim: int = 16, spread: float = 0.3, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((groups, dim))
    return (centers[rng.integers(0, groups, count)] + spread * rng.standard_normal((count, dim))).astype(np.float32)


def hits(found: list[list[dict[str, int | float]]]) -> list[list[tuple[int, float]]]:
    return [[(int(hit["corpus_id"]), hit["score"]) for hit in row] for row in found]


def ids(found: list[list[dict[str, int | float]]]) -> list[list[int]]:
    return [[hit[0] for hit in row] for row in hits(found)]


def by_sorting(scores: Array, k: int) -> list[list[int]]:
    """The best k of every row: the highest score first, equal scores by place."""
    return [sorted(range(len(row)), key=lambda index: (-row[index], index))[:k] for row in scores.tolist()]


@st.composite
def searches(draw: st.DrawFn) -> tuple[Array, Array, int, int, int]:
    """Few different numbers, so that there are many equal scores and many equal vectors."""
    dim = draw(st.integers(1, 4))
    numbers = st.sampled_from([0.0, 1.0, -1.0, 2.0])
    queries = draw(arrays(np.float32, (draw(st.integers(0, 5)), dim), elements=numbers))
    corpus = draw(arrays(np.float32, (draw(st.integers(0, 40)), dim), elements=numbers))
    return queries, corpus, draw(st.integers(1, 45)), draw(st.integers(1, 6)), draw(st.integers(1, 45))


@pytest.mark.parametrize("name", ["dot", "euclidean", "manhattan"])
@given(case=searches())
def test_exact_with_ties(name: str, case: tuple[Array, Array, int, int, int]) -> None:
    """Small whole numbers have exact scores, so the order is known, ties and all."""
    queries, corpus, k, query_chunk, corpus_chunk = case
    found = semantic_search(queries, corpus, query_chunk, corpus_chunk, k, FUNCTIONS[name])
    scores = np.array(FUNCTIONS[name](queries, corpus))
    assert ids(found) == by_sorting(scores, k)
    for row, expected in zip(hits(found), scores.tolist(), strict=True):
        assert [score for _, score in row] == [expected[index] for index, _ in row]


@given(case=searches())
def test_equal_vectors_have_equal_cosines(case: tuple[Array, Array, int, int, int]) -> None:
    queries, corpus, k, query_chunk, corpus_chunk = case
    found = semantic_search(queries, corpus, query_chunk, corpus_chunk, k)
    assert found == semantic_search(queries, corpus, top_k=k)
    for query, row in zip(queries, hits(found), strict=True):
        assert len(row) == min(k, len(corpus))
        assert sorted(row, key=lambda hit: (-hit[1], hit[0])) == row
        exact = np.array(cos_sim(query.astype(np.float64), corpus.astype(np.float64)))[0]
        found_ids = [index for index, _ in row]
        np.testing.assert_allclose([score for _, score in row], exact[found_ids], rtol=0, atol=1e-6)
        left = np.delete(exact, found_ids)
        assert not len(left) or not row or left.max() <= row[-1][1] + 1e-6


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_chunks_do_not_show(name: str, dtype: Any) -> None:
    """Not in the last bit of a score, and not among copies of a vector, which a product may round differently."""
    corpus = vectors(600, 48, dtype=dtype)
    corpus[100:200] = corpus[300:400]
    corpus[500:] = corpus[7]
    queries = np.concatenate((corpus[::40], vectors(11, 48, seed=1, dtype=dtype)))
    whole = semantic_search(queries, corpus, top_k=20, score_function=FUNCTIONS[name])
    for chunks in [(1, 1), (3, 17), (100, 64), (7, 599)]:
        assert semantic_search(queries, corpus, *chunks, top_k=20, score_function=FUNCTIONS[name]) == whole
    for row in hits(whole):
        assert row == sorted(row, key=lambda hit: (-hit[1], hit[0]))
    assert ids(whole)[0][0] == 0
    copies = ids(semantic_search(corpus[7], corpus, 100, 50, 101, FUNCTIONS[name]))[0] if name != "dot" else None
    assert copies is None or copies == [7, *range(500, 600)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_many_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpora whose best come last, first, or all at once, in blocks far smaller than the corpus."""
    corpus, queries = vectors(3000), vectors(5, seed=1)
    scores = np.array(FUNCTIONS[name](queries, corpus))
    rising = corpus[np.argsort(scores[0], kind="stable")]
    monkeypatch.setattr(embedrt.vectors.nearest, "AT_ONCE", 1 << 10)
    monkeypatch.setattr(embedrt.vectors.nearest, "QUERIES_AT_ONCE", 2)
    for order in (corpus, rising, rising[::-1]):
        found = semantic_search(queries, order, top_k=7, score_function=FUNCTIONS[name])
        expected = by_sorting(np.array(FUNCTIONS[name](queries, order)), 7)
        assert ids(found) == expected


def test_duplicates_far_more_than_asked_for() -> None:
    corpus = np.repeat(vectors(3), 4000, axis=0)
    found = hits(semantic_search(corpus[[0, 4000, 8000]], corpus, corpus_chunk_size=777, top_k=5))
    assert [[index for index, _ in row] for row in found] == [list(range(at, at + 5)) for at in (0, 4000, 8000)]
    assert {round(score, 6) for row in found for _, score in row} == {1}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forms_of_the_input(name: str) -> None:
    corpus, queries = vectors(30), vectors(4, seed=1)
    kept = corpus.copy(), queries.copy()
    expected = semantic_search(queries, corpus, score_function=FUNCTIONS[name])
    wide = np.zeros((30, 32), np.float32)
    wide[:, ::2] = corpus
    corpus.setflags(write=False)
    queries.setflags(write=False)
    for same in (corpus, list(corpus), np.asfortranarray(corpus), wide[:, ::2]):
        assert semantic_search(queries, same, score_function=FUNCTIONS[name]) == expected
    assert semantic_search(queries[2], corpus, score_function=FUNCTIONS[name]) == expected[2:3]
    one = semantic_search(queries, corpus[5], score_function=FUNCTIONS[name])
    assert ids(one) == [[0]] * 4
    np.testing.assert_array_equal(corpus, kept[0])
    np.testing.assert_array_equal(queries, kept[1])


def test_plain_numbers_come_back() -> None:
    hit = semantic_search(vectors(1), vectors(5))[0][0]
    assert [(key, type(value)) for key, value in hit.items()] == [("corpus_id", int), ("score", float)]


def test_nothing_to_search() -> None:
    some = vectors(3)
    assert semantic_search(some, some[:0]) == [[], [], []]
    assert semantic_search(some[:0], some) == []
    assert semantic_search([], some) == []
    assert semantic_search(some, []) == [[], [], []]
    zeros = semantic_search(np.zeros((1, 16)), some)
    assert hits(zeros) == [[(0, 0.0), (1, 0.0), (2, 0.0)]]


def test_own_score_function() -> None:
    queries, corpus = vectors(3), vectors(50, seed=1)
    found = semantic_search(queries, corpus, 2, 7, 4, lambda a, b: dot_score(a, b) * 2)
    assert ids(found) == ids(semantic_search(queries, corpus, top_k=4, score_function=dot_score))
    wrong: list[tuple[ScoreFunction, str]] = [
        (lambda a, b: dot_score(b, a), r"score_function: expected the shape \[3, 50\], got \[50, 3\]"),
        (lambda a, b: dot_score(a, b) * np.nan, "score_function: NaN or infinity"),
    ]
    for function, message in wrong:
        with pytest.raises(ValueError, match=message):
            semantic_search(queries, corpus, score_function=function)


@pytest.mark.parametrize("precision", SCALARS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_scalar_codes_are_searched_as_their_vectors(name: str, precision: Precision) -> None:
    queries, corpus = vectors(6, seed=1), vectors(400)
    ranges = vector_ranges(corpus)
    codes = quantize_embeddings(corpus, precision, ranges)
    found = semantic_search(
        queries, codes, 4, 33, 9, FUNCTIONS[name], corpus_precision=precision, ranges=ranges.tolist()
    )
    restored = dequantize_embeddings(codes, precision, ranges)
    assert found == semantic_search(queries, restored, top_k=9, score_function=FUNCTIONS[name])
    coded = quantize_embeddings(queries, precision, ranges)
    assert semantic_search(coded, codes, corpus_precision=precision, ranges=ranges) == semantic_search(
        dequantize_embeddings(coded, precision, ranges), restored
    )


@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("dim", [5, 8, 64, 100, 200])
def test_bits_are_searched_by_hamming_distance(dim: int, precision: Precision) -> None:
    queries, corpus = vectors(6, dim, seed=1), vectors(300, dim)
    codes = quantize_embeddings(corpus, precision)
    distances = ((queries > 0)[:, None] != (corpus > 0)).sum(axis=2)
    for chunks in [(100, 500000), (4, 33)]:
        found = semantic_search(queries, codes, *chunks, top_k=9, corpus_precision=precision, rescore=False)
        assert ids(found) == by_sorting(-distances, 9)
        assert [[-score for _, score in row] for row in hits(found)] == np.sort(distances)[:, :9].tolist()
    packed = quantize_embeddings(queries, precision)
    assert semantic_search(packed, codes, top_k=9, corpus_precision=precision, rescore=False) == found


@pytest.mark.parametrize("precision", BITS)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("multiplier", [1, 2, 5, 100])
def test_bits_are_rescored(name: str, precision: Precision, multiplier: int) -> None:
    queries, corpus = vectors(6, 20, seed=1), np.concatenate((vectors(200, 20), vectors(200, 20)))
    signs = np.where(corpus > 0, np.float32(1), np.float32(-1))
    distances = ((queries > 0)[:, None] != (corpus > 0)).sum(axis=2)
    found = semantic_search(
        queries,
        quantize_embeddings(corpus, precision),
        top_k=6,
        score_function=FUNCTIONS[name],
        corpus_precision=precision,
        rescore_multiplier=multiplier,
    )
    for query, row, order in zip(queries, hits(found), by_sorting(-distances, 6 * multiplier), strict=True):
        assert row == sorted(row, key=lambda hit: (-hit[1], hit[0]))
        exact = np.array(FUNCTIONS[name](query, signs.astype(np.float64)))[0]
        chosen = [index for index, _ in row]
        assert set(chosen) <= set(order)
        np.testing.assert_allclose([score for _, score in row], exact[chosen], rtol=1e-5)
        np.testing.assert_allclose(exact[chosen], np.sort(exact[order])[::-1][:6], rtol=1e-5)


def test_every_function_ranks_bits_alike() -> None:
    """The vectors that bits stand for are of equal length."""
    queries, codes = vectors(6, 32, seed=1) / 8, quantize_embeddings(vectors(200, 32), "binary")
    found = [
        ids(semantic_search(queries, codes, score_function=function, corpus_precision="binary", rescore_multiplier=20))
        for function in FUNCTIONS.values()
    ]
    assert all(other == found[0] for other in found)


def test_packed_queries_have_cosines_of_signs() -> None:
    codes = quantize_embeddings(vectors(50, 32), "ubinary")
    row = hits(semantic_search(codes[3], codes, corpus_precision="ubinary"))[0]
    assert row[0][0] == 3
    agree = 32 - np.bitwise_count(codes[3] ^ codes).sum(axis=1, dtype=int)
    assert [score for _, score in row] == pytest.approx([2 * agree[index] / 32 - 1 for index, _ in row])


def test_precision_of_the_corpus() -> None:
    queries, corpus = vectors(3), vectors(150)
    ranges = vector_ranges(corpus)
    assert semantic_search(queries, corpus, corpus_precision="float32") == semantic_search(queries, corpus)
    codes = quantize_embeddings(corpus, "int8", ranges)
    wrong: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (queries, codes, {}, ValueError, r"corpus_precision: expected one of .* for a corpus of int8, got None"),
        (queries, codes, {"corpus_precision": "int4"}, ValueError, r"corpus_precision: expected one of .* got 'int4'"),
        (queries, codes, {"corpus_precision": "uint8"}, TypeError, "int8 does not match corpus_precision"),
        (queries, codes, {"corpus_precision": "float32"}, TypeError, "int8 does not match corpus_precision"),
        (queries, corpus, {"corpus_precision": "int8"}, TypeError, "float32 does not match corpus_precision"),
        (queries, codes, {"corpus_precision": "int8"}, ValueError, "ranges: expected the ranges that the int8 codes"),
        (queries, codes, {"corpus_precision": "int8", "ranges": ranges[0]}, ValueError, r"ranges: expected the shape"),
        (queries, codes, {"corpus_precision": "binary"}, ValueError, "need a binary corpus 2 wide, got 16"),
        (queries[:, :8], codes, {"corpus_precision": "int8", "ranges": ranges}, ValueError, "corpus 8 wide, got 16"),
        (queries, corpus[:, :8], {}, ValueError, "queries of 16 coordinates need a float32 corpus 16 wide, got 8"),
        (codes, corpus, {}, TypeError, "query_embeddings: expected floats, as in the corpus, got int8 codes"),
        (codes.view(np.uint8), codes, {"corpus_precision": "int8", "ranges": ranges}, TypeError, "expected int8 for"),
    ]  # fmt: skip
    for query, searched, arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            semantic_search(query, searched, **arguments)
    bits = quantize_embeddings(corpus, "ubinary")

    def own(a: Array, b: Array) -> Array:
        return a @ b.T

    with pytest.raises(ValueError, match=r"score_function: expected cos_sim, .* for ubinary codes, .* rescore=False"):
        semantic_search(queries, bits, score_function=own, corpus_precision="ubinary")
    assert semantic_search(queries, bits, score_function=own, corpus_precision="ubinary", rescore=False)


@pytest.mark.parametrize(
    "name", ["query_chunk_size", "corpus_chunk_size", "top_k", "rescore_multiplier", "max_pairs", "batch_size"]
)
@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "3", None])
def test_what_must_be_positive(name: str, wrong: Any) -> None:
    search: Callable[..., Any] = semantic_search
    functions: dict[str, Callable[..., Any]] = {
        "max_pairs": paraphrase_mining_embeddings,
        "batch_size": community_detection,
    }
    function = functions.get(name, search)
    sets = [vectors(3)] * (2 if function is semantic_search else 1)
    with pytest.raises(ValueError, match=f"{name}: expected a positive integer, got "):
        function(*sets, **{name: wrong})


def test_numpy_integers_are_integers() -> None:
    assert len(semantic_search(vectors(1), vectors(5), top_k=np.int64(3))[0]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [semantic_search, paraphrase_mining_embeddings, community_detection])
def test_what_is_no_vector(function: Callable[..., Any]) -> None:
    both = (vectors(3),) if function is semantic_search else ()
    name = "corpus_embeddings" if both else "embeddings"
    with pytest.raises(TypeError, match=f"{name}: expected vectors .* got text; encode it first"):
        function(*both, ["a text", "another"])
    with pytest.raises(TypeError, match=r"embeddings: expected vectors .* got text; encode it first"):
        function("a text", *both)
    broken = vectors(30)
    broken[20, 3] = np.nan
    with pytest.raises(ValueError, match=f"{name}: NaN or infinity"):
        function(*both, broken)
    with pytest.raises(ValueError, match=rf"{name}: expected one vector \[dim\] or several \[n, dim\]"):
        function(*both, broken[None])


def all_pairs(scores: Array, top_k: int, max_pairs: int) -> list[tuple[float, int, int]]:
    """Pairs of each with its best others, by sorting."""
    found = set()
    for i, row in enumerate(scores.tolist()):
        others = sorted((j for j in range(len(row)) if j != i), key=lambda j: (-row[j], j))[:top_k]
        found |= {(row[j], min(i, j), max(i, j)) for j in others}
    return sorted(found, key=lambda pair: (-pair[0], *pair[1:]))[:max_pairs]


@given(
    arrays(np.float32, st.tuples(st.integers(0, 25), st.integers(1, 3)), elements=st.sampled_from([0.0, 1.0, 2.0])),
    st.integers(1, 30),
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["dot", "euclidean", "manhattan"]),
)  # fmt: skip
def test_mining_is_all_pairs(some: Array, top_k: int, max_pairs: int, rows: int, columns: int, name: str) -> None:
    found = paraphrase_mining_embeddings(some, rows, columns, max_pairs, top_k, FUNCTIONS[name])
    expected = all_pairs(np.array(FUNCTIONS[name](some, some)), min(top_k, len(some)), max_pairs)
    if name != "dot":  # there another vector may be the best, and leave no room for the last of the others
        assert [tuple(pair) for pair in found] == expected
    assert found == sorted(found, key=lambda pair: (-pair[0], *pair[1:]))
    assert len({(i, j) for _, i, j in found}) == len(found)
    assert all(i < j for _, i, j in found)


def test_mining_of_cosines() -> None:
    some = vectors(120)
    some[60:70] = some[3]
    some[80:82] = 0
    found = paraphrase_mining_embeddings(some, top_k=8, max_pairs=150)
    exact = np.array(cos_sim(some.astype(np.float64), some.astype(np.float64)))
    np.testing.assert_allclose(
        [score for score, _, _ in found], [exact[int(i), int(j)] for _, i, j in found], atol=1e-6
    )
    np.testing.assert_allclose(
        [score for score, _, _ in found], [score for score, _, _ in all_pairs(exact, 8, 150)], atol=1e-6
    )
    for rows, columns in [(1, 120), (120, 1), (17, 50), (5000, 7)]:
        assert paraphrase_mining_embeddings(some, rows, columns, 150, 8) == found
    assert [type(value) for value in found[0]] == [float, int, int]


def test_mining_of_nothing() -> None:
    assert paraphrase_mining_embeddings(vectors(0)) == []
    assert paraphrase_mining_embeddings(vectors(1)) == []
    assert paraphrase_mining_embeddings([]) == []
    assert [pair[1:] for pair in paraphrase_mining_embeddings(vectors(2))] == [[0, 1]]


def test_paraphrase_mining(minilm: Embedder) -> None:
    texts = ["A man is eating food.", "The sky is blue.", "A man eats something.", "Blue is the colour of the sky."]
    found = paraphrase_mining(minilm, texts)
    assert found == paraphrase_mining_embeddings(minilm.encode(texts))
    assert sorted((i, j) for _, i, j in found[:2]) == [(0, 2), (1, 3)]
    assert paraphrase_mining(minilm, texts, top_k=1, max_pairs=1, truncate_dim=64, prompt="about: ")[0][1:] == [1, 3]
    assert paraphrase_mining(minilm, []) == []
    with pytest.raises(TypeError, match="sentences: expected a list of texts to compare with each other, got one str"):
        paraphrase_mining(minilm, "a text")  # type: ignore[arg-type]


def slow_communities(some: Array, threshold: float, smallest: int) -> list[list[int]]:
    """Everyone's neighbours, the largest group first, each without those that are taken."""
    cosines = np.array(cos_sim(some.astype(np.float64), some.astype(np.float64)))
    near = [[j for j in np.argsort(-row, kind="stable").tolist() if row[j] >= threshold] for row in cosines]
    taken: set[int] = set()
    found = []
    for center in sorted(range(len(some)), key=lambda i: -len(near[i])):
        members = [j for j in near[center] if j not in taken]
        if len(near[center]) >= smallest and center not in taken and len(members) >= smallest:
            found.append([center] + [j for j in members if j != center])
            taken |= {center, *members}
    return sorted(found, key=len, reverse=True)


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("smallest", [1, 3, 10])
def test_communities(threshold: float, smallest: int, spread: float) -> None:
    some = clusters(400, 25, spread=spread)
    expected = slow_communities(some, threshold, smallest)
    found = community_detection(some, threshold, smallest)
    assert found == expected
    assert len({index for group in found for index in group}) == sum(map(len, found))
    for batch in (1, 7, 399):
        assert community_detection(some, threshold, smallest, batch) == expected


def test_communities_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    some = clusters(500, 20)
    some[100:150] = some[200:250]
    whole = community_detection(some)
    monkeypatch.setattr(embedrt.vectors.search, "AT_ONCE", 1 << 9)
    monkeypatch.setattr(embedrt.vectors.search, "_ADJACENCY", 1 << 12)
    assert community_detection(some) == whole


def test_a_cosine_at_the_threshold_counts_in_every_batch() -> None:
    some = np.tile(np.array([[3, 4, 0], [4, 3, 0]], np.float32), (500, 1))
    for batch in (1, 3, 1024):
        assert [len(group) for group in community_detection(some, 0.96, 2, batch)] in ([1000], [500, 500])
        assert community_detection(some, 0.96, 2, batch) == community_detection(some, 0.96, 2)


def test_few_or_no_communities() -> None:
    some = vectors(20)
    assert community_detection([]) == []
    assert community_detection(vectors(0)) == []
    assert community_detection(some[:9]) == []
    assert community_detection(some, 0.999, 2) == []
    assert community_detection(some[0], min_community_size=1) == [[0]]
    assert community_detection(np.zeros((20, 4))) == []
    assert community_detection(some, -1.1, 2) == [sorted(range(20), key=lambda j: -cos_sim(some[0], some[j])[0, 0])]
    with pytest.raises(ValueError, match="threshold: expected a cosine similarity, got nan"):
        community_detection(some, float("nan"))
    with pytest.raises(ValueError, match="min_community_size: expected a positive integer, got 0"):
        community_detection(some, min_community_size=0)


def test_progress_bar_only_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    community_detection(vectors(20))
    assert not capsys.readouterr().err
    community_detection(vectors(20), show_progress_bar=True)
    assert "Finding clusters" in capsys.readouterr().err


def test_nothing_is_changed() -> None:
    some = clusters(60, 5)
    kept = some.copy()
    some.setflags(write=False)
    paraphrase_mining_embeddings(some)
    community_detection(some)
    np.testing.assert_array_equal(some, kept)


def test_searching_needs_no_torch() -> None:
    semantic_search(vectors(2), vectors(3))
    assert "torch" not in sys.modules

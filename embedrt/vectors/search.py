"""Search and clustering with NumPy: semantic_search, paraphrase_mining and community_detection.

Results are exact and do not depend on chunk sizes. Ties are in corpus order.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.inputs.check import check_texts
from embedrt.inputs.values import function, positive, shown, truth
from embedrt.types import Precision
from embedrt.vectors.arrays import AT_ONCE, Floats, as_floats, as_matrix, by_pair, scaled
from embedrt.vectors.nearest import QUERIES_AT_ONCE, Indices, Matches, ScoreFunction, nearest, nearest_bits
from embedrt.vectors.quantization import PRECISIONS, dequantize_embeddings
from embedrt.vectors.similarity import SIMILARITIES, cos_sim
from embedrt.vectors.sparse import is_sparse
from embedrt.vectors.sparse_search import search

_CODES = {np.dtype(np.int8), np.dtype(np.uint8)}
# Maximum size of the adjacency matrix that is held at a time.
_ADJACENCY = 1 << 26


class Encoder(Protocol):
    """A model with `encode`, such as an `Embedder`."""

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """Encode a list of texts to vectors `[n, dim]`."""


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
    *,
    corpus_precision: Precision | None = None,
    ranges: Any = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
) -> list[list[dict[str, int | float]]]:
    """Find the corpus vectors with the highest scores for every query, by exhaustive comparison.

    A quantized corpus is dequantized for scoring (`dequantize_embeddings`). For binary codes, `top_k *
    rescore_multiplier` candidates are found by Hamming distance first, and only those are scored.

    Args:
        query_embeddings: `[queries, dim]` or one `[dim]`: floats, or quantized in the same way as the corpus; or
            `SparseVectors`, tensors or SciPy's matrices that are sparse.
        corpus_embeddings: `[n, dim]`, or codes from `quantize_embeddings`, or sparse vectors.
        query_chunk_size: Maximum number of queries to compare at a time; affects memory and speed, not results.
        corpus_chunk_size: Maximum number of corpus vectors to compare at a time; affects memory and speed, not results.
        top_k: Number of results per query.
        score_function: `cos_sim`, `dot_score`, `euclidean_sim`, `manhattan_sim`, or any function of `[n, dim]` and
            `[m, dim]` that returns `[n, m]`.
        corpus_precision: The precision of the corpus; None or "float32" if it is not quantized.
        ranges: The ranges that "int8" and "uint8" codes were quantized with, float32 `[2, dim]`.
        rescore: False ranks binary codes by Hamming distance only; the score is the negative distance.
        rescore_multiplier: Candidates per result for binary codes.

    Returns:
        A list of `{"corpus_id": int, "score": float}` per query, highest score first, ties in corpus order; fewer than
        `top_k` if the corpus is smaller.

    Raises:
        TypeError: The vectors are not numeric, or their dtype does not match the precision.
        ValueError: Shapes do not fit, another argument is out of range, or there is NaN or infinity.

    Example:
        >>> (hits,) = semantic_search(model.encode_query("a question"), corpus, top_k=3)
        >>> hits[0]["corpus_id"], hits[0]["score"]
    """
    function(score_function, "score_function")
    chunks = positive(query_chunk_size, "query_chunk_size"), positive(corpus_chunk_size, "corpus_chunk_size")
    top_k = positive(top_k, "top_k")
    multiplier = positive(rescore_multiplier, "rescore_multiplier") if truth(rescore, "rescore") else 1
    if is_sparse(query_embeddings) or is_sparse(corpus_embeddings):
        if corpus_precision not in {None, "float32"}:
            raise ValueError(f"corpus_precision: expected None for sparse vectors, got {shown(corpus_precision)}")
        measure = next((name for name, one in SIMILARITIES.items() if one.matrix is score_function), None)
        if measure is None:
            raise ValueError(
                "score_function: expected cos_sim, dot_score, euclidean_sim or manhattan_sim for sparse vectors, got "
                f"{score_function!r}"
            )
        return _hits(search(query_embeddings, corpus_embeddings, top_k, measure, chunks[1]))
    queries = as_matrix(query_embeddings, "query_embeddings")
    corpus = as_matrix(corpus_embeddings, "corpus_embeddings")
    if not len(queries) or not len(corpus):
        return [[] for _ in queries]
    precision = _corpus_precision(corpus, corpus_precision)
    if queries.dtype in _CODES:
        if precision == "float32":
            raise TypeError(f"query_embeddings: expected floats, as in the corpus, got {queries.dtype} codes")
        queries = dequantize_embeddings(queries, precision, ranges)
    bits = precision in {"binary", "ubinary"}
    width = (queries.shape[1] + 7) // 8 if bits else queries.shape[1]
    if width != corpus.shape[1]:
        raise ValueError(
            f"query_embeddings and corpus_embeddings: queries of {queries.shape[1]} coordinates need a {precision} "
            f"corpus {width} wide, got {corpus.shape[1]}"
        )
    queries = as_floats(np.ascontiguousarray(queries), "query_embeddings", np.float32 if bits else corpus.dtype)
    if bits:
        found = nearest_bits(queries, corpus, top_k * multiplier, chunks)
        if rescore:
            found = _rescored(found, queries, corpus, precision, top_k, score_function)
    else:

        def read(start: int, stop: int) -> Floats:
            block = np.ascontiguousarray(corpus[start:stop])
            if precision != "float32":
                block = dequantize_embeddings(block, precision, ranges)
            return as_floats(block, "corpus_embeddings", queries.dtype)

        found = nearest(queries, read, len(corpus), top_k, score_function, chunks)
    return _hits((found.scores.tolist(), found.ids.tolist()))


def _hits(found: tuple[Sequence[Any], Sequence[Any]]) -> list[list[dict[str, int | float]]]:
    """Scores and corpus indexes of every query as dicts."""
    return [
        [{"corpus_id": int(index), "score": float(score)} for score, index in zip(scores, ids, strict=True)]
        for scores, ids in zip(*found, strict=True)
    ]


def paraphrase_mining(
    model: Encoder,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int | None = None,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """Find the most similar pairs of texts, by comparing all with all.

    Args:
        model: An `Embedder`.
        sentences: The texts.
        show_progress_bar: True shows a bar while encoding.
        batch_size: Maximum number of texts in a batch; None leaves it to the model.
        query_chunk_size: See `paraphrase_mining_embeddings`.
        corpus_chunk_size: See `paraphrase_mining_embeddings`.
        max_pairs: See `paraphrase_mining_embeddings`.
        top_k: See `paraphrase_mining_embeddings`.
        score_function: See `paraphrase_mining_embeddings`.
        truncate_dim: Coordinates to keep; None takes the model's default, if any.
        prompt_name: The name of the model's prompt before every text.
        prompt: Another prompt before every text; it takes precedence over `prompt_name`.

    Returns:
        `[score, i, j]` per pair, i < j, highest score first.

    Raises:
        TypeError: `sentences` is a single text, or has an item that is not a str.
        ValueError: An argument is out of range.

    Example:
        >>> paraphrase_mining(model, ["A cat sat.", "A dog ran.", "A cat was sitting."])[0][1:]
        [0, 2]
    """
    if isinstance(sentences, str):
        raise TypeError("sentences: expected a list of texts to compare with each other, got one str")
    sentences, _ = check_texts(sentences, "sentences")
    function(score_function, "score_function")
    pairing = _pairing(query_chunk_size, corpus_chunk_size, max_pairs, top_k)
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(embeddings, *pairing, score_function)


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """Find the pairs of vectors with the highest scores, by comparing all with all.

    Args:
        embeddings: `[n, dim]`.
        query_chunk_size: Maximum number of vectors to compare at a time; affects memory and speed, not results.
        corpus_chunk_size: Maximum number of vectors to compare them with at a time; affects memory and speed only.
        max_pairs: Maximum number of pairs to return.
        top_k: Keep only the `top_k` best partners of each vector.
        score_function: As in `semantic_search`; it must not depend on the order of its arguments.

    Returns:
        `[score, i, j]` per pair, i < j, highest score first, ties in the order of i and j.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: An argument is out of range, or there is NaN or infinity.
    """
    function(score_function, "score_function")
    query_chunk_size, corpus_chunk_size, max_pairs, top_k = _pairing(
        query_chunk_size, corpus_chunk_size, max_pairs, top_k
    )
    vectors = as_floats(np.ascontiguousarray(as_matrix(embeddings, "embeddings")), "embeddings")
    count = len(vectors)
    scores, keys = np.empty(0), np.empty(0, np.int64)
    rows = min(query_chunk_size, QUERIES_AT_ONCE)
    for start in range(0, count, rows):
        queries = vectors[start : start + rows]
        chunks = (len(queries), corpus_chunk_size)
        found = nearest(queries, lambda i, j: vectors[i:j], count, top_k + 1, score_function, chunks)
        own = np.arange(start, start + len(queries))[:, np.newaxis]
        others = found.ids != own
        others &= np.cumsum(others, axis=1) <= top_k
        pairs = np.minimum(found.ids, own) * count + np.maximum(found.ids, own)
        scores = np.concatenate((scores, found.scores[others]))
        keys, first = np.unique(np.concatenate((keys, pairs[others])), return_index=True)
        best = np.argsort(-scores[first], kind="stable")[:max_pairs]
        scores, keys = scores[first][best], keys[best]
    return [[score, *divmod(key, count)] for score, key in zip(scores.tolist(), keys.tolist(), strict=True)]


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Find disjoint groups of vectors whose cosine similarity to the center of the group is at least `threshold`.

    Vectors with the most neighbors become centers first. A vector stays in its group even if a later center is nearer.

    Args:
        embeddings: `[n, dim]`.
        threshold: Lower bound for the cosine similarity to the center.
        min_community_size: Minimum number of vectors in a group, center included.
        batch_size: Maximum number of vectors to compare with all at a time; affects memory and speed, not results.
        show_progress_bar: True shows a bar, which needs tqdm.

    Returns:
        The indexes of each group: the center, then the others, nearest first. The largest group is first.

    Raises:
        TypeError: The vectors are not numeric.
        ValueError: An argument is out of range, or there is NaN or infinity.

    Example:
        >>> community_detection([[1, 0], [0, 1], [1, 0.1]], min_community_size=2)
        [[0, 2]]
    """
    min_community_size = positive(min_community_size, "min_community_size")
    batch_size = positive(batch_size, "batch_size")
    show_progress_bar = truth(show_progress_bar, "show_progress_bar")
    vectors = scaled(as_floats(np.ascontiguousarray(as_matrix(embeddings, "embeddings")), "embeddings"), "embeddings")
    if not isinstance(threshold, int | float | np.number) or not np.isfinite(threshold):
        raise ValueError(f"threshold: expected a cosine similarity, got {shown(threshold)}")
    if not len(vectors) or len(vectors) < min_community_size:
        return []
    all_rows = np.arange(len(vectors))
    rows = min(batch_size, max(1, _ADJACENCY // len(vectors)))
    sizes = np.concatenate(
        [
            np.count_nonzero(_near(vectors, all_rows[start : start + rows], threshold), axis=1)
            for start in _steps(range(0, len(vectors), rows), show_progress_bar)
        ]
    )
    centers = np.argsort(-sizes, kind="stable")
    centers = centers[sizes[centers] >= min_community_size]
    free = np.ones(len(vectors), bool)
    communities = []
    for start in range(0, len(centers), rows):
        batch = centers[start : start + rows]
        batch = batch[free[batch]]
        for center, near in zip(batch, _near(vectors, batch, threshold), strict=True):
            members = np.flatnonzero(near & free)
            if not free[center] or len(members) < min_community_size:
                continue
            members = members[members != center]
            nearest = np.argsort(-np.vecdot(vectors[members], vectors[center]), kind="stable")
            communities.append([int(center), *members[nearest].tolist()])
            free[communities[-1]] = False
    return sorted(communities, key=len, reverse=True)


def _pairing(query_chunk_size: int, corpus_chunk_size: int, max_pairs: int, top_k: int) -> tuple[int, int, int, int]:
    """Validate the sizes of `paraphrase_mining_embeddings`, in the order of its arguments."""
    return (
        positive(query_chunk_size, "query_chunk_size"),
        positive(corpus_chunk_size, "corpus_chunk_size"),
        positive(max_pairs, "max_pairs"),
        positive(top_k, "top_k"),
    )


def _rescored(
    found: Matches, queries: Floats, corpus: NDArray[Any], precision: Precision, k: int, score_function: ScoreFunction
) -> Matches:
    """Rescore matches of binary codes by the similarity of the queries to the dequantized codes; keep the top k."""
    pairwise = {similarity.matrix: similarity.pairwise for similarity in SIMILARITIES.values()}.get(score_function)
    if pairwise is None:
        raise ValueError(
            f"score_function: expected cos_sim, dot_score, euclidean_sim or manhattan_sim for {precision} codes, got "
            f"{score_function!r}; pass rescore=False to rank by Hamming distance"
        )
    rows = np.repeat(np.arange(len(queries)), found.ids.shape[1])
    scores = by_pair(
        queries,
        corpus,
        rows,
        found.ids.ravel(),
        lambda query, codes: pairwise(query, dequantize_embeddings(codes, precision, dim=queries.shape[1])),
    ).reshape(found.ids.shape)
    order = np.lexsort((found.ids, -scores))[:, :k]
    return Matches(
        np.take_along_axis(scores, order, axis=1).astype(np.float64), np.take_along_axis(found.ids, order, axis=1)
    )


def _near(vectors: Floats, rows: Indices, threshold: float) -> NDArray[np.bool_]:
    """The adjacency matrix `[rows, n]`: True where the cosine similarity is at least `threshold`."""
    bound = vectors.dtype.type(threshold)
    margin = vectors.shape[1] * np.finfo(vectors.dtype).eps
    near = np.empty((len(rows), len(vectors)), bool)
    chunk = vectors[rows]
    columns = max(1, AT_ONCE // max(1, vectors.shape[1], len(rows)))
    for start in range(0, len(vectors), columns):
        block = vectors[start : start + columns]
        cosines = chunk @ block.T
        sure = cosines > bound + margin
        left, right = np.divmod(np.flatnonzero(sure ^ (cosines >= bound - margin)), len(block))
        sure[left, right] = by_pair(chunk, block, left, right, np.vecdot) >= bound
        near[:, start : start + columns] = sure
    return near


def _corpus_precision(corpus: NDArray[Any], precision: Precision | None) -> Precision:
    if precision is None and corpus.dtype not in _CODES:
        return "float32"
    if not isinstance(precision, str) or precision not in PRECISIONS:
        allowed = ", ".join(map(repr, PRECISIONS))
        raise ValueError(
            f"corpus_precision: expected one of {allowed} for a corpus of {corpus.dtype}, got {shown(precision)}"
        )
    expected = {"int8": np.int8, "binary": np.int8, "uint8": np.uint8, "ubinary": np.uint8}.get(precision)
    fits = corpus.dtype not in _CODES if expected is None else corpus.dtype == expected
    if not fits:
        raise TypeError(f"corpus_embeddings: a dtype of {corpus.dtype} does not match corpus_precision {precision!r}")
    return precision


def _steps(steps: Iterable[int], show: bool) -> Iterable[int]:
    if not show:
        return steps
    from tqdm.auto import tqdm

    bar: Iterable[int] = tqdm(steps, desc="Finding clusters")
    return bar

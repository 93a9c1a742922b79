"""Search, pairs and groups among vectors: semantic_search, paraphrase_mining and community_detection, with numpy.

Results are exact and do not depend on the sizes of the chunks. Equal scores are in the order of the corpus.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.types import Precision
from embedrt.vectors.arrays import AT_ONCE, Floats, as_floats, as_matrix, by_pair, scaled
from embedrt.vectors.nearest import QUERIES_AT_ONCE, Found, Indices, ScoreFunction, nearest, nearest_bits
from embedrt.vectors.quantization import PRECISIONS, dequantize_embeddings
from embedrt.vectors.similarity import SIMILARITIES, cos_sim

_CODES = {np.dtype(np.int8), np.dtype(np.uint8)}
# Cells of the table of who is near to whom, which is held for some vectors at a time.
_TABLE = 1 << 26


class Encoder(Protocol):
    """What turns texts into vectors: an `Embedder`."""

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """Vectors `[n, dim]` of a list of texts."""


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
    """For every query the vectors of the corpus with the highest scores, found by comparing with all of them.

    A quantized corpus is scored as the vectors that its codes stand for (`dequantize_embeddings`). int8 and uint8 are
    all scored so. Of binary codes first `top_k * rescore_multiplier` are found by Hamming distance, and those scored.

    Args:
        query_embeddings: `[queries, dim]` or one `[dim]`: floats, or quantized in the same way as the corpus.
        corpus_embeddings: `[n, dim]`, or codes of `quantize_embeddings`.
        query_chunk_size: Queries to compare at a time, at most. For memory and speed; results do not depend on it.
        corpus_chunk_size: Vectors of the corpus to compare at a time, at most; likewise.
        top_k: How many to find for each query.
        score_function: `cos_sim`, `dot_score`, `euclidean_sim`, `manhattan_sim`, or any function of `[n, dim]` and
            `[m, dim]` that returns `[n, m]`.
        corpus_precision: How the corpus is quantized; None and "float32" where it is not.
        ranges: What "int8" and "uint8" were quantized with, float32 `[2, dim]`.
        rescore: False leaves binary codes in the order of their Hamming distances; the score is the negative distance.
        rescore_multiplier: How many times `top_k` candidates to score for binary codes.

    Returns:
        A list for every query of `{"corpus_id": int, "score": float}`, the highest score first, equal scores in the
        order of the corpus; fewer than `top_k` where the corpus is smaller.

    Raises:
        TypeError: Vectors are not numbers, or not of the precision.
        ValueError: Shapes do not fit, another argument is out of range, or there is NaN or infinity.
    """
    _check_positive(
        query_chunk_size=query_chunk_size,
        corpus_chunk_size=corpus_chunk_size,
        top_k=top_k,
        rescore_multiplier=rescore_multiplier,
    )
    queries = as_matrix(query_embeddings, "query_embeddings")
    corpus = as_matrix(corpus_embeddings, "corpus_embeddings")
    if not len(queries) or not len(corpus):
        return [[] for _ in queries]
    precision = _corpus_precision(corpus, corpus_precision)
    if queries.dtype in _CODES:
        if precision == "float32":
            raise TypeError(f"query_embeddings: {queries.dtype} codes cannot be compared with a corpus of floats")
        queries = dequantize_embeddings(queries, precision, ranges)
    bits = precision in {"binary", "ubinary"}
    width = (queries.shape[1] + 7) // 8 if bits else queries.shape[1]
    if width != corpus.shape[1]:
        raise ValueError(
            f"query_embeddings and corpus_embeddings: queries of {queries.shape[1]} coordinates need a {precision} "
            f"corpus {width} wide, got {corpus.shape[1]}"
        )
    queries = as_floats(np.ascontiguousarray(queries), "query_embeddings", np.float32 if bits else corpus.dtype)
    chunks = (query_chunk_size, corpus_chunk_size)
    if bits:
        multiplier = rescore_multiplier if rescore else 1
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
    return [
        [{"corpus_id": index, "score": score} for index, score in zip(*row, strict=True)]
        for row in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
    ]


def paraphrase_mining(
    model: Encoder,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """The pairs of texts that are most alike, found by comparing all with all.

    Args:
        model: An `Embedder`.
        sentences: The texts.
        show_progress_bar: Of the encoding.
        batch_size: Of the encoding.
        query_chunk_size: As in `paraphrase_mining_embeddings`, and so are the next four.
        corpus_chunk_size: See there.
        max_pairs: See there.
        top_k: See there.
        score_function: See there.
        truncate_dim: Keep only the first coordinates of the vectors; None takes the model's default, if any.
        prompt_name: Which of the model's prompts goes before every text.
        prompt: A prompt of your own; it wins over `prompt_name`.

    Returns:
        `[score, i, j]` for every pair, i < j, the highest score first.

    Raises:
        TypeError: `sentences` is a single text, or what `Embedder.encode` raises.
        ValueError: An argument is out of range.
    """
    if isinstance(sentences, str):
        raise TypeError("sentences: expected a list of texts to compare with each other, got one str")
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """The pairs of vectors with the highest scores, found by comparing all with all.

    Args:
        embeddings: `[n, dim]`.
        query_chunk_size: Vectors to compare at a time, at most. For memory and speed; results do not depend on it.
        corpus_chunk_size: How many to compare them with at a time, at most; likewise.
        max_pairs: How many pairs to return, at most.
        top_k: Of every vector only the pairs with so many others, those with the highest scores, are considered.
        score_function: As in `semantic_search`; it must not depend on the order of its arguments.

    Returns:
        `[score, i, j]` for every pair, i < j, the highest score first, equal scores in the order of i and j.

    Raises:
        TypeError: These are no numbers.
        ValueError: An argument is out of range, or there is NaN or infinity.
    """
    _check_positive(
        query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, max_pairs=max_pairs, top_k=top_k
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
    """Groups of vectors whose cosine to the one in their centre is at least `threshold`; no vector is in two groups.

    The vectors with the most others near them become centres first. What is nearer to a later centre stays where it is.

    Args:
        embeddings: `[n, dim]`.
        threshold: The smallest cosine to the centre.
        min_community_size: The smallest number of vectors in a group, with its centre.
        batch_size: Vectors to compare with all at a time, at most. For memory and speed; results do not depend on it.
        show_progress_bar: Needs tqdm.

    Returns:
        The indices of each group: the centre, then the others, the nearest first. The largest group is first.

    Raises:
        TypeError: These are no numbers.
        ValueError: An argument is out of range, or there is NaN or infinity.
    """
    _check_positive(min_community_size=min_community_size, batch_size=batch_size)
    vectors = scaled(as_floats(np.ascontiguousarray(as_matrix(embeddings, "embeddings")), "embeddings"), "embeddings")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: expected a cosine, got {threshold!r}")
    if not len(vectors) or len(vectors) < min_community_size:
        return []
    everyone = np.arange(len(vectors))
    rows = min(batch_size, max(1, _TABLE // len(vectors)))
    sizes = np.concatenate(
        [
            np.count_nonzero(_near(vectors, everyone[start : start + rows], threshold), axis=1)
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


def _rescored(
    found: Found, queries: Floats, corpus: NDArray[Any], precision: Precision, k: int, score_function: ScoreFunction
) -> Found:
    """The k best of what was found, by the similarity of the queries to the signs that the bits stand for."""
    pairwise = {similarity.matrix: similarity.pairwise for similarity in SIMILARITIES.values()}.get(score_function)
    if pairwise is None:
        raise ValueError(
            f"score_function: {precision} codes are scored by cos_sim, dot_score, euclidean_sim or manhattan_sim, got "
            f"{score_function!r}; pass rescore=False to leave them in the order of their Hamming distances"
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
    return Found(
        np.take_along_axis(scores, order, axis=1).astype(np.float64), np.take_along_axis(found.ids, order, axis=1)
    )


def _near(vectors: Floats, rows: Indices, threshold: float) -> NDArray[np.bool_]:
    """Which vectors have a cosine of at least `threshold` to those of the rows, `[rows, n]`."""
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
    if precision is None or precision not in PRECISIONS:
        allowed = ", ".join(map(repr, PRECISIONS))
        raise ValueError(
            f"corpus_precision: expected one of {allowed} for a corpus of {corpus.dtype}, got {precision!r}"
        )
    expected = {"int8": np.int8, "binary": np.int8, "uint8": np.uint8, "ubinary": np.uint8}.get(precision)
    fits = corpus.dtype not in _CODES if expected is None else corpus.dtype == expected
    if not fits:
        raise TypeError(f"corpus_embeddings: a corpus of {corpus.dtype} is not of corpus_precision {precision!r}")
    return precision


def _check_positive(**arguments: int) -> None:
    for name, value in arguments.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected a positive integer, got {value!r}")


def _steps(steps: Iterable[int], show: bool) -> Iterable[int]:
    if not show:
        return steps
    from tqdm.auto import tqdm

    bar: Iterable[int] = tqdm(steps, desc="Finding clusters")
    return bar

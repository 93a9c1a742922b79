"""Small things of `sentence_transformers.util` that embedrt has no other use for."""

import logging
from collections.abc import Callable
from enum import Enum
from typing import Any

from embedrt.engine.devices import find_device
from embedrt.vectors.maxsim import find_multi_vector_similarity
from embedrt.vectors.similarity import find_similarity


class SimilarityFunction(Enum):
    """The similarity functions by name."""

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"  # noqa: PIE796 - both names are in use
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"
    MAXSIM = "maxsim"
    MEAN_MAXSIM = "meanmaxsim"

    @staticmethod
    def to_similarity_fn(similarity_function: "str | SimilarityFunction") -> Callable[..., Any]:
        """The function of all pairs."""
        return _functions(similarity_function)[0]

    @staticmethod
    def to_similarity_pairwise_fn(similarity_function: "str | SimilarityFunction") -> Callable[..., Any]:
        """The function of vectors at equal places."""
        return _functions(similarity_function)[1]

    @staticmethod
    def possible_values() -> list[str]:
        """The names."""
        return [one.value for one in SimilarityFunction]


def _functions(name: str | SimilarityFunction) -> tuple[Callable[..., Any], Callable[..., Any]]:
    one = SimilarityFunction(name)
    if one in {SimilarityFunction.MAXSIM, SimilarityFunction.MEAN_MAXSIM}:
        scores = find_multi_vector_similarity(one)
        return scores.matrix, scores.pairwise
    similarity = find_similarity(one)
    return similarity.matrix, similarity.pairwise


class LoggingHandler(logging.Handler):
    """A handler that writes log lines above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record))
        except Exception:  # noqa: BLE001 - as all handlers do
            self.handleError(record)


def get_device_name() -> str:
    """The device that models take if none is named."""
    return find_device(None).short_name

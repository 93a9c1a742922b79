"""spaCy: the pipeline component "embedrt", which gives documents the vectors of a model."""

from collections.abc import Iterable, Iterator
from typing import Any

from embedrt import MissingDependencyError, cos_sim
from embedrt.integrations.choice import Choice
from embedrt.types import Vectors

try:
    from spacy.language import Language
    from spacy.util import minibatch
except ImportError as error:
    raise MissingDependencyError("spaCy is not installed; run `pip install spacy`") from error


class EmbedrtVectors:
    """A component that sets `Doc.vector`, and computes the vectors of spans and tokens when they are read.

    `similarity` is the cosine similarity of these vectors. spaCy's `to_bytes` and `DocBin` do not keep vectors.

    Args:
        choice: The model.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def __call__(self, doc: Any) -> Any:
        """Set the vector of a document."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Any], *, batch_size: int = 128) -> Iterator[Any]:
        """Set the vectors of documents, some at a time."""
        for docs in minibatch(stream, batch_size):
            vectors = self._choice.encode(doc.text for doc in docs)
            for doc, vector in zip(docs, vectors, strict=True):
                doc.vector = vector
                for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
                    hooks["has_vector"] = _has_vector
                    hooks["similarity"] = _similarity
                for hooks in (doc.user_span_hooks, doc.user_token_hooks):
                    hooks["vector"] = self._vector
                yield doc

    def _vector(self, part: Any) -> Vectors:
        """The vector of a span or token, without its context."""
        vector: Vectors = self._choice.encode([part.text])[0]
        return vector


def _has_vector(_: Any) -> bool:
    return True


def _similarity(one: Any, other: Any) -> float:
    return float(cos_sim(one.vector, other.vector)[0, 0])


@Language.factory(  # type: ignore[untyped-decorator]
    "embedrt",
    assigns=["doc.vector", "doc.user_hooks", "doc.user_span_hooks", "doc.user_token_hooks"],
    default_config={"device": None, "dtype": None, "threads": None, "truncate_dim": None, "normalize": False},
)
def make(
    nlp: Language,
    name: str,
    model: str,
    device: str | None,
    dtype: str | None,
    threads: int | None,
    truncate_dim: int | None,
    normalize: bool,
) -> EmbedrtVectors:
    """Make the component for `nlp.add_pipe("embedrt", config={"model": "bundle/"})`."""
    return EmbedrtVectors(Choice(model, device, dtype, threads, truncate_dim, normalize))

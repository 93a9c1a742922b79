"""spaCy: vectors and similarity of documents, spans and tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import spacy

from embedrt import Embedder, cos_sim
from embedrt.integrations.spacy import EmbedrtVectors
from tests.kit.clients import Record

TEXTS = ["one cat", "two dogs in the river", "the bank", "a short text"]


def pipeline(bundle: Path, **options: Any) -> Any:
    """A pipeline of a tokenizer and the component."""
    nlp = spacy.blank("en")
    component = nlp.add_pipe("embedrt", config={"model": str(bundle), **options})
    assert isinstance(component, EmbedrtVectors)
    return nlp


def test_vectors_and_similarity(two_sided_bundle: Path, record: Record) -> None:
    nlp, model = pipeline(two_sided_bundle), Embedder(two_sided_bundle)
    docs, expected = list(nlp.pipe(TEXTS, batch_size=3)), model.encode(TEXTS)
    error = np.abs(np.stack([doc.vector for doc in docs]) - expected).max()
    error = max(error, np.abs(nlp("one cat").vector - expected[0]).max())
    span, token = docs[1][1:3], docs[1][1]
    error = max(error, np.abs(span.vector - model.encode("dogs in")).max())
    error = max(error, np.abs(token.vector - model.encode("dogs")).max())
    record("spaCy", spacy.__version__, "Language.pipe, Doc.vector, .similarity", error)
    similarity = cos_sim(expected, expected)
    assert abs(docs[0].similarity(docs[1]) - similarity[0, 1]) < 1e-6
    assert abs(span.similarity(docs[0]) - cos_sim(span.vector, expected[0])[0, 0]) < 1e-6
    assert all(one.has_vector for one in (docs[0], span, token))


def test_options(two_sided_bundle: Path) -> None:
    doc = pipeline(two_sided_bundle, truncate_dim=8, normalize=True, threads=1)("one cat")
    expected = Embedder(two_sided_bundle).encode("one cat", truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(doc.vector, expected, rtol=0, atol=1e-6)


def test_a_pipeline_is_saved_with_the_name_of_the_model(two_sided_bundle: Path, tmp_path: Path) -> None:
    nlp = pipeline(two_sided_bundle)
    nlp.to_disk(tmp_path / "saved")
    np.testing.assert_array_equal(spacy.load(tmp_path / "saved")("one cat").vector, nlp("one cat").vector)

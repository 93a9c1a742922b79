"""KeyBERT without torch: keywords of this model, and of no other."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keybert import KeyBERT

from embedrt import Embedder
from embedrt.integrations.keybert import EmbedrtBackend
from tests.kit.clients import TEXTS, Record, max_error

DOCUMENTS = ["The cat sleeps by the river while the dog runs.", "Money in the bank buys a boat for the river."]


def test_vectors_are_those_of_the_embedder(two_sided_bundle: Path, record: Record) -> None:
    model = Embedder(two_sided_bundle)
    found = EmbedrtBackend(str(two_sided_bundle)).embed(TEXTS)
    record("KeyBERT", version("keybert"), "BaseEmbedder.embed", max_error(found, model.encode(TEXTS)))
    short = EmbedrtBackend(model, truncate_dim=8, normalize=True).embed(np.array(TEXTS))
    expected = model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    record("KeyBERT", version("keybert"), "BaseEmbedder.embed", max_error(short, expected))


@pytest.mark.parametrize("options", [{}, {"use_mmr": True}, {"use_maxsum": True, "nr_candidates": 4}], ids=str)
def test_keywords_are_those_of_the_vectors(minilm: Embedder, options: dict[str, Any]) -> None:
    backend = EmbedrtBackend(minilm)
    model = KeyBERT(model=backend)
    assert model.model is backend
    found = model.extract_keywords(DOCUMENTS, top_n=2, **options)
    words = sorted({word for text in DOCUMENTS for word in text.lower().strip(".").split()})
    assert [len(one) for one in found] == [2, 2]
    assert {word for one in found for word, _ in one} <= set(words)
    document, word = minilm.encode([DOCUMENTS[0], found[0][0][0]])
    assert found[0][0][1] == pytest.approx(float(document @ word), abs=1e-4)

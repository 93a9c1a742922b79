"""OpenAI's API against a running server."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.server.settings import ModelSettings, Settings
from tests.kit.server import Running, serving

TEXTS = ["A cat sat.", "", "Ein Hund läuft.", "word " * 300, "猫"] * 20


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server with one small model."""
    with serving(Settings((ModelSettings("tiny", str(tiny_bundle)),))) as running:
        yield running


def test_base64_is_bit_for_bit_what_encode_returns(server: Running, tiny: Embedder) -> None:
    answer = server.post("/v1/embeddings", {"input": TEXTS, "model": "tiny", "encoding_format": "base64"})
    assert answer.status == 200
    data = answer.json["data"]
    assert [one["index"] for one in data] == [*range(len(TEXTS))]
    got = np.array([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])
    np.testing.assert_allclose(got, tiny.encode(TEXTS), atol=1e-6)


def test_floats_give_the_same_vectors(server: Running) -> None:
    bodies = [{"input": TEXTS, "encoding_format": kind} for kind in ("float", "base64")]
    floats, texts = (server.post("/v1/embeddings", body).json["data"] for body in bodies)
    for one, other in zip(floats, texts, strict=True):
        assert np.float32(one["embedding"]).tobytes() == base64.b64decode(other["embedding"])

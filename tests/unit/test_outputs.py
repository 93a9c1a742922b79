"""Outputs of a session are float32, whatever dtype the graph has."""

from pathlib import Path

import numpy as np
import pytest

from embedrt.engine import Batch, cpu
from embedrt.engine.session import SessionEngine
from tests.kit.two_layouts import graph, with_tokens_in


@pytest.mark.parametrize(
    ("dtype", "number", "tolerance"), [("float32", 1, 0), ("float16", 10, 2e-3), ("bfloat16", 16, 2e-2)]
)
def test_numbers_of_16_bits(tmp_path: Path, dtype: str, number: int, tolerance: float) -> None:
    """numpy has no bfloat16, and callers get float32 whatever the graph has."""
    exact, narrow = tmp_path / "exact.onnx", tmp_path / "narrow.onnx"
    exact.write_bytes(graph(None))
    narrow.write_bytes(with_tokens_in(graph(None), number))
    ids = np.array([[5, 6, 7], [8, 9, 0]])
    batch = Batch({"input_ids": ids, "attention_mask": np.minimum(ids, 1)})
    outputs = ("token_embeddings", "sentence_embedding")
    found = SessionEngine(narrow, cpu.DEVICE, 1, dtype=dtype).run(batch, outputs)
    expected = SessionEngine(exact, cpu.DEVICE, 1).run(batch, outputs)
    assert list(found) == [*outputs]
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["sentence_embedding"], expected["sentence_embedding"])
    np.testing.assert_allclose(found["token_embeddings"], expected["token_embeddings"], rtol=0, atol=tolerance)
    assert (found["token_embeddings"] != expected["token_embeddings"]).any() == (number != 1)

"""MTEB: an encoder and a cross-encoder get the scores that sentence-transformers gets with the same models."""

from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest

from embedrt import CrossEncoder, Embedder
from embedrt.integrations.mteb import EmbedrtCrossEncoder, EmbedrtEncoder
from embedrt_export import export
from tests.integrations_torch.mteb_tasks import Reranking, Retrieval, Similarity
from tests.kit import score_models
from tests.kit.clients import Record
from tests.kit.models import make_model

CLIENT = ("MTEB", mteb.__version__)
# MTEB itself uses these names for models of sentence-transformers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The fill_missing parameter is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method has been:FutureWarning"),
]


def scores(model: Any, task: Any) -> dict[str, Any]:
    """All scores of a model on a task."""
    (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results
    (found,) = result.scores["test"]
    return {name: value for name, value in found.items() if isinstance(value, float)}


def error(found: dict[str, float], expected: dict[str, float]) -> float:
    """The largest difference of a score."""
    assert found.keys() == expected.keys()
    assert len(found) > 5
    return max(abs(found[name] - expected[name]) for name in found)


@pytest.mark.parametrize("task", [Similarity, Retrieval, Reranking])
def test_scores_are_those_of_sentence_transformers(
    task: Any, minilm: Embedder, torch_minilm: Any, record: Record
) -> None:
    found, expected = (scores(model, task()) for model in (EmbedrtEncoder(minilm), torch_minilm))
    record(*CLIENT, f"evaluate, {task.metadata.type}", error(found, expected))


@pytest.mark.parametrize("prompts", [
    {"query": "one cat is ", "document": "two dogs are "},
    {"STS": "the text is ", "Retrieval-query": "one word is ", "document": "two dogs are "},
], ids=["query and document", "tasks"])  # fmt: skip
def test_prompts_are_chosen_as_for_sentence_transformers(
    prompts: dict[str, str], tmp_path: Path, record: Record
) -> None:
    from sentence_transformers import SentenceTransformer

    source = make_model(tmp_path / "model", prompts=prompts)
    bundle = export(source, tmp_path / "bundle")
    reference = SentenceTransformer(str(source), device="cpu")
    for task in (Similarity, Retrieval):
        found, expected = (scores(model, task()) for model in (EmbedrtEncoder(bundle), reference))
        record(*CLIENT, f"evaluate, {task.metadata.type}", error(found, expected))


def test_a_cross_encoder(tmp_path: Path, record: Record) -> None:
    from sentence_transformers import CrossEncoder as TorchCrossEncoder

    source = score_models.MODELS["sigmoid"](tmp_path / "model")
    bundle = export(source, tmp_path / "bundle")
    reference = TorchCrossEncoder(str(source), device="cpu")
    found, expected = (scores(model, Reranking()) for model in (EmbedrtCrossEncoder(CrossEncoder(bundle)), reference))
    record(*CLIENT, "evaluate with a cross-encoder", error(found, expected))


def test_results_name_the_vector_space(minilm: Embedder) -> None:
    encoder = EmbedrtEncoder(minilm, truncate_dim=64, normalize=True)
    assert isinstance(encoder, mteb.EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert (meta.revision, meta.embed_dim) == (minilm.fingerprint, 64)
    assert meta.name.endswith(minilm.name)
    vectors = encoder.encode(
        [{"text": ["one", "two"]}, {"text": ["three"]}],
        task_metadata=Similarity.metadata,
        hf_split="test",
        hf_subset="default",
    )
    expected = minilm.encode(["one", "two", "three"], truncate_dim=64, normalize_embeddings=True)
    np.testing.assert_array_equal(vectors, expected)

"""Every module on the real MiniLM's weights against sentence-transformers: whole vectors, many lengths and scripts."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
)
from tokenizers import Tokenizer

from embedrt import Embedder
from embedrt_export import export
from embedrt_export.heads.dense import DENSE_ACTIVATIONS
from embedrt_export.heads.pooling import POOLERS
from tests.kit.family_models import texts_for
from tests.kit.models import write_tokenizer

TOLERANCE = 2e-6
WIDTH = 384
LIMIT = 64  # short texts are quick, and one test reads all that the model can
TEXTS = texts_for(LIMIT)[::2]
PROMPT = "Represent the sentence for retrieval: "


@pytest.fixture(scope="module")
def transformer(minilm_source: Path) -> Transformer:
    module = Transformer.load(str(minilm_source), model_kwargs={"dtype": torch.float32})
    module.max_seq_length = LIMIT
    return module


def activation(name: str) -> torch.nn.Module:
    made: torch.nn.Module = getattr(torch.nn, name)()
    return made


def dense(inputs: int, outputs: int, **more: Any) -> Dense:
    torch.manual_seed(inputs + outputs)
    return Dense(inputs, outputs, **more)


def layer_norm() -> LayerNorm:
    torch.manual_seed(7)
    module = LayerNorm(WIDTH)
    with torch.no_grad():
        module.norm.weight.normal_(1, 0.2)
        module.norm.bias.normal_(0, 0.2)
    return module


def tokens(**more: Any) -> dict[str, Any]:
    return {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings", **more}


CHAINS: dict[str, Any] = {
    **{f"pooling {mode}": lambda mode=mode: [Pooling(WIDTH, mode)] for mode in POOLERS},
    "pooling, all modes": lambda: [Pooling(WIDTH, tuple(POOLERS)), Normalize()],
    **{
        f"dense, {name}": lambda name=name: [Pooling(WIDTH), dense(WIDTH, 96, activation_function=activation(name))]
        for name in DENSE_ACTIVATIONS
    },
    "dense without bias, residual": lambda: [Pooling(WIDTH), dense(WIDTH, WIDTH, bias=False, use_residual=True)],
    "dense, projected residual": lambda: [Pooling(WIDTH), dense(WIDTH, 64, use_residual=True)],
    "dense on tokens": lambda: [
        dense(WIDTH, 128, activation_function=None, **tokens()),
        Normalize(**tokens()),
        Pooling(128),
    ],
    "two dense, dropout, normalize": lambda: [
        Pooling(WIDTH, "cls"),
        dense(WIDTH, 512),
        Dropout(0.3),
        dense(512, 100, activation_function=None),
        Normalize(),
    ],
    "layer norm": lambda: [Pooling(WIDTH), layer_norm(), Normalize()],
}


def saved(modules: list[Any], folder: Path, **settings: Any) -> SentenceTransformer:
    model = SentenceTransformer(modules=copy.deepcopy(modules), device="cpu", **settings)
    model.save_pretrained(str(folder))
    return model.eval()


def worst(found: Any, expected: Any) -> float:
    scale = max(1.0, float(np.linalg.norm(expected, axis=1).max()))
    norms = np.abs(np.linalg.norm(found, axis=1) - np.linalg.norm(expected, axis=1)).max()
    return float(max(np.abs(found - expected).max(), norms) / scale)


# Every activation is compared with torch by itself as well, in test_activations.py, and every mode in
# test_prompts_left_out.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith(("dense, ", "pooling ")) else [])
        for name in CHAINS
    ],
)
def test_chain(transformer: Transformer, name: str, tmp_path: Path, record_error: Any) -> None:
    model = saved([transformer, *CHAINS[name]()], tmp_path / "model")
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    expected = np.stack([model.encode(text) for text in TEXTS])
    together, alone = embedder.encode(TEXTS), np.stack([embedder.encode(text) for text in TEXTS])
    record_error("module", name, worst(together, expected), worst(together, alone))
    assert worst(together, expected) <= TOLERANCE
    assert worst(alone, expected) <= TOLERANCE
    assert worst(together, alone) <= TOLERANCE


def test_all_poolings_up_to_the_limit_of_the_model(minilm_source: Path, tmp_path: Path) -> None:
    transformer = Transformer.load(str(minilm_source))
    model = saved([transformer, Pooling(WIDTH, tuple(POOLERS)), Normalize()], tmp_path / "model")
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    texts = texts_for(256)[::2]
    assert worst(embedder.encode(texts), model.encode(texts)) <= TOLERANCE


@pytest.mark.parametrize("mode", POOLERS)
def test_prompts_left_out(transformer: Transformer, mode: str, tmp_path: Path, record_error: Any) -> None:
    model = saved([transformer, Pooling(WIDTH, mode, include_prompt=False)], tmp_path / "model")
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    texts = [text for text in TEXTS if text.strip()]
    expected = np.stack([model.encode(text, prompt=PROMPT) for text in texts])
    found = embedder.encode(texts, prompt=PROMPT)
    record_error("module", f"pooling {mode} without the prompt", worst(found, expected), 0.0)
    assert worst(found, expected) <= TOLERANCE
    assert worst(embedder.encode(texts), np.stack([model.encode(text) for text in texts])) <= TOLERANCE


@pytest.mark.parametrize("layer_start", [0, pytest.param(4, marks=pytest.mark.slow), 6])
def test_weighted_layer_pooling(minilm_source: Path, layer_start: int, tmp_path: Path, record_error: Any) -> None:
    transformer = Transformer.load(str(minilm_source), config_kwargs={"output_hidden_states": True})
    module = WeightedLayerPooling(WIDTH, num_hidden_layers=6, layer_start=layer_start)
    with torch.no_grad():
        module.layer_weights.copy_(torch.linspace(0.5, 2, len(module.layer_weights)))
    model = saved([transformer, module, Pooling(WIDTH)], tmp_path / "model")
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    expected = model.encode(TEXTS)
    assert np.abs(expected - SentenceTransformer(str(minilm_source)).encode(TEXTS)).max() > 0.01
    record_error("module", f"weighted layers from {layer_start}", worst(embedder.encode(TEXTS), expected), 0.0)
    assert worst(embedder.encode(TEXTS), expected) <= TOLERANCE


def static_embedding(folder: Path, width: int) -> StaticEmbedding:
    write_tokenizer(folder, "bert")
    table = np.random.default_rng(0).normal(0, 0.3, (133, width)).astype(np.float32)
    return StaticEmbedding(Tokenizer.from_file(str(folder / "tokenizer.json")), embedding_weights=table)


def test_static_embedding(tmp_path: Path, record_error: Any) -> None:
    model = saved([static_embedding(tmp_path / "tokenizer", 64), Normalize()], tmp_path / "model")
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    texts = [*TEXTS, "two dogs " * 200]
    record_error("module", "static embedding", worst(embedder.encode(texts), model.encode(texts)), 0.0)
    assert worst(embedder.encode(texts), model.encode(texts)) <= TOLERANCE


def test_router(transformer: Transformer, tmp_path: Path, record_error: Any) -> None:
    """A static table for queries, the transformer for documents, and both share what comes after."""
    router = Router.for_query_document(
        query_modules=[static_embedding(tmp_path / "tokenizer", WIDTH)],
        document_modules=[transformer, Pooling(WIDTH)],
    )
    prompts = {"query": "one ", "document": "two "}
    model = saved([router, dense(WIDTH, 128), Normalize()], tmp_path / "model", prompts=prompts)
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    query = worst(embedder.encode_query(TEXTS), model.encode_query(TEXTS))
    document = worst(embedder.encode_document(TEXTS), model.encode_document(TEXTS))
    plain = worst(embedder.encode(TEXTS), model.encode(TEXTS))
    record_error("module", "router", max(query, document, plain), 0.0)
    assert max(query, document, plain) <= TOLERANCE


def test_two_heads_over_one_transformer(transformer: Transformer, tmp_path: Path) -> None:
    router = Router({"query": [dense(WIDTH, 64)], "passage": [dense(WIDTH, 65), dense(65, 64)]}, allow_empty_key=False)
    model = saved([transformer, Pooling(WIDTH), router], tmp_path / "model")
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    for task in ("query", "passage"):
        assert worst(embedder.encode(TEXTS, task=task), model.encode(TEXTS, task=task)) <= TOLERANCE
    with pytest.raises(ValueError, match="Could not determine route"):
        model.encode(TEXTS)
    with pytest.raises(ValueError, match="has no default"):
        embedder.encode(TEXTS)


@pytest.mark.parametrize(
    "settings", [{}, {"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "passage"}]
)
def test_queries_and_documents_without_a_router(
    transformer: Transformer, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = saved([transformer, Pooling(WIDTH)], tmp_path / "model", **settings)
    embedder = Embedder(export(tmp_path / "model", tmp_path / "bundle"))
    for name in ("encode", "encode_query", "encode_document"):
        assert worst(getattr(embedder, name)(TEXTS), getattr(model, name)(TEXTS)) <= TOLERANCE


@pytest.mark.parametrize("files", ["all", "without modules.json"])
def test_a_repo_of_transformers(minilm_source: Path, files: str, tmp_path: Path) -> None:
    transformer = Transformer.load(str(minilm_source))
    folder = tmp_path / "plain"
    transformer.model.save_pretrained(folder)
    transformer.tokenizer.save_pretrained(folder)
    if files == "all":  # a config of sentence-transformers without modules
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "q: "}}))
    model = SentenceTransformer(str(folder), device="cpu")
    embedder = Embedder(export(folder, tmp_path / "bundle"))
    assert embedder.manifest.routes["default"].max_seq_length == model.max_seq_length
    assert worst(embedder.encode(TEXTS), model.encode(TEXTS)) <= TOLERANCE

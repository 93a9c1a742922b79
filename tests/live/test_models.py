"""Seeded random models against transformers itself, through sentence-transformers: whole vectors, many lengths."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from embedrt import Embedder
from embedrt_export import export
from tests.kit.bundles import parity
from tests.kit.family_models import texts_for
from tests.kit.models import make_model, make_weights, write_json

TOLERANCE = 1e-5
INPUTS = ["input_ids", "token_type_ids", "attention_mask"]

MODELS: dict[str, dict[str, Any]] = {
    "bert": {"architecture": "bert"},
    "bert-cls": {"architecture": "bert", "pooling": "cls", "normalize": False},
    "bert-max": {"architecture": "bert", "pooling": "max"},
    "bert-three-poolings": {"architecture": "bert", "pooling": ["mean", "cls", "max"]},
    "bert-4-layers": {"architecture": "bert", "num_hidden_layers": 4, "hidden_size": 48, "num_attention_heads": 3},
    "bert-odd-sizes": {"architecture": "bert", "hidden_size": 36, "num_attention_heads": 6, "intermediate_size": 50},
    "bert-many-types": {"architecture": "bert", "type_vocab_size": 5, "layer_norm_eps": 1e-5},
    "bert-own-limit": {"architecture": "bert", "max_seq_length": None},
    "bert-long": {"architecture": "bert", "max_position_embeddings": 300, "max_seq_length": 300},
    "mpnet": {"architecture": "mpnet"},
    "mpnet-cls": {"architecture": "mpnet", "pooling": "cls", "normalize": False},
    "mpnet-max": {"architecture": "mpnet", "pooling": "max"},
    "mpnet-4-layers": {"architecture": "mpnet", "num_hidden_layers": 4, "hidden_size": 48, "num_attention_heads": 3},
    "mpnet-long": {"architecture": "mpnet", "max_position_embeddings": 514, "max_seq_length": 512},
}
for _name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh"):
    MODELS[f"bert-{_name}"] = {"architecture": "bert", "hidden_act": _name}


def reference(source: Path) -> SentenceTransformer:
    return SentenceTransformer(str(source), device="cpu", model_kwargs={"dtype": "float32"})


def check(source: Path, bundle: Path) -> None:
    embedder, model = Embedder(bundle), reference(source)
    texts = texts_for(embedder.manifest.routes["default"].max_seq_length)
    expected: NDArray[np.float32] = np.stack([model.encode(text) for text in texts])
    scale = max(1.0, np.linalg.norm(expected, axis=1).max())
    together = embedder.encode(texts)
    alone = np.stack([embedder.encode(text) for text in texts])
    assert together.shape == expected.shape
    assert np.abs(together - expected).max() <= TOLERANCE * scale
    assert np.abs(alone - expected).max() <= TOLERANCE * scale
    assert np.abs(together - alone).max() <= TOLERANCE * scale
    assert np.abs(np.linalg.norm(together, axis=1) - np.linalg.norm(expected, axis=1)).max() <= TOLERANCE * scale


@pytest.mark.parametrize("name", MODELS)
def test_random_models(name: str, tmp_path: Path) -> None:
    source = make_model(tmp_path / name, **MODELS[name], seed=len(name))
    bundle = export(source, tmp_path / "bundle")
    assert "sentence-transformers 6.2" in parity(Embedder(bundle).manifest).reference
    check(source, bundle)


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_what_sentence_transformers_saves_today(architecture: str, tmp_path: Path) -> None:
    old = make_model(tmp_path / "old", architecture, prompts={"query": "one ", "passage": "two "})
    new = tmp_path / "new"
    reference(old).save_pretrained(str(new))
    assert "max_seq_length" not in json.loads((new / "sentence_bert_config.json").read_text())
    check(new, export(new, tmp_path / "bundle"))
    assert Embedder(tmp_path / "bundle").manifest.prompts["passage"] == "two "


def test_real_minilm(minilm: Embedder, minilm_source: Path) -> None:
    texts: list[str] = json.loads((Path(__file__).parents[1] / "reference" / "texts.json").read_bytes())
    expected = reference(minilm_source).encode(texts)
    found = minilm.encode(texts)
    assert len(texts) >= 300
    assert np.abs(found - expected).max() <= 2e-6
    assert np.abs(np.linalg.norm(found, axis=1) - np.linalg.norm(expected, axis=1)).max() <= 2e-6


def test_real_minilm_in_the_new_generation_keeps_its_vectors(minilm_source: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    reference(minilm_source).save_pretrained(str(new))
    bundle = Embedder(export(new, tmp_path / "bundle"))
    texts = texts_for(256)[::3]
    assert bundle.manifest.routes["default"].max_seq_length == 256
    assert np.abs(bundle.encode(texts) - reference(minilm_source).encode(texts)).max() <= 2e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights(dtype: str, tmp_path: Path) -> None:
    source = make_model(tmp_path / "half")
    half = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    weights = {name: values.astype(half) for name, values in load_file(source / "model.safetensors").items()}
    save_file(weights, source / "model.safetensors")
    check(source, export(source, tmp_path / "bundle"))


def test_sharded_and_prefixed_weights_with_a_head(tmp_path: Path) -> None:
    source = make_model(tmp_path / "sharded")
    weights = {f"bert.{name}": values for name, values in load_file(source / "model.safetensors").items()}
    weights["cls.predictions.bias"] = np.zeros(7, np.float32)
    (source / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: weights[name] for name in members}, source / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    write_json(source / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    check(source, export(source, tmp_path / "bundle"))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"truncation_side": "left"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_tokenizer_settings(architecture: str, settings: dict[str, Any], tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", architecture)
    path = source / "tokenizer_config.json"
    write_json(path, {**json.loads(path.read_text()), **settings})
    check(source, export(source, tmp_path / "bundle"))


def test_lowercase_of_the_module(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    write_json(source / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": True})
    path = source / "tokenizer_config.json"
    write_json(path, {**json.loads(path.read_text()), "do_lower_case": False})
    check(source, export(source, tmp_path / "bundle"))


def test_token_types_that_are_not_zero(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model")
    path = source / "tokenizer.json"
    definition = json.loads(path.read_text())
    for piece in definition["post_processor"]["single"]:
        next(iter(piece.values()))["type_id"] = 1
    write_json(path, definition)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    write_json(source / "tokenizer_config.json", {**settings, "model_input_names": INPUTS})
    embedder = Embedder(export(source, tmp_path / "bundle"))
    assert embedder.manifest.routes["default"].tokenization.token_type_ids
    assert embedder.tokenize("one two")["token_type_ids"].min() == 1
    check(source, tmp_path / "bundle")
    write_json(source / "tokenizer_config.json", settings)  # without the names, transformers feeds zeros
    check(source, export(source, tmp_path / "zeros"))


def test_seeded_weights_are_what_transformers_expects(tmp_path: Path) -> None:
    """Guards the comparison itself: no tensor of the random models is left out or made up by transformers."""
    for architecture in ("bert", "mpnet"):
        source = make_model(tmp_path / architecture, architecture)
        config = json.loads((source / "config.json").read_text())
        _, info = AutoModel.from_pretrained(source, add_pooling_layer=False, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert set(make_weights(config, 0)) == set(load_file(source / "model.safetensors"))

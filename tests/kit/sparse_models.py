"""Small seeded sparse models in every format that loads."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.kit.chains import TYPES, pooling, write_chain
from tests.kit.family_models import REFERENCE, cases, write_repo
from tests.kit.models import make_model, write_json, write_tokenizer

SPLADE = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
STATIC = "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
AUTO_ENCODER = "sentence_transformers.sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder"
TYPES.update({"SpladePooling": SPLADE, "SparseStaticEmbedding": STATIC, "SparseAutoEncoder": AUTO_ENCODER})
# Rows of the largest vocabulary: more than two blocks of the decoder, of which the last is smaller.
ROWS = 2300
_PLAIN = {"text": {"method": "forward", "method_output_name": "logits"}}
_BERT = ("bert.", "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
_ROBERTA = ("roberta.", "lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
# Prefix of the body, and the names of the linear layer, the norm and the decoder's bias.
HEADS = {
    "albert": ("albert.", "predictions.dense", "predictions.LayerNorm", "predictions.bias"),
    "bert": _BERT,
    "camembert": _ROBERTA,
    "data2vec-text": ("data2vec_text.", *_ROBERTA[1:]),
    "deberta-v2": ("deberta.", *_BERT[1:]),
    "distilbert": ("distilbert.", "vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    "electra": (
        "electra.",
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head.bias",
    ),
    "ernie": ("ernie.", *_BERT[1:]),
    "gte": ("new.", "lm_head.dense", "lm_head.norm", "lm_head.decoder.bias"),
    "modernbert": ("model.", "head.dense", "head.norm", "decoder.bias"),
    "mpnet": ("mpnet.", *_ROBERTA[1:]),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
FAMILIES = sorted(HEADS)


def draw(name: str, *shape: int, deviation: float = 0.3) -> NDArray[np.float32]:
    """Random values that depend on the name alone."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values: NDArray[np.float32] = random.normal(0, deviation, shape).astype(np.float32)
    return values


def add_head(folder: Path, family: str, **tensors: NDArray[np.float32]) -> Path:
    """Gives an encoder the head of a masked language model, as transformers saves it with one."""
    prefix, dense, norm, bias = HEADS[family]
    path = folder / "model.safetensors"
    saved = {f"{prefix}{name}": values for name, values in load_file(path).items() if not name.startswith("pooler")}
    config = json.loads((folder / "config.json").read_bytes())
    hidden = config.get("hidden_size") or config["dim"]
    table = next(
        values for name, values in saved.items() if name.endswith(("word_embeddings.weight", "tok_embeddings.weight"))
    )
    rows, width = table.shape
    saved[f"{dense}.weight"] = draw(dense, width, hidden)
    saved[f"{norm}.weight"] = draw(norm, width) + np.float32(1.5)
    saved[bias] = draw(bias, rows) - np.float32(1.5)
    if family != "modernbert":
        saved[f"{dense}.bias"], saved[f"{norm}.bias"] = draw(f"{dense}.bias", width), draw(f"{norm}.bias", width)
    save_file({**saved, **tensors}, path, metadata={"format": "pt"})
    return folder


def family_model(folder: Path, family: str, *, rows: int | None = None, **splade: Any) -> Path:
    """A repo of the first case of a family, with the head and SpladePooling.

    Args:
        folder: The folder.
        family: The family.
        rows: Rows of the vocabulary; None leaves it to the case, which has more of them than the tokenizer has tokens.
        **splade: Settings of SpladePooling, and `top`.
    """
    name, case = next(iter(cases(family).items()))
    shapes = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]["tensors"]
    if rows is not None:
        case = replace(case, config={**case.config, "vocab_size": rows})
        shapes = {key: [rows, *shape[1:]] if "word_embeddings" in key else shape for key, shape in shapes.items()}
    add_head(write_repo(folder, family, case, shapes), family)
    return finish(folder, **splade)


def finish(folder: Path, *, top: dict[str, Any] | None = None, **splade: Any) -> Path:
    """Writes the modules as sentence-transformers 6 does."""
    write_chain(folder, ("SpladePooling", {"pooling_strategy": "max", "activation_function": "relu", **splade}, {}))
    path = folder / "sentence_bert_config.json"
    transformer = {"transformer_task": "fill-mask", "modality_config": _PLAIN, "module_output_name": "token_embeddings"}
    write_json(path, {**json.loads(path.read_bytes()), **transformer})
    write_top(folder, **(top or {}))
    return folder


def write_top(folder: Path, **content: Any) -> None:
    """Writes `config_sentence_transformers.json`."""
    plain = {"model_type": "SparseEncoder", "prompts": {"query": "", "document": ""}, "similarity_fn_name": None}
    write_json(folder / "config_sentence_transformers.json", {**plain, **content})


def splade(folder: Path) -> Path:
    """A BERT with a vocabulary of several blocks."""
    make_model(folder, max_seq_length=40, vocab_size=ROWS)
    add_head(folder, "bert")
    return finish(folder, top={"prompts": {"query": "the ", "document": "text ", "other": "dog "}})


def summed(folder: Path) -> Path:
    """Sums of log1p_relu, a vocabulary of several blocks, a maximum of active dimensions, and the cosine similarity."""
    make_model(folder, seed=1, max_seq_length=None, vocab_size=ROWS)
    add_head(folder, "bert")
    top = {
        "prompts": {"query": "two ", "passage": "three ", "document": ""},
        "default_prompt_name": "passage",
        "similarity_fn_name": "cosine",
        "max_active_dims": 300,
    }
    return finish(folder, pooling_strategy="sum", activation_function="log1p_relu", embedding_dimension=ROWS, top=top)


def old(folder: Path) -> Path:
    """A RoBERTa as sentence-transformers 5.0 saved it, with the sum of relu."""
    family_model(folder, "roberta")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 30, "do_lower_case": False})
    config = {"pooling_strategy": "sum", "activation_function": "relu", "word_embedding_dimension": None}
    write_json(folder / "1_SpladePooling" / "config.json", config)
    modules = json.loads((folder / "modules.json").read_bytes())
    modules[0]["type"] = "sentence_transformers.sparse_encoder.models.MLMTransformer"
    modules[1]["type"] = "sentence_transformers.sparse_encoder.models.SpladePooling"
    write_json(folder / "modules.json", modules)
    write_top(folder, prompts={}, similarity_fn_name="dot")
    return folder


def plain(folder: Path) -> Path:
    """A BERT without modules.json, whose decoder has a weight and a bias of its own."""
    make_model(folder, seed=2)
    rows = json.loads((folder / "config.json").read_bytes())["vocab_size"]
    own = {"cls.predictions.decoder.weight": draw("own", rows, 32), "cls.predictions.decoder.bias": draw("bias", rows)}
    add_head(folder, "bert", **own)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    (folder / "1_Pooling" / "config.json").unlink()
    config = json.loads((folder / "config.json").read_bytes())
    write_json(folder / "config.json", {**config, "architectures": ["BertForMaskedLM"], "tie_word_embeddings": False})
    return folder


def window(folder: Path) -> Path:
    """A ModernBERT with the maximum of log1p_relu and the Euclidean similarity."""
    family_model(folder, "modernbert", activation_function="log1p_relu", top={"similarity_fn_name": "euclidean"})
    return folder


def without_gaps(folder: Path) -> int:
    """Numbers the tokens without gaps, as SparseStaticEmbedding takes for granted; returns their number."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: i for i, token in enumerate(sorted(vocabulary, key=vocabulary.__getitem__))}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return len(vocabulary)


def _router(folder: Path, query: Callable[[Path, int], None]) -> Path:
    """A Router with static weights for queries, and SPLADE for documents."""
    place = folder / "query_0_SparseStaticEmbedding"
    write_tokenizer(place, "bert")
    rows = without_gaps(place)
    document = family_model(folder / "document_0_Transformer", "distilbert", rows=rows)
    without_gaps(document)
    (document / "modules.json").unlink()
    (document / "config_sentence_transformers.json").unlink()
    (document / "1_SpladePooling").rename(folder / "document_1_SpladePooling")
    query(place, rows)
    types = {"query_0_SparseStaticEmbedding": STATIC, "document_0_Transformer": TYPES["Transformer"]}
    types["document_1_SpladePooling"] = SPLADE
    structure = {
        "query": ["query_0_SparseStaticEmbedding"],
        "document": ["document_0_Transformer", "document_1_SpladePooling"],
    }
    parameters = {"default_route": "document", "allow_empty_key": True}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    write_json(
        folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": TYPES["Router"], "kwargs": ["task"]}]
    )
    write_top(folder, prompts={"query": "the ", "document": ""}, similarity_fn_name="dot")
    return folder


def router(folder: Path) -> Path:
    """Weights of queries as a tensor."""

    def query(place: Path, rows: int) -> None:
        write_json(place / "config.json", {"frozen": True})
        save_file({"weight": np.abs(draw("idf", rows)) + np.float32(0.1)}, place / "model.safetensors")
        settings = json.loads((place / "tokenizer_config.json").read_bytes())
        write_json(place / "tokenizer_config.json", {**settings, "model_max_length": 9})

    return _router(folder, query)


def static(folder: Path) -> Path:
    """Static weights alone."""
    write_tokenizer(folder, "bert")
    rows = without_gaps(folder)
    save_file({"weight": np.abs(draw("idf", rows)) + np.float32(0.1)}, folder / "model.safetensors")
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": STATIC}])
    write_top(folder)
    return folder


def router_of_json(folder: Path) -> Path:
    """Weights of queries by token, in a JSON file."""

    def query(place: Path, rows: int) -> None:
        vocabulary = json.loads((place / "tokenizer.json").read_bytes())["model"]["vocab"]
        assert len(vocabulary) == rows
        weights = np.abs(draw("json", rows)).tolist()
        write_json(place / "idf.json", {token: weights[row] for token, row in vocabulary.items() if row % 7})
        write_json(place / "config.json", {"path": str(place / "idf.json"), "frozen": False})

    return _router(folder, query)


def auto_encoder(folder: Path) -> Path:
    """A model that embeds, with a SparseAutoEncoder."""
    make_model(folder, seed=3, normalize=False)
    tensors = {
        "pre_bias": draw("pre_bias", 32),
        "latent_bias": draw("latent_bias", 128),
        "encoder.weight": draw("encoder", 128, 32),
        "stats_last_nonzero": np.zeros(128, np.int64),
    }
    config = {"input_dim": 32, "hidden_dim": 128, "k": 8, "k_aux": 16, "normalize": True, "dead_threshold": 30}
    write_chain(folder, pooling(), ("SparseAutoEncoder", config, tensors))
    write_top(folder, similarity_fn_name="manhattan")
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "splade": splade,
    "summed": summed,
    "old": old,
    "plain": plain,
    "window": window,
    "router": router,
    "router_of_json": router_of_json,
    "auto_encoder": auto_encoder,
}
"""Writers of model folders by name."""

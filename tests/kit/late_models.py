"""Small seeded multi-vector models in every format that loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.kit.chains import TYPES, Entry, draw, pooling, write_chain
from tests.kit.family_models import REFERENCE, cases, write_repo
from tests.kit.models import make_model, write_json

PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
WIDTH = 8
LATE_REFERENCE = Path(__file__).parents[1] / "reference" / "late"
MASK_TYPE = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
POOLING_TYPE = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
TYPES.update({"MultiVectorMask": MASK_TYPE, "HierarchicalTokenPooling": POOLING_TYPE})


def dense(inputs: int = 32, outputs: int = WIDTH, *, seed: int = 5, **more: Any) -> Entry:
    """A projection of token vectors."""
    config = {
        "in_features": inputs,
        "out_features": outputs,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "token_embeddings",
        "module_output_name": "token_embeddings",
        **more,
    }
    tensors = {"linear.weight": draw(outputs, inputs, seed=seed)}
    if config["bias"]:
        tensors["linear.bias"] = draw(outputs, seed=seed + 1)
    return "Dense", config, tensors


def mask(**config: Any) -> Entry:
    """The tokens that count."""
    return "MultiVectorMask", config, {}


NORMALIZE: Entry = (
    "Normalize",
    {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"},
    {},
)


def write_top(folder: Path, **content: Any) -> None:
    """Writes `config_sentence_transformers.json`."""
    write_json(folder / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder", **content})


def set_transformer(folder: Path, **settings: Any) -> None:
    """Adds keys to the config of the Transformer module."""
    path = folder / "sentence_bert_config.json"
    write_json(path, {**json.loads(path.read_bytes()), **settings})


def family_repo(folder: Path, family: str) -> Path:
    """A repo of the first case of a family; its vectors have 32 dimensions."""
    name, case = next(iter(cases(family).items()))
    shapes = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"][name]["tensors"]
    return write_repo(folder, family, case, shapes)


def fixed(folder: Path) -> Path:
    """Fixed expansion with tokens that are not attended to, and a skiplist of documents."""
    make_model(folder, max_seq_length=40)
    write_chain(folder, dense(), mask(skiplist_words=PUNCTUATION), NORMALIZE)
    set_transformer(folder, document_length=20, query_expansion={"strategy": "fixed", "length": 12, "attend": False})
    write_top(folder, prompts={"query": "[Q] ", "document": "[D] ", "other": "dog "}, similarity_fn_name="maxsim")
    return folder


def least(folder: Path) -> Path:
    """Minimal expansion with tokens that are attended to, a skiplist of both tasks, two projections and clusters."""
    make_model(folder, max_seq_length=None, seed=1)
    pooled: Entry = (
        "HierarchicalTokenPooling",
        {"pool_factor": 2.0, "num_protected_tokens": 1, "tasks": ["document"]},
        {},
    )
    chain = (
        dense(outputs=16, bias=True, activation_function="torch.nn.modules.activation.GELU"),
        dense(16, seed=9),
        mask(skiplist_words=[".", "!", "notaword"], skiplist_tasks=["query", "document"]),
        NORMALIZE,
        pooled,
    )
    write_chain(folder, *chain)
    expansion = {"strategy": "min", "length": 9, "attend": True, "token": "dog"}
    set_transformer(folder, query_length=16, query_expansion=expansion)
    write_top(folder, prompts={"query": "the ", "document": ""}, similarity_fn_name="meanmaxsim")
    return folder


def bare(folder: Path) -> Path:
    """ModernBERT without expansion, skiplist and normalization; few tokens of documents count."""
    family_repo(folder, "modernbert")
    write_chain(folder, dense(), mask(keep_only_token_ids=list(range(5, 60))))
    set_transformer(folder, query_length=11, document_length=30)
    write_top(folder, prompts={"query": "", "document": ""}, default_prompt_name=None)
    return folder


def expanding(folder: Path, family: str, *, attend: bool) -> Path:
    """A model of a family with fixed expansion."""
    family_repo(folder, family)
    write_chain(folder, dense(), mask(), NORMALIZE)
    expansion = {"strategy": "fixed", "length": 14, "attend": attend, "token": "[UNK]"}
    set_transformer(folder, query_expansion=expansion)
    write_top(folder, prompts={"query": "", "document": ""})
    return folder


def padded_positions(folder: Path) -> Path:
    """XLM-RoBERTa, whose positions skip the padding id, with fixed expansion."""
    family_repo(folder, "xlm-roberta")
    write_chain(folder, dense(), mask(), NORMALIZE)
    set_transformer(folder, query_expansion={"strategy": "fixed", "length": 14, "attend": False})
    name_token(folder, mask_token="<mask>")
    write_top(folder, prompts={"query": "", "document": ""})
    return folder


def pylate(folder: Path) -> Path:
    """A BERT that PyLate 3 saved: two modules, prefixes as added tokens."""
    make_model(folder, max_seq_length=17, seed=2)
    dense_config = dense(seed=11)[1]
    assert dense_config is not None
    plain = {key: dense_config[key] for key in ("in_features", "out_features", "bias", "activation_function")}
    write_chain(folder, ("Dense", plain, dense(seed=11)[2]))
    modules = json.loads((folder / "modules.json").read_bytes())
    modules[0]["type"] = "sentence_transformers.models.Transformer"
    modules[1]["type"] = "pylate.models.Dense.Dense"
    write_json(folder / "modules.json", modules)
    add_tokens(folder, ["[Q] ", "[D] "])
    top = {
        "model_type": "ColBERT",
        "prompts": {},
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 13,
        "document_length": 18,
        "attend_to_expansion_tokens": False,
    }
    write_json(folder / "config_sentence_transformers.json", top)
    return folder


def pylate_attending(folder: Path) -> Path:
    """A ModernBERT that PyLate 3 saved, with a skiplist of its own and expansion tokens that are attended to."""
    family_repo(folder, "modernbert")
    dense_config = dense(seed=13)[1]
    assert dense_config is not None
    plain = {key: dense_config[key] for key in ("in_features", "out_features", "bias", "activation_function")}
    write_chain(folder, ("Dense", plain, dense(seed=13)[2]))
    modules = json.loads((folder / "modules.json").read_bytes())
    modules[1]["type"] = "pylate.models.Dense.Dense"
    write_json(folder / "modules.json", modules)
    rename_tokens(folder, {"千": "[unused0]"})
    name_token(folder, mask_token="[MASK]")
    top = {
        "model_type": "ColBERT",
        "prompts": {"query": "find: "},
        "similarity_fn_name": "cosine",
        "query_prefix": "[unused0] ",
        "document_prefix": "",
        "query_length": 15,
        "document_length": 22,
        "attend_to_expansion_tokens": True,
        "skiplist_words": ["dog", ",", "bank"],
    }
    write_json(folder / "config_sentence_transformers.json", top)
    return folder


def rename_tokens(folder: Path, names: dict[str, str]) -> None:
    """Gives tokens of the vocabulary other names."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.update({new: vocabulary.pop(old) for old, new in names.items()})
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def name_token(folder: Path, **named: str) -> None:
    """Names special tokens in the config of the tokenizer."""
    path = folder / "tokenizer_config.json"
    write_json(path, {**json.loads(path.read_bytes()), **named})


def add_tokens(folder: Path, tokens: list[str]) -> None:
    """Adds tokens to the tokenizer and rows to the word embeddings, as training does."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    first = len(tensors[name])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    for i, token in enumerate(tokens):
        tokenizer["added_tokens"].append({"id": first + i, "content": token, **flags})
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    tensors[name] = np.concatenate([tensors[name], draw(len(tokens), tensors[name].shape[1], seed=21)])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    write_json(folder / "config.json", {**config, "vocab_size": first + len(tokens)})


def stanford(folder: Path) -> Path:
    """A ColBERT checkpoint of Stanford's: the projection is beside the encoder, the settings in `artifact.metadata`."""
    make_model(folder, seed=3)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "1_Pooling").rmdir()
    rename_tokens(folder, {"千": "[unused0]", "里": "[unused1]"})
    tensors = {f"bert.{name}": values for name, values in load_file(folder / "model.safetensors").items()}
    tensors["linear.weight"] = draw(WIDTH, 32, seed=17)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_bytes())
    write_json(folder / "config.json", {**config, "architectures": ["HF_ColBERT"]})
    metadata = {
        "dim": WIDTH,
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_maxlen": 16,
        "doc_maxlen": 25,
        "attend_to_mask_tokens": False,
        "mask_punctuation": True,
        "nbits": 2,
        "query_token": "[Q]",
    }
    (folder / "artifact.metadata").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


def converted(folder: Path) -> Path:
    """A model that embeds, with a projection after its pooling."""
    make_model(folder, max_seq_length=30, seed=4)
    config, tensors = dense(seed=19)[1:]
    assert config is not None
    sentence = {key: value for key, value in config.items() if not key.startswith("module_")}
    write_chain(folder, pooling(), ("Dense", sentence, tensors), ("Normalize", None, {}))
    write_json(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    return folder


def three_outputs(folder: Path) -> Path:
    """An XLM-RoBERTa with the layers of BGE-M3 beside it, as `torch.save` wrote them: `make golden`."""
    family_repo(folder, "xlm-roberta")
    write_chain(folder, pooling("cls"), ("Normalize", None, {}))
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        shutil.copyfile(LATE_REFERENCE / name, folder / name)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {
    "fixed": fixed,
    "least": least,
    "bare": bare,
    "padded_positions": padded_positions,
    "pylate": pylate,
    "pylate_attending": pylate_attending,
    "stanford": stanford,
    "converted": converted,
}
"""Writers of model folders by name."""

"""Small seeded models as hub repos have them, made without torch, and ways to damage them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

SPECIAL = {"bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "mpnet": ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")}
WORDS = (
    "the a of to and in is it on for with as at by from that this not or be are was were one two three text texts "
    "vector model token batch word sentence long short cat dog river bank money boat ##s ##ed ##ing ##er un ##able "
    "0 1 2 3 4 5 6 7 8 9 , . ! ? ' - ä é ß я ж 千 里 ا ل क ᄀ 🙂"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Tensors = dict[str, NDArray[Any]]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def make_model(
    folder: Path,
    architecture: str = "bert",
    *,
    pooling: str | list[str] = "mean",
    normalize: bool = True,
    max_seq_length: int | None = 48,
    seed: int = 0,
    prompts: dict[str, str] | None = None,
    **config: Any,
) -> Path:
    """Writes a sentence-transformers repo with random weights: config, safetensors, tokenizer and modules."""
    tokens = vocabulary(architecture)
    settings: dict[str, Any] = {
        "model_type": architecture,
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "hidden_act": "gelu",
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-12,
        **({"type_vocab_size": 2} if architecture == "bert" else {"relative_attention_num_buckets": 32}),
        **config,
    }
    write_json(folder / "config.json", settings)
    save_file(make_weights(settings, seed), folder / "model.safetensors")
    write_tokenizer(folder, architecture)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    types = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(types)
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {"embedding_dimension": settings["hidden_size"], "pooling_mode": pooling, "include_prompt": True},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"__version__": {"sentence_transformers": "6.2.0"}, "prompts": prompts or {}, "default_prompt_name": None},
    )
    return folder


def make_weights(config: dict[str, Any], seed: int) -> Tensors:
    """Random tensors of the shapes and names of a BERT or MPNet checkpoint."""
    random = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    bert = config["model_type"] == "bert"

    def draw(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.15, shape).astype(np.float32)

    tensors: Tensors = {
        "embeddings.word_embeddings.weight": draw(config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": draw(config["max_position_embeddings"], hidden),
    }
    if bert:
        tensors["embeddings.token_type_embeddings.weight"] = draw(config["type_vocab_size"], hidden)
    else:
        shape = (config["relative_attention_num_buckets"], config["num_attention_heads"])
        tensors["encoder.relative_attention_bias.weight"] = draw(*shape)
    norms = ["embeddings.LayerNorm"]
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        attention = (
            ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
            if bert
            else ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o")
        )
        linears = [(name, hidden, hidden) for name in attention]
        linears += [("intermediate.dense", inner, hidden), ("output.dense", hidden, inner)]
        for name, outputs, inputs in linears:
            tensors[f"{layer}.{name}.weight"] = draw(outputs, inputs)
            tensors[f"{layer}.{name}.bias"] = draw(outputs)
        norms += [f"{layer}.attention.output.LayerNorm" if bert else f"{layer}.attention.LayerNorm"]
        norms += [f"{layer}.output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = 1 + draw(hidden)
        tensors[f"{name}.bias"] = draw(hidden)
    return tensors


def vocabulary(architecture: str) -> list[str]:
    letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return [*SPECIAL[architecture], *WORDS.split(), *letters]


def write_tokenizer(folder: Path, architecture: str) -> None:
    """A WordPiece tokenizer.json with the special tokens of the architecture."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokens = vocabulary(architecture)
    ids = {token: i for i, token in enumerate(tokens)}
    start, end = ("[CLS]", "[SEP]") if architecture == "bert" else ("<s>", "</s>")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL[architecture]))
    if architecture == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start}:0 $A:0 {end}:0",
            pair=f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
            special_tokens=[(start, ids[start]), (end, ids[end])],
        )
    else:
        tokenizer.post_processor = processors.RobertaProcessing((end, ids[end]), (start, ids[start]), True, False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    pad = "[PAD]" if architecture == "bert" else "<pad>"
    class_name = "BertTokenizer" if architecture == "bert" else "MPNetTokenizer"
    named = {"unk_token": "[UNK]", "pad_token": pad, "cls_token": start, "sep_token": end}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": class_name, "do_lower_case": True, "model_max_length": 64, **named},
    )

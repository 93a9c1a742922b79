"""BERT and architectures that differ from it only in their embeddings: post-norm layers, a table of positions.

RoBERTa, XLM-RoBERTa, CamemBERT and data2vec count positions from the padding id on; ELECTRA may have narrow embeddings
and a linear layer after them; ERNIE may have task types; BERT for generation has no token types.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import LayerNames, encoder_layer
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import Tables, embed, positions_left
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
)


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, with the defaults of transformers for BERT.

    Optional keys, which some architectures lack, are None there.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int | None = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False
    pad_token_id: int | None = None
    embedding_size: int | None = None
    use_task_id: bool | None = None
    task_type_vocab_size: int | None = None


_OPTIONAL = ("type_vocab_size", "pad_token_id", "embedding_size", "use_task_id", "task_type_vocab_size")

ROBERTA_DEFAULTS: dict[str, Any] = {"vocab_size": 50265, "pad_token_id": 1}


def read_config(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Config:
    """Read config.json; unsupported variants are an error.

    Args:
        config: The parsed file.
        defaults: Defaults that differ from those of BERT. An optional key without a value after that belongs to other
            architectures and is not read.
    """
    defaults = {**{name: getattr(Config, name) for name in _OPTIONAL}, **defaults}
    foreign: dict[str, Any] = {name: None for name in _OPTIONAL if defaults[name] is None}
    if "pad_token_id" not in foreign and config.get("pad_token_id", 1) is None:
        raise UnsupportedModelError(
            "config.json: pad_token_id null: positions count from it on; "
            "enter the id of the tokenizer's padding token, 1 in nearly all such models"
        )
    stated = {key: value for key, value in config.items() if key not in foreign}
    read = replace(pick(Config, stated, defaults=defaults), **foreign)
    check_sizes(read)
    positions(read)
    return read


def positions(config: Config) -> int:
    """Number of tokens that have a position embedding."""
    return positions_left(config.max_position_embeddings, config.pad_token_id)


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias = attention_bias(scope)
    states = [_embeddings(scope, config)]
    for i in range(config.num_hidden_layers):
        states.append(encoder_layer(scope.at(f"encoder.layer.{i}"), states[-1], bias, config, LAYER))
    return states


def tables(config: Config) -> Tables:
    """Rows of the embedding tables."""
    return Tables(
        words=config.vocab_size,
        positions=config.max_position_embeddings,
        padding_id=config.pad_token_id,
        types=config.type_vocab_size,
        tasks=config.task_type_vocab_size if config.use_task_id else None,
    )


def _embeddings(scope: Scope, config: Config) -> str:
    hidden, width = config.hidden_size, config.embedding_size or config.hidden_size
    x = embed(scope, width, tables(config))
    x = scope.layer_norm(x, "embeddings.LayerNorm", width, config.layer_norm_eps)
    return x if width == hidden else scope.linear(x, "embeddings_project", width, hidden)


def _family(prefix: str, defaults: Mapping[str, Any]) -> Family:
    return Family(
        read_config=partial(read_config, defaults=defaults),
        prefixes=(prefix,),
        backbone=("embeddings.", "embeddings_project.", "encoder."),
        positions=positions,
        build=build,
    )


_PADDED = {"pad_token_id": 1}
BERT = _family("bert.", {})
BERT_GENERATION = _family(
    "bert.",
    {
        "vocab_size": 50358,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "type_vocab_size": None,
    },
)
DATA2VEC_TEXT = _family("data2vec_text.", _PADDED)
ELECTRA = _family(
    "electra.", {"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
)
ERNIE = _family("ernie.", {"use_task_id": False, "task_type_vocab_size": 3})
ROBERTA = _family("roberta.", ROBERTA_DEFAULTS)
XLM_ROBERTA = _family("roberta.", _PADDED)

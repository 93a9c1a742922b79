"""BERT and those that differ from it in their embeddings alone: post-norm layers, a table of positions.

RoBERTa, XLM-RoBERTa, CamemBERT and data2vec count positions from the padding id on; ELECTRA may have narrow embeddings
and a linear layer after them; ERNIE may have task types; BERT for generation has no token types.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import LayerNames, check_sizes, encoder_layer
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import embed, positions_left
from embedrt_export.layers.linear import TextInputs, layer_norm, linear
from embedrt_export.source.configs import pick
from embedrt_export.source.weights import Weights

LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
)


@dataclass(frozen=True)
class Config:
    """The keys of config.json that change the numbers, with the defaults of transformers for BERT.

    Of these, some architectures have no `type_vocab_size`, and others one of the keys that BERT has not; None is none.
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

# What differs from the defaults of BERT.
BERT: dict[str, Any] = {}
ROBERTA: dict[str, Any] = {"vocab_size": 50265, "pad_token_id": 1}
XLM_ROBERTA: dict[str, Any] = {"pad_token_id": 1}
ELECTRA: dict[str, Any] = {
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
ERNIE: dict[str, Any] = {"use_task_id": False, "task_type_vocab_size": 3}
BERT_GENERATION: dict[str, Any] = {
    "vocab_size": 50358,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "type_vocab_size": None,
}


def read_config(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Config:
    """Reads config.json, refusing variants that the graph does not have.

    Args:
        config: The parsed file.
        defaults: What differs from the defaults of BERT, such as the tables above. An optional key that has no value
            after that belongs to other architectures and is not read.
    """
    settled = {**{name: getattr(Config, name) for name in _OPTIONAL}, **defaults}
    foreign: dict[str, Any] = {name: None for name in _OPTIONAL if settled[name] is None}
    stored = {key: value for key, value in config.items() if key not in foreign and value is not None}
    if "pad_token_id" not in foreign and config.get("pad_token_id", 1) is None:
        raise UnsupportedModelError(
            "config.json: pad_token_id null: positions count from it on; "
            "enter the id of the tokenizer's padding token, 1 in nearly all such models"
        )
    read = replace(pick(Config, {**settled, **stored}), **foreign)
    check_sizes(read)
    positions(read)
    return read


def positions(config: Config) -> int:
    """Tokens that have a position embedding."""
    return positions_left(config.max_position_embeddings, config.pad_token_id)


def build(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    bias = attention_bias(graph, inputs)
    states = [_embeddings(graph, config, weights, inputs)]
    for i in range(config.num_hidden_layers):
        states.append(encoder_layer(graph, config, weights, states[-1], bias, inputs, f"encoder.layer.{i}", LAYER))
    return states


def _embeddings(graph: GraphBuilder, config: Config, weights: Weights, inputs: TextInputs) -> str:
    hidden, width = config.hidden_size, config.embedding_size or config.hidden_size
    x = embed(
        graph,
        weights,
        inputs,
        width,
        words=config.vocab_size,
        positions=config.max_position_embeddings,
        padding_id=config.pad_token_id,
        types=config.type_vocab_size,
        tasks=config.task_type_vocab_size if config.use_task_id else None,
    )
    x = layer_norm(graph, weights, x, "embeddings.LayerNorm", width, config.layer_norm_eps)
    return x if width == hidden else linear(graph, weights, x, "embeddings_project", width, hidden)

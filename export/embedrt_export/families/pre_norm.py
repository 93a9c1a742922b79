"""BERT's config with pre-norm layers and a norm at the end: XLM-RoBERTa-XL, RoBERTa-PreLayerNorm, Megatron-BERT."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from embedrt_export.blocks.bert import LayerNames, pre_norm_layer
from embedrt_export.families import bert
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import embed
from embedrt_export.layers.scope import Scope


@dataclass(frozen=True)
class Norms:
    """Names of the norms.

    Attributes:
        layer: Names of a layer's parameters.
        last: Name of the norm after the last layer.
        embeddings: True if the embeddings are normalized too.
    """

    layer: LayerNames
    last: str
    embeddings: bool = False


def build(scope: Scope, config: bert.Config, norms: Norms) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]`: embeddings, layers, the last one normalized."""
    hidden, epsilon, bias = config.hidden_size, config.layer_norm_eps, attention_bias(scope)
    x = embed(scope, hidden, bert.tables(config))
    if norms.embeddings:
        x = scope.layer_norm(x, "embeddings.LayerNorm", hidden, epsilon)
    states = [x]
    for i in range(config.num_hidden_layers):
        states.append(pre_norm_layer(scope.at(f"encoder.layer.{i}"), states[-1], bias, config, norms.layer))
    states[-1] = scope.layer_norm(states[-1], norms.last, hidden, epsilon)
    return states


def _family(prefix: str, defaults: Mapping[str, Any], norms: Norms) -> Family:
    return Family(
        read_config=partial(bert.read_config, defaults=defaults),
        prefixes=(prefix,),
        backbone=("embeddings.", "encoder.", "LayerNorm."),
        positions=bert.positions,
        build=partial(build, norms=norms),
    )


XLM_ROBERTA_XL = _family(
    "roberta.",
    {
        "vocab_size": 250880,
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 10240,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    },
    Norms(
        replace(bert.LAYER, attention_norm="attention.self_attn_layer_norm", output_norm="LayerNorm"),
        last="encoder.LayerNorm",
    ),
)
ROBERTA_PRE_LAYER_NORM = _family(
    "roberta_prelayernorm.",
    bert.ROBERTA_DEFAULTS,
    Norms(
        replace(bert.LAYER, attention_norm="attention.LayerNorm", output_norm="intermediate.LayerNorm"),
        last="LayerNorm",
        embeddings=True,
    ),
)
MEGATRON_BERT = _family(
    "bert.",
    {
        "vocab_size": 29056,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    Norms(replace(bert.LAYER, attention_norm="attention.ln", output_norm="ln"), last="encoder.ln"),
)

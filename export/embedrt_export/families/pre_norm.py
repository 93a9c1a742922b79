"""BERT's config with pre-norm layers and a norm at the end: XLM-RoBERTa-XL, RoBERTa-PreLayerNorm, Megatron-BERT."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embedrt_export.blocks.bert import LayerNames, pre_norm_layer
from embedrt_export.families import bert
from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import embed
from embedrt_export.layers.linear import TextInputs, layer_norm
from embedrt_export.source.weights import Weights


@dataclass(frozen=True)
class Variant:
    """What differs between them.

    Attributes:
        defaults: What differs from the defaults of BERT, as `bert.read_config` takes it.
        layer: Names of a layer's parameters.
        last_norm: Name of the norm after the last layer.
        embeddings_norm: Whether the embeddings are normalized too.
    """

    defaults: Mapping[str, Any]
    layer: LayerNames
    last_norm: str
    embeddings_norm: bool = False


XLM_ROBERTA_XL = Variant(
    defaults={
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
    layer=replace(bert.LAYER, attention_norm="attention.self_attn_layer_norm", output_norm="LayerNorm"),
    last_norm="encoder.LayerNorm",
)
ROBERTA_PRE_LAYER_NORM = Variant(
    defaults=bert.ROBERTA,
    layer=replace(bert.LAYER, attention_norm="attention.LayerNorm", output_norm="intermediate.LayerNorm"),
    last_norm="LayerNorm",
    embeddings_norm=True,
)
MEGATRON_BERT = Variant(
    defaults={
        "vocab_size": 29056,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    layer=replace(bert.LAYER, attention_norm="attention.ln", output_norm="ln"),
    last_norm="encoder.ln",
)


def build(
    graph: GraphBuilder, config: bert.Config, weights: Weights, inputs: TextInputs, variant: Variant
) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]`: embeddings, layers, the last one normalized."""
    hidden, epsilon, bias = config.hidden_size, config.layer_norm_eps, attention_bias(graph, inputs)
    x = embed(
        graph,
        weights,
        inputs,
        hidden,
        words=config.vocab_size,
        positions=config.max_position_embeddings,
        padding_id=config.pad_token_id,
        types=config.type_vocab_size,
    )
    if variant.embeddings_norm:
        x = layer_norm(graph, weights, x, "embeddings.LayerNorm", hidden, epsilon)
    states = [x]
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        states.append(pre_norm_layer(graph, config, weights, states[-1], bias, inputs, layer, variant.layer))
    states[-1] = layer_norm(graph, weights, states[-1], variant.last_norm, hidden, epsilon)
    return states

"""XLM-RoBERTa-XL: the config and the embeddings of RoBERTa without their norm; pre-norm layers; a norm at the end."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedrt_export.attention import attention_bias
from embedrt_export.embeddings import embed
from embedrt_export.encoder import pre_norm_layer
from embedrt_export.families import bert
from embedrt_export.graph import GraphBuilder
from embedrt_export.layers import TextInputs, layer_norm
from embedrt_export.weights import Weights

LAYER = replace(bert.LAYER, attention_norm="attention.self_attn_layer_norm", output_norm="LayerNorm")
DEFAULTS: dict[str, Any] = {
    "vocab_size": 250880,
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "intermediate_size": 10240,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}


def read_config(config: Mapping[str, Any]) -> bert.Config:
    """Reads config.json, refusing variants that the graph does not have."""
    return bert.read_config(config, DEFAULTS)


def build(graph: GraphBuilder, config: bert.Config, weights: Weights, inputs: TextInputs) -> list[str]:
    """Adds the graph; returns the hidden states `[tokens, hidden]`: embeddings, layers, the last one normalized."""
    hidden, bias = config.hidden_size, attention_bias(graph, inputs)
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
    states = [x]
    for i in range(config.num_hidden_layers):
        states.append(pre_norm_layer(graph, config, weights, states[-1], bias, inputs, f"encoder.layer.{i}", LAYER))
    states[-1] = layer_norm(graph, weights, states[-1], "encoder.LayerNorm", hidden, config.layer_norm_eps)
    return states

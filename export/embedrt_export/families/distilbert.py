"""DistilBERT: BERT's layers under other names, without token types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import UnsupportedModelError
from embedrt_export.blocks.bert import LayerNames, encoder_layer
from embedrt_export.families.family import Family
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.embeddings import Tables, embed
from embedrt_export.layers.scope import Scope
from embedrt_export.source.configs import check_sizes, pick

LAYER = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    feed_forward_input="ffn.lin1",
    feed_forward_output="ffn.lin2",
    output_norm="output_layer_norm",
)
_LAYER_NORM_EPS = 1e-12  # fixed in the architecture
# The architecture's names of the sizes and the usual ones; some repos use the latter.
_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}
_ALIASED = ("dim", "n_layers", "n_heads")


@dataclass(frozen=True)
class Config:
    """Keys of config.json that change the vectors, under their usual names, with transformers' defaults.

    `sinusoidal_pos_embds` is not among them: the positions are in the weights in any case.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512

    @property
    def layer_norm_eps(self) -> float:
        """Added to the variance in every norm."""
        return _LAYER_NORM_EPS


def read_config(config: Mapping[str, Any]) -> Config:
    """Read config.json under either name of a size; two names that disagree are an error."""
    own = {"vocab_size": config.get("vocab_size"), "max_position_embeddings": config.get("max_position_embeddings")}
    for key, name in _KEYS.items():
        values = [config[k] for k in (key, *([name] if key in _ALIASED else [])) if config.get(k) is not None]
        if len(values) == 2 and values[0] != values[1]:
            raise UnsupportedModelError(
                f"config.json: {key} {values[0]!r} and {name} {values[1]!r} are two names of one number; keep one"
            )
        own[name] = values[0] if values else None
    read = pick(Config, own)
    check_sizes(read)
    return read


def positions(config: Config) -> int:
    """Number of tokens that have a position embedding."""
    return config.max_position_embeddings


def build(scope: Scope, config: Config) -> list[str]:
    """Add the model; returns the hidden states `[tokens, hidden]` after the embeddings and after every layer."""
    hidden, bias = config.hidden_size, attention_bias(scope)
    x = embed(scope, hidden, Tables(config.vocab_size, positions=config.max_position_embeddings))
    states = [scope.layer_norm(x, "embeddings.LayerNorm", hidden, config.layer_norm_eps)]
    for i in range(config.num_hidden_layers):
        states.append(encoder_layer(scope.at(f"transformer.layer.{i}"), states[-1], bias, config, LAYER))
    return states


FAMILY = Family(
    read_config=read_config,
    prefixes=("distilbert.",),
    backbone=("embeddings.", "transformer."),
    positions=positions,
    build=build,
)

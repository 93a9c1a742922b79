"""Jina Embeddings v3: as transformers saves it, and as the hub repo has it, with an adapter for each task.

The hub repo calls itself "xlm-roberta" and is made for the code in jinaai/xlm-roberta-flash-implementation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt_export.configs import pick
from embedrt_export.rope import Rope, config_rope
from embedrt_export.rotary_encoder import RotaryEncoder, check, head_size

PREFIXES = ("roberta.",)
_LAYERS = {
    r"mixer\.Wqkv": "self_attn.qkv_proj",
    r"mixer\.out_proj": "self_attn.o_proj",
    r"mlp\.fc1": "mlp.fc1",
    r"mlp\.fc2": "mlp.down_proj",
    r"norm1": "post_attention_layernorm",
    r"norm2": "post_mlp_layernorm",
}
# A weight with adapters is stored as "parametrizations.weight.original", they as "parametrizations.weight.0.lora_A".
_WEIGHT, _ADAPTER = (
    r"\.(?:parametrizations\.)?(?P<part>weight|bias)(?:\.original)?",
    r"\.parametrizations\.weight\.0\.(?P<part>lora_[AB])",
)
RENAMES = (
    (r"emb_ln\.(.*)", r"embeddings.LayerNorm.\1"),
    (r"layers\.(\d+)\.mlp\.fc2\.(.*)", r"layers.\1.mlp.down_proj.\2"),
    *(
        (rf"encoder\.layers\.(?P<layer>\d+)\.{hub}{suffix}", rf"layers.\g<layer>.{name}.\g<part>")
        for hub, name in _LAYERS.items()
        for suffix in (_WEIGHT, _ADAPTER)
    ),
    *(
        (rf"embeddings\.(?P<table>\w+_embeddings){suffix}", r"embeddings.\g<table>.\g<part>")
        for suffix in (_WEIGHT, _ADAPTER)
    ),
)


@dataclass(frozen=True)
class Keys:
    """The keys of config.json that change the numbers, with the defaults of transformers."""

    vocab_size: int = 250002
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    head_dim: int | None = None
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 8194


@dataclass(frozen=True)
class HubKeys:
    """Those that only hub repos have. The base of the positions is required: there the code has another default."""

    rotary_emb_base: float
    position_embedding_type: Literal["rotary"] = "rotary"
    emb_pooler: Literal[None] = None
    lora_adaptations: tuple[str, ...] = ()
    lora_rank: int = 4
    lora_alpha: float = 1.0


def read_config(config: Mapping[str, Any]) -> RotaryEncoder:
    """Reads config.json of either kind, refusing variants that the graph does not have."""
    keys = pick(Keys, config)
    hub = pick(HubKeys, config) if is_hub(config) else None
    return check(
        RotaryEncoder(
            vocab_size=keys.vocab_size,
            hidden_size=keys.hidden_size,
            num_hidden_layers=keys.num_hidden_layers,
            num_attention_heads=keys.num_attention_heads,
            head_dim=head_size(keys.hidden_size, keys.num_attention_heads, keys.head_dim),
            intermediate_size=keys.intermediate_size,
            hidden_act=keys.hidden_act,
            type_vocab_size=keys.type_vocab_size,
            layer_norm_eps=keys.layer_norm_eps,
            rope=Rope(rope_theta=hub.rotary_emb_base) if hub else config_rope(config, theta=20000.0),
            max_position_embeddings=keys.max_position_embeddings,
            gated=False,
            input_bias=True,
            tasks=hub.lora_adaptations if hub else (),
            lora_rank=hub.lora_rank if hub else 1,
            lora_alpha=hub.lora_alpha if hub else 1.0,
        )
    )


def is_hub(config: Mapping[str, Any]) -> bool:
    """Whether a config of the type "xlm-roberta" is for the code of the hub repo and not for XLM-RoBERTa itself."""
    own = config.get("auto_map")
    code = own.values() if isinstance(own, Mapping) else ()
    return config.get("model_type") == "xlm-roberta" and (
        config.get("position_embedding_type") == "rotary" or any("xlm-roberta-flash" in str(place) for place in code)
    )

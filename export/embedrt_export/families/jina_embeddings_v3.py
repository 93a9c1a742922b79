"""Jina Embeddings v3: as transformers saves it, and as the hub repo has it, with an adapter for each task.

The hub repo calls itself "xlm-roberta" and is made for the code in jinaai/xlm-roberta-flash-implementation.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedrt_export.blocks import rotary_encoder
from embedrt_export.blocks.rotary_encoder import RotaryEncoder, check, from_keys
from embedrt_export.families.family import Family
from embedrt_export.layers.rotary import Rope, config_rope
from embedrt_export.source.configs import pick

_PREFIXES = ("roberta.",)
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
_RENAMES = (
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


_DEFAULTS = {
    "vocab_size": 250002,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 8194,
}


@dataclass(frozen=True)
class HubKeys:
    """Keys that only hub repos have. The base of the positions is required: there the code has another default."""

    rotary_emb_base: float
    position_embedding_type: Literal["rotary"] = "rotary"
    emb_pooler: Literal[None] = None
    lora_adaptations: tuple[str, ...] = ()
    lora_rank: int = 4
    lora_alpha: float = 1.0


def read_config(config: Mapping[str, Any]) -> RotaryEncoder:
    """Read config.json of either kind; unsupported variants are an error."""
    hub = pick(HubKeys, config) if is_hub(config) else None
    rope = Rope(rope_theta=hub.rotary_emb_base) if hub else config_rope(config, theta=20000.0)
    model = dataclasses.replace(from_keys(config, _DEFAULTS, rope), gated=False, input_bias=True)
    if hub:
        model = dataclasses.replace(
            model, tasks=hub.lora_adaptations, lora_rank=hub.lora_rank, lora_alpha=hub.lora_alpha
        )
    return check(model)


def is_hub(config: Mapping[str, Any]) -> bool:
    """True if a config of the type "xlm-roberta" is for the code of the hub repo and not for XLM-RoBERTa itself."""
    own = config.get("auto_map")
    code = own.values() if isinstance(own, Mapping) else ()
    return config.get("model_type") == "xlm-roberta" and (
        config.get("position_embedding_type") == "rotary" or any("xlm-roberta-flash" in str(name) for name in code)
    )


FAMILY = Family(
    read_config=read_config,
    prefixes=_PREFIXES,
    backbone=rotary_encoder.BACKBONE,
    positions=rotary_encoder.positions,
    build=rotary_encoder.build,
    renames=_RENAMES,
    ignored=rotary_encoder.IGNORED,
    needs_own_code=is_hub,
    tasks=lambda config: config.tasks,
    claims=is_hub,
)

"""Config keys that make a model unsupported, with the reason and the remedy."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import UnsupportedModelError

_UNQUANTIZED = (
    "export the original repo, or dequantize the model with transformers "
    "(`AutoModel.from_pretrained(...).dequantize().save_pretrained(FOLDER)`)"
)
_TEXT_TOWER = (
    "only text encoders can be exported; save the text tower as a separate model "
    "(such as `model.language_model.save_pretrained(FOLDER)`)"
)
_ELSEWHERE = "use sentence-transformers, or choose another model"
# Encoder-decoder architectures of which sentence-transformers loads the encoder alone.
_ENCODER_ONLY = {"t5", "mt5", "umt5", "longt5"}
_EXPERTS = re.compile(r"(num|n)_(local_|routed_)?experts")


@dataclass(frozen=True)
class Unsupported:
    """One unsupported feature of models.

    Attributes:
        keys: Pattern of the keys of config.json for the feature.
        has: Tests if a model has the feature, given a key and the whole config.
        feature: The feature in messages.
        remedy: The next step for the user.
    """

    keys: re.Pattern[str]
    has: Callable[[str, Mapping[str, Any]], bool]
    feature: str
    remedy: str


def _is_set(key: str, config: Mapping[str, Any]) -> bool:
    return config[key] not in (None, False, 0, {}, [], "")


def _has_experts(key: str, config: Mapping[str, Any]) -> bool:
    """Test for more than one expert; without a key for their number, any key about experts counts."""
    counts = [value for other, value in config.items() if _EXPERTS.fullmatch(other) and value is not None]
    if counts:
        return bool(_EXPERTS.fullmatch(key)) and config[key] not in (None, False, 0, 1)
    return _is_set(key, config)


def _decodes(key: str, config: Mapping[str, Any]) -> bool:
    return _is_set(key, config) and config.get("model_type") not in _ENCODER_ONLY


UNSUPPORTED = (
    Unsupported(re.compile("quantization_config|compression_config"), _is_set, "quantized weights", _UNQUANTIZED),
    Unsupported(
        re.compile("(vision|audio|image|video|speech)_config"),
        _is_set,
        "a tower for a modality other than text",
        _TEXT_TOWER,
    ),
    Unsupported(
        re.compile("text_config|thinker_config|llm_config"), _is_set, "a text tower beside other towers", _TEXT_TOWER
    ),
    Unsupported(
        re.compile(f"{_EXPERTS.pattern}|moe_.*|num_experts_per_tok"), _has_experts, "a mixture of experts", _ELSEWHERE
    ),
    Unsupported(
        re.compile("is_encoder_decoder"),
        _decodes,
        "an encoder-decoder model",
        "save the encoder as a separate model (`model.get_encoder().save_pretrained(FOLDER)`)",
    ),
    Unsupported(re.compile("pruned_heads"), _is_set, "pruned attention heads", _ELSEWHERE),
)


def check_supported(config: Mapping[str, Any], supported: Collection[str]) -> None:
    """Check that a config has no key of an unsupported model, and a supported `model_type`.

    Args:
        config: The parsed `config.json`.
        supported: Every supported `model_type`.

    Raises:
        UnsupportedModelError: The model is not supported; the message names the key and the next step.
    """
    for unsupported in UNSUPPORTED:
        for key in config:
            if unsupported.keys.fullmatch(key) and unsupported.has(key, config):
                raise UnsupportedModelError(
                    f"config.json: {key}{_detail(config[key])}: {unsupported.feature} cannot be exported; "
                    f"{unsupported.remedy}"
                )
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type not in supported:
        code = ", and code from the repo (auto_map) is never run" if config.get("auto_map") else ""
        raise UnsupportedModelError(
            f"config.json: model_type {model_type[:80]!r} is not supported{code}; "
            f"supported: {', '.join(sorted(supported))}; "
            "use sentence-transformers, export it with optimum-onnx (`--via optimum`), or choose another model"
        )


def _detail(value: Any) -> str:
    """Most telling part of a value, such as the quantization method."""
    if isinstance(value, dict):
        value = value.get("quant_method", value.get("model_type"))
    return f" {value!r:.60}" if isinstance(value, (str, int)) else ""

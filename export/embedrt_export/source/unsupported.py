"""Config keys that make a model unsupported, with the reason and the remedy."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from embedrt.errors import UnsupportedModelError

_UNQUANTIZED = (
    "export the repo that it was quantized from, or undo it with transformers "
    "(`AutoModel.from_pretrained(...).dequantize().save_pretrained(FOLDER)`)"
)
_TEXT_TOWER = (
    "only encoders of text are exported; save the text tower as a model of its own "
    "(such as `model.language_model.save_pretrained(FOLDER)`)"
)
_ELSEWHERE = "run it with sentence-transformers, or choose a model without"
# The architectures whose encoder alone is what sentence-transformers loads.
_ENCODER_OF_A_PAIR = {"t5", "mt5", "umt5", "longt5"}
_EXPERTS = re.compile(r"(num|n)_(local_|routed_)?experts")


@dataclass(frozen=True)
class Refusal:
    """One reason to check_supported.

    Attributes:
        keys: Which keys of config.json it is about.
        means: Whether a key's value says so, given the key and the whole config.
        what: What the model has.
        remedy: The next step.
    """

    keys: re.Pattern[str]
    means: Callable[[str, Mapping[str, Any]], bool]
    what: str
    remedy: str


def _is_set(key: str, config: Mapping[str, Any]) -> bool:
    return config[key] not in (None, False, 0, {}, [], "")


def _has_experts(key: str, config: Mapping[str, Any]) -> bool:
    """One expert is none; where their number is told, the other keys about them change nothing."""
    counts = [value for other, value in config.items() if _EXPERTS.fullmatch(other) and value is not None]
    if counts:
        return bool(_EXPERTS.fullmatch(key)) and config[key] not in (None, False, 0, 1)
    return _is_set(key, config)


def _decodes(key: str, config: Mapping[str, Any]) -> bool:
    return _is_set(key, config) and config.get("model_type") not in _ENCODER_OF_A_PAIR


REFUSALS = (
    Refusal(re.compile("quantization_config|compression_config"), _is_set, "quantized weights", _UNQUANTIZED),
    Refusal(
        re.compile("(vision|audio|image|video|speech)_config"), _is_set, "a tower for other than text", _TEXT_TOWER
    ),
    Refusal(re.compile("text_config|thinker_config|llm_config"), _is_set, "a text tower among others", _TEXT_TOWER),
    Refusal(
        re.compile(f"{_EXPERTS.pattern}|moe_.*|num_experts_per_tok"), _has_experts, "a mixture of experts", _ELSEWHERE
    ),
    Refusal(
        re.compile("is_encoder_decoder"),
        _decodes,
        "an encoder with a decoder",
        "save its encoder as a model of its own (`model.get_encoder().save_pretrained(FOLDER)`)",
    ),
    Refusal(re.compile("pruned_heads"), _is_set, "layers with heads cut out", _ELSEWHERE),
)


def check_supported(config: Mapping[str, Any], supported: Collection[str]) -> None:
    """Check that a config has no key of an unsupported model, and a supported `model_type`.

    Args:
        config: The parsed `config.json`.
        supported: Every `model_type` that there is a family for.

    Raises:
        UnsupportedModelError: Names the key, what it means and the next step.
    """
    for refusal in REFUSALS:
        for key in config:
            if refusal.keys.fullmatch(key) and refusal.means(key, config):
                raise UnsupportedModelError(
                    f"config.json: {key}{_detail(config[key])}: {refusal.what} cannot be exported; {refusal.remedy}"
                )
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type not in supported:
        code = ", and code from a repo (auto_map) is never run" if config.get("auto_map") else ""
        raise UnsupportedModelError(
            f"config.json: model_type {model_type[:80]!r} is not supported{code}; "
            f"supported: {', '.join(sorted(supported))}; "
            "run it with sentence-transformers, have optimum-onnx export it (`--via optimum`), or choose another model"
        )


def _detail(value: Any) -> str:
    """The part of a value that tells most, such as the method of a quantization."""
    if isinstance(value, dict):
        value = value.get("quant_method", value.get("model_type"))
    return f" {value!r:.60}" if isinstance(value, (str, int)) else ""

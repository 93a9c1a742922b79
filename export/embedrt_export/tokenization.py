"""The tokenizer of a repo as transformers would configure it, settled into one `tokenizer.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers

from embedrt.bundle import Tokenization
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.configs import pick, read_config

# These classes build their normalizer from tokenizer_config.json, whatever tokenizer.json says.
_WORDPIECE_CLASSES = {"bert": "BertTokenizer", "mpnet": "MPNetTokenizer"}
_PAD_TOKENS = {"BertTokenizer": "[PAD]", "MPNetTokenizer": "<pad>"}


@dataclass(frozen=True)
class _TokenizerConfig:
    """`tokenizer_config.json`."""

    tokenizer_class: str | None = None
    model_max_length: int | None = None
    do_lower_case: bool = True
    tokenize_chinese_chars: bool = True
    strip_accents: bool | None = None
    truncation_side: Literal["left", "right"] | None = None
    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")  # BertTokenizer adds type ids, which are all 0


@dataclass(frozen=True)
class SettledTokenizer:
    """A tokenizer whose every setting is in its definition.

    Attributes:
        definition: The text of `tokenizer.json`.
        model_max_length: The tokenizer's own limit, or None.
        special_tokens: How many it puts around a text.
        tokenization: What the runtime needs beside it.
    """

    definition: str
    model_max_length: int | None
    special_tokens: int
    tokenization: Tokenization


def settle_tokenizer(
    folder: Path, architecture: str, embedding_rows: int, *, do_lower_case: bool, special_tokens: bool = True
) -> SettledTokenizer:
    """Reads `tokenizer.json` and applies what `tokenizer_config.json` and the module's settings change in it.

    Args:
        folder: The transformer's folder.
        architecture: The `model_type`, which names the tokenizer's class where the config does not.
        embedding_rows: Rows of the word embedding table.
        do_lower_case: Lowercase before all else, as sentence-transformers does on request.
        special_tokens: Whether the model reads special tokens around a text.

    Raises:
        ExportError: The tokenizer is missing, damaged, or has ids without an embedding.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UnsupportedModelError(
            f"{folder.name}: no tokenizer.json; "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers writes one"
        )
    raw = path.read_bytes()
    stored = _parse(raw)
    definition = json.loads(raw)
    content = read_config(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    if isinstance(limit := content.get("model_max_length"), float) or (isinstance(limit, int) and limit > 10**9):
        content["model_max_length"] = None  # transformers writes 1e30 for "no limit"
    config = pick(_TokenizerConfig, content, "tokenizer_config.json")
    if config.model_max_length is not None and config.model_max_length < 1:
        raise ExportError(f"tokenizer_config.json: model_max_length {config.model_max_length} is not a length")
    class_name = (config.tokenizer_class or _WORDPIECE_CLASSES.get(architecture, "")).removesuffix("Fast")
    if class_name in _WORDPIECE_CLASSES.values():
        definition["normalizer"] = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.tokenize_chinese_chars,
            "strip_accents": config.strip_accents,
            "lowercase": config.do_lower_case,
        }
        definition["pre_tokenizer"] = {"type": "BertPreTokenizer"}
    if do_lower_case:
        definition["normalizer"] = _lowercased(definition.get("normalizer"))
    side = config.truncation_side or (stored.truncation or {}).get("direction", "right")
    # The runtime sets the length; the side is what it reads from here.
    definition["truncation"] = {
        "direction": side.capitalize(),
        "max_length": 1 << 20,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    definition["padding"] = None
    if not special_tokens:
        definition["post_processor"] = None
        definition["truncation"] = None
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    tokenizer = _parse(text.encode())
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= embedding_rows:
        raise ExportError(
            f"tokenizer.json: token {tokenizer.id_to_token(highest)!r} has id {highest}, "
            f"but the model has only {embedding_rows} word embeddings"
        )
    uses_types = any(tokenizer.encode("a b").type_ids) and "token_type_ids" in config.model_input_names
    pad_token = _pad_token(content) or (stored.padding or {}).get("pad_token") or _PAD_TOKENS.get(class_name)
    pad_id = tokenizer.token_to_id(pad_token) if pad_token else None
    return SettledTokenizer(
        definition=text,
        model_max_length=config.model_max_length,
        special_tokens=tokenizer.num_special_tokens_to_add(is_pair=False),
        tokenization=Tokenization(
            pad_id=0 if pad_id is None else pad_id,
            # Both families count positions from the left, so a text gets the vector that it has alone only there.
            padding_side="right",
            token_type_ids=uses_types,
            pooling_mask=False,
            embedding_rows=embedding_rows,
        ),
    )


def _parse(definition: bytes) -> Any:
    try:
        return tokenizers.Tokenizer.from_buffer(definition)
    except Exception as error:
        raise ExportError(f"tokenizer.json: tokenizers {tokenizers.__version__} cannot read it: {error}") from error


def _pad_token(content: dict[str, Any]) -> str | None:
    token = content.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _lowercased(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if any(step.get("type") == "Lowercase" for step in steps):
        return {"type": "Sequence", "normalizers": steps}
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}

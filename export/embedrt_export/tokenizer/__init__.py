"""The tokenizer of a repo as transformers would configure it, written as one `tokenizer.json`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from embedrt.bundle.manifest import Tokenization
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.source.configs import pick, read_config
from embedrt_export.tokenizer.build import build, dump, library_errors, model_text, parse
from embedrt_export.tokenizer.classes import CLASSES, Options, TokenizerClass
from embedrt_export.tokenizer.names import BACKEND, tokenizer_class
from embedrt_export.tokenizer.scores import WrittenScore
from embedrt_export.tokenizer.special_tokens import AddedToken, read_special_tokens
from embedrt_export.tokenizer.vocabulary import TOKENIZER, Vocabulary, read_vocabulary, stored_vocabulary

_CONFIG = "tokenizer_config.json"
# Settings that change the ids and are not supported; published models do not use them.
_UNSUPPORTED = {
    *("vocab", "merges", "post_processor", "tokenizer_object", "tokenizer_truncation", "tokenizer_padding"),
    *("gguf_file", "init_inputs", "split_special_tokens", "fix_mistral_regex", "_spm_precompiled_charsmap"),
    *("_json_truncation", "_json_padding"),
}
_NO_LIMIT = 1 << 20
_TYPE_IDS = "token_type_ids"
# Names of a class that gives models token types which do not.
_WITHOUT_TYPES = {"DistilBertTokenizer", "DistilBertTokenizerFast"}


@dataclass(frozen=True)
class _TokenizerConfig:
    """`tokenizer_config.json`, apart from tokens and a class's options."""

    tokenizer_class: str | None = None
    model_max_length: int | None = None
    max_len: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    model_input_names: tuple[str, ...] | None = None
    add_bos_token: bool = False
    add_eos_token: bool = False
    fast_tokenizer_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class _ModelConfig:
    """Keys of `config.json` about the tokenizer."""

    tokenizer_class: str | None = None
    model_name: str | None = None


@dataclass(frozen=True)
class BuiltTokenizer:
    """A tokenizer whose every setting is in its definition.

    Attributes:
        definition: The text of `tokenizer.json`.
        model_max_length: The tokenizer's own limit, or None.
        special_tokens: Number of special tokens around a text, or around and between the texts of a pair.
        tokenization: Settings for the runtime.
        named: Special tokens by role, such as "mask_token".
    """

    definition: str
    model_max_length: int | None
    special_tokens: int
    tokenization: Tokenization
    named: Mapping[str, str] = field(default_factory=dict)


def build_tokenizer(
    folder: Path,
    architecture: str,
    embedding_rows: int,
    *,
    do_lower_case: bool,
    special_tokens: bool = True,
    pairs: bool = False,
    markers: tuple[str, ...] = (),
) -> BuiltTokenizer:
    """Build the tokenizer that transformers builds from the files of a folder.

    Args:
        folder: The transformer's folder.
        architecture: The `model_type`, on which the tokenizer's class depends.
        embedding_rows: Rows of the word embedding table.
        do_lower_case: Lowercase texts first, an option of sentence-transformers.
        special_tokens: False is for static embeddings: `tokenizer.json` as it stands, nothing around a text.
        pairs: True for a model that reads pairs of texts.
        markers: Prompts that start with a token of the vocabulary, which texts have as this one token.

    Raises:
        ExportError: The tokenizer is missing, damaged, or has ids without an embedding.
        UnsupportedModelError: Its class or one of its settings is not supported.
    """
    stored, is_byte_level = _read_stored(folder)
    truncation = (stored or {}).get("truncation") or {}
    side: Any = truncation.get("direction", "right").lower()
    if not special_tokens:
        if stored is None:
            raise UnsupportedModelError(f"{folder.name}: no {TOKENIZER}, which static embeddings need; save one there")
        config = _TokenizerConfig(model_max_length=truncation.get("max_length"), truncation_side=side)
        definition = stored | {"post_processor": None, "model": model_text(stored["model"])}
        return _completed(definition, TOKENIZER, config, {}, embedding_rows, do_lower_case)
    content = _read_object(folder, _CONFIG) or {}
    config = _read_settings(content)
    config = replace(config, truncation_side=config.truncation_side or side)
    name = _class_name(folder, architecture, config, content, is_byte_level=is_byte_level)
    if config.model_input_names is None and CLASSES[name].type_ids and config.tokenizer_class not in _WITHOUT_TYPES:
        config = replace(config, model_input_names=("input_ids", _TYPE_IDS, "attention_mask"))
    tokens = read_special_tokens(
        content, lambda file: _read_object(folder, file), None if stored is None else stored.get("added_tokens")
    )
    options = _options(CLASSES[name], content)
    if stored is None:
        vocabulary = read_vocabulary(folder, name, CLASSES[name].algorithm, tokens.named, options.extra_ids)
    elif name == BACKEND:
        vocabulary = Vocabulary(TOKENIZER)
    else:
        vocabulary = stored_vocabulary(stored, CLASSES[name].algorithm)
    says_ends = stored is None and not {"add_bos_token", "add_eos_token"}.isdisjoint(content)
    ends = (config.add_bos_token, config.add_eos_token) if says_ends else None
    definition, named = build(name, tokens, options, vocabulary, stored, ends, pairs=pairs)
    if any(markers):
        definition["added_tokens"] = [*definition["added_tokens"], *_marker_tokens(definition, markers)]
    return _completed(definition, vocabulary.file, config, named, embedding_rows, do_lower_case, pairs=pairs)


def _marker_tokens(definition: dict[str, Any], markers: tuple[str, ...]) -> list[dict[str, Any]]:
    """The tokens of prompts that the vocabulary has, but that a text with them would be split into pieces of.

    A prompt is one token, such as "[Q] ", or starts with one, such as "[unused0] ". A token that is there already with
    other properties is there twice, as where transformers adds it once more.
    """
    tokenizer, added = parse(dump(definition).encode(), TOKENIZER), []
    for marker in filter(str.split, markers):
        known = [text for text in (marker, marker.split(maxsplit=1)[0]) if tokenizer.token_to_id(text) is not None]
        if known and tokenizer.encode(known[0], add_special_tokens=False).tokens != known[:1]:
            token = AddedToken(known[0], normalized=False, special=True)
            added.append({"id": tokenizer.token_to_id(known[0]), **token.definition()})
    return added


def without_special_tokens(built: BuiltTokenizer) -> BuiltTokenizer:
    """The same tokenizer with nothing around a text."""
    stored = json.loads(built.definition, parse_float=WrittenScore)
    definition = stored | {"post_processor": None, "model": model_text(stored["model"])}
    tokenization = replace(built.tokenization, token_type_ids=False)
    return replace(built, definition=dump(definition), special_tokens=0, tokenization=tokenization)


def parsed(built: BuiltTokenizer) -> Any:
    """The tokenizer of the library `tokenizers`."""
    return parse(built.definition.encode(), TOKENIZER)


def _completed(
    definition: dict[str, Any],
    file: str,
    config: _TokenizerConfig,
    named: Mapping[str, str],
    embedding_rows: int,
    do_lower_case: bool,
    *,
    pairs: bool = False,
) -> BuiltTokenizer:
    """Complete a definition with the settings that all tokenizers share."""
    if do_lower_case:
        definition["normalizer"] = _lowercased(definition.get("normalizer"))
    # The runtime sets the length and reads the side from here.
    definition["truncation"] = {
        "direction": str(config.truncation_side).capitalize(),
        "max_length": _NO_LIMIT,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    definition["padding"] = None
    text = dump(definition)
    tokenizer = parse(text.encode(), file)
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= embedding_rows:
        raise ExportError(
            f"{file}: token {tokenizer.id_to_token(highest)!r} has id {highest}, "
            f"but the model has only {embedding_rows} word embeddings"
        )
    with library_errors(file):
        type_ids = tokenizer.encode("a b", "a b" if pairs else None).type_ids
    uses_types = any(type_ids) and _TYPE_IDS in (config.model_input_names or ())
    pad_token = named.get("pad_token")
    pad_id = tokenizer.token_to_id(pad_token) if pad_token else None
    return BuiltTokenizer(
        definition=text,
        model_max_length=config.model_max_length if config.model_max_length is not None else config.max_len,
        special_tokens=tokenizer.num_special_tokens_to_add(is_pair=pairs),
        tokenization=Tokenization(
            pad_id=0 if pad_id is None else pad_id,
            # Positions count from the left, so only right padding leaves the vectors unchanged.
            padding_side="right",
            token_type_ids=uses_types,
            pooling_mask=False,
            embedding_rows=embedding_rows,
        ),
        named=named,
    )


def _read_stored(folder: Path) -> tuple[dict[str, Any] | None, bool]:
    """Parse `tokenizer.json`.

    The library validates the untrusted file first, so that its content can be used without checks. `_completed` parses
    the definition that is written, which is another one, so the file is parsed twice.

    Returns:
        Its content or None, and True if it has a ByteLevel part.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        return None, False
    raw = path.read_bytes()
    parse(raw, TOKENIZER)
    try:
        return json.loads(raw, parse_float=WrittenScore), b'"ByteLevel"' in raw
    except (ValueError, RecursionError) as error:  # the library reads past some damage
        raise ExportError(f"{TOKENIZER}: not valid JSON: {error}") from error


def _read_object(folder: Path, name: str) -> dict[str, Any] | None:
    return read_config(folder / name) if (folder / name).is_file() else None


def _read_settings(content: dict[str, Any]) -> _TokenizerConfig:
    for key in ("model_max_length", "max_len"):
        if isinstance(limit := content.get(key), float) or (isinstance(limit, int) and limit > 10**9):
            content[key] = None  # transformers writes 1e30 for "no limit"
    config = pick(_TokenizerConfig, content, _CONFIG)
    for key in ("model_max_length", "max_len"):
        if (limit := getattr(config, key)) is not None and limit < 1:
            raise ExportError(f"{_CONFIG}: {key} {limit} is not a length")
    if unsupported := sorted(key for key in _UNSUPPORTED & content.keys() if content[key]):
        raise UnsupportedModelError(
            f"{_CONFIG}: {unsupported[0]} is not supported, as it changes the token ids; "
            "save the tokenizer with transformers, or remove the key if the model was trained without it"
        )
    if any(re.search(r"tokenizer\.(.*)\.json", file) for file in config.fast_tokenizer_files):
        raise UnsupportedModelError(
            f"{_CONFIG}: fast_tokenizer_files names a tokenizer for some versions of transformers; "
            "make the one to use the tokenizer.json and remove the key"
        )
    return config


def _class_name(
    folder: Path,
    architecture: str,
    config: _TokenizerConfig,
    content: Mapping[str, Any],
    *,
    is_byte_level: bool,
) -> str:
    model = pick(_ModelConfig, _read_object(folder, "config.json") or {})
    auto_map = content.get("auto_map")
    remote = bool(auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map)
    return tokenizer_class(
        config.tokenizer_class or model.tokenizer_class or None,
        architecture,
        model.model_name,
        is_byte_level=is_byte_level,
        remote=remote,
    )


def _options(kind: TokenizerClass, content: Mapping[str, Any]) -> Options:
    options = pick(Options, content, _CONFIG)
    if options.add_prefix_space is not None:
        return options
    prefix = kind.null_prefix_space if "add_prefix_space" in content else kind.add_prefix_space
    if prefix is None:
        raise ExportError(f"{_CONFIG}: add_prefix_space is null, which this tokenizer's class cannot use; remove it")
    return replace(options, add_prefix_space=prefix)


def _lowercased(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if any(step.get("type") == "Lowercase" for step in steps):
        return {"type": "Sequence", "normalizers": steps}
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}

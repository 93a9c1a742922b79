"""Build the definition of a `tokenizer.json` from class, tokens and vocabulary."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from json.encoder import encode_basestring
from typing import Any

import tokenizers

from embedrt.errors import ExportError
from embedrt_export.tokenizer.classes import CLASSES, Options, Pair, TokenizerClass
from embedrt_export.tokenizer.names import BACKEND
from embedrt_export.tokenizer.scores import score_text
from embedrt_export.tokenizer.special_tokens import (
    AddedToken,
    SpecialTokens,
    all_special,
    content_of,
    require_content,
    tokens_to_add,
)
from embedrt_export.tokenizer.vocabulary import Vocabulary, symbols_of

_CONFIG = "tokenizer_config.json"
_CAMEMBERT_UNUSED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")


def build(
    name: str,
    tokens: SpecialTokens,
    options: Options,
    vocabulary: Vocabulary,
    stored: dict[str, Any] | None,
    ends: tuple[bool, bool] | None,
    *,
    pairs: bool = False,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Build the definition that transformers builds.

    Args:
        name: The class.
        tokens: The tokens that the repo names.
        options: The settings of the class.
        vocabulary: The vocabulary; the backend needs none if there is `stored`.
        stored: The parsed `tokenizer.json`, or None.
        ends: True for `bos_token` before and `eos_token` after a text, if the config has these keys; a `tokenizer.json`
            takes precedence.
        pairs: True for a model that reads pairs of texts.

    Returns:
        The content of a `tokenizer.json`, its model as text, and the special tokens by role.

    Raises:
        ExportError: Vocabulary, tokens and class do not fit.
    """
    kind = CLASSES[name]
    tokens = _with_class_tokens(name, tokens, options, vocabulary, stored)
    if name == BACKEND and stored is not None:
        definition = dict(stored)
    else:
        definition = _class_definition(name, tokens, options, vocabulary, stored or {})
    definition["model"] = model_text(definition["model"])
    definition["added_tokens"] = _added_tokens(kind, tokens, definition, vocabulary.file)
    definition["post_processor"] = _post_processor(kind, tokens, definition, ends, pairs=pairs)
    return definition, {role: content for role, token in tokens.named.items() if (content := content_of(token))}


def _with_class_tokens(
    name: str, tokens: SpecialTokens, options: Options, vocabulary: Vocabulary, stored: dict[str, Any] | None
) -> SpecialTokens:
    """Merge the tokens of the repo over the defaults of the class."""
    kind, model, additional = CLASSES[name], vocabulary.sentencepiece, tokens.additional
    if model is not None:
        additional = symbols_of(model)
    if name == "T5Tokenizer":
        sentinels: list[str | AddedToken] = [f"<extra_id_{i}>" for i in range(options.extra_ids)]
        own = [token for token in additional or [] if "<extra_id_" in (content_of(token) or "")]
        if own and options.extra_ids not in {0, len(own)}:
            raise ExportError(f"{_CONFIG}: extra_ids {options.extra_ids}, but {len(own)} such tokens; correct one")
        additional = [*(additional or []), *([] if own else sentinels)]
    elif name == "CamembertTokenizer" and additional is None:
        additional = list(_CAMEMBERT_UNUSED)
    named = {**kind.named, **tokens.named}
    if name == BACKEND and model is not None:
        named = {**model.named, **named}
    padding = (stored or {}).get("padding")
    if padding and "pad_token" not in named:
        named["pad_token"] = padding["pad_token"]
    if kind.mask_strips and isinstance(mask := named["mask_token"], str):
        named["mask_token"] = AddedToken(mask, lstrip=True)
    return replace(tokens, named=named, extra=additional if tokens.extra is None else tokens.extra)


def _class_definition(
    name: str, tokens: SpecialTokens, options: Options, vocabulary: Vocabulary, stored: dict[str, Any]
) -> dict[str, Any]:
    """Build the parts of the class, without added tokens."""
    kind = CLASSES[name]
    if name == BACKEND and tokens.listed:
        vocabulary = _with_placeholders(vocabulary, tokens.listed)
    for role in kind.required:
        if (content := require_content(tokens.named[role], role)) not in vocabulary.tokens():
            raise ExportError(f"{vocabulary.file}: no token {content!r}, the {role}; name the right one in {_CONFIG}")
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": kind.normalizer(vocabulary, options),
        "pre_tokenizer": kind.pre_tokenizer(options),
        "post_processor": stored.get("post_processor"),
        "decoder": stored.get("decoder"),
        "model": kind.model(vocabulary, options, content_of(tokens.named.get("unk_token")) or ""),
    }


def _with_placeholders(vocabulary: Vocabulary, listed: Mapping[int, AddedToken]) -> Vocabulary:
    """Rename SentencePiece's placeholders as in `added_tokens_decoder`."""
    ids = dict(vocabulary.require_ids())
    pieces = {i: piece for piece, i in ids.items()}
    for i, token in listed.items():
        if pieces.get(i) and token.content not in ids:
            ids[token.content] = ids.pop(pieces[i])
    return replace(vocabulary, ids=ids)


def _added_tokens(
    kind: TokenizerClass, tokens: SpecialTokens, definition: dict[str, Any], file: str
) -> list[dict[str, Any]]:
    """Added tokens with their ids, in the order in which transformers adds them.

    One that transformers adds again with other properties is there twice: reading the definition then does the same.
    """
    entries = list(definition.get("added_tokens") or [])
    adding = tokens_to_add(tokens, [entry["content"] for entry in entries])
    if kind.adds_plain:
        adding += [AddedToken(content, special=True) for content in all_special(tokens)]
    latest = {entry["content"]: {key: entry[key] for key in entry if key != "id"} for entry in entries}
    for token in adding:
        if token.content and latest.get(token.content) != token.definition():
            latest[token.content] = token.definition()
            entries.append({"id": 0, **latest[token.content]})
    read = definition | {"added_tokens": entries, "post_processor": None, "padding": None}
    tokenizer = parse(dump(read).encode(), file)
    return [entry | {"id": tokenizer.token_to_id(entry["content"])} for entry in entries]


def _post_processor(
    kind: TokenizerClass,
    tokens: SpecialTokens,
    definition: Mapping[str, Any],
    ends: tuple[bool, bool] | None,
    *,
    pairs: bool,
) -> Any:
    """Post-processor: the class's own, that of `tokenizer.json`, or the config's special tokens around a text."""
    stored = definition["post_processor"]
    first: str | None
    last: str | None
    pair: Pair = "apart"
    if kind.frame is not None and not (kind.frame_is_default and (ends or stored)):
        (first, last), pair = kind.frame, kind.pair
    elif ends or stored is None:
        add_first, add_last = ends or (False, False)
        first = "bos_token" if add_first and tokens.named.get("bos_token") else None
        last = "eos_token" if add_last and tokens.named.get("eos_token") else None
    else:
        return stored
    around = [None if role is None else require_content(tokens.named.get(role), role) for role in (first, last)]
    ids = {entry["content"]: entry["id"] for entry in definition["added_tokens"]}
    if missing := [t for t in around if t is not None and t not in ids]:  # the library adds no empty token
        raise ExportError(f"{_CONFIG}: special token {missing[0]!r} has no id; correct it")
    single = _framed("A", 0, *around)
    return {
        "type": "TemplateProcessing",
        "single": single,
        # Models of single texts never use the form of pairs, but it is part of their fingerprint.
        "pair": [*single, *(_second(pair, *around) if pairs else [{"Sequence": {"id": "B", "type_id": 1}}])],
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in around if t is not None},
    }


def _framed(sequence: str, type_id: int, first: str | None, last: str | None) -> list[dict[str, Any]]:
    """Template of a text with special tokens around it."""
    before, after = ([] if t is None else [{"SpecialToken": {"id": t, "type_id": type_id}}] for t in (first, last))
    return [*before, {"Sequence": {"id": sequence, "type_id": type_id}}, *after]


def _second(pair: Pair, first: str | None, last: str | None) -> list[dict[str, Any]]:
    """Template of the second text of a pair, behind that of the first."""
    if pair == "doubled":
        return _framed("B", 0, last, last)
    if pair == "apart":
        return _framed("B", 1, first, last)
    return _framed("B", 1 if pair == "typed" else 0, None, last)


def dump(definition: dict[str, Any]) -> str:
    """Serialize a definition whose model is serialized already."""
    rest = _json({key: value for key, value in definition.items() if key != "model"})
    return f'{rest[:-1]},"model":{definition["model"]}}}'


def model_text(model: dict[str, Any]) -> str:
    """Serialize the model once, as a vocabulary of 250,000 tokens takes time."""
    if not isinstance(model.get("vocab"), list):
        return _json(model)
    entries = ",".join(f"[{encode_basestring(piece)},{score_text(score)}]" for piece, score in model["vocab"])
    rest = _json({key: value for key, value in model.items() if key != "vocab"})
    return f'{rest[:-1]},"vocab":[{entries}]}}'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse(definition: bytes, file: str) -> Any:
    """Parse a definition with the library; errors name it as `file`."""
    with library_errors(file):
        return tokenizers.Tokenizer.from_buffer(definition)


@contextmanager
def library_errors(file: str) -> Iterator[None]:
    """Turn exceptions of the library into an error that names the file."""
    try:
        yield
    except BaseException as error:
        # A panic in Rust arrives as a BaseException of its own, which `except Exception` does not catch.
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ExportError(f"{file}: tokenizers {tokenizers.__version__} cannot read it: {error}") from error

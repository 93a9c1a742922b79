"""Tokens that transformers adds to a vocabulary: named tokens, extra tokens and those listed in a repo's files."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from embedrt.errors import ExportError
from embedrt_export.source.configs import strict

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_STORED = "tokenizer.json: added_tokens"


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before normalization and splitting.

    Attributes:
        content: Its text.
        single_word: Only where no letter or digit is beside it.
        lstrip: With the white space before it.
        rstrip: With the white space after it.
        normalized: Matched in the normalized text; None is the opposite of `special`.
        special: Omitted by decoding.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def definition(self) -> dict[str, Any]:
        """As `tokenizer.json` has it, apart from the id."""
        return asdict(self) | {"normalized": not self.special if self.normalized is None else self.normalized}


NamedToken = str | AddedToken | None


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens of a repo's files, before the tokenizer's class adds its own.

    Attributes:
        named: By role, such as `cls_token`; None is a null in a file.
        others: Named tokens of other roles, such as `image_token`.
        extra: Tokens without a role, or None where no file lists any.
        additional: What a class takes in place of its own default list, or None.
        listed: `added_tokens_decoder`, by id, in the order of the file.
    """

    named: dict[str, NamedToken]
    others: dict[str, str | AddedToken]
    extra: list[str | AddedToken] | None
    additional: list[str | AddedToken] | None
    listed: dict[int, AddedToken]


def read_special_tokens(
    config: Mapping[str, Any], read: Callable[[str], dict[str, Any] | None], stored: list[Any] | None
) -> SpecialTokens:
    """Collect the tokens as transformers does.

    Args:
        config: `tokenizer_config.json`.
        read: Reads a JSON file of the folder, None where there is none.
        stored: `added_tokens` of `tokenizer.json`, or None where there is no such file.

    Raises:
        ExportError: A value is not a token.
    """
    settings = dict(config)
    if not settings.get("extra_special_tokens") and "additional_special_tokens" in settings:
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    custom = {
        key: settings.pop(key)
        for key in list(settings)
        if key.endswith("_token") and key not in NAMES and isinstance(settings[key], str)
    }
    if isinstance(settings.get("extra_special_tokens"), dict):
        custom |= settings.pop("extra_special_tokens")
    custom = custom or _object(settings.get("model_specific_special_tokens") or {}, "model_specific_special_tokens")
    listed: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in settings:
        where = f"{_CONFIG}: added_tokens_decoder"
        for key, value in _object(settings["added_tokens_decoder"], where).items():
            listed[_id(key, where)] = _added(value, where)
    else:
        _merge_map(settings, read(_MAP) or {})
        if isinstance(settings.get("extra_special_tokens"), dict):
            custom |= settings.pop("extra_special_tokens")
        special = {content_of(settings.get(name)) for name in NAMES}
        special |= {content_of(token) for token in _list(settings, "extra_special_tokens")}
        for content, index in (read(_ADDED) or {}).items():
            is_special = content in special
            listed[_id(index, _ADDED)] = AddedToken(content, normalized=not is_special, special=is_special)
        for entry in stored or []:
            fields = {key: value for key, value in entry.items() if key != "id"}
            listed[_id(entry.get("id"), _STORED)] = _added(fields, _STORED)
    by_content = {token.content: token for token in listed.values()}
    named: dict[str, NamedToken] = {}
    for name in NAMES:
        if name in settings:
            value = settings[name]
            own = None if value is None else _token(value, name)
            named[name] = by_content.get(content_of(own) or "", own)
    others = {
        key: _token(value, key)
        for key, value in settings.items()
        if key.endswith("_token") and key not in NAMES and (isinstance(value, str | AddedToken) or _is_typed(value))
    }
    return SpecialTokens(
        named=named,
        others=others | {key: _token(value, key) for key, value in custom.items()},
        extra=_tokens(settings, "extra_special_tokens"),
        additional=_tokens(settings, "additional_special_tokens") or None,
        listed=listed,
    )


def tokens_to_add(tokens: SpecialTokens, existing: list[str]) -> list[AddedToken]:
    """List the tokens that transformers adds to the vocabulary, in its order.

    Args:
        tokens: All tokens, those of the class included.
        existing: Contents of the tokens that were added before.
    """
    adding: list[str | AddedToken] = [token for _, token in sorted(tokens.listed.items())]
    known = {*existing, *(token.content for token in tokens.listed.values())}
    named = [token for token in roles(tokens).values() if token is not None]
    for token in (*named, *(tokens.extra or [])):
        if content_of(token) not in known and token not in adding:
            adding.append(token)
    special = {content_of(token) for token in named}
    return [
        AddedToken(token, special=True)
        if isinstance(token, str)
        else replace(token, special=token.special or token.content in special)
        for token in adding
    ]


def roles(tokens: SpecialTokens) -> dict[str, NamedToken]:
    """Every token that has a role, in the order of transformers."""
    return {name: tokens.named.get(name) for name in NAMES} | tokens.others


def all_special(tokens: SpecialTokens) -> list[str]:
    """Contents of named and extra tokens, each once."""
    return list(dict.fromkeys(content_of(t) or "" for t in (*roles(tokens).values(), *(tokens.extra or [])) if t))


def content_of(token: Any) -> str | None:
    """Text of a token, or None if the value is not a token."""
    return token.content if isinstance(token, AddedToken) else token if isinstance(token, str) else None


def require_content(token: NamedToken, role: str) -> str:
    """Text of a token that a class requires.

    Raises:
        ExportError: The repo has no such token.
    """
    if (content := content_of(token)) is None:
        raise ExportError(f"{_CONFIG}: {role} is null, but this tokenizer's class needs it; name one")
    return content


def _merge_map(settings: dict[str, Any], content: dict[str, Any]) -> None:
    """`special_tokens_map.json` over the config, as it was before the config listed added tokens."""
    for key, value in content.items():
        if isinstance(value, dict) and key != "extra_special_tokens":
            settings[key] = replace(_added(value, f"{_MAP}: {key}"), special=True)
        elif isinstance(value, list) and key == "extra_special_tokens":
            merged = _list(settings, key)
            for item in value:
                if isinstance(item, dict) and "special" in item:
                    raise ExportError(f"{_MAP}: {key}: special is implied here; remove it from {str(item)[:60]!r}")
                token = replace(_added(item, f"{_MAP}: {key}"), special=True) if isinstance(item, dict) else item
                merged += [] if token in merged else [token]
            settings[key] = merged
        else:
            settings[key] = value


def _tokens(settings: dict[str, Any], key: str) -> list[str | AddedToken] | None:
    return [_token(token, key) for token in _list(settings, key)] if key in settings else None


def _list(settings: dict[str, Any], key: str) -> list[Any]:
    value = settings.get(key) or []
    if not isinstance(value, list):
        raise ExportError(f"{_CONFIG}: {key}: expected a list, got {type(value).__name__}; correct or remove it")
    return list(value)


def _token(value: Any, where: str) -> str | AddedToken:
    if isinstance(value, str | AddedToken):
        return value
    if not _is_typed(value):
        raise ExportError(
            f"{_CONFIG}: {where}: expected a string or an object with __type AddedToken, got {str(value)[:60]!r}; "
            "correct or remove it"
        )
    return _added(value, f"{_CONFIG}: {where}")


def _is_typed(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type") == "AddedToken"


def _added(value: Any, where: str) -> AddedToken:
    fields = {key: item for key, item in _object(value, where).items() if key != "__type"}
    return strict(AddedToken, fields, where)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ExportError(f"{where}: expected an object, got {type(value).__name__}; correct or remove it")
    return value


def _id(value: Any, where: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit():
        raise ExportError(f"{where}: {text[:60]!r} is not a token id; correct or remove it")
    return int(text)

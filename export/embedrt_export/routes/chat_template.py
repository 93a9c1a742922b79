"""Chat templates: rendered at export for probes, so that the runtime needs no Jinja, and runs nothing of a repo.

A template that only joins fixed texts and those of a pair becomes a list of pieces. Any other is not supported.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from embedrt.bundle.manifest import Piece, Template
from embedrt.bundle.strict_json import RecordError, read_json
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.inputs.templates import render

FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_LARGEST = 1 << 20
_MOST_CHARACTERS = 1 << 16
_LARGEST_FACTOR, _LARGEST_EXPONENT = 1 << 16, 16
_FAILURES = (TypeError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError)
_PADDING = {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"}
MessageFormat = Literal["flat", "structured"]
# Architectures for which sentence-transformers knows the form of messages, and signs in a template that content is a
# list of parts.
_FLAT = {"apertus", "deepseek_v3", "gpt_oss", "seed_oss"}
_STRUCTURED_SIGNS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
# Texts of probes: each is the only place where its letters stand, and white space around it shows if it is removed.
_MARKS = {"query": "\u2402query\u2403", "document": "\u2402document\u2403", "prompt": "\u2402prompt\u2403"}
_SPACE = " \n"
# Texts that a template has to treat like any other.
_TEXTS = ("a", "", "  b\n", "{{ c }} {% d %}", "yes\n\n<|im_end|>", "\u00e9 \"q\" 't' & <b>", "1" * 300)


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer.

    Attributes:
        text: The template.
        variables: Special tokens by role, and other variables that the repo sets.
        form: The form of messages.
    """

    text: str
    variables: Mapping[str, Any]
    form: MessageFormat


def read_chat_template(folder: Path) -> str | None:
    """Read the chat template of a tokenizer's folder, as transformers does; None if there is none.

    Raises:
        ExportError: A file is damaged.
    """
    path = folder / FILE
    if path.is_file():
        if path.stat().st_size > _LARGEST:
            raise ExportError(f"{FILE}: expected at most {_LARGEST} bytes, got {path.stat().st_size}")
        try:
            return path.read_text(encoding="utf-8")
        except ValueError as error:
            raise ExportError(f"{FILE}: not UTF-8: {error}") from error
    try:
        content = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    except RecordError as error:
        raise ExportError(str(error)) from error
    stored = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(stored, list):
        named = {entry.get("name"): entry.get("template") for entry in stored if isinstance(entry, dict)}
        stored = named.get("default")
        if stored is None:
            raise UnsupportedModelError(f"{_CONFIG}: chat_template: several templates, and none is named 'default'")
    if not isinstance(stored, str | None):
        raise ExportError(f"{_CONFIG}: chat_template: expected a string, got {type(stored).__name__}")
    return stored


def form_of(text: str, architecture: str) -> MessageFormat:
    """The form of messages that a template expects, as sentence-transformers guesses it."""
    if architecture in _FLAT:
        return "flat"
    return "structured" if any(sign in text for sign in _STRUCTURED_SIGNS) else "flat"


def resolve(template: ChatTemplate) -> Template:
    """Resolve a chat template into pieces.

    Raises:
        UnsupportedModelError: The template does not have a place for both texts of a pair, or changes them.
        ExportError: The template is damaged.
    """
    rendered = _renderer(template)
    plain = _pieces(rendered, with_prompt=False)
    for role in ("query", "document"):
        if role not in {piece.place for piece in plain}:
            raise UnsupportedModelError(
                f"chat template: the text of the role {role!r} does not reach the rendered text; a model that scores "
                "pairs needs a template with the roles 'query' and 'document'"
            )
    try:
        prompted = _pieces(rendered, with_prompt=True)
    except UnsupportedModelError:  # many templates fail for a system message
        return Template(plain, None)
    return Template(plain, prompted)


def _renderer(template: ChatTemplate) -> Callable[[str, str, str | None], str]:
    """A function that renders query, document and prompt, as transformers does."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(ImmutableSandboxedEnvironment):
        """The sandbox of Jinja, which bounds no memory, without short ways to huge texts and numbers."""

        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Multiply small numbers only."""
            if any(not isinstance(value, int | float) or abs(value) > _LARGEST_FACTOR for value in (left, right)):
                raise jinja2.exceptions.SecurityError(f"{operator}: expected numbers up to {_LARGEST_FACTOR}")
            if operator == "**" and abs(right) > _LARGEST_EXPONENT:
                raise jinja2.exceptions.SecurityError(f"**: expected an exponent up to {_LARGEST_EXPONENT}")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            """Leave out the methods that pad a text."""
            return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    for name in _PADDING & set(environment.filters):
        del environment.filters[name]
    environment.globals["raise_exception"] = fail
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    try:
        compiled = environment.from_string(template.text)
    except jinja2.TemplateError as error:
        raise ExportError(f"chat template: {error}") from error

    def rendered(query: str, document: str, prompt: str | None) -> str:
        texts = {} if prompt is None else {"system": prompt}
        messages = [
            {"role": role, "content": text if template.form == "flat" else [{"type": "text", "text": text}]}
            for role, text in {**texts, "query": query, "document": document}.items()
        ]
        variables = {"add_generation_prompt": False, **template.variables}
        try:
            text: str = compiled.render(messages=messages, tools=None, documents=None, **variables)
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            RecursionError,
            MemoryError,
        ) as error:
            failure = f"{type(error).__name__}: {error}"
            raise UnsupportedModelError(f"chat template: it fails for a pair: {failure}") from error
        if len(text) > _MOST_CHARACTERS:
            raise UnsupportedModelError(
                f"chat template: expected at most {_MOST_CHARACTERS} characters, got {len(text)}"
            )
        return text

    return rendered


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _pieces(rendered: Callable[[str, str, str | None], str], *, with_prompt: bool) -> tuple[Piece, ...]:
    """The pieces of a template with or without a prompt.

    Raises:
        UnsupportedModelError: The template changes the texts, or chooses by them.
    """
    spaced = {place: f"{_SPACE}{mark}{_SPACE}" for place, mark in _MARKS.items()}
    text = rendered(spaced["query"], spaced["document"], spaced["prompt"] if with_prompt else None)
    pieces: list[Piece] = []
    start = 0
    for found in re.finditer("\u2402(query|document|prompt)\u2403", text):
        before, after = text[start : found.start()].endswith(_SPACE), text.startswith(_SPACE, found.end())
        whole = before and after
        first = found.start() - len(_SPACE) * whole
        pieces += [Piece(text[start:first])] if first > start else []
        pieces.append(Piece(place=found[1], strip=not whole))  # type: ignore[arg-type]
        start = found.end() + len(_SPACE) * whole
    pieces += [Piece(text[start:])] if start < len(text) else []
    for i, query in enumerate(_TEXTS):
        document, prompt = _TEXTS[(i + 1) % len(_TEXTS)], _TEXTS[(i + 2) % len(_TEXTS)] or "p"
        if rendered(query, document, prompt if with_prompt else None) != render(pieces, query, document, prompt):
            raise UnsupportedModelError(
                "chat template: it does more than join fixed texts and those of the pair, which is not supported"
            )
    return tuple(pieces)

"""Pairs of texts rendered by a template into one text each, as language models read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle.manifest import Piece, Route, Template
from embedrt.inputs.pairs import PairReading
from embedrt.inputs.text import Encoded, Portion, TextTokenizer, Tokens

# Texts that stand for those of a pair: no token at the end of both is of the texts.
_FILLERS = ("0", "1 2 3 4")


@dataclass(frozen=True)
class TemplateReading:
    """Reading of pairs of texts that a template renders into one text.

    Attributes:
        template: The template.
    """

    template: Template

    def of(self, tokenizer: TextTokenizer) -> "TemplateTokenizer":
        """The tokenizer of pairs; it is made once for each tokenizer of texts."""
        if (found := tokenizer.readings.get(self)) is None:
            found = tokenizer.readings[self] = TemplateTokenizer(tokenizer, self.template)
        return found


def reading_of(route: Route) -> PairReading | TemplateReading:
    """The way to tokenize the pairs of a route."""
    template = route.tokenization.template
    return PairReading() if template is None else TemplateReading(template)


def render(pieces: Sequence[Piece], query: str, document: str, prompt: str) -> str:
    """Render a pair."""
    texts = {"query": query, "document": document, "prompt": prompt}
    return "".join(
        piece.text if piece.place is None else texts[piece.place].strip() if piece.strip else texts[piece.place]
        for piece in pieces
    )


@dataclass(frozen=True, eq=False)
class RenderedPortion:
    """Rendered pairs to tokenize together.

    Attributes:
        texts: The rendered pairs.
        prompt: The prompt in them.
    """

    texts: Portion
    prompt: str


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """The encodings of a portion; the attributes are as of `RenderedPortion`."""

    texts: Encoded
    prompt: str


class TemplateTokenizer:
    """The tokenizer of rendered pairs. Safe to use from many threads at once.

    A pair that is too long is truncated at its end, and the last tokens are replaced by those of the template's end:
    the model reads its answer off them.

    Args:
        tokenizer: The tokenizer of texts.
        template: The template.
    """

    def __init__(self, tokenizer: TextTokenizer, template: Template) -> None:
        self._texts = tokenizer.without_special_tokens()
        self._with_type_ids = tokenizer.with_type_ids
        self._template = template
        self._end = lru_cache(64)(self._find_end)

    @property
    def special_tokens(self) -> int:
        """The number of special tokens that are added to a rendered pair."""
        return 0

    def portions(
        self, pairs: Sequence[tuple[str, str]], prompt: str = "", *, size: int | None = None, most: int | None = None
    ) -> Iterator[RenderedPortion]:
        """Split pairs into portions, each for one call of `encode`; see `TextTokenizer.portions`."""
        pieces = self._pieces(prompt)
        texts = [render(pieces, query, document, prompt) for query, document in pairs]
        for portion in self._texts.portions(texts, size=size, most=most):
            yield RenderedPortion(portion, prompt)

    def _pieces(self, prompt: str) -> tuple[Piece, ...]:
        """The parts of the template for calls with or without a prompt.

        Raises:
            ValueError: The template fails for prompts.
        """
        if not prompt:
            return self._template.plain
        if self._template.prompted is None:
            raise ValueError("prompt: the model's chat template takes no prompt; leave it out")
        return self._template.prompted

    def encode(self, portion: RenderedPortion) -> EncodedTexts:
        """Tokenize a portion on all cores, for `tokens`."""
        return EncodedTexts(self._texts.encode(portion.texts), portion.prompt)

    def tokens(self, encoded: EncodedTexts) -> Tokens:
        """The token ids of encodings, which are taken out of their list."""
        tokens = self._texts.tokens(encoded.texts)
        limit = self._texts.max_seq_length
        full = [] if limit is None else np.flatnonzero(tokens.lengths >= limit).tolist()
        ids = tokens.ids.copy() if full else tokens.ids
        for row in full:
            end = self._end(encoded.prompt)[-int(tokens.lengths[row]) :]
            stop = int(tokens.offsets[row + 1])
            ids[stop - len(end) : stop] = end
        types = np.zeros(len(ids), np.int32) if self._with_type_ids else None
        return Tokens(ids, tokens.offsets, types, tokens.truncated)

    def _find_end(self, prompt: str) -> NDArray[np.int32]:
        """The tokens of the template's end: those at the end of any two pairs, as sentence-transformers finds them."""
        first, second = (self._whole(render(self._pieces(prompt), text, text, prompt)) for text in _FILLERS)
        shorter = min(len(first), len(second))
        same = first[len(first) - shorter :] == second[len(second) - shorter :]
        count = shorter if same.all() else int(np.argmin(same[::-1]))
        kept = count if 0 < count < shorter else 0
        return first[len(first) - kept :]

    def _whole(self, text: str) -> NDArray[np.int32]:
        """All tokens of a text, without truncation."""
        return np.array(self._texts.whole(text), np.int32)

"""Query expansion of late interaction: short queries get mask tokens up to a length, each with a vector of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embedrt.bundle.manifest import Expansion
from embedrt.inputs.text import Encoded, Portion, TextTokenizer, Tokens, offsets_of


@dataclass(frozen=True)
class ExpandedQueries:
    """The reading of queries with expansion. See `Reading`.

    Attributes:
        expansion: The settings.
    """

    expansion: Expansion

    def of(self, tokenizer: TextTokenizer) -> "ExpandingTokenizer":
        """A tokenizer of expanded queries. See `Reading`."""
        return ExpandingTokenizer(tokenizer, self.expansion)


@dataclass(frozen=True, eq=False)
class ExpandingTokenizer:
    """A tokenizer of expanded queries, with the methods of `TextTokenizer` that a runner calls.

    Attributes:
        tokenizer: The tokenizer of the queries.
        expansion: The settings.
    """

    tokenizer: TextTokenizer
    expansion: Expansion

    def portions(
        self, items: Sequence[str], prompt: str = "", *, size: int | None = None, most: int | None = None
    ) -> Iterator[Portion]:
        """See `TextTokenizer`."""
        return self.tokenizer.portions(items, prompt, size=size, most=most)

    def encode(self, portion: Portion) -> Encoded:
        """See `TextTokenizer`."""
        return self.tokenizer.encode(portion)

    def tokens(self, encoded: Encoded) -> Tokens:
        """See `TextTokenizer`."""
        return expand(self.tokenizer.tokens(encoded), self.expansion)


def expand(tokens: Tokens, expansion: Expansion) -> Tokens:
    """Add expansion tokens, of type 0, to the end of every text that is shorter than the length of the expansion."""
    before = tokens.lengths
    lengths = np.maximum(before, expansion.length)
    offsets = offsets_of(lengths)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    real = places < np.repeat(before, lengths)
    ids = np.full(offsets[-1], expansion.token_id, np.int32)
    ids[real] = tokens.ids
    types = None
    if tokens.type_ids is not None:
        types = np.zeros(offsets[-1], np.int32)
        types[real] = tokens.type_ids
    return Tokens(ids, offsets, types, tokens.truncated, None if expansion.attend else before)

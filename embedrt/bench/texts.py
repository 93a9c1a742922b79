"""Texts to encode: the user's, or passages of Python's own documentation."""

import itertools
import random
from collections.abc import Callable

CountTokens = Callable[[str], int]

PYTHON_TOPICS = "passages of Python's help topics (pydoc_data)"
_LONG = 256  # tokens
_SEED = 0


def python_passages() -> list[str]:
    """One to eight paragraphs each, in an order that depends on nothing but the release of Python."""
    from pydoc_data.topics import topics

    draw = random.Random(_SEED)  # noqa: S311 - not for secrets
    passages = []
    for _, topic in sorted(topics.items()):
        paragraphs = iter([" ".join(part.split()) for part in topic.split("\n\n") if part.strip()])
        while some := list(itertools.islice(paragraphs, draw.choice((1, 2, 3, 4, 8)))):
            passages.append("\n\n".join(some))
    return list(dict.fromkeys(passages))


def workloads(texts: list[str], count_tokens: CountTokens, *, mixed: int, seed: int = _SEED) -> dict[str, list[str]]:
    """Draw the texts of three workloads; the same ones for the same arguments.

    Args:
        texts: The texts to draw from.
        count_tokens: Tokens of a text without truncation, special tokens included.
        mixed: How many texts the workloads "short" and "mixed" have; "long" has a quarter.
        seed: Of the random choice.

    Returns:
        short: The first words of a text, 8 to 16 tokens.
        mixed: Texts as they are.
        long: Texts of 256 tokens or more.
    """
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    drawn = chance.sample(texts, len(texts))
    heads = (" ".join(text.split()[: chance.randint(5, 11)]) for text in drawn)
    found = {
        "short": list(itertools.islice((head for head in heads if 8 <= count_tokens(head) <= 16), mixed)),
        "mixed": drawn[:mixed],
        "long": list(itertools.islice((text for text in drawn if count_tokens(text) >= _LONG), max(1, mixed // 4))),
    }
    return {name: some for name, some in found.items() if some}


def sample(texts: list[str], count: int) -> dict[str, list[str]]:
    """Draw texts of the user's as the only workload, "texts"."""
    draw = random.Random(_SEED)  # noqa: S311 - not for secrets
    return {"texts": texts if len(texts) <= count else draw.sample(texts, count)}

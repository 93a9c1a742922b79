"""The texts: dictionary entries about computing, or docstrings where the dictionary is not installed."""

import ast
import gzip
import itertools
import random
import string
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Debian's package dict-foldoc: the Free On-line Dictionary of Computing.
FOLDOC = Path("/usr/share/dictd/foldoc.dict.dz")
_DIGITS = {digit: value for value, digit in enumerate(string.ascii_uppercase + string.ascii_lowercase + "0123456789+/")}

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Corpus:
    """Texts to choose from.

    Attributes:
        origin: Where they are from.
        texts: Each once, in an order that does not depend on the machine.
    """

    origin: str
    texts: list[str]


def load_corpus(foldoc: Path = FOLDOC) -> Corpus:
    """The dictionary, else the docstrings of Python's own library."""
    if foldoc.is_file():
        entries = _unique(entry for _, entry in dictionary(foldoc))
        return Corpus(f"entries of {foldoc.name} (Debian package dict-foldoc)", entries)
    return Corpus(
        f"docstrings of Python's standard library, because {foldoc} is missing (Debian package dict-foldoc)",
        _unique(_docstrings(Path(sysconfig.get_path("stdlib")))),
    )


def workloads(texts: list[str], count_tokens: CountTokens, *, mixed: int, seed: int) -> dict[str, list[str]]:
    """Draws the texts of the three workloads; the same ones for the same arguments.

    Args:
        texts: What to draw from.
        count_tokens: Tokens of a text without truncation, special tokens included.
        mixed: How many texts the workloads "short" and "mixed" have; "long" has a quarter.
        seed: Of the random choice.

    Returns:
        short: The first words of an entry, 8 to 16 tokens.
        mixed: Entries as they are.
        long: Entries of 256 tokens or more, so that every engine reads as much as it ever does of a text, or nearly.
    """
    chance = random.Random(seed)
    drawn = chance.sample(texts, len(texts))
    heads = (" ".join(text.split()[: chance.randint(5, 11)]) for text in drawn)
    return {
        "short": list(itertools.islice((head for head in heads if 8 <= count_tokens(head) <= 16), mixed)),
        "mixed": drawn[:mixed],
        "long": list(itertools.islice((text for text in drawn if count_tokens(text) >= 256), max(1, mixed // 4))),
    }


def _unique(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(text for text in (text.strip() for text in texts) if text))


def dictionary(path: Path) -> Iterator[tuple[str, str]]:
    """Headword and entry, for every line of the index of a dictionary in the format of dictd.

    That is one gzip file, and an index of `headword, offset, length` lines. An entry with several headwords comes once
    for each.
    """
    content = gzip.decompress(path.read_bytes())
    index = path.with_name(path.name.removesuffix(".dict.dz") + ".index")
    for line in index.read_text(encoding="utf-8").splitlines():
        word, offset, length = line.split("\t")[:3]
        if not word.startswith("00-database"):  # a description of the dictionary itself
            start = _number(offset)
            yield word, content[start : start + _number(length)].decode("utf-8", "replace")


def _number(digits: str) -> int:
    """A number in base 64, most significant digit first."""
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _docstrings(library: Path) -> Iterator[str]:
    """From the source, because importing every module of the library has side effects."""
    for path in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(path.relative_to(library).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ast.get_docstring(node) or ""

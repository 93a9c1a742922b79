"""The texts: dictionary entries about computing, or Python's help topics where the dictionary is not installed."""

import gzip
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedrt.bench.texts import PYTHON_TOPICS, python_passages

# Debian's package dict-foldoc: the Free On-line Dictionary of Computing.
FOLDOC = Path("/usr/share/dictd/foldoc.dict.dz")
_DIGITS = {digit: value for value, digit in enumerate(string.ascii_uppercase + string.ascii_lowercase + "0123456789+/")}


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
    """The dictionary, else the texts of `embedrt bench`."""
    if foldoc.is_file():
        entries = _unique(entry for _, entry in dictionary(foldoc))
        return Corpus(f"entries of {foldoc.name} (Debian package dict-foldoc)", entries)
    missing = f"because {foldoc} is missing (Debian package dict-foldoc)"
    return Corpus(f"{PYTHON_TOPICS}, {missing}", python_passages())


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

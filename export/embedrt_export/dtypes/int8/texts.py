"""Calibration texts, and held-back texts to evaluate the int8 vectors on; pairs of them for models that score pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import gcd
from pathlib import Path

from embedrt.errors import ExportError
from embedrt.inputs.lines import read_lines
from embedrt.types import Task
from embedrt.verify.parity import Item

OWN = Path(__file__).with_name("calibration.txt")
FEWEST = 50
"""Minimum number of lines of a file: fewer do not represent other texts."""

_MOST = 4000
# One line of every four is held back for the evaluation.
_HELD_BACK = 4
# Numbers of lines that are joined into one longer text, in turn.
_JOINED = (2, 3, 5, 8, 13)
# Number of longer texts that each line is part of.
_MIXTURES = 3


# Documents of a query in the evaluation, and the most queries.
_DOCUMENTS, _QUERIES = 10, 100
_LONGEST_QUERY = 60


@dataclass(frozen=True)
class Texts:
    """Texts for quantization.

    Attributes:
        origin: Their source, for the report.
        calibration: Texts to calibrate on.
        held_back: Texts to evaluate the vectors on; they share no line with the others.
    """

    origin: str
    calibration: list[str]
    held_back: list[str]


@dataclass(frozen=True)
class Items:
    """The same as the items of a task: texts, or pairs of a query and a document.

    Attributes:
        origin: See `Texts`.
        calibration: Items to calibrate on.
        held_back: Items to evaluate on.
    """

    origin: str
    calibration: Sequence[Item]
    held_back: Sequence[Item]


def read_texts(file: Path | None) -> Texts:
    """Read a file with one text per line; None is embedrt's own file, in many languages.

    Each line is a text of its own, and part of longer texts, in a fixed order.

    Raises:
        ExportError: The file is not UTF-8, or has fewer than `FEWEST` different lines.
    """
    path = OWN if file is None else file
    try:
        lines = [line.strip() for line in read_lines(path)]
    except ValueError as error:
        raise ExportError(str(error)) from error
    lines = [line for line in dict.fromkeys(lines) if line]
    if len(lines) < FEWEST:
        raise ExportError(
            f"{path}: expected {FEWEST} or more different lines for calibration, found {len(lines)}; add texts"
        )
    lines = lines[:: -(-len(lines) // _MOST)]
    held_back = lines[::_HELD_BACK]
    others = [line for i, line in enumerate(lines) if i % _HELD_BACK]
    origin = "embedrt's own texts" if file is None else file.name
    return Texts(f"{len(lines)} lines of {origin}", [*others, *_joined(others)], [*held_back, *_joined(held_back)])


def items_of(texts: Texts, task: Task) -> Items:
    """The texts as the items of a task: pairs of a query and a document for a model that scores pairs.

    A query is the start of a text. Its documents are that text, and others that have nothing to do with it.
    """
    if task != "score":
        return Items(texts.origin, texts.calibration, texts.held_back)
    known, unknown = texts.calibration, texts.held_back
    calibration = [(_query(known[i - i % 2]), text) for i, text in enumerate(known)]
    step = -(-len(unknown) // _QUERIES)
    held_back = [
        (_query(text), unknown[(i * step + j * j) % len(unknown)])
        for i, text in enumerate(unknown[::step])
        for j in range(_DOCUMENTS)
    ]
    return Items(texts.origin, calibration, list(dict.fromkeys(held_back)))


def _query(text: str) -> str:
    """The first part of a text, up to the end of a word where it has such."""
    start = text[: max(1, min(len(text) // 2, _LONGEST_QUERY))]
    return start.rpartition(" ")[0] or start


def _joined(lines: Sequence[str]) -> list[str]:
    """Join lines into longer texts, each line a few times and with different neighbors."""
    steps = (step for step in range(len(lines) // 3 + 1, 2 * len(lines)) if gcd(step, len(lines)) == 1)
    joined: list[str] = []
    for step in islice(steps, _MIXTURES):
        mixed, start = [lines[i * step % len(lines)] for i in range(len(lines))], 0
        while start < len(mixed):
            count = _JOINED[len(joined) % len(_JOINED)]
            joined.append(" ".join(mixed[start : start + count]))
            start += count
    return joined

"""Texts to measure activations on, and others to judge the result by."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from math import gcd
from pathlib import Path

from embedrt.errors import ExportError
from embedrt.inputs.lines import read_lines

OWN = Path(__file__).with_name("calibration.txt")
FEWEST = 50
"""Lines that a file must have: fewer say too little about texts that are still to come."""

_MOST = 4000
# Every so many lines, one is held back to judge by.
_HELD_BACK = 4
# Lines that are joined to longer texts, in turn.
_JOINED = (2, 3, 5, 8, 13)
# How often every line is part of a longer text.
_MIXTURES = 3


@dataclass(frozen=True)
class Texts:
    """What quantization needs of texts.

    Attributes:
        origin: Where they are from.
        calibration: Those to measure activations on.
        held_back: Those to judge the vectors by; none of their lines is among the others.
    """

    origin: str
    calibration: list[str]
    held_back: list[str]


def read_texts(file: Path | None) -> Texts:
    """Reads a file of one text per line; None is embedrt's own, in many languages.

    Lines come alone and, in an order that is always the same, joined to longer texts.

    Raises:
        ExportError: The file is not UTF-8, or has fewer than `FEWEST` lines that differ.
    """
    path = OWN if file is None else file
    try:
        lines = [line.strip() for line in read_lines(path)]
    except ValueError as error:
        raise ExportError(str(error)) from error
    lines = [line for line in dict.fromkeys(lines) if line]
    if len(lines) < FEWEST:
        raise ExportError(f"{path}: {len(lines)} different lines; to calibrate takes {FEWEST} or more")
    lines = lines[:: -(-len(lines) // _MOST)]
    held_back = lines[::_HELD_BACK]
    others = [line for i, line in enumerate(lines) if i % _HELD_BACK]
    origin = "embedrt's own texts" if file is None else file.name
    return Texts(f"{len(lines)} lines of {origin}", [*others, *_joined(others)], [*held_back, *_joined(held_back)])


def _joined(lines: Sequence[str]) -> list[str]:
    """Every line a few times more, as part of longer texts, each time with other neighbours."""
    steps = (step for step in range(len(lines) // 3 + 1, 2 * len(lines)) if gcd(step, len(lines)) == 1)
    joined: list[str] = []
    for step in islice(steps, _MIXTURES):
        mixed, start = [lines[i * step % len(lines)] for i in range(len(lines))], 0
        while start < len(mixed):
            count = _JOINED[len(joined) % len(_JOINED)]
            joined.append(" ".join(mixed[start : start + count]))
            start += count
    return joined

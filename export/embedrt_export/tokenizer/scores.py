"""Scores of a Unigram vocabulary as JSON that the library reads to the last bit.

The library's JSON parser takes all digits of a number as one integer of 64 bits, rounds it to a float and divides
that by a power of ten, so it may miss the float that was meant by one unit in the last place. Where two ways to split
a word have the same score that decides between them, and transformers passes floats, not text. So a number is written
as an integer that is a float and a power of ten, whose quotient is the score; about one in a thousand has no such
pair.
"""

import math

_MAX_PLACES = 22  # powers of ten beyond are no floats


class WrittenScore(float):
    """A number with its digits in the file."""

    text: str

    def __new__(cls, text: str) -> "WrittenScore":
        """Parse the text."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def score_text(score: float) -> str:
    """Write a number as JSON that the library reads as this float, or with the digits of the file."""
    if isinstance(score, WrittenScore):
        return score.text
    plain = repr(score)
    whole, _, decimals = plain.lstrip("-").partition(".")
    if not (whole + decimals).isdigit() or _read(int(whole + decimals), len(decimals)) == abs(score):
        return plain
    for decimal_places in range(_MAX_PLACES, 0, -1):
        near = abs(score) * 10.0**decimal_places
        for digits in (near, math.nextafter(near, 0), math.nextafter(near, math.inf)):
            if digits < 2**64 and digits.is_integer() and _read(int(digits), decimal_places) == abs(score):
                return f"{'-' if score < 0 else ''}{int(digits)}e-{decimal_places}"
    return plain


def _read(digits: int, decimal_places: int) -> float:
    """Result of the library's parser."""
    return float(digits) / 10.0**decimal_places

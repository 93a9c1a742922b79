"""Damage to files, as hypothesis draws it."""

from collections.abc import Callable

from hypothesis import strategies as st

PIECES = [b"0", b"9", b"-", b'"', b"\0", b"e", b".", b"null", b"[", b"{}", b"\xff", b"99999999", b"\x1b[2J"]


@st.composite
def mutations(draw: st.DrawFn, size: int, head: int) -> Callable[[bytes], bytes]:
    """One change to a file: a bit flipped, bytes cut out, put in or repeated, or the rest cut off."""
    at = draw(st.one_of(st.integers(0, head - 1), st.integers(0, size - 1)))
    kind = draw(st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]))
    if kind == "flip":
        mask = 1 << draw(st.integers(0, 7))
        return lambda raw: raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]
    if kind == "cut":
        return lambda raw: raw[:at]
    length = draw(st.integers(1, 12))
    if kind == "drop":
        return lambda raw: raw[:at] + raw[at + length :]
    if kind == "repeat":
        return lambda raw: raw[: at + length] + raw[at:]
    piece = draw(st.sampled_from(PIECES))
    return lambda raw: raw[:at] + piece + raw[at:]

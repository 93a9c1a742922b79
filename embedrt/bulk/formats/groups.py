"""Files whose rows are in groups: pieces have whole groups, or a part of one."""

from collections.abc import Iterable, Iterator
from itertools import pairwise


def pieces_of(groups: Iterable[int], rows: int) -> Iterator[tuple[int, int]]:
    """The pieces of a file, as `Format.pieces`.

    Args:
        groups: The rows of each group.
        rows: Rows of a piece, at most.
    """
    gathered = 0
    for count in groups:
        if gathered and gathered + count > rows:
            yield gathered, 0
            gathered = 0
        if count > rows:  # in equal parts
            parts = -(-count // rows)
            bounds = [part * count // parts for part in range(parts + 1)]
            yield from ((stop - start, 0) for start, stop in pairwise(bounds))
        else:
            gathered += count
    if gathered:
        yield gathered, 0

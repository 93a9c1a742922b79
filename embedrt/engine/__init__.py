"""Execution providers: from a batch to arrays, one file each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded rows that go through the graph together.

    Attributes:
        feeds: The graph's inputs by name, int64 `[rows, length]`.
        alone: Whether it is the only batch, which may take all threads.
    """

    feeds: dict[str, NDArray[np.int64]]
    alone: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and tokens of each row with its padding."""
        rows, length = self.feeds["input_ids"].shape
        return rows, length

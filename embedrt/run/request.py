"""The interface of everything that computes: `run(items, request)` gives a `Result`, in whichever place.

A `Runner` computes in this process and a `ProcessPool` in others; both take the same request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch


class Gather(Protocol):
    """Collects the arrays of many batches into one result. Plain data, which also goes to other processes."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs of the graph to compute."""

    def start(self, count: int) -> Any:
        """A result for so many items, still empty: an array or a list, with one entry for each item."""

    def keep(
        self, values: Any, rows: NDArray[np.int64], batch: Batch, results: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Writes the arrays of one batch into the result. Several threads do so at once, each for its own rows.

        Args:
            values: The result that `start` gave.
            rows: The items of the batch, as indexes into the result.
            batch: The batch.
            results: Its outputs by name, with a row for each item.
        """


@dataclass(frozen=True)
class Request:
    """Options of one run. Plain data, which also goes to other processes.

    Attributes:
        gather: The outputs to compute, and how they are collected.
        max_seq_length: Texts are truncated to so many tokens; None truncates nothing.
        prompt: Goes before every text.
        batch_size: Upper bound of texts in a batch.
        refuse_truncation: Raise before the model runs on a truncated text.
    """

    gather: Gather
    max_seq_length: int | None
    prompt: str = ""
    batch_size: int = 32
    refuse_truncation: bool = False


@dataclass(frozen=True)
class Result:
    """Collected arrays of one run.

    Attributes:
        values: The result of the request's `gather`.
        truncated: Indexes of the truncated texts.
    """

    values: Any
    truncated: list[int]


Run = Callable[[list[str], Request], Result]
"""A place that computes. The texts come without the prompt."""

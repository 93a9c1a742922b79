"""The interface of `Runner` and `ProcessPool`: `run(items, request)` returns a `Result`.

A `Runner` computes in this process, a `ProcessPool` in worker processes; both take the same request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt.engine import Batch
from embedrt.inputs.text import ItemTokenizer, Side, TextTokenizer


class Reading(Protocol):
    """The way to tokenize items that are not plain texts, such as pairs. Picklable, for worker processes."""

    def of(self, tokenizer: TextTokenizer) -> ItemTokenizer:
        """The tokenizer of the items.

        Args:
            tokenizer: The route's tokenizer with the request's maximum of tokens.
        """


class Gather(Protocol):
    """Collector of the arrays of many batches into one result. Picklable, for worker processes."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph outputs to compute."""

    def start(self, count: int) -> Any:
        """Make an empty result for `count` items: an array or a list with one entry per item."""

    def keep(
        self, values: Any, rows: NDArray[np.int64], batch: Batch, results: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Write the arrays of one batch into the result; threads call it concurrently for different rows.

        Args:
            values: The result, from `start`.
            rows: Indexes of the batch's items in the result.
            batch: The batch.
            results: The outputs by name, with a row per item.
        """


@dataclass(frozen=True)
class Request:
    """Options of one run. Picklable, for worker processes.

    Attributes:
        gather: The outputs to compute, and their collector.
        max_seq_length: Maximum tokens of a text, which is truncated to them; None truncates nothing.
        prompt: Prompt before every text.
        batch_size: Maximum number of texts in a batch; None leaves it to the token budget.
        forbid_truncation: Raise before the model runs on a truncated text.
        reading: The way to tokenize the items; None for plain texts.
        truncation_side: The side of a text that truncation removes; None takes the tokenizer's.
    """

    gather: Gather
    max_seq_length: int | None
    prompt: str = ""
    batch_size: int | None = None
    forbid_truncation: bool = False
    reading: Reading | None = None
    truncation_side: Side | None = None


@dataclass(frozen=True)
class Result:
    """Collected arrays of one run.

    Attributes:
        values: The result of the request's `gather`.
        truncated: Indexes of the truncated texts.
    """

    values: Any
    truncated: list[int]


Run = Callable[[list[Any], Request], Result]
"""The `run` method of a runner or pool; the items, mostly texts, come without the prompt."""

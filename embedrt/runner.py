"""`Runner`: one route of a bundle, from texts to vectors. Tokens -> plan -> run -> gather."""

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle import Manifest, Route, Tokenization
from embedrt.errors import BundleError, NonFiniteError, TruncationError
from embedrt.planning import Batch, pad, plan
from embedrt.session import Engine, find_device
from embedrt.tokenizer import TextTokenizer, Tokens, preview

Vectors = NDArray[np.float32]

# Texts that are tokenized and sorted at a time: enough for batches of near-equal length, few enough for bounded memory.
_SLICE = 2048


class Runner:
    """Tokenizer and engine of one route. Safe to use from many threads at once.

    Args:
        folder: The bundle.
        route: What the manifest says of the route.
        manifest: The whole manifest.
        device: As `Embedder` takes it.
        precision: Which of the route's graphs to run.
        threads: Processors to use; None takes what affinity and cgroup quota allow.
        proving: For exporters, before they publish: large weights stay mapped.

    Raises:
        BundleError: The bundle is damaged, or lacks the precision.
        DeviceError: The device is unknown or not available.
    """

    def __init__(
        self,
        folder: Path,
        route: Route,
        manifest: Manifest,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        *,
        proving: bool = False,
    ) -> None:
        if precision not in route.graphs:
            raise BundleError(f"{folder}: precision {precision!r} is not in it; it has {', '.join(route.graphs)}")
        self.folder = folder.absolute()  # sessions are made on first use, and the working folder may change until then
        self.route = route
        self.dim = manifest.dim
        self.tokenize = TextTokenizer(
            self.folder / route.tokenizer,
            max_seq_length=route.max_seq_length,
            with_type_ids=route.tokenization.token_type_ids,
        )
        self.engine = Engine(
            self.folder / route.graphs[precision].file,
            find_device(device),
            threads,
            weights_bytes=manifest.files[route.graphs[precision].data].size,
            proving=proving,
        )

    def encode(self, texts: list[str]) -> Vectors:
        """The vectors of the graph as it is, in planned batches: float32 `[len(texts), dim]`."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        self.fill(vectors, texts)
        return vectors

    def encode_together(self, texts: list[str]) -> Vectors:
        """Encodes the texts as one single batch, padded to the longest, whatever memory that takes.

        This is for checks that a vector does not depend on its batch; `encode` is faster in every case.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        tokens = self.tokenize(texts)
        for batch in plan([len(ids) for ids in tokens.ids], token_budget=sys.maxsize, max_rows=sys.maxsize):
            self._run(vectors, tokens, batch, alone=True)
        return vectors

    def feeds(self, text: str) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for one text, int64 `[1, tokens]`: for running the graph with another engine."""
        tokens = self.tokenize([text])
        return batch_feeds(self.route.tokenization, tokens, Batch((0,), len(tokens.ids[0])))

    def fill(
        self,
        vectors: Vectors,
        texts: list[str],
        *,
        prompt: str = "",
        batch_size: int = 32,
        refuse_truncation: bool = False,
        advance: Callable[[int], Any] = lambda _: None,
    ) -> list[int]:
        """Computes every row of `vectors`. While the batches of one slice run, the next slice is tokenized.

        Args:
            vectors: float32 `[len(texts), n]` with `n` up to `dim`, which takes the first `n` coordinates.
            texts: The texts, without the prompt.
            prompt: Goes before every text.
            batch_size: Upper bound of texts in a batch.
            refuse_truncation: Raise before the model runs on a text that is cut off.
            advance: Called with the number of texts whenever a batch is done.

        Returns:
            The indexes of the texts that were cut off.

        Raises:
            TruncationError: A text is cut off, and `refuse_truncation` is on.
            NonFiniteError: The model returned NaN or infinity.
        """
        left_out = self.tokenize.prompt_length(prompt) if prompt and self.route.tokenization.pooling_mask else 0
        truncated: list[int] = []
        with ThreadPoolExecutor(self.engine.workers, thread_name_prefix="embedrt") as pool:
            running: list[Future[int]] = []
            try:
                for start in range(0, len(texts), _SLICE):
                    tokens = self.tokenize([prompt + text for text in texts[start : start + _SLICE]])
                    truncated += (start + i for i in tokens.truncated)
                    if refuse_truncation:
                        self._require_whole(truncated)
                    lengths = [len(ids) for ids in tokens.ids]
                    batches = plan(lengths, token_budget=self.engine.device.token_budget, max_rows=batch_size)
                    if len(texts) <= _SLICE and len(batches) == 1:
                        advance(self._run(vectors, tokens, batches[0], start, left_out, alone=True))
                        break
                    started = [pool.submit(self._run, vectors, tokens, batch, start, left_out) for batch in batches]
                    for future in running:
                        advance(future.result())
                    running = started
                for future in running:
                    advance(future.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return truncated

    def _require_whole(self, truncated: list[int]) -> None:
        if truncated:
            limit = self.route.max_seq_length
            raise TruncationError(f"{preview(truncated)}: longer than the {limit} tokens that the model reads")

    def _run(
        self, vectors: Vectors, tokens: Tokens, batch: Batch, start: int = 0, left_out: int = 0, *, alone: bool = False
    ) -> int:
        """Computes one batch into the rows of `vectors`; returns how many they are."""
        feeds = batch_feeds(self.route.tokenization, tokens, batch, left_out)
        result = self.engine.run(feeds, "sentence_embedding", alone=alone)
        if result.shape != (len(batch.rows), self.dim):
            raise BundleError(
                f"{self.folder}: the graph returns vectors of shape {list(result.shape[1:])}, the manifest says "
                f"[{self.dim}]"
            )
        rows = np.asarray(batch.rows) + start
        if not (finite := np.isfinite(result).all(axis=1)).all():
            bad = rows[~finite].tolist()
            raise NonFiniteError(
                f"{preview(bad)}: the model returned NaN or infinity ({self.engine.description}); "
                f"check the model with `embedrt verify {self.folder}`"
            )
        vectors[rows] = result[:, : vectors.shape[1]]
        return len(rows)


def batch_feeds(
    tokenization: Tokenization, tokens: Tokens, batch: Batch, left_out: int = 0
) -> dict[str, NDArray[np.int64]]:
    """The graph's inputs for one batch: int64 `[rows, longest]`, padded on the model's side.

    Args:
        tokenization: What the graph wants.
        tokens: The token ids.
        batch: Which of them.
        left_out: How many tokens at the start of each row are not pooled.
    """
    left = tokenization.padding_side == "left"
    ids = [tokens.ids[row] for row in batch.rows]
    feeds = {
        "input_ids": pad(ids, batch.length, fill=tokenization.pad_id, left=left),
        "attention_mask": pad([[1] * len(row) for row in ids], batch.length, fill=0, left=left),
    }
    if tokens.type_ids is not None:
        feeds["token_type_ids"] = pad([tokens.type_ids[row] for row in batch.rows], batch.length, fill=0, left=left)
    if tokenization.pooling_mask:
        pooled = [[int(i >= left_out) for i in range(len(row))] for row in ids]
        feeds["pooling_mask"] = pad(pooled, batch.length, fill=0, left=left)
    return feeds

"""`Embedder`: texts in, vectors out. Texts -> prompt -> tokens -> plan -> run -> gather."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle import TOKENIZER, Manifest, Tokenization, read_bundle
from embedrt.errors import BundleError, NonFiniteError, TruncationError, TruncationWarning
from embedrt.planning import Batch, pad, plan
from embedrt.session import Engine, find_device
from embedrt.store import resolve
from embedrt.tokenizer import TextTokenizer, Tokens, check_texts, preview

logger = logging.getLogger("embedrt")

Vectors = NDArray[np.float32]
OnTruncation = Literal["ignore", "warn", "error"]

# Texts that are tokenized and sorted at a time: enough for batches of near-equal length, few enough for bounded memory.
_SLICE = 2048
# Below it a vector counts as zero and stays so, as in torch.nn.functional.normalize.
_SMALLEST_NORM = 1e-12


class Embedder:
    """A sentence embedding model. Safe to use from many threads at once.

    Args:
        model: A bundle folder, a name in the local store, or a hub id. What is not there yet is downloaded, if it is a
            bundle on the hub, or exported on the spot, if the extra `export` is installed.
        device: "cpu", "cuda", "cuda:1", "coreml" or "mps"; None and "auto" choose. Never another than the one named.
        precision: Which of the bundle's graphs to run.
        threads: Processors to use; None takes what affinity and cgroup quota allow.
        revision: Branch, tag or commit of a hub repo.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        local_files_only: Never touch the network.

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message says what to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
    """

    def __init__(
        self,
        model: str | Path,
        device: str | None = None,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> None:
        folder = resolve(model, revision=revision, token=token, local_files_only=local_files_only)
        self._open(folder, read_bundle(folder), device, precision, threads)

    @classmethod
    def open_unpublished(cls, folder: Path, manifest: Manifest, precision: str = "fp32") -> "Embedder":
        """Opens what will be a bundle once its parity is proven. For exporters only: large weights stay mapped."""
        embedder = cls.__new__(cls)
        embedder._open(folder, manifest, None, precision, None, proving=True)
        return embedder

    def _open(
        self,
        folder: Path,
        manifest: Manifest,
        device: str | None,
        precision: str,
        threads: int | None,
        *,
        proving: bool = False,
    ) -> None:
        if precision not in manifest.graphs:
            raise BundleError(f"{folder}: precision {precision!r} is not in it; it has {', '.join(manifest.graphs)}")
        if threads is not None and (type(threads) is not int or threads < 1):
            raise ValueError(f"threads: expected a positive integer or None, got {threads!r}")
        folder = folder.absolute()  # sessions are made on first use, and the working folder may change until then
        self.folder = folder
        self.manifest = manifest
        self.precision = precision
        self._tokenize = TextTokenizer(
            folder / TOKENIZER,
            max_seq_length=manifest.max_seq_length,
            with_type_ids=manifest.tokenization.token_type_ids,
        )
        graph = manifest.graphs[precision]
        size = manifest.files[graph.data].size
        self._engine = Engine(folder / graph.file, find_device(device), threads, weights_bytes=size, proving=proving)

    @property
    def device(self) -> str:
        """The device in use."""
        return self._engine.device.name

    @property
    def engine(self) -> str:
        """Engine, version and execution provider in use."""
        return self._engine.description

    def encode(
        self,
        texts: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        on_truncation: OnTruncation = "ignore",
    ) -> Vectors:
        """Turns texts into vectors, in the order given. A vector does not depend on the texts around it.

        Args:
            texts: One str, or an iterable of str: list, tuple, generator, numpy array, pandas Series, ...
            prompt_name: Which of the model's prompts goes before every text; None takes the model's default, if any.
            prompt: A prompt of your own; it wins over `prompt_name`.
            batch_size: Upper bound of texts in a batch. Batches are planned by tokens and are mostly smaller.
            show_progress_bar: None shows it where the logger "embedrt" is at level INFO or below.
            normalize_embeddings: Scale the vectors to length 1, after truncation.
            truncate_dim: Keep only the first coordinates; None takes the model's default, if any.
            on_truncation: What to do when a text is longer than the model reads: cut it off without a word, with a
                `TruncationWarning`, or raise a `TruncationError` before the model runs on it. The number of texts that
                were cut off is in the log.

        Returns:
            float32, `[dim]` for a str, else `[len(texts), dim]`.

        Raises:
            TypeError: An item of `texts` is not a str.
            ValueError: Another argument is out of range, or a prompt name unknown.
            NonFiniteError: The model returned NaN or infinity.
        """
        items, single = check_texts(texts)
        if prefix := self._prompt(prompt_name, prompt):
            check_texts(prefix, "prompt")
            items = [prefix + item for item in items]
        if type(batch_size) is not int or batch_size < 1:
            raise ValueError(f"batch_size: expected a positive integer, got {batch_size!r}")
        if on_truncation not in get_args(OnTruncation):
            allowed = ", ".join(map(repr, get_args(OnTruncation)))
            raise ValueError(f"on_truncation: expected one of {allowed}, got {on_truncation!r}")
        dim = self._dim(truncate_dim)
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)

        vectors = np.empty((len(items), dim), np.float32)
        with _progress(len(items), show_progress_bar) as advance:
            truncated = self._fill(vectors, items, batch_size, on_truncation == "error", advance)
        if truncated:
            message = f"{len(truncated)} of {len(items)} texts cut off after {self.manifest.max_seq_length} tokens"
            logger.info("%s", message)
            if on_truncation == "warn":
                warnings.warn(f"{message}: {preview(truncated)}", TruncationWarning, stacklevel=2)
        if normalize_embeddings:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST_NORM)
        return vectors[0] if single else vectors

    def count_tokens(self, texts: str | Iterable[str]) -> list[int]:
        """Tokens of each text as the model reads it: with special tokens, cut off at `max_seq_length`."""
        return [len(ids) for ids in self._tokenize(check_texts(texts)[0]).ids]

    def feeds(self, text: str) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for one text, int64 `[1, tokens]`: for running the graph with another engine."""
        tokens = self._tokenize([text])
        return batch_feeds(self.manifest.tokenization, tokens, Batch((0,), len(tokens.ids[0])))

    def encode_together(self, texts: Iterable[str]) -> Vectors:
        """Encodes the texts as one single batch, padded to the longest, whatever memory that takes.

        This is for checks that a vector does not depend on its batch; `encode` is faster in every case.
        """
        items, _ = check_texts(texts)
        vectors = np.empty((len(items), self.manifest.dim), np.float32)
        tokens = self._tokenize(items)
        for batch in plan([len(ids) for ids in tokens.ids], token_budget=sys.maxsize, max_rows=sys.maxsize):
            self._run(vectors, tokens, batch, 0, alone=True)
        return vectors

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise TypeError(f"prompt: expected str or None, got {type(prompt).__name__}")
            if name is not None:
                logger.warning("both prompt and prompt_name are given; prompt wins")
            return prompt
        name = self.manifest.default_prompt_name if name is None else name
        if name is None:
            return ""
        if name not in self.manifest.prompts:
            known = ", ".join(map(repr, self.manifest.prompts)) or "this model has none"
            raise ValueError(f"prompt_name: {name!r} is unknown; known: {known}")
        return self.manifest.prompts[name]

    def _dim(self, truncate_dim: int | None) -> int:
        if truncate_dim is None:
            return self.manifest.truncate_dim or self.manifest.dim
        if type(truncate_dim) is not int or not 1 <= truncate_dim <= self.manifest.dim:
            raise ValueError(f"truncate_dim: expected 1 to {self.manifest.dim} or None, got {truncate_dim!r}")
        return truncate_dim

    def _fill(
        self,
        vectors: Vectors,
        texts: list[str],
        batch_size: int,
        refuse_truncation: bool,
        advance: Callable[[int], Any],
    ) -> list[int]:
        """Computes every row of `vectors` and returns the indexes of the texts that were cut off.

        While the batches of one slice run, the next slice is tokenized.
        """
        truncated: list[int] = []
        with ThreadPoolExecutor(self._engine.workers, thread_name_prefix="embedrt") as pool:
            running: list[Future[int]] = []
            try:
                for start in range(0, len(texts), _SLICE):
                    tokens = self._tokenize(texts[start : start + _SLICE])
                    truncated += (start + i for i in tokens.truncated)
                    if refuse_truncation:
                        self._require_whole(truncated)
                    lengths = [len(ids) for ids in tokens.ids]
                    batches = plan(lengths, token_budget=self._engine.device.token_budget, max_rows=batch_size)
                    if len(texts) <= _SLICE and len(batches) == 1:
                        advance(self._run(vectors, tokens, batches[0], start, alone=True))
                        break
                    started = [pool.submit(self._run, vectors, tokens, batch, start) for batch in batches]
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
            limit = self.manifest.max_seq_length
            raise TruncationError(f"{preview(truncated)}: longer than the {limit} tokens that the model reads")

    def _run(self, vectors: Vectors, tokens: Tokens, batch: Batch, start: int, *, alone: bool = False) -> int:
        """Computes one batch into the rows of `vectors`; returns how many they are."""
        feeds = batch_feeds(self.manifest.tokenization, tokens, batch)
        result = self._engine.run(feeds, "sentence_embedding", alone=alone)
        if result.shape != (len(batch.rows), self.manifest.dim):
            raise BundleError(
                f"{self.folder}: the graph returns vectors of shape {list(result.shape[1:])}, the manifest says "
                f"[{self.manifest.dim}]"
            )
        rows = np.asarray(batch.rows) + start
        if not (finite := np.isfinite(result).all(axis=1)).all():
            bad = rows[~finite].tolist()
            raise NonFiniteError(
                f"{preview(bad)}: the model returned NaN or infinity ({self._engine.description}); "
                f"check the model with `embedrt verify {self.folder}`"
            )
        vectors[rows] = result[:, : vectors.shape[1]]
        return len(rows)


def batch_feeds(tokenization: Tokenization, tokens: Tokens, batch: Batch) -> dict[str, NDArray[np.int64]]:
    """The graph's inputs for one batch: int64 `[rows, longest]`, padded on the model's side."""
    left = tokenization.padding_side == "left"
    ids = [tokens.ids[row] for row in batch.rows]
    feeds = {
        "input_ids": pad(ids, batch.length, fill=tokenization.pad_id, left=left),
        "attention_mask": pad([[1] * len(row) for row in ids], batch.length, fill=0, left=left),
    }
    if tokens.type_ids is not None:
        feeds["token_type_ids"] = pad([tokens.type_ids[row] for row in batch.rows], batch.length, fill=0, left=left)
    return feeds


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], Any]]:
    if not show:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Encoding", unit="text") as bar:
        yield bar.update

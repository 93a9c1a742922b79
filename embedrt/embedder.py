"""`Embedder`: texts in, vectors out. Checks arguments, chooses prompt and route; the route's runner works."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embedrt.bundle import read_bundle
from embedrt.errors import TruncationWarning
from embedrt.runner import Runner, Vectors
from embedrt.store import resolve
from embedrt.tokenizer import check_texts, preview

logger = logging.getLogger("embedrt")

OnTruncation = Literal["ignore", "warn", "error"]

# Below it a vector counts as zero and stays so, as in torch.nn.functional.normalize.
_SMALLEST_NORM = 1e-12
# The prompts that `encode_document` looks for, the first that the model has.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


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
        if threads is not None and (type(threads) is not int or threads < 1):
            raise ValueError(f"threads: expected a positive integer or None, got {threads!r}")
        self.folder = resolve(model, revision=revision, token=token, local_files_only=local_files_only).absolute()
        self.manifest = read_bundle(self.folder)
        self.precision = precision
        self.runners = {
            name: Runner(self.folder, route, self.manifest, device, precision, threads)
            for name, route in self.manifest.routes.items()
        }

    @property
    def device(self) -> str:
        """The device in use."""
        return self._any_runner.engine.device.name

    @property
    def engine(self) -> str:
        """Engine, version and execution provider in use."""
        return self._any_runner.engine.description

    @property
    def _any_runner(self) -> Runner:
        return next(iter(self.runners.values()))

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
        task: str | None = None,
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
            task: What the texts are, such as "query" or "document", for models that treat these differently.
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
        runner = self._runner(task)
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
            truncated = runner.fill(
                vectors,
                items,
                prompt=prefix,
                batch_size=batch_size,
                refuse_truncation=on_truncation == "error",
                advance=advance,
            )
        if truncated:
            message = f"{len(truncated)} of {len(items)} texts cut off after {runner.route.max_seq_length} tokens"
            logger.info("%s", message)
            if on_truncation == "warn":
                warnings.warn(f"{message}: {preview(truncated)}", TruncationWarning, stacklevel=2)
        if normalize_embeddings:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST_NORM)
        return vectors[0] if single else vectors

    def encode_query(
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
        """`encode` for what is searched with: the prompt named "query", or none if the model has none, and that task.

        Args and errors are those of `encode`.
        """
        if prompt_name is None and prompt is None:
            prompt_name, prompt = ("query", None) if "query" in self.manifest.prompts else (None, "")
        return self.encode(
            texts,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            task="query",
            on_truncation=on_truncation,
        )

    def encode_document(
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
        """`encode` for what is searched in: the prompt "document", "passage" or "corpus", and the task "document".

        Args and errors are those of `encode`.
        """
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in self.manifest.prompts), None)
            prompt = "" if prompt_name is None else None
        return self.encode(
            texts,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            task="document",
            on_truncation=on_truncation,
        )

    def count_tokens(self, texts: str | Iterable[str], task: str | None = None) -> list[int]:
        """Tokens of each text as the model reads it: with special tokens, cut off at the model's limit."""
        return [len(ids) for ids in self._runner(task).tokenize(check_texts(texts)[0]).ids]

    def feeds(self, text: str, task: str | None = None) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs for one text, int64 `[1, tokens]`: for running the graph with another engine."""
        return self._runner(task).feeds(text)

    def _runner(self, task: str | None) -> Runner:
        name = "" if task is None else task
        if name not in self.manifest.tasks:
            known = ", ".join(repr(known) for known in self.manifest.tasks if known)
            raise ValueError(
                f"task: {task!r} is unknown; known: {known}"
                if task
                else f"task: this model treats texts by task and has no default; one of {known} is needed"
            )
        return self.runners[self.manifest.tasks[name]]

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


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], Any]]:
    if not show:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Encoding", unit="text") as bar:
        yield bar.update

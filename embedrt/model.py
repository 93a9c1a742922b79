"""`Model`: a loaded bundle with its settings. What texts become with it is `Embedder`'s."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedrt.bundle.manifest import read_bundle
from embedrt.errors import BundleError, InferenceError
from embedrt.hub import remote as hub
from embedrt.hub.card import model_card
from embedrt.hub.local import copy_bundle, resolve
from embedrt.inputs.text import check_texts
from embedrt.run.runner import Runner
from embedrt.tasks.arguments import (
    coordinates,
    deprecated,
    device_name,
    length_for,
    positive,
    refuse,
)
from embedrt.tasks.call import prompt_for, route_for
from embedrt.tune import result as tuned
from embedrt.types import Texts, Vectors
from embedrt.vectors.similarity import find_similarity

if TYPE_CHECKING:
    from embedrt.run.processes import ProcessPool

logger = logging.getLogger("embedrt")


class Model:
    """A bundle, loaded on a device, with the settings that a user may change. `Embedder` documents the arguments.

    Attributes:
        folder: The bundle.
        manifest: What the bundle says of itself.
        precision: Which of its graphs runs.
        prompts: Texts that go before an input, by name; "query" and "document" are always there.
        default_prompt_name: The prompt for calls that name none.
        lengths: Where each route cuts texts off; `max_seq_length` sets them.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        device: str | None = None,
        *,
        prompts: dict[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        similarity_fn_name: str | Enum | None = None,
        truncate_dim: int | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        max_tokens: int | None = None,
        modules: None = None,
        backend: Literal["onnx"] | None = None,
        model_kwargs: None = None,
        processor_kwargs: None = None,
        tokenizer_kwargs: None = None,
        config_kwargs: None = None,
        model_card_data: None = None,
    ) -> None:
        refuse(
            modules=modules,
            backend=None if backend == "onnx" else backend,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
        )
        self._threads = None if threads is None else positive(threads, "threads")
        self._max_tokens = None if max_tokens is None else positive(max_tokens, "max_tokens")
        folder = resolve(
            model_name_or_path,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
        )
        self.folder = folder.absolute()
        self.manifest = read_bundle(self.folder)
        self._device = device_name(device)
        self._tuning = tuned.in_use(self.folder, self.manifest)
        self.precision = tuned.settled_precision(self._tuning, precision, self._device)
        self._runners = {self._device: self._load(self._device)}
        self.lengths = {name: route.max_seq_length for name, route in self.manifest.routes.items()}
        if not isinstance(prompts, dict | None):
            raise TypeError(f"prompts: expected a dict or None, got {type(prompts).__name__}")
        self.prompts = {"query": "", "document": "", **self.manifest.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or self.manifest.default_prompt_name
        prompt_for(self.prompts, self.default_prompt_name, None, None)
        self.similarity_fn_name = similarity_fn_name or self.manifest.similarity_fn_name or "cosine"
        self.truncate_dim = self.manifest.truncate_dim if truncate_dim is None else truncate_dim

    def _load(self, device: str | None) -> dict[str, Runner]:
        device, threads, max_tokens = tuned.settled(
            self._tuning, self.precision, device, self._threads, self._max_tokens
        )
        return {
            name: Runner(self.folder, route, self.manifest, device, self.precision, threads, max_tokens=max_tokens)
            for name, route in self.manifest.routes.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        """Folder and settings: a copy, or another process that sees the folder, loads the bundle for itself."""
        self._on(self._device)
        return {name: value for name, value in vars(self).items() if name not in {"_runners", "_similarity", "_tuning"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.manifest = read_bundle(self.folder)
        if self.manifest.fingerprint != state["manifest"].fingerprint:
            raise BundleError(f"{self.folder}: another bundle than when the model was pickled; load it by its name")
        self.similarity_fn_name = self._similarity_fn_name
        self._tuning = tuned.in_use(self.folder, self.manifest)
        self._runners = {self._device: self._load(self._device)}

    def close(self) -> None:
        """Gives the memory back; calls after it are errors. At the end of a `with` block it is called by itself."""
        self._runners.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self._device!r})"

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        """Names the vector space: vectors of equal fingerprints may share an index. `max_seq_length` is part of it."""
        changed = {
            name: length for name, length in self.lengths.items() if length != self.manifest.routes[name].max_seq_length
        }
        if not changed:
            return self.manifest.fingerprint
        return hashlib.sha256(f"{self.manifest.fingerprint} {sorted(changed.items())}".encode()).hexdigest()

    @property
    def runners(self) -> dict[str, Runner]:
        """What computes, by route.

        Raises:
            InferenceError: The model is closed.
        """
        return self._on(self._device)

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

    @property
    def similarity_fn_name(self) -> str:
        """The similarity function: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | Enum | None) -> None:
        value = "cosine" if value is None else value
        self._similarity = find_similarity(value)
        self._similarity_fn_name = str(value.value if isinstance(value, Enum) else value)

    @property
    def truncate_dim(self) -> int | None:
        """Coordinates that calls keep if they name no number; None keeps all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = None if value is None else coordinates(value, self.manifest.dim)

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """A `with` block in which `truncate_dim` is another."""
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    def get_embedding_dimension(self) -> int:
        """Coordinates of a vector that `encode` returns."""
        return self.truncate_dim or self.manifest.dim

    def get_sentence_embedding_dimension(self) -> int:
        """The old name of `get_embedding_dimension`."""
        deprecated("get_sentence_embedding_dimension", "get_embedding_dimension")
        return self.get_embedding_dimension()

    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> AbstractContextManager[None]:
        """The old name of `truncate_embeddings`."""
        deprecated("truncate_sentence_embeddings", "truncate_embeddings")
        return self.truncate_embeddings(truncate_dim)

    def get_max_seq_length(self) -> int | None:
        """The old name of `max_seq_length`."""
        deprecated("get_max_seq_length()", "max_seq_length")
        return self.max_seq_length

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of a text, special tokens included; None is all. What is beyond is cut off."""
        lengths = [length for length in self.lengths.values() if length is not None]
        return max(lengths, default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.lengths = {name: length_for(runner, value) for name, runner in self.runners.items()}

    def tokenize(self, texts: Texts, task: str | None = None) -> dict[str, NDArray[np.int64]]:
        """The graph's inputs, padded to the longest text: int64 `[len(texts), tokens]`, cut off at `max_seq_length`."""
        route = route_for(self.manifest, task)
        runner = self.runners[route]
        return runner.inputs(runner.tokenizer(self.lengths[route])(check_texts(texts)[0]))

    @overload
    def token_count(  # type: ignore[overload-overlap]  # a str is an iterable of str too
        self, texts: str, task: str | None = ..., *, truncation: bool = ...
    ) -> int: ...

    @overload
    def token_count(self, texts: Iterable[str], task: str | None = ..., *, truncation: bool = ...) -> list[int]: ...

    def token_count(self, texts: Texts, task: str | None = None, *, truncation: bool = True) -> int | list[int]:
        """Tokens of each text as the model reads it, special tokens included.

        Args:
            texts: One str, or an iterable of str.
            task: As for `encode`.
            truncation: Whether to count no more than `max_seq_length`.

        Returns:
            An int for a str, else a list.
        """
        items, single = check_texts(texts)
        route = route_for(self.manifest, task)
        tokenize = self.runners[route].tokenizer(self.lengths[route] if truncation else None)
        counts: list[int] = tokenize(items).lengths.tolist()
        return counts[0] if single else counts

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Vectors:
        """Similarity of every vector of the first to every vector of the second, float32 `[n, m]`."""
        return self._similarity.matrix(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> Vectors:
        """Similarity of each vector of the first to the one at the same place in the second, float32 `[n]`."""
        return self._similarity.pairwise(embeddings1, embeddings2)

    def save_pretrained(self, path: str | Path, create_model_card: bool = True) -> None:
        """Copies the bundle, whole or not at all.

        What was set on the model since (prompts, `max_seq_length`, ...) is not in it, and a warning in the log says so.

        Args:
            path: Where the copy goes.
            create_model_card: Whether to add a `README.md` that shows the proof.

        Raises:
            BundleError: Something else is at `path`.
        """
        given = {
            "prompts": self.prompts == {"query": "", "document": "", **self.manifest.prompts},
            "default_prompt_name": self.default_prompt_name == self.manifest.default_prompt_name,
            "truncate_dim": self.truncate_dim == self.manifest.truncate_dim,
            "similarity_fn_name": self.similarity_fn_name == (self.manifest.similarity_fn_name or "cosine"),
            "max_seq_length": self.fingerprint == self.manifest.fingerprint,
        }
        if changed := [name for name, as_made in given.items() if not as_made]:
            logger.warning("the copy has the bundle's own %s, and not what was set since", ", ".join(changed))
        copy_bundle(self.folder, path, model_card(self.manifest) if create_model_card else None)

    def push_to_hub(
        self,
        repo_id: str,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
        *,
        exist_ok: bool = False,
        replace_model_card: bool = False,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads the bundle in one commit, with a model card that shows the proof.

        Args:
            repo_id: Such as "org/model"; without an organization it is the user's own.
            token: Hub token; None uses `HF_TOKEN` or the saved login.
            private: Whether a new repo is private; None is as the organization has it.
            commit_message: None has one.
            exist_ok: Whether the repo may exist already.
            replace_model_card: Whether to replace a `README.md` that is there.
            revision: The branch, which is made if need be.
            create_pr: Whether to open a pull request instead, in a repo that exists.

        Returns:
            The address of the commit or of the pull request.

        Raises:
            UploadError: The hub did not take it; the message says what to do.
        """
        return hub.upload(
            self.folder,
            repo_id,
            token,
            private,
            commit_message,
            exist_ok=exist_ok,
            replace_model_card=replace_model_card,
            revision=revision,
            create_pr=create_pr,
        )

    def start_multi_process_pool(self, target_devices: Sequence[str | None] | None = None) -> "ProcessPool":
        """Starts processes for `encode(..., pool=...)`. Stop them by the pool's `close` or its `with` block.

        They pay off on several GPUs; on processors alone one process already uses them all. A script starts its pool
        below `if __name__ == "__main__":`.

        Args:
            target_devices: A device for each process, such as `["cuda:0", "cuda:1"]`; None takes every CUDA device if
                ONNX Runtime can use them, else a CPU for each processor, at most 4. CPU workers share the processors.

        Raises:
            ValueError: The list is empty.
            DeviceError: A device is unknown or not available.
            PoolError: A process ended before it was ready.
        """
        from embedrt.run.processes import ProcessPool, default_devices

        self._on(self._device)
        if target_devices is not None and not isinstance(target_devices, str):
            target_devices = [device_name(device) for device in target_devices]
        auto = tuned.settled(self._tuning, self.precision, None, None, None)[0]
        return ProcessPool(
            self.folder,
            default_devices(auto) if target_devices is None else target_devices,
            precision=self.precision,
            threads=self._threads,
            max_tokens=self._max_tokens,
            tuning=self._tuning,
        )

    @staticmethod
    def stop_multi_process_pool(pool: "ProcessPool") -> None:
        """Stops the processes of a pool."""
        pool.close()

    def _on(self, device: str | None) -> dict[str, Runner]:
        if not self._runners:
            raise InferenceError(f"the model {self.name!r} is closed; load it again")
        if device not in self._runners:
            self._runners[device] = self._load(device)
        return self._runners[device]

"""`Model`: an open bundle, with what all public classes share."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from embedrt.bundle.check import Verify
from embedrt.bundle.manifest import KIND_OF_TASK, Manifest
from embedrt.engine.devices import AUTO, find_devices
from embedrt.hub.card import ModelCardData, model_card
from embedrt.hub.local import copy_bundle
from embedrt.hub.resolve import resolve
from embedrt.inputs.check import check_texts
from embedrt.inputs.tokenizer import Tokenizer
from embedrt.inputs.values import byte_count, integer, one_of, positive, shown, truth
from embedrt.loaded import Loaded
from embedrt.run.request import Run
from embedrt.run.runner import Runner
from embedrt.tasks.absent import no_attribute
from embedrt.tasks.arguments import are_gpus, device_name, device_names, length_for
from embedrt.tasks.call import prompt_for
from embedrt.types import DeviceName, Task, dtype_name

if TYPE_CHECKING:
    from embedrt.run.processes import ProcessPool

logger = logging.getLogger("embedrt")

# More than any machine has cores.
_MOST_THREADS = 4096
_CLASS_OF_TASK: dict[Task, str] = {
    "embed": "Embedder",
    "score": "CrossEncoder",
    "sparse": "SparseEncoder",
    "multi-vector": "MultiVectorEncoder",
}


class Model:
    """An open bundle of any task. The public classes derive from it, one for each task, and no further.

    Args:
        model_name_or_path: A bundle folder, a name in the local store, or a hub id.
        device: One or more devices, as `Embedder` takes them.
        task: The task of the class; None takes a bundle of any task, for what all have in common.
        prompts: Prompts by name; they override the model's own.
        implied_prompts: Prompts that the class always has, which the model's own override.
        default_prompt_name: The prompt for calls that name none; None takes the model's default, if any.
        cache_folder: A folder that is searched before the store, and takes new models.
        revision: Branch, tag or commit of a hub repo.
        local_files_only: Never touch the network.
        token: Hub token; None uses `HF_TOKEN` or the saved login.
        dtype: The model's number format, "auto", or None for the bundle's usual one.
        threads: Threads to use; None takes what was tuned, else all cores.
        max_tokens: Token budget of a batch; None takes what was tuned, else the device's.
        gpu_mem_limit: Upper bound of what CUDA's arena allocates on each GPU; None sets none.
        verify: When the bundle's files are checked by SHA-256.

    Attributes:
        loaded: The open bundle with its runners.
        lengths: Maximum tokens of each route.
        prompts: Prompts by name.
        default_prompt_name: The prompt for calls that name none.
        model_card_data: What `push_to_hub` adds to the model card.

    Raises:
        ModelNotFoundError: The name leads to no bundle; the message has the command to run.
        BundleError: The bundle is damaged.
        DeviceError: The device is unknown or not available.
        ValueError: The bundle is of another task, or another argument is out of range.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        device: str | Sequence[str] | None = None,
        *,
        task: Task | None = None,
        prompts: dict[str, str] | None = None,
        implied_prompts: Mapping[str, str] = MappingProxyType({}),
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        max_tokens: int | None = None,
        gpu_mem_limit: int | str | None = None,
        verify: Verify = "once",
    ) -> None:
        _check_prompts(prompts)
        one_of(verify, Verify, "verify")
        if dtype is not None and not (isinstance(dtype, str) and dtype == AUTO):
            dtype_name(dtype)
        named = device_names(device)
        if named is not None:
            find_devices(named if isinstance(named, tuple) else (named,))
        local_files_only = truth(local_files_only, "local_files_only")
        if not isinstance(revision, str | None):
            raise TypeError(f"revision: expected str or None, got {shown(revision)}")
        if not isinstance(cache_folder, str | PathLike | None):
            raise TypeError(f"cache_folder: expected str, Path or None, got {shown(cache_folder)}")
        threads = None if threads is None else positive(threads, "threads", _MOST_THREADS)
        max_tokens = None if max_tokens is None else positive(max_tokens, "max_tokens")
        memory_limit = None if gpu_mem_limit is None else byte_count(gpu_mem_limit, "gpu_mem_limit")
        folder = resolve(
            model_name_or_path,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
            task=task,
        )
        self.loaded = Loaded(
            folder,
            named,
            dtype=dtype,
            threads=threads,
            max_tokens=max_tokens,
            memory_limit=memory_limit,
            verify=verify,
        )
        if task is not None and not self.manifest.offers(KIND_OF_TASK[task]):
            found = self.manifest.task
            self.close()
            raise ValueError(
                f"{folder}: expected a bundle of the task {task!r}, got {found!r}; open it with "
                f"embedrt.{_CLASS_OF_TASK[found]}"
            )
        self.lengths = {name: route.max_seq_length for name, route in self.manifest.routes.items()}
        self.prompts = {**implied_prompts, **self.manifest.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or self.manifest.default_prompt_name
        prompt_for(self.prompts, self.default_prompt_name, None, None)
        self.model_card_data = ModelCardData()

    def close(self) -> None:
        """Free the memory; later calls are errors. The end of a `with` block calls it."""
        self.loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        """A copy with a bundle of its own, which stays open when this one is closed."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), loaded=copy(self.loaded))
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.loaded.device!r})"

    @property
    def folder(self) -> Path:
        """The bundle's folder."""
        return self.loaded.folder

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.loaded.manifest

    @property
    def dtype(self) -> str:
        """The dtype in use."""
        return self.loaded.dtype

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the vector space: vectors of equal fingerprints may share an index.

        `max_seq_length` is part of it.
        """
        return self.loaded.fingerprint(self.lengths)

    @property
    def runners(self) -> dict[str, Runner]:
        """The runners on the model's device, by route.

        Raises:
            InferenceError: The model is closed.
        """
        return self.loaded.runners()

    @property
    def device(self) -> DeviceName:
        """The device in use, as a str; several are separated by commas."""
        return DeviceName(self._any_runner.placement.name)

    def to(self, device: str | Sequence[str] | None = None, dtype: str | None = None) -> Self:
        """Move the model to another device, for all later calls, and free the memory on the old one.

        Args:
            device: One or more devices, as the constructor takes them; None leaves the model where it is.
            dtype: The model's own dtype, or None: the dtype is chosen when the model is loaded.

        Returns:
            The model itself.

        Raises:
            DeviceError: The device is unknown or not available; then the model stays where it is.
            ValueError: The dtype is another one, or the device has no such graph.
        """
        if type(device).__module__ == "torch" and type(device).__name__ == "dtype":
            device, dtype = None, str(device)
        if dtype is not None and dtype_name(str(dtype).removeprefix("torch.")) != self.dtype:
            wanted = dtype_name(str(dtype).removeprefix("torch."))
            raise ValueError(
                f"dtype: expected {self.dtype!r}, in which the model is loaded, got {wanted!r}; load it with "
                f"dtype={wanted!r}, which the bundle needs a graph for: `embedrt export --dtype {wanted}`"
            )
        names = device_names(device)
        if names is not None:
            self.loaded.move(names)
        return self

    def cpu(self) -> Self:
        """Move the model to the CPU, as `to` does."""
        return self.to("cpu")

    def cuda(self, device: int | str | None = None) -> Self:
        """Move the model to a GPU, as `to` does.

        Args:
            device: The number of the GPU, or its name; None takes the first.
        """
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def float(self) -> Self:
        """Check that the model computes in float32, as `to` does."""
        return self.to(dtype="float32")

    def half(self) -> Self:
        """Check that the model computes in float16, as `to` does."""
        return self.to(dtype="float16")

    def bfloat16(self) -> Self:
        """Check that the model computes in bfloat16, as `to` does."""
        return self.to(dtype="bfloat16")

    def eval(self) -> Self:
        """Return the model itself: a bundle is never in training mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Return the model itself for `train(False)`.

        Raises:
            ValueError: `mode` is true.
        """
        if truth(mode, "mode"):
            raise ValueError("mode: expected False, got True; a bundle cannot be trained: train the original model")
        return self

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """Call an evaluator of sentence-transformers with this model.

        Args:
            evaluator: The evaluator.
            output_path: A folder for its report, which is made if need be; None writes none.

        Returns:
            The result of the evaluator.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    def get_model_kwargs(self) -> list[str]:
        """The arguments of `encode` that not every model has: "task" if kinds of texts take routes of their own."""
        return ["task"] if len(self.manifest.routes) > 1 else []

    def __getitem__(self, index: int) -> "FirstModule":
        """The first module, which scripts take the tokenizer and the limit from.

        Raises:
            IndexError: The index is not 0.
        """
        if integer(index) != 0:
            raise IndexError(
                f"expected 0, the module with the tokenizer, got {shown(index)}; a bundle is one graph without other "
                "modules: `embedrt info` shows those that it was made of"
            )
        return FirstModule(self)

    def _first_module(self) -> "FirstModule":
        """The first module, as `model[0]`."""
        return FirstModule(self)

    __iter__ = None  # one module is no sequence

    if not TYPE_CHECKING:  # type checkers see the attributes that there are

        def __getattr__(self, name: str) -> Any:
            raise no_attribute(self, name)

    @property
    def engine(self) -> str:
        """Engine, version and execution provider in use."""
        return self._any_runner.engine.description

    @property
    def _any_runner(self) -> Runner:
        return next(iter(self.runners.values()))

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of a text, special tokens included; the rest is truncated. None is all."""
        lengths = [length for length in self.lengths.values() if length is not None]
        return max(lengths, default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.lengths = {name: length_for(runner, value) for name, runner in self.runners.items()}

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, for scripts that read it as a transformers tokenizer; the one of the first route."""
        route = next(iter(self.lengths))
        return self.loaded.tokenizer(route, self.lengths[route])

    def save_pretrained(self, path: str | Path, model_name: str | None = None, create_model_card: bool = True) -> None:
        """Copy the bundle, whole or not at all, with the prompts, similarity function, dimensions and limits set here.

        Args:
            path: The folder of the copy.
            model_name: The name of the copy; None keeps the bundle's name.
            create_model_card: Whether to add a `README.md` with the parity report.

        Raises:
            BundleError: Something else is at `path`.
        """
        if not isinstance(path, str | PathLike):
            raise TypeError(f"path: expected str or Path, got {shown(path)}")
        if not isinstance(model_name, str | None):
            raise TypeError(f"model_name: expected str or None, got {shown(model_name)}")
        check_texts(model_name or "", "model_name")
        with_card = truth(create_model_card, "create_model_card")
        settings = self._settings(model_name)
        card = model_card(settings, evaluations=self.model_card_data.evaluations) if with_card else None
        copy_bundle(self.loaded.bundle, path, card, settings)

    save = save_pretrained

    def _settings(self, name: str | None) -> Manifest:
        """The bundle's manifest with what was set on this model."""
        made = self.manifest
        named = {*made.prompts, self.default_prompt_name}
        given = {name: text for name, text in self.prompts.items() if text or name in named}
        limits = {
            route: dataclasses.replace(record, max_seq_length=self.lengths[route])
            for route, record in made.routes.items()
        }
        return dataclasses.replace(
            made,
            name=made.name if name is None else name,
            routes=limits,
            prompts=given,
            default_prompt_name=self.default_prompt_name,
            fingerprint=self.fingerprint,
        )

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
        """Upload the bundle in one commit, with a model card that shows the parity report.

        Args:
            repo_id: Such as "org/model"; without an organization it is the user's own.
            token: Hub token; None uses `HF_TOKEN` or the saved login.
            private: Whether a new repo is private; None takes the organization's default.
            commit_message: Message of the commit; None takes a default.
            exist_ok: Whether the repo may exist already.
            replace_model_card: Whether to replace a `README.md` that is there.
            revision: The branch, which is made if need be.
            create_pr: Whether to open a pull request instead, in a repo that exists.

        Returns:
            The address of the commit or of the pull request.

        Raises:
            UploadError: The hub rejected the upload; the message has the remedy.
        """
        from embedrt.hub.remote import upload  # few programs upload

        return upload(
            self.loaded.bundle,
            repo_id,
            token,
            None if private is None else truth(private, "private"),
            commit_message,
            exist_ok=truth(exist_ok, "exist_ok"),
            replace_model_card=truth(replace_model_card, "replace_model_card"),
            revision=revision,
            create_pr=truth(create_pr, "create_pr"),
            evaluations=self.model_card_data.evaluations,
        )

    def start_multi_process_pool(self, target_devices: Sequence[str | None] | None = None) -> "ProcessPool":
        """Start processes for `encode(..., pool=...)`. Stop them by the pool's `close` or its `with` block.

        They pay off on several GPUs; on CPUs alone one process already uses all cores. A script starts its pool
        below `if __name__ == "__main__":`.

        Args:
            target_devices: A device for each process, such as `["cuda:0", "cuda:1"]`; None takes every CUDA device if
                ONNX Runtime can use them, else a CPU for each core, at most 4. CPU workers share the cores.

        Raises:
            ValueError: The list is empty.
            DeviceError: A device is unknown or not available.
            PoolError: A process ended before it was ready.
        """
        from embedrt.run.processes import ProcessPool

        self.loaded.require_open()
        if target_devices is not None and not isinstance(target_devices, str):
            target_devices = [device_name(device) for device in target_devices]
        return ProcessPool(self.loaded.bundle, self.loaded.pool_placements(target_devices))

    @staticmethod
    def stop_multi_process_pool(pool: "ProcessPool") -> None:
        """Stop the processes of a pool."""
        pool.close()

    @contextmanager
    def _place(
        self,
        route: str,
        total: int,
        device: str | Sequence[str] | None,
        pool: "ProcessPool | None",
        chunk_size: int | None,
        show_progress_bar: bool | None,
    ) -> Iterator[Run]:
        """The place where a call is computed, with its progress bar."""
        if chunk_size is not None:
            chunk_size = positive(chunk_size, "chunk_size")
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        show_progress_bar = truth(show_progress_bar, "show_progress_bar")
        with ExitStack() as stack:
            names = device_names(device)
            if pool is None and isinstance(names, tuple) and not are_gpus(names):
                pool = stack.enter_context(self.start_multi_process_pool(names))
            advance = stack.enter_context(_progress(total, show_progress_bar))
            if pool is not None:
                self._check_pool(pool)
                yield partial(pool.run, route=route, chunk_size=chunk_size, advance=advance)
            else:
                yield partial(self.loaded.runners(names)[route].run, advance=advance)

    def _check_pool(self, pool: "ProcessPool") -> None:
        from embedrt.run.processes import ProcessPool

        self.loaded.require_open()
        if not isinstance(pool, ProcessPool):
            raise TypeError(f"pool: expected the result of start_multi_process_pool, got {type(pool).__name__}")
        if (pool.fingerprint, pool.dtype) != (self.manifest.fingerprint, self.dtype):
            raise ValueError("pool: it runs another model; use the result of this model's start_multi_process_pool")


class FirstModule:
    """The first module of a model as scripts for sentence-transformers use it: with the tokenizer and the limit.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return self._model.tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """The limit of the model."""
        return self._model.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self._model.max_seq_length = value

    if not TYPE_CHECKING:  # type checkers see the attributes that there are

        def __getattr__(self, name: str) -> Any:
            raise no_attribute(self, name)


def _check_prompts(prompts: Any) -> None:
    if not isinstance(prompts, dict | None):
        raise TypeError(f"prompts: expected a dict or None, got {type(prompts).__name__}")
    for name, prompt in (prompts or {}).items():
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise TypeError(f"prompts[{shown(name)}]: expected a str by its name, got {shown(prompt)}")
        check_texts([name, prompt], f"prompts[{shown(name)}]")


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], Any]]:
    if not show:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Encoding", unit="text") as bar:
        yield bar.update

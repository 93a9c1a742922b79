"""Opening of the models of a configuration, each with the queue of its device."""

from collections.abc import Callable, Mapping, Sequence

import embedrt
from embedrt.bundle.manifest import Manifest, read_manifest
from embedrt.embedder import Embedder
from embedrt.engine.machine import available_threads
from embedrt.hub.resolve import resolve
from embedrt.model import Model
from embedrt.run.queue import BatchRecord, Queue
from embedrt.server.models import Models
from embedrt.server.served import Served, pooling_of
from embedrt.server.settings import ModelSettings, Settings
from embedrt.server.token_ids import read_vocabulary
from embedrt.types import Task


class Queues:
    """The queues of a server: one for all models that compute on the machine's cores, one for every other device.

    Args:
        settings: The server's configuration.
        observe: Called with the record of every batch.
    """

    def __init__(self, settings: Settings, observe: Callable[[BatchRecord], None] = lambda _: None) -> None:
        self._settings = settings
        self._observe = observe
        self.by_device: dict[str, Queue] = {}

    def of(self, model: Model) -> Queue:
        """The queue of a model."""
        engine = next(iter(model.runners.values())).engine
        name = "cores" if engine.device.parallel else engine.device.name
        if name not in self.by_device:
            threads = self._settings.threads or available_threads() if engine.device.parallel else engine.workers
            limits = self._settings.limits
            self.by_device[name] = Queue(
                threads,
                most_requests=limits.requests,
                most_texts=limits.waiting_texts,
                observe=self._observe,
            )
        return self.by_device[name]

    def close(self) -> None:
        """Take no more requests; the threads end with the last one."""
        for queue in self.by_device.values():
            queue.close()


def open_models(settings: Settings, queues: Queues, before: Models | None = None) -> Models:
    """Open the models of a configuration.

    Args:
        settings: The configuration.
        queues: The queues.
        before: Models that are open; those whose settings and bundles are the same are taken over.

    Raises:
        EmbedrtError: A model could not be opened; the message names it.
        ValueError: A setting does not fit its model.
    """
    vocabulary = None
    if any(one.token_ids == "cl100k_base" for one in settings.models):  # noqa: S105 - no password
        if settings.cl100k_vocabulary is None:
            raise ValueError("token_ids: 'cl100k_base' needs a vocabulary; set cl100k_vocabulary to a file with it")
        vocabulary = read_vocabulary(settings.cl100k_vocabulary)
    kept = () if before is None else before.served
    served = [_opened(one, settings, queues, kept) for one in settings.models]
    return Models(served, strict=settings.strict_model, vocabulary=vocabulary)


_CLASSES: Mapping[Task, str] = {
    "embed": "Embedder",
    "score": "CrossEncoder",
    "sparse": "SparseEncoder",
    "multi-vector": "MultiVectorEncoder",
}
_DEFAULT_PROMPT = "(the server's default)"


def _check_pooling(one: ModelSettings, manifest: Manifest) -> None:
    """Check that a model pools as its settings say: another pooling would need another export."""
    found = pooling_of(manifest)
    if found != one.pooling:
        raise ValueError(f"{one.name}: pooling: expected {one.pooling}, but the model has {found}; leave it out")


def _opened(one: ModelSettings, settings: Settings, queues: Queues, kept: Sequence[Served]) -> Served:
    folder = resolve(
        one.source,
        revision=one.revision,
        token=settings.hub_token,
        local_files_only=settings.local_files_only,
        cache_folder=settings.cache_folder,
    )
    manifest = read_manifest(folder)
    for open_one in kept:
        loaded = open_one.model.loaded
        if (open_one.settings, loaded.folder, loaded.manifest) == (one, folder.absolute(), manifest):
            return open_one
    if one.pooling is not None:
        _check_pooling(one, manifest)
    prompts, default = dict(one.prompts), one.default_prompt_name
    if one.default_prompt is not None:
        prompts[_DEFAULT_PROMPT], default = one.default_prompt, _DEFAULT_PROMPT
    model: Model = getattr(embedrt, _CLASSES[manifest.task])(
        folder,
        list(one.device) if isinstance(one.device, tuple) else one.device,
        prompts=prompts,
        default_prompt_name=default,
        dtype=one.dtype,
        threads=settings.threads,
        max_tokens=one.max_tokens,
        gpu_mem_limit=one.gpu_mem_limit,
    )
    if one.max_seq_length is not None:
        model.max_seq_length = one.max_seq_length
    if one.truncate_dim is not None:
        if not isinstance(model, Embedder):
            raise ValueError(f"{one.name}: truncate_dim: expected a model with sentence embeddings")
        model.truncate_dim = one.truncate_dim
    return Served(one, model, queues.of(model))

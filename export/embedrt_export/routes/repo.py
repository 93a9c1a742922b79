"""A model folder to a `ModelSpec`: its routes, each a chain of modules, as sentence-transformers reads them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from embedrt.bundle.manifest import DEFAULT_ROUTE
from embedrt.bundle.strict_json import RecordError, read_json
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import Task
from embedrt_export.heads import HEADS, bge_m3
from embedrt_export.heads.causal import LogitScore
from embedrt_export.heads.pooling import Pooling
from embedrt_export.heads.splade import SpladePooling
from embedrt_export.routes import multi_vector, sparse_static
from embedrt_export.routes.modules import (
    FIRST,
    HEAD_OF_TRANSFORMER_TASK,
    SPARSE_STATIC,
    STATIC,
    TRANSFORMER,
    LateInteraction,
    ModuleSpec,
    StaticEmbedding,
    Transformer,
    read_transformer,
)
from embedrt_export.routes.recognize import TOP
from embedrt_export.source.adapters import find_base
from embedrt_export.source.configs import read_config, strict
from embedrt_export.source.files import MODULES, check_files
from embedrt_export.source.weights import quote

_ROUTER = "Router"
# Module types of older versions of sentence-transformers or of code from a repo.
_ALIASES = {
    "sentence_transformers.models.Asym": _ROUTER,
    "custom_st.Transformer": TRANSFORMER,
    "pylate.models.Dense.Dense": "Dense",
}
# A Transformer with the head of a masked language model, in older versions.
_MASKED = "MLMTransformer"
_TYPE_PREFIX = "sentence_transformers."
# A module's path, such as "1_Pooling": a valid folder name on every system, as bundles use it too.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_ .+/-]{0,100}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A pair of task and modality as Python writes it, such as "('query', 'text')" or "(None, 'text')".
_MAPPING_KEY = re.compile(r"\((None|'(?P<task>[\w-]+)'), (None|'(?P<modality>[\w-]+)')\)")
# Arguments of an `encode` call that a module may use: a Router chooses by task, and text is the only modality.
_CALL_ARGUMENTS = {"task", "modality"}
_TASKS = ("query", "document")
# Real models have fewer than ten.
_MOST_MODULES = 1000


@dataclass(frozen=True)
class ModelSpec:
    """A model, as its folder describes it.

    Attributes:
        folder: The model folder.
        task: The kind of model.
        chains: The module chain of every route.
        tasks: The route of each task; the empty name is for calls without a task.
        prompts: Prompts by name.
        default_prompt_name: The prompt for calls without a prompt name.
        truncate_dim: Number of dimensions to keep by default.
        similarity_fn_name: The similarity that the model was trained for.
        top: `config_sentence_transformers.json`: the dataclass of the task in `TOPS`.
    """

    folder: Path
    task: Task
    chains: dict[str, tuple[ModuleSpec, ...]]
    tasks: dict[str, str]
    prompts: dict[str, str]
    default_prompt_name: str | None
    truncate_dim: int | None
    similarity_fn_name: str | None
    top: Any


@dataclass(frozen=True)
class _ModuleEntry:
    idx: int
    name: str
    path: str
    type: str
    kwargs: tuple[str, ...] = ()


@dataclass(frozen=True)
class _RouterParameters:
    default_route: str | None = None
    allow_empty_key: bool = True
    route_mappings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _RouterConfig:
    types: dict[str, str]
    structure: dict[str, tuple[str, ...]]
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SentenceTransformerTop:
    """`config_sentence_transformers.json` of a SentenceTransformer."""

    model_type: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] | None = None
    truncate_dim: int | None = None


@dataclass(frozen=True)
class CrossEncoderTop:
    """`config_sentence_transformers.json` of a CrossEncoder."""

    model_type: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    activation_fn: str | None = None
    keep_in_fp32_modules: tuple[str, ...] | None = None  # in float32, all are


@dataclass(frozen=True)
class SparseEncoderTop:
    """`config_sentence_transformers.json` of a SparseEncoder."""

    model_type: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] | None = None
    max_active_dims: int | None = None


TOPS: dict[Task, type[Any]] = {
    "embed": SentenceTransformerTop,
    "score": CrossEncoderTop,
    "sparse": SparseEncoderTop,
    "multi-vector": multi_vector.MultiVectorEncoderTop,
}
"""The keys of `config_sentence_transformers.json` by task."""


@dataclass(frozen=True)
class _Access:
    """Access that a repo has: to other folders of this machine if it is local, and to the hub."""

    is_local: bool
    token: str | bool | None


def read_repo(
    folder: Path, task: Task = "embed", *, is_local: bool = True, token: str | bool | None = None
) -> ModelSpec:
    """Read the module chains of a model folder, with or without `modules.json`.

    Args:
        folder: The model folder.
        task: The kind of model.
        is_local: True if it may refer to other folders of this machine, as an adapter does to its base model.
        token: Hub token, for the base model of an adapter.

    Raises:
        UnsupportedModelError: A module, key or value is not supported; the message names it.
        ExportError: A file is missing or damaged.
    """
    access, top = _Access(is_local, token), _read_top(folder, task)
    if (folder / MODULES).is_file():
        chains, tasks = _routes(folder, access)
    else:
        chains = {DEFAULT_ROUTE: _DEFAULT_CHAINS[task](folder, access)}
        tasks = dict.fromkeys(("", *_TASKS), DEFAULT_ROUTE)
    chains = {name: _with_transformer_head(chain, task) for name, chain in chains.items()}
    if task == "embed":
        chains = {name: _with_beside(chain) for name, chain in chains.items()}
    prompts, similarity = top.prompts, getattr(top, "similarity_fn_name", None)
    if task != "multi-vector":
        _require_no_lengths(chains)
    else:
        chains = {name: multi_vector.complete(chain, top) for name, chain in chains.items()}
        if list(chains) != [DEFAULT_ROUTE]:
            raise UnsupportedModelError(f"{MODULES}: a Router is not supported in a multi-vector model")
        prompts = multi_vector.prompts_of(chains[DEFAULT_ROUTE], top)
        similarity = multi_vector.similarity_of(top)
    for chain in chains.values():
        if chain[0].kind not in FIRST:
            raise UnsupportedModelError(
                f"{MODULES}: expected {', '.join(FIRST)} as the first module, got {chain[0].kind}"
            )
        if later := [module.kind for module in chain[1:] if module.kind not in HEADS]:
            raise UnsupportedModelError(f"{MODULES}: {later[0]} is not supported after the first module")
    return ModelSpec(
        folder=folder,
        task=task,
        chains=chains,
        tasks=tasks,
        prompts=prompts,
        default_prompt_name=top.default_prompt_name,
        truncate_dim=getattr(top, "truncate_dim", None),
        similarity_fn_name=similarity,
        top=top,
    )


def _with_transformer_head(chain: tuple[ModuleSpec, ...], task: Task) -> tuple[ModuleSpec, ...]:
    """Insert the head of a transformer that has one, which modules.json does not list."""
    first, *rest = chain
    if not isinstance(first.settings, Transformer) or first.settings.transformer_task not in HEAD_OF_TRANSFORMER_TASK:
        return chain
    kind = HEAD_OF_TRANSFORMER_TASK[first.settings.transformer_task]
    if kind not in _HEADS_OF_TASK[task]:
        raise UnsupportedModelError(
            f"{MODULES}: transformer_task {first.settings.transformer_task!r} is not supported in a model of the task "
            f"{task!r}"
        )
    return (first, ModuleSpec(kind, first.folder, first.path, HEADS[kind].read(first.settings.base)), *rest)


def _require_no_lengths(chains: Mapping[str, tuple[ModuleSpec, ...]]) -> None:
    """Require that no transformer has settings of multi-vector models, which would change the vectors of a task."""
    for settings in (chain[0].settings for chain in chains.values()):
        if isinstance(settings, Transformer) and settings.late != LateInteraction():
            raise UnsupportedModelError(
                "sentence_bert_config.json: query_length, document_length and query_expansion are only supported in a "
                "multi-vector model"
            )


def _with_beside(chain: tuple[ModuleSpec, ...]) -> tuple[ModuleSpec, ...]:
    """Append the heads of BGE-M3, whose layers are beside the encoder and not in modules.json."""
    first = chain[0]
    files = {"SparseLinear": bge_m3.SPARSE_FILE, "ColbertLinear": bge_m3.MULTI_VECTOR_FILE}
    if first.kind != TRANSFORMER or not all((first.folder / file).is_file() for file in files.values()):
        return chain
    return (*chain, *(ModuleSpec(kind, first.folder, first.path, HEADS[kind].read(first.folder)) for kind in files))


def transformers(spec: ModelSpec) -> list[ModuleSpec]:
    """List the Transformer module of every route that has one."""
    return [chain[0] for chain in spec.chains.values() if isinstance(chain[0].settings, Transformer)]


def _is_causal(config: Mapping[str, Any]) -> bool:
    return _is_causal_architecture(config) and config.get("is_causal", True) is not False


def _is_causal_architecture(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return isinstance(name, str) and name.endswith("ForCausalLM")


def _embed_chain(folder: Path, access: _Access) -> tuple[ModuleSpec, ...]:
    """Chain of a repo without modules.json, as sentence-transformers pools: mean, or last token for causal models."""
    transformer = _transformer(folder, access)
    is_causal = _is_causal(transformer.config)
    pooling = Pooling(embedding_dimension=None, pooling_mode=("lasttoken" if is_causal else "mean",))
    return (ModuleSpec(TRANSFORMER, folder, "", transformer), ModuleSpec("Pooling", folder, "", pooling))


def _score_chain(folder: Path, access: _Access) -> tuple[ModuleSpec, ...]:
    """Chain of a repo without modules.json: the classification head, or two rows of a causal model's language head."""
    transformer = replace(_transformer(folder, access), messages=None)
    if _is_causal_architecture(transformer.config):
        transformer = replace(transformer, transformer_task="text-generation")
        return (ModuleSpec(TRANSFORMER, folder, "", transformer), ModuleSpec("LogitScore", folder, "", LogitScore()))
    transformer = replace(transformer, transformer_task="sequence-classification")
    return (ModuleSpec(TRANSFORMER, folder, "", transformer),)


def _sparse_chain(folder: Path, access: _Access) -> tuple[ModuleSpec, ...]:
    """Chain of a repo without modules.json: the language model's head, and the maximum over the tokens."""
    transformer = replace(_transformer(folder, access), transformer_task="fill-mask")
    return (ModuleSpec(TRANSFORMER, folder, "", transformer), ModuleSpec("SpladePooling", folder, "", SpladePooling()))


def _multi_vector_chain(folder: Path, access: _Access) -> tuple[ModuleSpec, ...]:
    """Chain of a repo without modules.json: a ColBERT checkpoint."""
    return multi_vector.stanford_chain(folder, _transformer(folder, access))


_HEADS_OF_TASK: dict[Task, tuple[str, ...]] = {
    "embed": (),
    "score": ("SequenceClassification", "CausalLanguageModel"),
    "sparse": ("MaskedLanguageModel",),
    "multi-vector": (),
}
"""Heads of the transformer that a model of each task may have."""
_DEFAULT_CHAINS: dict[Task, Callable[[Path, _Access], tuple[ModuleSpec, ...]]] = {
    "embed": _embed_chain,
    "score": _score_chain,
    "sparse": _sparse_chain,
    "multi-vector": _multi_vector_chain,
}
"""Chains of repos without modules.json."""


def _routes(folder: Path, access: _Access) -> tuple[dict[str, tuple[ModuleSpec, ...]], dict[str, str]]:
    """Read the chain of every route, and the route of every task."""
    try:
        content = read_json(folder / MODULES)
    except RecordError as error:
        raise ExportError(str(error)) from error
    if not isinstance(content, list) or not content:
        raise ExportError(f"{MODULES}: expected a list of modules")
    _check_count(len(content), MODULES)
    chains: dict[str, tuple[ModuleSpec, ...]] = {DEFAULT_ROUTE: ()}
    tasks = dict.fromkeys(("", *_TASKS), DEFAULT_ROUTE)
    for i, item in enumerate(content):
        entry = strict(_ModuleEntry, item, f"{MODULES}[{i}]")
        if unknown := set(entry.kwargs) - _CALL_ARGUMENTS:
            raise UnsupportedModelError(f"{MODULES}[{i}].kwargs: {', '.join(sorted(unknown))} are not supported")
        if _kind(entry.type, MODULES) != _ROUTER:
            module = _module(entry.type, folder, entry.path, MODULES, access)
            chains = {name: (*chain, module) for name, chain in chains.items()}
            continue
        if list(chains) != [DEFAULT_ROUTE]:
            raise UnsupportedModelError(f"{MODULES}: a second Router is not supported")
        router, tasks = _read_router(folder, entry.path, access)
        chains = {name: (*chains[DEFAULT_ROUTE], *modules) for name, modules in router.items()}
    return chains, tasks


def _check_count(count: int, where: str) -> None:
    """Check that a model has no absurd number of modules, each of which would be read."""
    if count > _MOST_MODULES:
        raise UnsupportedModelError(f"{where}: expected at most {_MOST_MODULES} modules and routes, got {count}")


def _kind(module_type: str, where: str) -> str:
    kind = _ALIASES.get(module_type, module_type.rpartition(".")[2])
    known = (*FIRST, _MASKED, *HEADS, _ROUTER)
    if kind not in known or not (module_type.startswith(_TYPE_PREFIX) or module_type in _ALIASES):
        raise UnsupportedModelError(f"{where}: module {module_type!r} is not supported; supported: {', '.join(known)}")
    return kind


def _module(module_type: str, folder: Path, path: str, where: str, access: _Access) -> ModuleSpec:
    kind, place = _kind(module_type, where), _inside(folder, path, where)
    if kind == _MASKED:
        settings = replace(_transformer(place, access), transformer_task="fill-mask")
        return ModuleSpec(TRANSFORMER, place, path, settings)
    if kind == TRANSFORMER:
        return ModuleSpec(kind, place, path, _transformer(place, access))
    if kind == SPARSE_STATIC:
        return ModuleSpec(kind, place, path, sparse_static.read(place))
    return ModuleSpec(kind, place, path, StaticEmbedding() if kind == STATIC else HEADS[kind].read(place))


def _transformer(place: Path, access: _Access) -> Transformer:
    base = find_base(place, is_local=access.is_local, token=access.token)
    if base != place:
        check_files(base)
    return read_transformer(place, base)


def _inside(folder: Path, path: str, where: str) -> Path:
    parts = PurePosixPath(path).parts
    if ".." in parts or PurePosixPath(path).is_absolute() or not _PLAIN_PATH.fullmatch(path):
        raise ExportError(f"{where}: path {quote(path)} is not a plain path inside the model folder")
    return folder.joinpath(*parts)


def _read_router(folder: Path, path: str, access: _Access) -> tuple[dict[str, tuple[ModuleSpec, ...]], dict[str, str]]:
    """Read the modules of every route of a Router, and the route of every task."""
    place = _inside(folder, path, MODULES)
    name = next((name for name in ("router_config.json", "config.json") if (place / name).is_file()), None)
    if name is None:
        raise ExportError(f"{MODULES}: the Router in {path!r} has no router_config.json; get the model again")
    where = f"{place.name}/{name}"
    config = strict(_RouterConfig, read_config(place / name), where)
    parameters = strict(_RouterParameters, {k: v for k, v in config.parameters.items() if v is not None}, where)
    prefix = f"{path}/" if path else ""
    _check_count(sum(map(len, config.structure.values())) + len(config.structure), where)
    routes: dict[str, tuple[ModuleSpec, ...]] = {}
    for route, modules in config.structure.items():
        if not _PLAIN_NAME.fullmatch(route) or route == DEFAULT_ROUTE:
            raise UnsupportedModelError(f"{where}: {route!r} is not a route name; expected letters, digits, _ and -")
        for module in modules:
            if module not in config.types:
                raise ExportError(f"{where}: structure.{route} names {module!r}, which is not among the types")
            if _kind(config.types[module], where) == _ROUTER:
                raise UnsupportedModelError(f"{where}: a Router in a Router is not supported")
        routes[route] = tuple(_module(config.types[name], folder, prefix + name, where, access) for name in modules)
    if not routes:
        raise ExportError(f"{where}: structure has no route")
    return routes, _tasks(routes, parameters, where)


def _tasks(routes: Mapping[str, Any], parameters: _RouterParameters, where: str) -> dict[str, str]:
    """Route of every task, in the order of precedence of sentence-transformers for texts."""
    mapped: dict[tuple[str | None, str | None], str] = {}
    for key, route in parameters.route_mappings.items():
        if (pair := _MAPPING_KEY.fullmatch(key)) is None:
            raise UnsupportedModelError(f"{where}: route_mappings: {key!r} is not a pair of task and modality")
        mapped[pair["task"], pair["modality"]] = route
    default = parameters.default_route
    if default is None and parameters.allow_empty_key:
        default = next(iter(routes))
    for route in (*mapped.values(), *([default] if default is not None else [])):
        if route not in routes:
            raise ExportError(f"{where}: no route {route!r}; there are {', '.join(routes)}")
    tasks = {}
    for task in ("", *_TASKS, *routes):
        name = task or None
        keys: list[tuple[str | None, str | None]] = [(name, "text"), (name, None), (None, "text"), (None, None)]
        found = next((mapped[key] for key in keys if key in mapped), None)
        fallbacks = (task, "text") if task else ("text", default)
        found = found or next((route for route in fallbacks if route in routes), None)
        if found is not None:
            tasks[task] = found
    return tasks


def _read_top(folder: Path, task: Task) -> Any:
    name = TOP
    if not (folder / name).is_file():
        return TOPS[task]()
    content: Mapping[str, Any] = read_config(folder / name)
    # Null is absent in every field, and the versions that trained the model change no vectors.
    content = {key: value for key, value in content.items() if key != "__version__" and value is not None}
    top = strict(TOPS[task], content, name)
    if top.default_prompt_name is not None and top.default_prompt_name not in top.prompts:
        known = ", ".join(top.prompts) or "none"
        raise ExportError(f"{name}: default_prompt_name {top.default_prompt_name!r} is not among the prompts: {known}")
    return top

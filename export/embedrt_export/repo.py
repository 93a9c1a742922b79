"""A model folder to a `ModelSpec`: which modules it has, with which settings, as sentence-transformers reads them.

Both generations of configs are read: the old pooling booleans and `max_seq_length`, and what sentence-transformers 5.4
and later saves. What is not known is refused by name, never ignored.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from embedrt.bundle import Module
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.records import RecordError, read_json
from embedrt_export.configs import pick, read_config, strict
from embedrt_export.families import FAMILIES
from embedrt_export.heads import POOLERS

MODULES = "modules.json"
# The last part of a module's type; the path before it has changed over the years.
_MODULES = ("Transformer", "Pooling", "Normalize")
_TYPE_PREFIX = "sentence_transformers."
# A module's path, such as "1_Pooling": what every system, and so a bundle, can have as the name of a folder.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_ .+/-]{0,100}")
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# In the order in which the old booleans concatenate.
_OLD_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class ModelSpec:
    """What a model folder says of its model.

    Attributes:
        folder: The model folder.
        transformer: The folder with `config.json`, weights and tokenizer.
        architecture: The `model_type`.
        config: The parsed `config.json`.
        modules: The module chain.
        pooling: Pooling modes, concatenated in this order.
        normalized: Whether an L2 normalization follows.
        max_seq_length: What the repo sets by itself, else None.
        do_lower_case: Whether texts are lowercased before all else.
        prompts: Prompts by name.
        default_prompt_name: The one for calls that name none.
        truncate_dim: Coordinates to keep by default.
        similarity_fn_name: The similarity that the model was trained for.
    """

    folder: Path
    transformer: Path
    architecture: str
    config: dict[str, Any]
    modules: tuple[Module, ...]
    pooling: tuple[str, ...]
    normalized: bool
    max_seq_length: int | None
    do_lower_case: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    truncate_dim: int | None
    similarity_fn_name: str | None


@dataclass(frozen=True)
class _ModuleEntry:
    idx: int
    name: str
    path: str
    type: str
    kwargs: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Transformer:
    """`sentence_bert_config.json`."""

    max_seq_length: int | None = None
    do_lower_case: bool = False
    transformer_task: Literal["feature-extraction"] = "feature-extraction"
    modality_config: dict[str, Any] = field(default_factory=dict)
    module_output_name: Literal["token_embeddings"] = "token_embeddings"
    model_args: dict[str, Any] = field(default_factory=dict)
    tokenizer_args: dict[str, Any] = field(default_factory=dict)
    config_args: dict[str, Any] = field(default_factory=dict)
    processing_kwargs: dict[str, Any] = field(default_factory=dict)
    unpad_inputs: bool | None = None


@dataclass(frozen=True)
class _Pooling:
    embedding_dimension: int
    pooling_mode: tuple[str, ...]
    include_prompt: bool = True


@dataclass(frozen=True)
class _Normalize:
    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None


@dataclass(frozen=True)
class _SentenceTransformer:
    """`config_sentence_transformers.json`."""

    model_type: Literal["SentenceTransformer"] = "SentenceTransformer"
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] | None = None
    truncate_dim: int | None = None


@dataclass(frozen=True)
class _Architecture:
    """The key of `config.json` that decides whether it is a text encoder at all."""

    model_type: str


def read_repo(folder: Path) -> ModelSpec:
    """Reads the module chain of a model folder.

    Raises:
        UnsupportedModelError: A module, key or value is unknown; the message names it.
        ExportError: A file is missing or damaged.
    """
    chain = _module_chain(folder)
    if "Pooling" not in chain:
        raise UnsupportedModelError(
            "modules.json: no Pooling module: this model gives token embeddings, not sentence embeddings"
        )
    if list(chain) not in (list(_MODULES), list(_MODULES[:2])):
        raise UnsupportedModelError(
            f"modules.json: the chain {', '.join(chain)} is not supported; "
            f"supported: {', '.join(_MODULES)} (the last may be missing)"
        )
    transformer_folder = chain["Transformer"]
    transformer, pooling = _read_transformer(transformer_folder), _read_pooling(chain["Pooling"])
    if normalized := "Normalize" in chain:
        _read_normalize(chain["Normalize"])
    config = read_config(transformer_folder / "config.json")
    architecture = pick(_Architecture, config)
    if architecture.model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"config.json: model_type {architecture.model_type!r} is not supported; "
            f"supported: {', '.join(sorted(FAMILIES))}"
        )
    hidden_size = FAMILIES[architecture.model_type].read_config(config).hidden_size
    if pooling.embedding_dimension != hidden_size:
        raise ExportError(
            f"{chain['Pooling'].name}/config.json: embedding dimension {pooling.embedding_dimension}, "
            f"but config.json has hidden_size {hidden_size}"
        )
    top = _read_top(folder, pooling.embedding_dimension * len(pooling.pooling_mode))
    modules = [
        Module("Transformer", {"do_lower_case": transformer.do_lower_case}),
        Module("Pooling", {"pooling_mode": list(pooling.pooling_mode)}),
        *([Module("Normalize", {})] if normalized else []),
    ]
    return ModelSpec(
        folder=folder,
        transformer=transformer_folder,
        architecture=architecture.model_type,
        config=config,
        modules=tuple(modules),
        pooling=pooling.pooling_mode,
        normalized=normalized,
        max_seq_length=transformer.max_seq_length,
        do_lower_case=transformer.do_lower_case,
        prompts=top.prompts,
        default_prompt_name=top.default_prompt_name,
        truncate_dim=top.truncate_dim,
        similarity_fn_name=top.similarity_fn_name,
    )


def no_modules(model: str) -> UnsupportedModelError:
    """The error for a model that has no module chain."""
    return UnsupportedModelError(
        f"{model}: no {MODULES}, so the pooling is unknown; save the model with sentence-transformers"
    )


def _module_chain(folder: Path) -> dict[str, Path]:
    """The modules in their order: kind to folder. A dict, because no chain that is supported has a kind twice."""
    path = folder / MODULES
    if not path.is_file():
        raise no_modules(folder.name)
    try:
        content = read_json(path)
    except RecordError as error:
        raise ExportError(str(error)) from error
    if not isinstance(content, list) or not content:
        raise ExportError("modules.json: expected a list of modules")
    chain: dict[str, Path] = {}
    for i, item in enumerate(content):
        entry = strict(_ModuleEntry, item, f"modules.json[{i}]")
        kind = entry.type.rpartition(".")[2]
        if not entry.type.startswith(_TYPE_PREFIX) or kind not in _MODULES:
            raise UnsupportedModelError(
                f"modules.json: module {entry.type!r} is not supported; supported: {', '.join(_MODULES)}"
            )
        if entry.kwargs:
            raise UnsupportedModelError(f"modules.json[{i}].kwargs: {', '.join(entry.kwargs)} are not supported")
        if kind in chain:
            raise UnsupportedModelError(f"modules.json: a second {kind} is not supported")
        chain[kind] = _inside(folder, entry.path)
    return chain


def _inside(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path).parts
    if ".." in parts or PurePosixPath(path).is_absolute() or not _PLAIN_PATH.fullmatch(path):
        raise ExportError(f"modules.json: path {path!r} is not a plain path inside the model folder")
    return folder.joinpath(*parts)


def _read_transformer(place: Path) -> _Transformer:
    name = next((name for name in _TRANSFORMER_CONFIGS if (place / name).is_file()), None)
    if name is None:
        return _Transformer()
    settings = strict(_Transformer, read_config(place / name), name)
    for key in ("model_args", "tokenizer_args", "config_args", "processing_kwargs"):
        if value := getattr(settings, key):
            raise UnsupportedModelError(f"{name}: {key} {value} is not supported")
    if set(settings.modality_config) - {"text"}:
        raise UnsupportedModelError(f"{name}: modalities {', '.join(settings.modality_config)}; only text is supported")
    text = settings.modality_config.get("text", {})
    if text not in ({}, {"method": "forward", "method_output_name": "last_hidden_state"}):
        raise UnsupportedModelError(f"{name}: modality_config {text} is not supported")
    if settings.max_seq_length is not None and settings.max_seq_length < 1:
        raise ExportError(f"{name}: max_seq_length {settings.max_seq_length} is not a length")
    return settings


def _read_pooling(place: Path) -> _Pooling:
    where = f"{place.name}/config.json"
    content = dict(read_config(place / "config.json"))
    old = {key: content.pop(key) for key in _OLD_POOLING if key in content}
    for key, value in old.items():
        if type(value) is not bool:
            raise ExportError(f"{where}: {key}: expected a boolean, got {value!r}")
    if "pooling_mode" not in content:
        content["pooling_mode"] = [mode for key, mode in _OLD_POOLING.items() if old.get(key)] or ["mean"]
    elif isinstance(content["pooling_mode"], str):
        content["pooling_mode"] = [content["pooling_mode"]]
    if "word_embedding_dimension" in content:
        content.setdefault("embedding_dimension", content["word_embedding_dimension"])
        del content["word_embedding_dimension"]
    pooling = strict(_Pooling, content, where)
    for mode in pooling.pooling_mode:
        if mode not in POOLERS:
            raise UnsupportedModelError(
                f"{where}: pooling mode {mode!r} is not supported; supported: {', '.join(POOLERS)}"
            )
    if not pooling.pooling_mode:
        raise ExportError(f"{where}: pooling_mode is empty")
    if not pooling.include_prompt:
        raise UnsupportedModelError(f"{where}: include_prompt false (the prompt's tokens left out) is not supported")
    return pooling


def _read_normalize(place: Path) -> _Normalize:
    path = place / "config.json"
    return strict(_Normalize, read_config(path), f"{place.name}/config.json") if path.is_file() else _Normalize()


def _read_top(folder: Path, dim: int) -> _SentenceTransformer:
    name = "config_sentence_transformers.json"
    if not (folder / name).is_file():
        return _SentenceTransformer()
    content: Mapping[str, Any] = read_config(folder / name)
    # Null means none in every field, and the versions of what trained the model change no numbers.
    content = {key: value for key, value in content.items() if key != "__version__" and value is not None}
    top = strict(_SentenceTransformer, content, name)
    if top.default_prompt_name is not None and top.default_prompt_name not in top.prompts:
        known = ", ".join(top.prompts) or "none"
        raise ExportError(f"{name}: default_prompt_name {top.default_prompt_name!r} is not among the prompts: {known}")
    if top.truncate_dim is not None and not 1 <= top.truncate_dim <= dim:
        raise ExportError(f"{name}: truncate_dim {top.truncate_dim} is not within 1 to {dim}")
    return top

"""Configs of the modules of sentence-transformers, in both generations of the format.

An unknown key may change the numbers, so it is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.source.configs import pick, read_config, strict

TRANSFORMER, STATIC = "Transformer", "StaticEmbedding"
TRANSFORMER_CONFIGS = tuple(
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
POOLING_MODES = tuple(_OLD_POOLING.values())
"""Modes of a Pooling module; `heads.pooling` adds them to a graph."""
DENSE_ACTIVATIONS = tuple(
    "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish ReLU ReLU6 SELU SiLU "  # noqa: SIM905
    "Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink".split()
)
"""Activations of a Dense module by the name of torch's class; `heads.dense` adds them to a graph."""
# The old and the new name of the settings that sentence-transformers hands on to transformers, and those among them
# that may be there: they change no numbers, or are read below.
_HANDED_ON = {
    ("model_args", "model_kwargs"): {"dtype", "torch_dtype", "attn_implementation", "add_pooling_layer", "use_cache"},
    ("tokenizer_args", "processor_kwargs"): {"model_max_length", "padding_side", "use_fast"},
    ("config_args", "config_kwargs"): {"output_hidden_states", "use_cache"},
    ("processing_kwargs",): set(),
}
_PLAIN_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


@dataclass(frozen=True)
class Transformer:
    """`config.json` and `sentence_bert_config.json`.

    Attributes:
        architecture: The `model_type`.
        config: The parsed `config.json`.
        base: The folder with `config.json` and weights; another than the module's for an adapter without its base.
        max_seq_length: What the repo sets by itself, else None.
        do_lower_case: Whether texts are lowercased before all else.
        output_hidden_states: Whether the config asks for the states of all layers, which WeightedLayerPooling takes.
    """

    architecture: str
    config: dict[str, Any]
    base: Path
    max_seq_length: int | None = None
    do_lower_case: bool = False
    output_hidden_states: bool = False


@dataclass(frozen=True)
class StaticEmbedding:
    """A table of token embeddings, of which a text's vector is the mean. It has no config."""


@dataclass(frozen=True)
class Pooling:
    """Token embeddings to one vector, by one or several modes that are concatenated; None takes whatever width."""

    embedding_dimension: int | None
    pooling_mode: tuple[str, ...] = ("mean",)
    include_prompt: bool = True


@dataclass(frozen=True)
class Dense:
    """A linear layer with an activation."""

    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "Tanh"
    module_input_name: str = "sentence_embedding"
    module_output_name: str | None = None
    use_residual: bool = False


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization of the sentence embedding."""

    dimension: int


@dataclass(frozen=True)
class Normalize:
    """L2 normalization."""

    module_input_name: str = "sentence_embedding"
    module_output_name: str | None = None


@dataclass(frozen=True)
class Dropout:
    """Nothing, once a model is trained."""

    dropout: float = 0.2


@dataclass(frozen=True)
class WeightedLayerPooling:
    """Token embeddings as a weighted mean over the states of the layers."""

    embedding_dimension: int
    num_hidden_layers: int = 12
    layer_start: int = 4


Settings = Transformer | StaticEmbedding | Pooling | Dense | LayerNorm | Normalize | Dropout | WeightedLayerPooling


@dataclass(frozen=True)
class ModuleSpec:
    """One module of a chain, as the repo describes it.

    Attributes:
        kind: The last part of its type, such as "Pooling".
        folder: Where its files are.
        path: The folder below the repo, such as "1_Pooling"; empty for the repo itself.
        settings: Its config.
    """

    kind: str
    folder: Path
    path: str
    settings: Settings

    @property
    def transformer(self) -> Transformer:
        """Settings of a Transformer module."""
        assert isinstance(self.settings, Transformer)  # noqa: S101 - for callers that know the kind
        return self.settings


@dataclass(frozen=True)
class _ModelType:
    """The key of `config.json` that names the architecture."""

    model_type: str


@dataclass(frozen=True)
class _TransformerConfig:
    max_seq_length: int | None = None
    do_lower_case: bool = False
    transformer_task: Literal["feature-extraction"] = "feature-extraction"
    modality_config: dict[str, Any] = field(default_factory=dict)
    module_output_name: Literal["token_embeddings"] = "token_embeddings"
    unpad_inputs: bool | None = None


def read_transformer(place: Path, base: Path) -> Transformer:
    """Read the configs of a Transformer module; that of sentence-transformers may be missing.

    Args:
        place: The module's folder.
        base: The folder with `config.json` and weights.
    """
    config = read_config(base / "config.json")
    architecture = pick(_ModelType, config).model_type
    states = config.get("output_hidden_states") is True
    name = next((name for name in TRANSFORMER_CONFIGS if (place / name).is_file()), None)
    if name is None:
        return Transformer(architecture, config, base, output_hidden_states=states)
    content = read_config(place / name)
    handed: dict[str, Any] = {}
    for names, known in _HANDED_ON.items():
        for key in names:
            settings = strict(dict[str, Any], content.pop(key, None) or {}, f"{name}.{key}")
            settings.pop("trust_remote_code", None)  # nothing is ever run
            for setting, value in settings.items():
                if setting not in known:
                    raise UnsupportedModelError(f"{name}: {key}.{setting} {value!r} is not supported")
            handed |= settings
    module = strict(_TransformerConfig, content, name)
    if others := set(module.modality_config) - {"text", "message"}:
        raise UnsupportedModelError(f"{name}: modalities {', '.join(sorted(others))}; only text is supported")
    if (text := module.modality_config.get("text", _PLAIN_TEXT)) != _PLAIN_TEXT:
        raise UnsupportedModelError(f"{name}: modality_config {text} is not supported")
    limit = handed.get("model_max_length", module.max_seq_length)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ExportError(f"{name}: max_seq_length {limit!r} is not a length")
    return Transformer(
        architecture=architecture,
        config=config,
        base=base,
        max_seq_length=limit,
        do_lower_case=module.do_lower_case,
        output_hidden_states=handed.get("output_hidden_states", states) is True,
    )


def _read_pooling(place: Path) -> Pooling:
    where = f"{place.name}/config.json"
    content = _renamed(read_config(place / "config.json"))
    old = {key: content.pop(key) for key in _OLD_POOLING if key in content}
    for key, value in old.items():
        if type(value) is not bool:
            raise ExportError(f"{where}: {key}: expected a boolean, got {value!r}")
    if "pooling_mode" not in content:
        content["pooling_mode"] = [mode for key, mode in _OLD_POOLING.items() if old.get(key)] or ["mean"]
    elif isinstance(content["pooling_mode"], str):
        content["pooling_mode"] = [content["pooling_mode"]]
    pooling = strict(Pooling, content, where)
    if pooling.embedding_dimension is None:
        raise ExportError(f"{where}: embedding_dimension: expected an integer, got null")
    for mode in pooling.pooling_mode:
        if mode not in POOLING_MODES:
            raise UnsupportedModelError(
                f"{where}: pooling mode {mode!r} is not supported; supported: {', '.join(POOLING_MODES)}"
            )
    if not pooling.pooling_mode:
        raise ExportError(f"{where}: pooling_mode is empty")
    return pooling


def _read_dense(place: Path) -> Dense:
    where = f"{place.name}/config.json"
    content = read_config(place / "config.json")
    name = content.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(name, str):
        raise ExportError(f"{where}: activation_function: expected the name of a class, got {name!r}")
    # sentence-transformers trusts no class outside of torch and takes Tanh in its place.
    short = name.rpartition(".")[2] if name.startswith("torch.") else "Tanh"
    if short not in DENSE_ACTIVATIONS:
        raise UnsupportedModelError(
            f"{where}: activation_function {name!r} is not supported; supported: {', '.join(DENSE_ACTIVATIONS)}"
        )
    return strict(Dense, {**content, "activation_function": short}, where)


def _read_weighted_layer_pooling(place: Path) -> WeightedLayerPooling:
    return strict(WeightedLayerPooling, _renamed(read_config(place / "config.json")), f"{place.name}/config.json")


def _read_optional(kind: type[Any]) -> Callable[[Path], Any]:
    """Of a module whose config may be missing."""

    def read(place: Path) -> Any:
        path = place / "config.json"
        return strict(kind, read_config(path), f"{place.name}/config.json") if path.is_file() else kind()

    return read


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    """Under today's name of the width."""
    renamed = dict(content)
    if "word_embedding_dimension" in renamed:
        renamed.setdefault("embedding_dimension", renamed["word_embedding_dimension"])
        del renamed["word_embedding_dimension"]
    return renamed


READERS: dict[str, Callable[[Path], Any]] = {
    STATIC: lambda _: StaticEmbedding(),
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": lambda place: strict(LayerNorm, read_config(place / "config.json"), f"{place.name}/config.json"),
    "Normalize": _read_optional(Normalize),
    "Dropout": _read_optional(Dropout),
    "WeightedLayerPooling": _read_weighted_layer_pooling,
}
"""From a module's folder to its settings, by the last part of the module's type; see also `read_transformer`."""

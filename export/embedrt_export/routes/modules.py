"""Modules of a chain, and the settings of its first: a Transformer or a StaticEmbedding.

Configs of sentence-transformers are read in both generations of the format. An unknown key may change the vectors, so
it is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.source.configs import pick, read_config, strict

TRANSFORMER, STATIC, SPARSE_STATIC = "Transformer", "StaticEmbedding", "SparseStaticEmbedding"
FIRST = (TRANSFORMER, STATIC, SPARSE_STATIC)
"""The kinds of modules that a chain can start with."""
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Arguments that sentence-transformers passes on to transformers, under their old and new names, with the settings that
# are supported there: those that change no vectors, and those that are read below.
_PASSED_ON = {
    ("model_args", "model_kwargs"): {"dtype", "torch_dtype", "attn_implementation", "add_pooling_layer", "use_cache"},
    ("tokenizer_args", "processor_kwargs"): {"model_max_length", "padding_side", "use_fast"},
    ("config_args", "config_kwargs"): {"output_hidden_states", "use_cache"},
    ("processing_kwargs",): {"chat_template"},
}
TransformerTask = Literal["feature-extraction", "sequence-classification", "fill-mask", "text-generation"]
HEAD_OF_TRANSFORMER_TASK: dict[TransformerTask, str] = {
    "sequence-classification": "SequenceClassification",
    "fill-mask": "MaskedLanguageModel",
    "text-generation": "CausalLanguageModel",
}
"""The head module of a transformer that is more than its encoder."""
# The output of the transformer's `forward` for texts, and the name of the feature.
_OUTPUTS: dict[TransformerTask, tuple[str, str]] = {
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
    "fill-mask": ("logits", "token_embeddings"),
    "text-generation": ("logits", "causal_logits"),
}


@dataclass(frozen=True)
class QueryExpansion:
    """Mask tokens that late interaction adds to queries; `token` None is the mask token, else the end token."""

    strategy: Literal["fixed", "min"]
    length: int
    attend: bool = False
    token: str | None = None


# Keys beside the variables of a chat template.
_NO_VARIABLES = {
    "chat_template", "continue_final_message", "documents", "max_length", "messages", "padding", "restore_suffix",
    "return_dict", "return_tensors", "tokenize", "tools", "truncation",
}  # fmt: skip


@dataclass(frozen=True)
class _MessageModality:
    """The entry of `modality_config` for messages."""

    method: Literal["forward"]
    method_output_name: str
    format: Literal["flat", "structured"] | None = None


@dataclass(frozen=True)
class LateInteraction:
    """Settings of a Transformer module of a multi-vector model.

    Attributes:
        query_length: Maximum tokens of queries, or None for that of all texts.
        document_length: Likewise of documents.
        query_expansion: The expansion of queries, if any.
        markers: Prompts that start with a token of the vocabulary.
    """

    query_length: int | None = None
    document_length: int | None = None
    query_expansion: QueryExpansion | None = None
    markers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transformer:
    """`config.json` and `sentence_bert_config.json`.

    Attributes:
        architecture: The `model_type`.
        config: The parsed `config.json`.
        base: The folder with `config.json` and weights, which is the base model's for an adapter without its base.
        max_seq_length: The limit that the repo sets, or None.
        do_lower_case: True if texts are lowercased first.
        output_hidden_states: True if the config requests the hidden states of all layers, for WeightedLayerPooling.
        transformer_task: The transformers class: the encoder alone, or with a head.
        late: Settings of a multi-vector model.
        messages: True if texts go through the chat template of the tokenizer; None if they do where it has one.
        message_form: The form of messages, or None to guess it by the template.
        template_variables: Variables for the chat template.
    """

    architecture: str
    config: dict[str, Any]
    base: Path
    max_seq_length: int | None = None
    do_lower_case: bool = False
    output_hidden_states: bool = False
    transformer_task: TransformerTask = "feature-extraction"
    late: LateInteraction = LateInteraction()
    messages: bool | None = False
    message_form: Literal["flat", "structured"] | None = None
    template_variables: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StaticEmbedding:
    """A table of token embeddings, which are averaged over a text. It has no config."""


@dataclass(frozen=True)
class ModuleSpec:
    """One module of a chain, as the repo describes it.

    Attributes:
        kind: The last part of its type, such as "Pooling".
        folder: The folder with its files.
        path: That folder relative to the model folder, such as "1_Pooling"; empty for the model folder itself.
        settings: Its settings, a dataclass.
    """

    kind: str
    folder: Path
    path: str
    settings: Any

    @property
    def transformer(self) -> Transformer:
        """Settings of a Transformer module."""
        assert isinstance(self.settings, Transformer)  # noqa: S101 - for callers that know the kind
        return self.settings


@dataclass(frozen=True)
class _ModelType:
    """The key of `config.json` for the architecture."""

    model_type: str


@dataclass(frozen=True)
class _TransformerConfig:
    max_seq_length: int | None = None
    do_lower_case: bool = False
    transformer_task: TransformerTask = "feature-extraction"
    modality_config: dict[str, Any] = field(default_factory=dict)
    module_output_name: str | None = None
    unpad_inputs: bool | None = None
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: QueryExpansion | None = None


def read_transformer(folder: Path, base: Path) -> Transformer:
    """Read the configs of a Transformer module; the one of sentence-transformers is optional.

    Args:
        folder: The module's folder.
        base: The folder with `config.json` and weights.
    """
    config = read_config(base / "config.json")
    architecture = pick(_ModelType, config).model_type
    states = config.get("output_hidden_states") is True
    name = next((name for name in TRANSFORMER_CONFIGS if (folder / name).is_file()), None)
    if name is None:
        return Transformer(architecture, config, base, output_hidden_states=states)
    content = read_config(folder / name)
    passed: dict[str, Any] = {}
    for names, known in _PASSED_ON.items():
        for key in names:
            settings = strict(dict[str, Any], content.pop(key, None) or {}, f"{name}.{key}")
            settings.pop("trust_remote_code", None)  # repo code is never run
            for setting, value in settings.items():
                if setting not in known:
                    raise UnsupportedModelError(f"{name}: {key}.{setting} {value!r} is not supported")
            passed |= settings
    module = strict(_TransformerConfig, content, name)
    if others := set(module.modality_config) - {"text", "message"}:
        raise UnsupportedModelError(
            f"{name}: modalities {', '.join(sorted(others))} are not supported; supported: text"
        )
    output, feature = _OUTPUTS[module.transformer_task]
    plain = {"method": "forward", "method_output_name": output}
    if (text := module.modality_config.get("text", plain)) != plain:
        raise UnsupportedModelError(f"{name}: modality_config {text} is not supported")
    if module.module_output_name not in {None, feature}:
        raise UnsupportedModelError(
            f"{name}: module_output_name: expected {feature!r} for {module.transformer_task}, got "
            f"{module.module_output_name!r}"
        )
    limit = passed.get("model_max_length", module.max_seq_length)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ExportError(f"{name}: max_seq_length: expected a positive integer, got {limit!r}")
    message = module.modality_config.get("message")
    return Transformer(
        architecture=architecture,
        config=config,
        base=base,
        max_seq_length=limit,
        do_lower_case=module.do_lower_case,
        output_hidden_states=passed.get("output_hidden_states", states) is True,
        transformer_task=module.transformer_task,
        late=LateInteraction(module.query_length, module.document_length, module.query_expansion),
        messages=message is not None,
        message_form=None if message is None else strict(_MessageModality, message, f"{name}.modality_config").format,
        template_variables=_template_variables(passed, module.transformer_task, name),
    )


def _template_variables(passed: Mapping[str, Any], task: TransformerTask, name: str) -> dict[str, Any]:
    """The variables of the chat template of a model that scores pairs.

    Raises:
        UnsupportedModelError: The model embeds, or a key is not a variable of the template.
    """
    given = strict(dict[str, Any], passed.get("chat_template") or {}, f"{name}.processing_kwargs.chat_template")
    if given and task not in {"sequence-classification", "text-generation"}:
        raise UnsupportedModelError(f"{name}: processing_kwargs.chat_template is not supported for {task}")
    if refused := sorted(_NO_VARIABLES & set(given)):
        raise UnsupportedModelError(f"{name}: processing_kwargs.chat_template.{refused[0]} is not supported")
    return given

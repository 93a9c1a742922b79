"""Multi-vector models as a chain of modules, from sentence-transformers, PyLate 3 and Stanford's ColBERT."""

import logging
import string
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tokenizers

from embedrt.bundle.manifest import MOST_TOKENS, Expansion, MultiVector, TokenPooling
from embedrt.bundle.strict_json import RecordError, read_json
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt.types import MULTI_VECTOR_SIMILARITIES, SENTENCE, TOKENS
from embedrt_export.heads.dense import Dense
from embedrt_export.heads.multi_vector_mask import MultiVectorMask
from embedrt_export.heads.normalize import Normalize
from embedrt_export.heads.pooling import Pooling
from embedrt_export.heads.token_pooling import HierarchicalTokenPooling
from embedrt_export.routes.modules import LateInteraction, ModuleSpec, QueryExpansion, Transformer
from embedrt_export.routes.recognize import STANFORD
from embedrt_export.source.configs import pick, read_config
from embedrt_export.source.weights import quote
from embedrt_export.tokenizer import BuiltTokenizer

logger = logging.getLogger("embedrt.export")

# Length of expanded queries where a model does not state it, as in ColBERT.
_EXPANDED_LENGTH = 32
# Their tokens that others do not attend to attend to nothing either, and get other vectors.
_MASKED_BOTH_WAYS = {"deberta-v2"}
_PYLATE = "ColBERT"  # the model type that PyLate writes
_STANFORD_ARCHITECTURE = "HF_ColBERT"


@dataclass(frozen=True)
class MultiVectorEncoderTop:
    """`config_sentence_transformers.json` of a MultiVectorEncoder, or of a model that PyLate 3 saved."""

    model_type: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: QueryExpansion | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None
    attend_to_mask_tokens: bool | None = None
    skiplist_words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _StanfordMetadata:
    """The keys of `artifact.metadata` that change the vectors."""

    dim: int
    query_token_id: str = "[unused0]"  # noqa: S105
    doc_token_id: str = "[unused1]"  # noqa: S105
    query_maxlen: int = _EXPANDED_LENGTH
    doc_maxlen: int | None = None
    attend_to_mask_tokens: bool = False
    mask_punctuation: bool = True


def is_stanford(config: dict[str, Any]) -> bool:
    """Return True for the config of a ColBERT checkpoint in Stanford's format."""
    names = config.get("architectures")
    return isinstance(names, list) and _STANFORD_ARCHITECTURE in names


def stanford_chain(folder: Path, transformer: Transformer) -> tuple[ModuleSpec, ...]:
    """Chain of a ColBERT checkpoint, whose projection is beside the encoder.

    Raises:
        UnsupportedModelError: The repo is not such a checkpoint: no projection was trained.
        ExportError: `artifact.metadata` is missing or damaged.
    """
    if not is_stanford(transformer.config):
        raise UnsupportedModelError(
            "modules.json: missing, and config.json is not that of a ColBERT checkpoint: the model has no trained "
            "projection of token vectors; train one, or export the model as it is with `--task embed`"
        )
    metadata = _stanford_metadata(folder)
    expansion = QueryExpansion("fixed", metadata.query_maxlen, metadata.attend_to_mask_tokens)
    late = LateInteraction(
        document_length=metadata.doc_maxlen,
        query_expansion=expansion,
        markers=(f"{metadata.query_token_id} ", f"{metadata.doc_token_id} "),
    )
    hidden = transformer.config.get("hidden_size")
    if type(hidden) is not int:
        raise ExportError(f"config.json: hidden_size: expected an integer, got {hidden!r}")
    projection = Dense(hidden, metadata.dim, bias=False, activation_function="Identity", module_input_name=TOKENS)
    skiplist = tuple(string.punctuation) if metadata.mask_punctuation else ()
    return (
        ModuleSpec("Transformer", folder, "", replace(transformer, late=late)),
        ModuleSpec("Dense", folder, "projection", projection),
        *_tail(folder, skiplist),
    )


def _stanford_metadata(folder: Path) -> _StanfordMetadata:
    try:
        content = read_json(folder / STANFORD)
    except OSError as error:
        raise ExportError(f"{STANFORD}: missing in {folder.name}; get the model again") from error
    except RecordError as error:
        raise ExportError(str(error)) from error
    if not isinstance(content, dict):
        raise ExportError(f"{STANFORD}: expected an object, got {type(content).__name__}")
    return pick(_StanfordMetadata, {key: value for key, value in content.items() if value != ""}, STANFORD)


def complete(chain: tuple[ModuleSpec, ...], top: MultiVectorEncoderTop) -> tuple[ModuleSpec, ...]:
    """The chain with what its format implies: settings from the top, and modules that are not listed.

    A chain of a model that embeds becomes one of token vectors, without its pooling.

    Raises:
        UnsupportedModelError: The chain has no projection of token vectors, or modules in an order that is unknown.
    """
    first, *rest = chain
    if not isinstance(first.settings, Transformer):
        raise UnsupportedModelError(f"modules.json: expected a Transformer as the first module, got {first.kind}")
    first = replace(first, settings=replace(first.settings, late=_late(first.settings.late, top)))
    rest = [_by_token(module) for module in rest]
    if not any(isinstance(module.settings, MultiVectorMask) for module in rest):
        if top.model_type != _PYLATE:
            rest = _without_pooling(rest)
        has_prefixes = top.query_prefix is not None or top.document_prefix is not None
        default = tuple(string.punctuation) if top.model_type == _PYLATE or has_prefixes else ()
        skiplist = default if top.skiplist_words is None else top.skiplist_words
        rest += _tail(first.folder, skiplist)
    poolings = [i for i, module in enumerate(rest) if isinstance(module.settings, HierarchicalTokenPooling)]
    if poolings not in ([], [len(rest) - 1]):
        raise UnsupportedModelError("modules.json: expected HierarchicalTokenPooling once, and as the last module")
    return (first, *rest)


def _late(saved: LateInteraction, top: MultiVectorEncoderTop) -> LateInteraction:
    """The settings of the transformer, from its own config and from the keys that PyLate has beside it."""
    keys = ("query_length", "document_length", "query_expansion", "do_query_expansion", "attend_to_expansion_tokens")
    more = ("attend_to_mask_tokens", "query_prefix", "document_prefix", "skiplist_words")
    query_length, expansion = top.query_length, top.query_expansion
    is_pylate = any(getattr(top, key) is not None for key in (*keys, *more))
    if expansion is None and is_pylate and top.do_query_expansion is not False:
        attend = top.attend_to_expansion_tokens
        attend = top.attend_to_mask_tokens if attend is None else attend
        expansion, query_length = QueryExpansion("fixed", query_length or _EXPANDED_LENGTH, bool(attend)), None
    return LateInteraction(
        query_length=query_length if saved.query_length is None else saved.query_length,
        document_length=top.document_length if saved.document_length is None else saved.document_length,
        query_expansion=saved.query_expansion or expansion,
        markers=(*saved.markers, *(prefix for prefix in (top.query_prefix, top.document_prefix) if prefix)),
    )


def _by_token(module: ModuleSpec) -> ModuleSpec:
    """A Dense module whose config has no input takes token vectors, as a multi-vector model has no other ones."""
    if isinstance(module.settings, Dense) and module.settings.module_input_name == SENTENCE:
        return replace(module, settings=replace(module.settings, module_input_name=TOKENS, module_output_name=TOKENS))
    return module


def _without_pooling(rest: list[ModuleSpec]) -> list[ModuleSpec]:
    kept = [
        module
        for module in rest
        if not isinstance(module.settings, Pooling)
        and not (isinstance(module.settings, Normalize) and module.settings.module_input_name == SENTENCE)
    ]
    if not any(isinstance(module.settings, Dense) for module in kept):
        raise UnsupportedModelError(
            "modules.json: no Dense module: the model has no trained projection of token vectors; train one, or export "
            "the model as it is with `--task embed`"
        )
    return kept


def _tail(folder: Path, skiplist: tuple[str, ...]) -> list[ModuleSpec]:
    """The modules after the projection."""
    return [
        ModuleSpec("MultiVectorMask", folder, "", MultiVectorMask(skiplist)),
        ModuleSpec("Normalize", folder, "", Normalize(TOKENS)),
    ]


def prompts_of(chain: tuple[ModuleSpec, ...], top: MultiVectorEncoderTop) -> dict[str, str]:
    """The prompts, with the markers that other formats insert as tokens."""
    prompts = dict(top.prompts)
    prefixes = {"query": top.query_prefix, "document": top.document_prefix}
    if is_stanford(chain[0].transformer.config) and top == MultiVectorEncoderTop():
        prefixes = dict(zip(prefixes, chain[0].transformer.late.markers, strict=True))
    for name, prefix in prefixes.items():
        if prefix is not None:
            prompts[name] = prefix + prompts.get(name, "").removeprefix(prefix)
    return prompts


def similarity_of(top: MultiVectorEncoderTop) -> str | None:
    """The similarity of the model; models of older formats have one of single vectors, which is not for them."""
    return top.similarity_fn_name if top.similarity_fn_name in MULTI_VECTOR_SIMILARITIES else None


def settings_of(chain: tuple[ModuleSpec, ...], tokenizer: BuiltTokenizer, limit: int | None) -> MultiVector:
    """The settings of a multi-vector model for the manifest.

    Args:
        chain: The modules.
        tokenizer: The tokenizer.
        limit: Largest number of tokens of a text, or None without limit.

    Raises:
        UnsupportedModelError: The expansion is one that embedrt does not have.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.definition)
    late, mask = chain[0].transformer.late, MultiVectorMask()
    pooling = None
    for module in chain:
        if isinstance(module.settings, MultiVectorMask):
            mask = module.settings
        elif isinstance(module.settings, HierarchicalTokenPooling):
            pooling = TokenPooling(**asdict(module.settings))
    expansion = None
    if late.query_expansion is not None:
        architecture = chain[0].transformer.architecture
        if not late.query_expansion.attend and architecture in _MASKED_BOTH_WAYS:
            raise UnsupportedModelError(
                f"query_expansion.attend: false is not supported for the architecture {architecture!r}"
            )
        expansion = _expansion(chain[0].folder, late, tokenizer, backend, limit)
    skipped = _skipped_ids(mask.skiplist_words, tokenizer.named.get("unk_token"), backend)
    return MultiVector(
        query_length=_capped("query_length", late.query_length, tokenizer, limit),
        document_length=_capped("document_length", late.document_length, tokenizer, limit),
        expansion=expansion,
        skipped_ids=skipped,
        skipped_tasks=mask.skiplist_tasks if skipped else (),
        kept_ids=mask.keep_only_token_ids or None,
        pooling=pooling,
    )


def _capped(name: str, length: int | None, tokenizer: BuiltTokenizer, limit: int | None) -> int | None:
    if length is not None and length <= tokenizer.special_tokens:
        raise UnsupportedModelError(
            f"{name}: expected more than the {tokenizer.special_tokens} special tokens, got {length}"
        )
    if length is None or limit is None or length <= limit:
        return length
    logger.warning("%s %d exceeds the %d positions of the model; using %d", name, length, limit, limit)
    return limit


def _expansion(
    folder: Path, late: LateInteraction, tokenizer: BuiltTokenizer, backend: Any, limit: int | None
) -> Expansion:
    found = late.query_expansion
    assert found is not None  # noqa: S101 - the caller has checked
    least = tokenizer.special_tokens + 1
    if found.length < least or (limit is not None and found.length > limit):
        raise UnsupportedModelError(
            f"query_expansion.length: expected {least} to {limit or MOST_TOKENS}, got {found.length}"
        )
    if late.query_length is not None and late.query_length < found.length:
        raise UnsupportedModelError(
            f"query_length: expected at least query_expansion.length, {found.length}, got {late.query_length}"
        )
    config = folder / "tokenizer_config.json"
    if config.is_file() and read_config(config).get("padding_side") == "left":
        raise UnsupportedModelError("query_expansion: padding on the left is not supported")
    token = found.token or tokenizer.named.get("mask_token") or tokenizer.named.get("eos_token")
    if token is None:
        raise UnsupportedModelError(
            "query_expansion: the tokenizer has no mask token and no end token; name the token in query_expansion.token"
        )
    if (token_id := backend.token_to_id(token)) is None:
        raise UnsupportedModelError(f"query_expansion.token: {quote(token)} is not a token of the vocabulary")
    return Expansion(found.strategy, found.length, found.attend, token_id)


def _skipped_ids(words: tuple[str, ...], unknown: str | None, backend: Any) -> tuple[int, ...]:
    """The ids of the words of a skiplist; words of several tokens are left out, as in sentence-transformers."""
    ids = {word: backend.token_to_id(word) for word in words}
    unknown_id = None if unknown is None else backend.token_to_id(unknown)
    left_out = [word for word, i in ids.items() if i is None or (i == unknown_id and word != unknown)]
    if left_out:
        logger.warning("skiplist_words: %s left out, as these are not single tokens", " ".join(left_out)[:200])
    return tuple(sorted({i for word, i in ids.items() if word not in left_out}))

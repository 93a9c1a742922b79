"""The tokenizer classes of transformers as data: each builds all parts but the vocabulary from its options."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from embedrt_export.tokenizer.names import BACKEND
from embedrt_export.tokenizer.special_tokens import NamedToken
from embedrt_export.tokenizer.vocabulary import Vocabulary

Component = dict[str, Any]  # a part of tokenizer.json

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Options:
    """Options of a class in `tokenizer_config.json`.

    `trim_offsets` is not among them: it changes offsets alone, never ids, and every class here trims them.

    Attributes:
        add_prefix_space: None is the class's default.
    """

    do_lower_case: bool | None = None
    tokenize_chinese_chars: bool = True
    strip_accents: bool | None = None
    keep_accents: bool = False
    split_by_punct: bool = False
    add_prefix_space: bool | None = None
    legacy: bool = False
    unk_id: int = 1
    extra_ids: int = 100


Pair = Literal["typed", "doubled", "plain", "apart"]
"""The form of a pair behind its first text with its frame: the second text and the token after it, with type 1
("typed") or type 0 ("plain"); likewise, after one more end token ("doubled"); or the second text with a frame of its
own, of type 1 ("apart")."""


@dataclass(frozen=True)
class TokenizerClass:
    """Parts of the tokenizer that a class builds.

    Attributes:
        algorithm: `WordPiece`, `BPE` or `Unigram`; None takes what the vocabulary is.
        model: The model, from vocabulary, options and unknown token.
        normalizer: The normalizer, from vocabulary and options.
        pre_tokenizer: The pre-tokenizer, from options.
        named: The default special tokens, by role.
        frame: Roles of the tokens before and after a text; None leaves that to `tokenizer.json` or the config.
        pair: The form of pairs of texts, with `frame`.
        frame_is_default: A post-processor of `tokenizer.json` wins over `frame`.
        add_prefix_space: Default if the config lacks the key.
        null_prefix_space: Value if the config has null; None is an error.
        required: Roles of the tokens that the vocabulary itself must have.
        mask_strips: A mask token that is named without properties matches with the white space before it.
        adds_plain: All special tokens are added once more at the end, without their other properties.
        type_ids: Models get token types, unless the config names their inputs.
    """

    algorithm: str | None
    model: Callable[[Vocabulary, Options, str], Component]
    normalizer: Callable[[Vocabulary, Options], Component | None]
    pre_tokenizer: Callable[[Options], Component | None]
    named: dict[str, NamedToken] = field(default_factory=dict)
    frame: tuple[str | None, str] | None = None
    pair: Pair = "typed"
    frame_is_default: bool = False
    add_prefix_space: bool = False
    null_prefix_space: bool | None = False
    required: tuple[str, ...] = ()
    mask_strips: bool = False
    adds_plain: bool = False
    type_ids: bool = False


def _wordpiece(vocabulary: Vocabulary, options: Options, unk: str) -> Component:
    return {
        "type": "WordPiece",
        "unk_token": unk,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocabulary.require_ids(),
    }


def _unigram(vocabulary: Vocabulary, unk_id: int, *, byte_fallback: bool = False) -> Component:
    return {
        "type": "Unigram",
        "unk_id": unk_id,
        "vocab": vocabulary.require_scores(),
        "byte_fallback": byte_fallback,
    }


def _bpe(
    vocabulary: Vocabulary, unk: str | None = None, *, fuse_unk: bool, byte_fallback: bool, affix: str | None
) -> Component:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unk,
        "continuing_subword_prefix": affix,
        "end_of_word_suffix": affix,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": False,
        "vocab": vocabulary.require_ids(),
        "merges": vocabulary.merges,
    }


def _byte_level_bpe(vocabulary: Vocabulary, options: Options, unk: str) -> Component:
    return _bpe(vocabulary, fuse_unk=False, byte_fallback=False, affix="")


def _deberta_model(vocabulary: Vocabulary, options: Options, unk: str) -> Component:
    scores = vocabulary.require_scores()
    unk_id = options.unk_id if vocabulary.unk_id is None else vocabulary.unk_id
    return _unigram(vocabulary, scores.index((unk, 0.0)) if (unk, 0.0) in scores else unk_id)


def _camembert_model(vocabulary: Vocabulary, options: Options, unk: str) -> Component:
    pieces = (i for i, (piece, _) in enumerate(vocabulary.require_scores()) if piece == unk)
    return _unigram(vocabulary, next(pieces, 0))


def _backend_model(vocabulary: Vocabulary, options: Options, unk: str) -> Component:
    """From a SentencePiece model; a tokenizer.json needs no building."""
    model = vocabulary.sentencepiece
    assert model is not None  # noqa: S101 - the backend has no other vocabulary file
    if vocabulary.ids is None:
        return _unigram(vocabulary, model.unk_id, byte_fallback=model.byte_fallback)
    return _bpe(vocabulary, model.unk_piece, fuse_unk=True, byte_fallback=model.byte_fallback, affix=None)


def _steps(kind: str, steps: list[Component]) -> Component:
    return {"type": "Sequence", kind: steps}


def _precompiled(vocabulary: Vocabulary) -> list[Component]:
    charsmap = vocabulary.charsmap
    return [] if charsmap is None else [{"type": "Precompiled", "precompiled_charsmap": charsmap}]


def _replace(pattern: Component, content: str) -> Component:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _bert_normalizer(vocabulary: Vocabulary, options: Options) -> Component:
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": options.tokenize_chinese_chars,
        "strip_accents": options.strip_accents,
        "lowercase": options.do_lower_case is not False,
    }


def _charsmap_alone(vocabulary: Vocabulary, options: Options) -> Component | None:
    return next(iter(_precompiled(vocabulary)), None)


def _albert_normalizer(vocabulary: Vocabulary, options: Options) -> Component:
    steps = [_replace({"String": "``"}, '"'), _replace({"String": "''"}, '"')]
    steps += [] if options.keep_accents else [{"type": "NFKD"}, {"type": "StripAccents"}]
    steps += [] if options.do_lower_case is False else [{"type": "Lowercase"}]
    return _steps("normalizers", steps + _precompiled(vocabulary))


def _deberta_normalizer(vocabulary: Vocabulary, options: Options) -> Component:
    steps = [{"type": "Lowercase"}] if options.do_lower_case else []
    steps += [_replace({"Regex": r"\s{2,}|[\n\r\t]"}, " "), {"type": "NFC"}]
    return _steps("normalizers", [*steps, {"type": "Strip", "strip_left": False, "strip_right": True}])


def _backend_normalizer(vocabulary: Vocabulary, options: Options) -> Component:
    return _steps("normalizers", [*_precompiled(vocabulary), _replace({"String": " "}, "▁")])


def _no_normalizer(vocabulary: Vocabulary, options: Options) -> None:
    return None


def _metaspace(scheme: str, *, split: bool = True) -> Component:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def _split(pattern: Component, behavior: str) -> Component:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def _byte_level(*, add_prefix_space: bool | None, use_regex: bool = True) -> Component:
    prefix = bool(add_prefix_space)
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def _bert_words(options: Options) -> Component:
    return {"type": "BertPreTokenizer"}


def _byte_words(options: Options) -> Component:
    return _byte_level(add_prefix_space=options.add_prefix_space)


def _qwen2_words(options: Options) -> Component:
    words = _split({"Regex": _QWEN2_WORDS}, "Isolated")
    return _steps("pretokenizers", [words, _byte_level(add_prefix_space=options.add_prefix_space, use_regex=False)])


def _space_words(options: Options) -> Component:
    scheme = "always" if options.add_prefix_space else "never"
    return _steps("pretokenizers", [{"type": "WhitespaceSplit"}, _metaspace(scheme)])


def _t5_words(options: Options) -> Component:
    return _steps("pretokenizers", [{"type": "WhitespaceSplit"}, _metaspace("always")])


def _deberta_words(options: Options) -> Component:
    steps = [{"type": "Punctuation", "behavior": "Isolated"}] if options.split_by_punct else []
    return _steps("pretokenizers", [*steps, _metaspace("always" if options.add_prefix_space else "first")])


def _llama_words(options: Options) -> Component:
    prefix = "always" if options.legacy else "first"
    return _metaspace(prefix if options.add_prefix_space else "never", split=False)


def _no_words(options: Options) -> None:
    return None


_BERT_TOKENS: dict[str, NamedToken] = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS: dict[str, NamedToken] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_END = "<|endoftext|>"

CLASSES = {
    BACKEND: TokenizerClass(None, _backend_model, _backend_normalizer, _no_words),
    "BertTokenizer": TokenizerClass(
        "WordPiece",
        _wordpiece,
        _bert_normalizer,
        _bert_words,
        _BERT_TOKENS,
        ("cls_token", "sep_token"),
        required=("unk_token",),
        type_ids=True,
    ),
    "MPNetTokenizer": TokenizerClass(
        "WordPiece",
        _wordpiece,
        _bert_normalizer,
        _bert_words,
        _ROBERTA_TOKENS | {"unk_token": "[UNK]"},
        ("cls_token", "sep_token"),
        "doubled",
        required=("unk_token",),
        mask_strips=True,
    ),
    "RobertaTokenizer": TokenizerClass(
        "BPE",
        _byte_level_bpe,
        _no_normalizer,
        _byte_words,
        _ROBERTA_TOKENS,
        ("cls_token", "sep_token"),
        "doubled",
        null_prefix_space=None,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram",
        lambda vocabulary, _, __: _unigram(vocabulary, 3),
        _charsmap_alone,
        _space_words,
        _ROBERTA_TOKENS,
        ("bos_token", "eos_token"),
        "doubled",
        add_prefix_space=True,
    ),
    "CamembertTokenizer": TokenizerClass(
        None,
        _camembert_model,
        _charsmap_alone,
        _space_words,
        _ROBERTA_TOKENS,
        ("bos_token", "eos_token"),
        "doubled",
        add_prefix_space=True,
        mask_strips=True,
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        "Unigram",
        _deberta_model,
        _deberta_normalizer,
        _deberta_words,
        _BERT_TOKENS | {"bos_token": "[CLS]", "eos_token": "[SEP]"},
        ("cls_token", "sep_token"),
        add_prefix_space=True,
        type_ids=True,
    ),
    "AlbertTokenizer": TokenizerClass(
        "Unigram",
        lambda vocabulary, _, __: _unigram(vocabulary, 1),
        _albert_normalizer,
        _space_words,
        _BERT_TOKENS | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"},
        ("cls_token", "sep_token"),
        frame_is_default=True,
        required=("cls_token", "sep_token"),
        add_prefix_space=True,
    ),
    "T5Tokenizer": TokenizerClass(
        "Unigram",
        lambda vocabulary, _, __: _unigram(vocabulary, 2),
        _charsmap_alone,
        _t5_words,
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        (None, "eos_token"),
        "plain",
    ),
    "GPT2Tokenizer": TokenizerClass(
        "BPE",
        _byte_level_bpe,
        _no_normalizer,
        _byte_words,
        {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": None},
        null_prefix_space=None,
    ),
    "Qwen2Tokenizer": TokenizerClass(
        "BPE",
        _byte_level_bpe,
        lambda _, __: {"type": "NFC"},
        _qwen2_words,
        {"unk_token": _END, "bos_token": None, "eos_token": _END, "pad_token": _END},
        adds_plain=True,
    ),
    "LlamaTokenizer": TokenizerClass(
        "BPE",
        lambda vocabulary, _, __: _bpe(vocabulary, fuse_unk=True, byte_fallback=True, affix=None),
        _no_normalizer,
        _llama_words,
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        add_prefix_space=True,
        null_prefix_space=True,
    ),
    "GemmaTokenizer": TokenizerClass(
        "BPE",
        lambda vocabulary, _, unk: _bpe(vocabulary, unk, fuse_unk=True, byte_fallback=True, affix=None),
        lambda _, __: _replace({"String": " "}, "▁"),
        lambda _: _split({"String": " "}, "MergedWithPrevious"),
        {
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
    ),
}

"""Model folders with every tokenizer class, from small committed vocabularies, for tests with and without torch."""

import base64
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedrt_export.tokenizer.sentencepiece import merges_of, read_sentencepiece
from tests.kit.models import LETTERS, WORDS, write_json

VOCABULARIES = Path(__file__).parents[1] / "reference" / "tokenizers"
GOLDEN = VOCABULARIES / "ids.json"
PAIRS = [("A quick brown fox", "the Café"), ("", "two spaces"), ("two spaces", ""), ("", "")]
TEXTS = [
    "",
    "A quick brown fox, the Café's Ångström",
    "  two\t spaces \n and\u00a0more  ",
    "[CLS] special [SEP] tokens [MASK] in <s> text </s> <mask>.<pad> [UNK]<unk> <|endoftext|>",
    "the ex<user>tra  <new> one <New>newer <extra_id_7>, 千里之行 石の上",
    "🙂 e\u0301 ``quoted'' ﬁne 12,345 don't",
    "Чем дальше в лес. العلم नहीं",
    "Supercalifragilisticexpialidocious",
]

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>")


@dataclass(frozen=True)
class Case:
    """One model folder.

    Attributes:
        kind: The class that `tokenizer_config.json` names, or None.
        source: `bert` or `mpnet` (WordPiece), `bytes` (byte-level BPE), or a SentencePiece model.
        files: Whether there are vocabulary files instead of a `tokenizer.json`.
        config: More of `tokenizer_config.json`; the value `...` leaves that file out.
        stored: Changed parts of `tokenizer.json`.
        others: More JSON files.
        architecture: The `model_type`.
    """

    kind: str | None
    source: str
    files: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    architecture: str = "llama"


def token(content: str, **properties: Any) -> dict[str, Any]:
    """An added token as JSON files have it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **plain, **properties}


def typed(content: str, **properties: Any) -> dict[str, Any]:
    """An added token as a value of `tokenizer_config.json`."""
    return {"__type": "AddedToken", **token(content, **properties)}


def write_case(folder: Path, case: "Case | str") -> None:
    """Writes the folder of a case or of one of `CASES`: config and tokenizer, no weights."""
    case = CASES[case] if isinstance(case, str) else case
    write_json(folder / "config.json", {"model_type": case.architecture})
    write_json(
        folder / "tokenizer_config.json",
        {**({} if case.kind is None else {"tokenizer_class": case.kind}), **case.config},
    )
    for file, content in case.others.items():
        write_json(folder / file, content)
    if case.files:
        _write_files(folder, case)
    else:
        write_json(folder / "tokenizer.json", {**plain(case.source), **case.stored})


def plain(source: str) -> dict[str, Any]:
    """A `tokenizer.json` with parts that no class would make."""
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
    }
    if source in {"bert", "mpnet"}:
        vocabulary = {piece: i for i, piece in enumerate(_wordpieces(source))}
        model: dict[str, Any] = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
        heads = [piece for piece in (BERT if source == "bert" else FAIRSEQ) if piece != "<unk>"]
        definition["added_tokens"] = [{"id": vocabulary[head], **token(head)} for head in heads]
        definition["post_processor"] = frame((heads[0], 0), (heads[2], 2))
        definition["normalizer"] = {"type": "NFKC"}
        definition["model"] = {**model, "max_input_chars_per_word": 9, "vocab": vocabulary}
    elif source == "bytes":
        vocabulary = json.loads((VOCABULARIES / "vocab.json").read_text(encoding="utf-8"))
        merges = (VOCABULARIES / "merges.txt").read_text(encoding="utf-8").splitlines()
        definition["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": False,
        }
        definition["post_processor"] = frame(("<s>", 0), ("<|endoftext|>", 5))
        definition["added_tokens"] = [{"id": i, **token(content)} for content, i in list(vocabulary.items())[:6]]
        definition["added_tokens"].sort(key=lambda entry: entry["id"])
        definition["model"] = {**_bpe(), "vocab": vocabulary, "merges": merges[1:], "ignore_merges": True}
    else:
        model_file = read_sentencepiece(VOCABULARIES / f"{source}.model")
        charsmap = base64.b64encode(model_file.charsmap).decode()
        pieces: list[Any] = [list(piece) for piece in model_file.pieces]
        steps: list[dict[str, Any]] = [{"type": "Lowercase"}]
        if charsmap:
            steps.insert(0, {"type": "Precompiled", "precompiled_charsmap": charsmap})
        definition["normalizer"] = {"type": "Sequence", "normalizers": steps}
        definition["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "never",
            "split": True,
        }
        ids = {piece: i for i, (piece, _) in enumerate(model_file.pieces)}
        if source == "bpe":
            merges_text = [" ".join(merge) for merge in merges_of(ids) if " " not in "".join(merge)]
            definition["model"] = {**_bpe(), "unk_token": "<unk>", "vocab": ids, "merges": merges_text}
            definition["post_processor"] = frame(("<s>", 1), None)
        else:
            if source == "fairseq":
                pieces = [[head, 0.0] for head in ("<s>", "<pad>", "</s>", "<unk>")] + pieces[3:] + [["<mask>", 0.0]]
            definition["model"] = {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False}
            ids = {piece: i for i, (piece, _) in enumerate(pieces)}
            last = {"fairseq": "</s>", "albert": "[SEP]", "t5": "</s>"}[source]
            definition["post_processor"] = frame(None, (last, ids[last]))
        heads = [head for head in ("<s>", "</s>", "[CLS]", "[SEP]", "<pad>", "<unk>", "<mask>") if head in ids]
        definition["added_tokens"] = [{"id": ids[head], **token(head)} for head in heads]
    return definition


def frame(first: tuple[str, int] | None, last: tuple[str, int] | None) -> dict[str, Any]:
    """A post-processor that puts these tokens around a text."""
    sides = [[] if t is None else [{"SpecialToken": {"id": t[0], "type_id": 0}}] for t in (first, last)]
    single = [*sides[0], {"Sequence": {"id": "A", "type_id": 0}}, *sides[1]]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t[0]: {"id": t[0], "ids": [t[1]], "tokens": [t[0]]} for t in (first, last) if t},
    }


def _bpe() -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
    }


def _wordpieces(source: str) -> list[str]:
    letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS), "A", "Q", "##é", "Café", "cafe", "##fe", "super"]
    return [*(BERT if source == "bert" else FAIRSEQ), *dict.fromkeys([*WORDS.split(), *letters])]


def _write_files(folder: Path, case: Case) -> None:
    if case.source in {"bert", "mpnet"}:
        (folder / "vocab.txt").write_text("\n".join(_wordpieces(case.source)) + "\n", encoding="utf-8", newline="")
    elif case.source == "bytes":
        shutil.copyfile(VOCABULARIES / "vocab.json", folder / "vocab.json")
        shutil.copyfile(VOCABULARIES / "merges.txt", folder / "merges.txt")
    else:
        name = {
            "XLMRobertaTokenizer": "sentencepiece.bpe.model",
            "CamembertTokenizer": "sentencepiece.bpe.model",
            "DebertaV2Tokenizer": "spm.model",
            "AlbertTokenizer": "spiece.model",
            "T5Tokenizer": "spiece.model",
        }
        target = name.get((case.kind or "").removesuffix("Fast"), "tokenizer.model")
        shutil.copyfile(VOCABULARIES / f"{case.source}.model", folder / target)


_EXTRA = [typed("<new>", lstrip=True, rstrip=True), typed("newer", special=False, normalized=True, single_word=True)]
_LISTED = {"500000": token("<new>", normalized=True, special=False), "3": token("one", single_word=True, lstrip=True)}
SOURCES = {
    "BertTokenizer": "bert",
    "DistilBertTokenizerFast": "bert",
    "MPNetTokenizer": "mpnet",
    "RobertaTokenizer": "bytes",
    "GPT2Tokenizer": "bytes",
    "Qwen2Tokenizer": "bytes",
    "XLMRobertaTokenizer": "fairseq",
    "CamembertTokenizer": "fairseq",
    "DebertaV2Tokenizer": "albert",
    "AlbertTokenizer": "albert",
    "T5Tokenizer": "t5",
    "LlamaTokenizer": "bpe",
    "GemmaTokenizer": "bpe",
    "PreTrainedTokenizerFast": "bpe",
}
# What each class is tried with, in tokenizer_config.json.
_SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "extra": {"additional_special_tokens": _EXTRA, "cls_token": typed("<s>", lstrip=True), "image_token": "<image>"},
    "listed": {"added_tokens_decoder": _LISTED, "extra_special_tokens": ["<New>"], "mask_token": "one"},
    "named-extra": {"extra_special_tokens": {"x_token": "<new>"}, "y_token": typed("fox", rstrip=True)},
    "bos-eos": {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
    "no-prefix": {"add_prefix_space": False, "legacy": True, "do_lower_case": False},
    "prefix": {"add_prefix_space": True, "legacy": False, "do_lower_case": True, "split_by_punct": True},
    "null-prefix": {"add_prefix_space": None, "keep_accents": True, "trim_offsets": False},
    "sides": {"truncation_side": "left", "padding_side": "left", "model_max_length": 9},
}
# What transformers itself does not load.
_IMPOSSIBLE = {
    ("RobertaTokenizer", "null-prefix"),
    ("GPT2Tokenizer", "null-prefix"),
    ("AlbertTokenizer", "extra"),  # no <s> in the vocabulary
}
_ARCHITECTURES = """
    bert roberta xlm-roberta xlm-roberta-xl camembert mpnet distilbert electra albert ernie modernbert nomic_bert
    gte deberta-v2 jina_embeddings_v3 eurobert t5 qwen3 qwen2 gemma3_text mistral llama
"""

CASES: dict[str, Case] = {}
for _kind, _source in SOURCES.items():
    for _name, _settings in _SETTINGS.items():
        if (_kind, _name) in _IMPOSSIBLE:
            continue
        CASES[f"{_kind}-{_name}"] = Case(_kind, _source, config=_settings)
        CASES[f"{_kind}-{_name}-files"] = Case(_kind, _source, files=True, config=_settings)
CASES |= {
    "bert-accents": Case("BertTokenizer", "bert", config={"strip_accents": False}),
    "bert-chinese": Case("BertTokenizerFast", "bert", config={"tokenize_chinese_chars": False}),
    "bert-cased-accents": Case("BertTokenizer", "bert", config={"do_lower_case": False, "strip_accents": True}),
    "bert-map": Case(
        "BertTokenizer",
        "bert",
        files=True,
        others={
            "special_tokens_map.json": {
                "mask_token": token("one"),
                "extra_special_tokens": [{"content": "two", "rstrip": True}, "text"],
            },
            "added_tokens.json": {"<New>": 9999, "[SEP]": 5},
        },
    ),
    "bert-map-of-strings": Case(
        "BertTokenizer",
        "bert",
        others={"special_tokens_map.json": {"sep_token": "<new>", "additional_special_tokens": ["quick"]}}
        | {"added_tokens.json": {"<New>": 9999}},
        config={"sep_token": "[UNK]"},
    ),
    "bert-listed-and-named": Case(
        "BertTokenizer",
        "bert",
        config={
            "added_tokens_decoder": {"300": {"content": "QUICK"}, "301": {"content": "FOX"}},
            "mask_token": "QUICK",
        },
    ),
    "bert-no-frame": Case("BertTokenizer", "bert", stored={"post_processor": None}),
    "bert-of-unigram": Case("BertTokenizer", "albert", config={"unk_token": "<unk>"}, architecture="bert"),
    "roberta-of-unigram": Case("RobertaTokenizer", "fairseq", architecture="roberta"),
    "llama-byte-level": Case("LlamaTokenizerFast", "bytes"),
    "llama-in-mistral": Case("LlamaTokenizer", "bpe", architecture="mistral"),
    "llama-in-qwen2": Case("LlamaTokenizer", "bytes", architecture="qwen2"),
    "bert-in-modernbert": Case("BertTokenizer", "bytes", architecture="modernbert"),
    "xlmr-in-xlmr-xl": Case("XLMRobertaTokenizer", "fairseq", architecture="xlm-roberta-xl"),
    "fast-in-bert": Case("PreTrainedTokenizerFast", "bert", architecture="bert"),
    "python-in-bert": Case("PreTrainedTokenizer", "bert", architecture="bert"),
    "unknown-in-bert": Case("NomicTokenizer", "bert", architecture="bert"),
    "unknown-in-none": Case("NomicTokenizerFast", "bert", architecture="eurobert"),
    "backend-without-frame": Case(
        "TokenizersBackend", "bpe", stored={"post_processor": None}, config={"add_bos_token": True}
    ),
    "backend-unigram-files": Case("PreTrainedTokenizerFast", "fairseq", files=True, config={"add_bos_token": True}),
    "backend-placeholders": Case(
        "PreTrainedTokenizerFast",
        "bpe",
        files=True,
        config={"added_tokens_decoder": {"4": token("</s>"), "2": token("<new>"), "3": token("the")}},
    ),
    "xlmr-heads": Case(
        "XLMRobertaTokenizer", "fairseq", files=True, config={"eos_token": "<end>", "mask_token": "the"}
    ),
    "t5-sentinels": Case(
        "T5Tokenizer", "t5", files=True, config={"extra_ids": 3, "additional_special_tokens": ["<extra_id_0>"]}
    ),
    "t5-no-sentinels": Case("T5Tokenizer", "t5", config={"extra_ids": 0}),
    "t5-null": Case("T5Tokenizer", "t5", config={"extra_special_tokens": None}),
    "camembert-null": Case("CamembertTokenizer", "fairseq", config={"additional_special_tokens": None}),
    "albert-frame": Case("AlbertTokenizer", "albert", stored={"post_processor": None}),
    "mpnet-mask": Case("MPNetTokenizer", "mpnet", config={"mask_token": "<mask>"}, stored={"added_tokens": []}),
    "padding-and-truncation": Case(
        "LlamaTokenizer",
        "bpe",
        stored={
            "truncation": {"direction": "Left", "max_length": 7, "strategy": "LongestFirst", "stride": 0},
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "</s>",
            },
        },
    ),
}
for _architecture in _ARCHITECTURES.split():
    _like = {
        **dict.fromkeys(["roberta", "qwen2", "qwen3"], "bytes"),
        **dict.fromkeys(["xlm-roberta", "xlm-roberta-xl", "camembert", "gte", "jina_embeddings_v3"], "fairseq"),
        **dict.fromkeys(["albert", "deberta-v2"], "albert"),
        **dict.fromkeys(["gemma3_text", "mistral", "llama"], "bpe"),
        "t5": "t5",
        "mpnet": "mpnet",
    }
    CASES[f"default-{_architecture}"] = Case(None, _like.get(_architecture, "bert"), architecture=_architecture)

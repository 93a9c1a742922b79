"""Vocabulary of a tokenizer, from `tokenizer.json` or from the vocabulary files of a repo without one."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tokenizers

from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export.tokenizer.sentencepiece import UNIGRAM, SentencePiece, merges_of, read_sentencepiece
from embedrt_export.tokenizer.special_tokens import AddedToken, NamedToken, require_content

TOKENIZER = "tokenizer.json"
_SENTENCEPIECE = "tokenizer.model"  # read for every class, before the class's own file
_FOREIGN = ("tekken.json", "tiktoken.model")
# The files of a class beside tokenizer.json and tokenizer.model.
_FILES: dict[str, tuple[str, ...]] = {
    "AlbertTokenizer": ("spiece.model",),
    "BertTokenizer": ("vocab.txt",),
    "CamembertTokenizer": ("sentencepiece.bpe.model",),
    "DebertaV2Tokenizer": ("spm.model",),
    "GPT2Tokenizer": ("vocab.json", "merges.txt"),
    "MPNetTokenizer": ("vocab.txt",),
    "Qwen2Tokenizer": ("vocab.json", "merges.txt"),
    "RobertaTokenizer": ("vocab.json", "merges.txt"),
    "T5Tokenizer": ("spiece.model",),
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model",),
}
_FAIRSEQ: dict[str, NamedToken] = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
# Tokens before the pieces of a class, by role or content, and the number of pieces that they replace.
_LEADING: dict[str, tuple[tuple[str, ...], int]] = {
    "XLMRobertaTokenizer": (("bos_token", "pad_token", "eos_token", "unk_token"), 3),
    "CamembertTokenizer": (("<s>NOTUSED", "pad_token", "</s>NOTUSED", "unk_token", "<unk>NOTUSED"), 1),
}
Scores = list[tuple[str, float]]


@dataclass(frozen=True)
class Vocabulary:
    """Vocabulary of a class.

    Attributes:
        file: Its file, for messages.
        ids: Token to id, for WordPiece and BPE; or None.
        scores: Token and score by id, for Unigram; or None.
        merges: The pairs of BPE.
        charsmap: Base64 of the precompiled normalization, or None.
        unk_id: Id of the unknown token, if the file has it.
        sentencepiece: The SentencePiece model, if there is no `tokenizer.json`.
    """

    file: str
    ids: dict[str, int] | None = None
    scores: Scores | None = None
    merges: list[Any] = field(default_factory=list)
    charsmap: str | None = None
    unk_id: int | None = None
    sentencepiece: SentencePiece | None = None

    def tokens(self) -> set[str]:
        """Every token."""
        return set(self.ids or ()) | {token for token, _ in self.scores or ()}

    def require_ids(self) -> dict[str, int]:
        """The ids, for a class that needs them."""
        if self.ids is None:
            raise ExportError(f"{self.file}: scored pieces, where this tokenizer's class needs ids; {_REMEDY}")
        return self.ids

    def require_scores(self) -> Scores:
        """The scores, for a class that needs them."""
        if self.scores is None:
            raise ExportError(
                f"{self.file}: a vocabulary without scores, which this tokenizer's class needs; {_REMEDY}"
            )
        return self.scores


_REMEDY = "set tokenizer_class to the class that the tokenizer was trained for"


def stored_vocabulary(definition: Mapping[str, Any], algorithm: str | None) -> Vocabulary:
    """The vocabulary of a `tokenizer.json`, as a class of this algorithm takes it.

    Args:
        definition: The parsed file.
        algorithm: `WordPiece`, `BPE` or `Unigram`; None takes what is there.
    """
    model = definition["model"]
    entries, is_scored = model.get("vocab"), isinstance(model.get("vocab"), list)
    found = Vocabulary(TOKENIZER, charsmap=_charsmap(definition.get("normalizer")))
    if not entries:
        raise ExportError(f"{TOKENIZER}: no vocabulary; {_REMEDY}")
    if algorithm not in {"WordPiece", "BPE"}:
        return replace(found, scores=[(token, float(score)) for token, score in entries] if is_scored else None)
    ids = {entry[0]: i for i, entry in enumerate(entries)} if is_scored else entries
    merges = model.get("merges", []) if algorithm == "BPE" else []
    return replace(found, ids=ids, merges=[tuple(m.split(" ")) if isinstance(m, str) else m for m in merges])


def read_vocabulary(
    folder: Path, class_name: str, algorithm: str | None, named: Mapping[str, NamedToken], extra_ids: int
) -> Vocabulary:
    """The vocabulary of a repo without `tokenizer.json`.

    Args:
        folder: The model's folder.
        class_name: The tokenizer's class.
        algorithm: The class's algorithm, None where it has no own.
        named: The special tokens that the config names.
        extra_ids: How many sentinels T5 has.

    Raises:
        ExportError: A file is missing or damaged.
    """
    if foreign := [name for name in _FOREIGN if (folder / name).exists()]:
        raise UnsupportedModelError(f"{folder.name}: no {TOKENIZER}, and {foreign[0]} cannot be read; {_SAVE}")
    names = (_SENTENCEPIECE,) if (folder / _SENTENCEPIECE).is_file() else _FILES.get(class_name, ())
    if not names or not all((folder / name).is_file() for name in names):
        wanted = " and ".join(_FILES.get(class_name, (_SENTENCEPIECE,)))
        raise UnsupportedModelError(f"{folder.name}: no {TOKENIZER} and no {wanted} for a {class_name}; {_SAVE}")
    if names[0].endswith(".model"):
        return _from_sentencepiece(folder / names[0], class_name, algorithm, named, extra_ids)
    try:
        if len(names) == 1:
            return Vocabulary(names[0], ids=tokenizers.models.WordPiece.read_file(str(folder / names[0])))
        ids, merges = tokenizers.models.BPE.read_file(*(str(folder / name) for name in names))
    except Exception as error:
        raise ExportError(f"{' and '.join(names)}: cannot be read: {error}; download the model again") from error
    return Vocabulary(names[0], ids=ids, merges=merges)


_SAVE = "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers writes a tokenizer.json"


def symbols_of(model: SentencePiece) -> list[str | AddedToken]:
    """Control and user defined pieces of a SentencePiece model, which are matched before everything else."""
    return [AddedToken(piece, normalized=False, special=is_control) for piece, is_control in model.symbols]


def _from_sentencepiece(
    path: Path, class_name: str, algorithm: str | None, named: Mapping[str, NamedToken], extra_ids: int
) -> Vocabulary:
    model = read_sentencepiece(path)
    found = Vocabulary(path.name, sentencepiece=model, unk_id=model.unk_id)
    if model.charsmap:
        found = replace(found, charsmap=base64.b64encode(model.charsmap).decode())
    if algorithm == "BPE" or (algorithm is None and model.model_type != UNIGRAM):
        ids = {piece: i for i, (piece, _) in enumerate(model.pieces)}
        return replace(found, ids=ids, merges=merges_of(ids))
    scores = model.pieces
    if class_name in _LEADING:  # fairseq replaces the first tokens of SentencePiece
        leading, replaced = _LEADING[class_name]
        default = {**_FAIRSEQ, **named}
        first = [require_content(default[name], name) if name in default else name for name in leading]
        unused = {"<unk>NOTUSED": -100.0}
        scores = [(piece, unused.get(piece, 0.0)) for piece in first] + scores[replaced:]
        scores = [*scores, (require_content(default["mask_token"], "mask_token"), 0.0)]
    elif class_name == "T5Tokenizer":
        scores = [*scores, *((f"<extra_id_{i}>", 0.0) for i in reversed(range(extra_ids)))]
    return replace(found, scores=scores)


def _charsmap(normalizer: Any) -> str | None:
    """Precompiled normalization in the first two levels of a normalizer, the only part that a class keeps."""
    steps = (normalizer or {}).get("normalizers", [normalizer]) if normalizer else []
    found = (step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled")
    return next(found, None)

"""SentencePiece's `*.model` files: a reader of the protobuf wire format for the few fields that a tokenizer needs.

Message and field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedrt.errors import ExportError

UNIGRAM = 1
_CONTROL, _USER_DEFINED = 3, 4
_MAX_PIECE = 1 << 16  # a longer piece is damage, and would take quadratic time
# Field numbers of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK, _UNK_ID, _BOS_ID, _EOS_ID = 3, 35, 40, 41, 42
_UNK_PIECE, _BOS_PIECE, _EOS_PIECE = 45, 46, 47
_CHARSMAP = 2


@dataclass(frozen=True)
class SentencePiece:
    """What a `*.model` file holds.

    Attributes:
        pieces: Text and score, by id.
        symbols: Control and user defined pieces in order of id; True where the piece is a control symbol.
        model_type: `UNIGRAM`, or another number for BPE.
        byte_fallback: Unknown characters become their bytes.
        unk_id: Id of the piece for what is unknown.
        unk_piece: That piece.
        named: `unk_token`, `bos_token`, `eos_token`, as far as the model has them.
        charsmap: The precompiled normalization, or no bytes.
    """

    pieces: list[tuple[str, float]]
    symbols: list[tuple[str, bool]]
    model_type: int
    byte_fallback: bool
    unk_id: int
    unk_piece: str
    named: dict[str, str]
    charsmap: bytes


def read_sentencepiece(path: Path) -> SentencePiece:
    """Reads a SentencePiece model.

    Raises:
        ExportError: The file is truncated or is something else.
    """
    try:
        model = _decode(path.read_bytes())
    except (ValueError, struct.error, OSError) as error:
        raise ExportError(f"{path.name}: not a SentencePiece model, or damaged: {error}; download it again") from error
    if not model.pieces:
        raise ExportError(f"{path.name}: a SentencePiece model without pieces; download it again")
    return model


def merges_of(ids: dict[str, int]) -> list[tuple[str, str]]:
    """The merges that a BPE vocabulary implies: every split into two known pieces, by the id of what it makes."""
    order = sorted(ids, key=ids.__getitem__)
    splits = ((piece[:i], piece[i:]) for piece in order for i in range(1, len(piece)))
    return [(left, right) for left, right in splits if left in ids and right in ids]


def _decode(data: bytes) -> SentencePiece:
    pieces: list[tuple[str, float]] = []
    symbols: list[tuple[str, bool]] = []
    trainer: dict[int, int | bytes] = {}
    charsmap = b""
    for number, value in _fields(data):
        if number == _PIECES:
            fields = dict(_fields(_bytes(value)))
            piece = _text(fields.get(_TEXT, b""))
            if len(piece) > _MAX_PIECE:
                raise ValueError(f"a piece of {len(piece)} characters")
            pieces.append((piece, struct.unpack("<f", _bytes(fields.get(_SCORE, bytes(4))))[0]))
            if (kind := fields.get(_TYPE)) in {_CONTROL, _USER_DEFINED}:
                symbols.append((piece, kind == _CONTROL))
        elif number == _TRAINER:
            trainer.update(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            charsmap = _bytes(dict(_fields(_bytes(value))).get(_CHARSMAP, charsmap))
    defaults = {"unk_token": (0, "<unk>"), "bos_token": (1, "<s>"), "eos_token": (2, "</s>")}
    numbers = {
        "unk_token": (_UNK_ID, _UNK_PIECE),
        "bos_token": (_BOS_ID, _BOS_PIECE),
        "eos_token": (_EOS_ID, _EOS_PIECE),
    }
    named = {}
    for name, (default_id, default_piece) in defaults.items():
        id_number, piece_number = numbers[name]
        if _integer(trainer.get(id_number, default_id)) >= 0:
            named[name] = _text(trainer.get(piece_number, default_piece.encode())) or default_piece
    return SentencePiece(
        pieces=pieces,
        symbols=symbols,
        model_type=_integer(trainer.get(_MODEL_TYPE, UNIGRAM)),
        byte_fallback=bool(_integer(trainer.get(_BYTE_FALLBACK, 0))),
        unk_id=_integer(trainer.get(_UNK_ID, 0)),
        unk_piece=_text(trainer.get(_UNK_PIECE, b"<unk>")),
        named=named,
        charsmap=charsmap,
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one message: number, and an integer (varint) or bytes (everything else)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        value: int | bytes
        if wire_type == 0:
            value, at = _varint(data, at)
        elif wire_type in {1, 2, 5}:
            if wire_type == 2:
                size, at = _varint(data, at)
            else:
                size = 8 if wire_type == 1 else 4
            if at + size > len(data):
                raise ValueError(f"a field of {size} bytes where {len(data) - at} are left")
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {wire_type}")
        if not number:
            raise ValueError("a field with number 0")
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 10 bytes")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")  # noqa: TRY004 - it is the file that is wrong
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode("utf-8")


def _integer(value: int | bytes) -> int:
    """An int32, which protobuf writes in 64 bits where it is negative."""
    if isinstance(value, bytes):
        raise ValueError("bytes where a number belongs")  # noqa: TRY004 - it is the file that is wrong
    return value - (1 << 64) if value >= 1 << 63 else value

"""SentencePiece's `*.model` files, read with protobuf.

Message and field numbers: sentencepiece_model.proto of google/sentencepiece. Only the fields that a tokenizer needs are
declared. Texts are bytes there, and enumerations integers, so that both are checked here.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from embedrt.errors import ExportError

UNIGRAM = 1
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_MAX_PIECE = 1 << 16  # a longer piece is damage, and would take quadratic time
_PACKAGE = "embedrt.sentencepiece"
# Name, number, type and default of every field.
_MESSAGES: dict[str, tuple[tuple[str, int, str, str], ...]] = {
    "Piece": (("text", 1, "bytes", ""), ("score", 2, "float", "0"), ("type", 3, "int32", str(_NORMAL))),
    "Trainer": (
        ("model_type", 3, "int32", str(UNIGRAM)),
        ("byte_fallback", 35, "bool", "false"),
        ("unk_id", 40, "int32", "0"),
        ("bos_id", 41, "int32", "1"),
        ("eos_id", 42, "int32", "2"),
        ("unk_piece", 45, "bytes", "<unk>"),
        ("bos_piece", 46, "bytes", "<s>"),
        ("eos_piece", 47, "bytes", "</s>"),
    ),
    "Normalizer": (("charsmap", 2, "bytes", ""),),
    "Model": (("pieces", 1, "Piece", ""), ("trainer", 2, "Trainer", ""), ("normalizer", 3, "Normalizer", "")),
}


@dataclass(frozen=True)
class SentencePiece:
    """Content of a `*.model` file.

    Attributes:
        pieces: Text and score, by id.
        symbols: Control and user defined pieces in order of id; True where the piece is a control symbol.
        model_type: `UNIGRAM`, or another number for BPE.
        byte_fallback: Unknown characters become their bytes.
        unk_id: Id of the piece for unknown text.
        unk_piece: That piece.
        named: `unk_token`, `bos_token` and `eos_token`, if the model has them.
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
    """Read a SentencePiece model.

    Raises:
        ExportError: The file is truncated or is something else.
    """
    try:
        model = _decode(path.read_bytes())
    except (ValueError, DecodeError, OSError) as error:
        raise ExportError(f"{path.name}: not a SentencePiece model, or damaged: {error}; download it again") from error
    if not model.pieces:
        raise ExportError(f"{path.name}: a SentencePiece model without pieces; download it again")
    return model


def merges_of(ids: dict[str, int]) -> list[tuple[str, str]]:
    """Merges that a BPE vocabulary implies: every split into two known pieces, in order of the id of their sum."""
    order = sorted(ids, key=ids.__getitem__)
    splits = ((piece[:i], piece[i:]) for piece in order for i in range(1, len(piece)))
    return [(left, right) for left, right in splits if left in ids and right in ids]


@cache
def _model_class() -> Any:
    """Build the protobuf class of a whole file."""
    file = FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, default in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = (
                FieldDescriptorProto.LABEL_REPEATED if kind == "Piece" else FieldDescriptorProto.LABEL_OPTIONAL
            )
            if kind in _MESSAGES:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))


def _decode(data: bytes) -> SentencePiece:
    model = _model_class().FromString(data)
    pieces: list[tuple[str, float]] = []
    symbols: list[tuple[str, bool]] = []
    for message in (model, model.trainer, model.normalizer, *model.pieces):
        _check_types(message)
    for piece in model.pieces:
        text = piece.text.decode()
        if len(text) > _MAX_PIECE:
            raise ValueError(f"a piece of {len(text)} characters")
        pieces.append((text, piece.score))
        if piece.type in {_CONTROL, _USER_DEFINED}:
            symbols.append((text, piece.type == _CONTROL))
    trainer, named = model.trainer, {}
    for role in ("unk", "bos", "eos"):
        if getattr(trainer, f"{role}_id") >= 0:
            field = f"{role}_piece"
            default = trainer.DESCRIPTOR.fields_by_name[field].default_value
            named[f"{role}_token"] = (getattr(trainer, field) or default).decode()
    return SentencePiece(
        pieces=pieces,
        symbols=symbols,
        model_type=trainer.model_type,
        byte_fallback=trainer.byte_fallback,
        unk_id=trainer.unk_id,
        unk_piece=trainer.unk_piece.decode(),
        named=named,
        charsmap=model.normalizer.charsmap,
    )


def _check_types(message: Any) -> None:
    """Check that declared fields have their type; protobuf would ignore them otherwise.

    Raises:
        ValueError: A field has another one.
    """
    declared = message.DESCRIPTOR.fields_by_number
    for field in UnknownFieldSet(message):
        if field.field_number in declared:
            name = f"{message.DESCRIPTOR.name}.{declared[field.field_number].name}"
            raise ValueError(f"the field {name} has the wire type {field.wire_type}")

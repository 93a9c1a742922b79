"""Dtypes of a bundle: a table of writers, each of which adds variants to every route."""

from embedrt_export.dtypes import float32
from embedrt_export.dtypes.draft import Draft, Writer
from embedrt_export.dtypes.float16 import variant as float16
from embedrt_export.dtypes.int8 import variant as int8

__all__ = ["WRITERS", "Draft", "Writer"]

WRITERS: dict[str, Writer] = {"float32": float32.WRITER, **float16.WRITERS, "int8": int8.WRITER}
"""By dtype. Float32 is always written first: the others are derived from it and compared with it."""

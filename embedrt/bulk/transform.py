"""`Transform`: a table of texts to a table with vectors. Every engine calls it, here and on other machines."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedrt._version import __version__
from embedrt.bulk.arrow import pa
from embedrt.bulk.encoders import Advance, Encoded, Encoder, open_encoder
from embedrt.bulk.options import Meaning, ModelChoice
from embedrt.bulk.rows import MESSAGES, TABLE, Places, RowError, of_file
from embedrt.bulk.texts import Reading, Texts, reading_of, texts_of
from embedrt.errors import BulkError, InferenceError, NonFiniteError, OutOfMemory
from embedrt.vectors.sparse import bounds_of, spans

__all__ = ["Facts", "Known", "RowError", "Transform", "Transformed"]

RECORD = b"embedrt"
"""Key of a file's metadata: model and fingerprint, as `embedrt.load_embeddings` reads them."""
DETAILS = b"embedrt.bulk"
"""Key of a file's metadata: versions, dtype and options of the job, and ranges of int8 vectors."""
CHUNK = ("chunk", "start", "end")
"""Columns with the number of a window in its text, and its characters."""
FACTS = ("n_tokens", "truncated")
"""Columns with the tokens that the model read, and whether the text was truncated."""

# About the bytes of the results of a call, and the rows at most.
_BYTES, _LEAST_ROWS, _MOST_ROWS = 1 << 25, 256, 16384
# Before a packed result in tables on disk: tokens, and 1 if the text was truncated.
_HEAD = np.dtype([("tokens", "<u4"), ("truncated", "u1")])
# Options that do not change the result of a text.
_OF_TABLES = {"text", "template", "id", "keep", "vector", "on_error", "with_tokens", "part_format", "part_rows"}


@dataclass(frozen=True)
class Facts:
    """Numbers about some rows; `+` adds them.

    Attributes:
        rows: Rows of the source.
        written: Rows of the result.
        tokens: Tokens that the model read.
        truncated: Texts that were truncated.
        duplicates: Texts that were not encoded again.
        failed: Rows without a result.
        seconds: Seconds of the model.
    """

    rows: int = 0
    written: int = 0
    tokens: int = 0
    truncated: int = 0
    duplicates: int = 0
    failed: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Facts") -> "Facts":
        return Facts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


class Known(Protocol):
    """A table on disk of results that are there already, by hash."""

    def find(self, hashes: Sequence[bytes]) -> Sequence[bytes | None]:
        """The result for each hash; None if there is none."""

    def add(self, hashes: Sequence[bytes], results: Sequence[bytes]) -> None:
        """Store results; others may have stored the same meanwhile."""


@dataclass(frozen=True)
class Transformed:
    """The outcome of a table.

    Attributes:
        table: The `pyarrow.Table` with the kept columns and the result.
        errors: The rows without a result, if `on_error` is not "fail".
        facts: Numbers.
    """

    table: Any
    errors: list[RowError] = field(default_factory=list)
    facts: Facts = Facts()


class Transform:
    """A table of texts to a table with vectors. Picklable: a copy in another process opens the model again.

    The model is opened on the first use of anything that needs it.

    Args:
        model: The model.
        meaning: The options that decide the result.
        dedupe: Whether equal texts of a table are encoded once.

    Attributes:
        model: See the argument.
        meaning: See the argument.
        dedupe: See the argument.
    """

    def __init__(self, model: ModelChoice, meaning: Meaning, *, dedupe: bool = True) -> None:
        self.model = model
        self.meaning = meaning
        self.dedupe = dedupe

    def __reduce__(self) -> Any:
        return _transform, (self.model, self.meaning, self.dedupe)

    @cached_property
    def encoder(self) -> Encoder:
        """The open model with the options.

        Raises:
            BulkError: An option does not suit the model.
            ModelNotFoundError: The name leads to no bundle; the message has the command to run.
        """
        return open_encoder(self.model, self.meaning)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the vector space."""
        return self.encoder.model.fingerprint

    @property
    def dtype(self) -> str:
        """The dtype of the model."""
        return self.encoder.model.dtype

    @cached_property
    def most_rows(self) -> int:
        """The rows of a table with which memory stays bounded."""
        return min(max(_BYTES // self.encoder.bytes_per_text, _LEAST_ROWS), _MOST_ROWS, self.meaning.part_rows)

    @cached_property
    def metadata(self) -> dict[bytes, bytes]:
        """The metadata of files with the result."""
        opened = self.encoder.model
        record = {"format_version": 1, "model": opened.name, "fingerprint": opened.fingerprint, "sha256": None}
        ranges = getattr(self.encoder, "ranges", None)
        details = {
            "versions": {"embedrt": __version__, "engine": opened.engine},
            "dtype": opened.dtype,
            "max_seq_length": opened.max_seq_length,
            "options": asdict(self.meaning),
            **({} if ranges is None else {"ranges": np.asarray(ranges, np.float32).tolist()}),
        }
        return {RECORD: _json(record), DETAILS: _json(details)}

    def schema(self, source: Any) -> Any:
        """The `pyarrow.Schema` of the result, for the one of the source; checks the columns.

        Raises:
            BulkError: A column is missing, or the source has a column of the same name as a result.
        """
        self._reading(source)
        return pa.schema([*(source.field(name) for name in self._kept(source)), *self._added()], self.metadata)

    def columns(self, source: Any) -> list[str] | None:
        """The columns of a source to read; None for all.

        Args:
            source: The `pyarrow.Schema` of the source.

        Raises:
            BulkError: As `schema`.
        """
        if self.meaning.keep is None:
            return None
        wanted = {*self._reading(source).columns, *self._kept(source)}
        return [name for name in source.names if name in wanted]

    def _reading(self, source: Any) -> Reading:
        return reading_of(self.meaning, source, pairs=self.encoder.model.manifest.task == "score")

    def _kept(self, source: Any) -> list[str]:
        """The columns of the source that the result has, in order.

        Raises:
            BulkError: A column is missing, there twice, or named as a result.
        """
        names = [name for name in source.names if name != MESSAGES]
        kept = list(names if self.meaning.keep is None else self.meaning.keep)
        wanted = [*([] if self.meaning.id is None else [self.meaning.id]), *kept]
        if missing := [name for name in wanted if name not in names]:
            raise BulkError(f"column {missing[0]!r}: missing; the columns are {', '.join(map(repr, names))}")
        if self.meaning.id is not None and self.meaning.id not in kept:
            kept.insert(0, self.meaning.id)
        if twice := [name for name in kept if names.count(name) > 1]:
            raise BulkError(f"column {twice[0]!r}: expected one, got {names.count(twice[0])}; rename one of them")
        if taken := [one.name for one in self._added() if one.name in kept]:
            raise BulkError(
                f"column {taken[0]!r}: the source has a column of this name already; leave it out with --keep, or "
                "name the vectors with --vector"
            )
        return kept

    def _added(self) -> list[Any]:
        """The fields of the result that the source does not have."""
        added = [pa.field(self.meaning.vector, self.encoder.type, nullable=self.meaning.on_error == "null")]
        if self.meaning.long_texts == "chunks":
            added += [pa.field(name, pa.int32()) for name in CHUNK]
        if self.meaning.with_tokens:
            added += [pa.field(FACTS[0], pa.int32()), pa.field(FACTS[1], pa.bool_())]
        return added

    def __call__(
        self,
        table: Any,
        *,
        places: Places = TABLE,
        first_row: int = 0,
        known: Known | None = None,
        advance: Advance = lambda texts, tokens: None,
    ) -> Transformed:
        """Encode the texts of a table.

        Args:
            table: A `pyarrow.Table`.
            places: The places of the rows, for messages.
            first_row: The first row of the table.
            known: A table of results, for duplicates of the whole job and for caches.
            advance: Called with the numbers of texts and tokens of a batch that is done, from several threads.

        Raises:
            BulkError: A row has no result, and `on_error` is "fail"; the message has file, row and column.
        """
        with of_file(places.files[0]):
            schema = self.schema(table.schema)
        reading = self._reading(table.schema)
        texts = texts_of(table, reading, places, first_row)
        if self.meaning.id is not None:
            texts = _with_ids(texts, table.column(self.meaning.id), self.meaning.id, places, first_row)
        if texts.errors and self.meaning.on_error == "fail":
            raise texts.errors[min(texts.errors)].raised()
        unique, numbers = _unique(texts.items) if self.dedupe else (texts.items, np.arange(len(texts.items)))
        results, failures, fresh, seconds = self._results(unique, known, advance)
        column = None if len(reading.columns) > 1 else reading.columns[0]
        failed = {
            row: places.error(first_row + row, column, failures[text])
            for row, text in zip(texts.rows, numbers.tolist(), strict=True)
            if text in failures
        }
        if failed and self.meaning.on_error == "fail":
            raise failed[min(failed)].raised()
        errors = {**texts.errors, **failed}
        found = np.full(table.num_rows, -1, np.int64)
        found[texts.rows] = numbers
        found[list(errors)] = -1
        made = self._table(table, schema, found, results)
        facts = Facts(
            rows=table.num_rows,
            written=made.num_rows,
            tokens=fresh,
            truncated=int(results.truncated[found[found >= 0]].sum()),
            duplicates=len(texts.items) - len(unique) + results.reused,
            failed=len(errors),
            seconds=seconds,
        )
        return Transformed(made, [errors[row] for row in sorted(errors)], facts)

    def _table(self, table: Any, schema: Any, found: NDArray[np.int64], results: "_Results") -> Any:
        """The table of the result.

        Args:
            table: The table of the source.
            schema: The schema of the result.
            found: The place of the text of each row in the results, or -1.
            results: The results.
        """
        encoded = results.encoded
        kept = table.select(self._kept(table.schema))
        rows = np.arange(table.num_rows)
        if self.meaning.on_error == "skip":
            rows = np.flatnonzero(found >= 0)
        places = found[rows]
        added: list[Any] = []
        if encoded.counts is None:
            windows = places
        else:
            counts = np.concatenate([encoded.counts, [1]])[places]  # -1 is a row without a result
            starts = bounds_of(encoded.counts)[places]
            windows = spans(starts, counts)
            number = spans(np.zeros_like(starts), counts)
            missing = np.repeat(places < 0, counts)
            windows[missing] = -1
            rows = np.repeat(rows, counts)
            assert encoded.spans is not None  # noqa: S101 - with counts
            bounds = np.concatenate([encoded.spans, np.zeros((1, 2), np.int32)])[windows]
            added = [pa.array(values.astype(np.int32), mask=missing) for values in (number, bounds[:, 0], bounds[:, 1])]
        if len(rows) != table.num_rows or encoded.counts is not None:
            kept = kept.take(pa.array(rows))
        missing = windows < 0
        columns = [_taken(encoded.column, windows, missing), *added]
        if self.meaning.with_tokens:
            tokens, truncated = encoded.tokens, encoded.truncated
            if encoded.counts is not None:
                truncated = np.zeros(len(tokens), bool)
            columns += [_taken(pa.array(values), windows, missing) for values in (tokens, truncated)]
        return pa.table([*kept.columns, *columns], schema=schema)

    def _results(
        self, texts: list[Any], known: Known | None, advance: Advance
    ) -> "tuple[_Results, dict[int, str], int, float]":
        """The results of texts, those that have none with the reason, the tokens, and the seconds of the model."""
        begun = time.perf_counter()
        if known is None or self.meaning.long_texts == "chunks":
            encoded, failures = self._encoded(texts, advance)
            reused = 0
            fresh = int(encoded.tokens.sum())
        else:
            encoded, failures, reused, fresh = self._with_known(texts, known, advance)
        return _Results(encoded, reused), failures, fresh, time.perf_counter() - begun

    def _with_known(self, texts: list[Any], known: Known, advance: Advance) -> tuple[Encoded, dict[int, str], int, int]:
        """The results of texts of which a table has some."""
        hashes = self._hashes(texts)
        there = known.find(hashes)
        missing = [i for i, packed in enumerate(there) if packed is None]
        encoded, failed = self._encoded([texts[i] for i in missing], advance)
        if failed and self.meaning.on_error == "fail":
            return encoded, {missing[i]: message for i, message in failed.items()}, 0, 0
        good = [i for i in range(len(missing)) if i not in failed]
        head = np.zeros(len(good), _HEAD)
        head["tokens"], head["truncated"] = encoded.tokens[good], encoded.truncated[good]
        column = encoded.column.take(pa.array(good, pa.int64())) if failed else encoded.column
        packed = [one.tobytes() + rest for one, rest in zip(head, self.encoder.pack(column), strict=True)]
        known.add([hashes[missing[i]] for i in good], packed)
        old = [(i, one) for i, one in enumerate(there) if one is not None]
        heads = np.frombuffer(b"".join(one[: _HEAD.itemsize] for _, one in old), _HEAD)
        order = np.argsort(np.array([*missing, *(i for i, _ in old)], np.int64))
        return (
            Encoded(
                pa.concat_arrays([encoded.column, self.encoder.unpack([one[_HEAD.itemsize :] for _, one in old])]).take(
                    pa.array(order)
                ),
                np.concatenate([encoded.tokens, heads["tokens"].astype(np.int32)])[order],
                np.concatenate([encoded.truncated, heads["truncated"].astype(bool)])[order],
            ),
            {missing[i]: message for i, message in failed.items()},
            len(old),
            int(encoded.tokens.sum()),
        )

    def _hashes(self, texts: list[Any]) -> list[bytes]:
        """A hash of each text with everything that its result depends on."""
        options = {name: value for name, value in asdict(self.meaning).items() if name not in _OF_TABLES}
        ranges = getattr(self.encoder, "ranges", None)
        seed = _json([self.fingerprint, self.dtype, options, None if ranges is None else ranges.tolist()])
        key = hashlib.blake2b(seed, digest_size=32).digest()
        joined = (text if isinstance(text, str) else json.dumps(text) for text in texts)  # whose border is certain
        return [hashlib.blake2b(text.encode(), digest_size=16, key=key).digest() for text in joined]

    def _encoded(self, texts: list[Any], advance: Advance) -> tuple[Encoded, dict[int, str]]:
        """Encode texts; for those that fail, the reason by place."""
        encoded, failures = self._halved(texts, advance)
        if self.meaning.long_texts == "error":
            limit = self.encoder.model.max_seq_length
            for place in np.flatnonzero(encoded.truncated).tolist():
                failures[place] = f"expected at most {limit} tokens, got a longer text; truncate it or use chunks"
        return encoded, failures

    def _halved(self, texts: list[Any], advance: Advance) -> tuple[Encoded, dict[int, str]]:
        """Encode texts; if one fails, in halves, until the failing ones are alone."""
        try:
            return self.encoder.encode(texts, advance), {}
        except (NonFiniteError, OutOfMemory) as error:
            failure: InferenceError = error
        except InferenceError as error:
            if type(error) is not InferenceError:  # of the engine, not of a text
                raise
            self.encoder.model.loaded.require_open()
            failure = error
        if len(texts) == 1:
            message = str(failure)
            if message.startswith("texts["):
                message = message.partition(": ")[2]
            return _without_result(self.encoder, self.meaning), {0: message}
        middle = len(texts) // 2
        one, failures = self._halved(texts[:middle], advance)
        if failures and self.meaning.on_error == "fail":
            return one, failures
        other, more = self._halved(texts[middle:], advance)
        return _joined(one, other), {**failures, **{middle + place: message for place, message in more.items()}}


@dataclass(frozen=True, eq=False)
class _Results:
    """The results of unique texts.

    Attributes:
        encoded: The results.
        reused: Those that were there already.
    """

    encoded: Encoded
    reused: int

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """True for each text that was truncated."""
        return self.encoded.truncated


def _transform(model: ModelChoice, meaning: Meaning, dedupe: bool) -> Transform:
    return Transform(model, meaning, dedupe=dedupe)


def _unique(items: list[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """The texts without repeats, and the place of each text among them."""
    places: dict[Any, int] = {}
    found = np.fromiter((places.setdefault(item, len(places)) for item in items), np.int64, len(items))
    return list(places), found


def _with_ids(texts: Texts, column: Any, name: str, places: Places, first_row: int) -> Texts:
    """The texts of rows that have an id."""
    if not column.null_count:
        return texts
    missing = set(np.flatnonzero(column.is_null().to_numpy()).tolist())
    more = {row: places.error(first_row + row, name, "expected an id, got null") for row in missing}
    kept = [(item, row) for item, row in zip(texts.items, texts.rows, strict=True) if row not in missing]
    return Texts([item for item, _ in kept], [row for _, row in kept], {**more, **texts.errors})


def _taken(column: Any, places: NDArray[np.int64], missing: NDArray[np.bool_]) -> Any:
    """The entries of an array at some places; null where they are missing."""
    if len(places) == len(column) and (places == np.arange(len(column))).all():
        return column
    return column.take(pa.array(places, mask=missing))


def _without_result(encoder: Encoder, meaning: Meaning) -> Encoded:
    """One text without a result."""
    windows = meaning.long_texts == "chunks"
    return Encoded(
        pa.nulls(1, encoder.type),
        np.zeros(1, np.int32),
        np.zeros(1, bool),
        np.ones(1, np.int64) if windows else None,
        np.zeros((1, 2), np.int32) if windows else None,
    )


def _joined(one: Encoded, other: Encoded) -> Encoded:
    """The results of texts, and of those after them."""

    def both(name: str) -> Any:
        first = getattr(one, name)
        return None if first is None else np.concatenate([first, getattr(other, name)])

    return Encoded(
        pa.concat_arrays([one.column, other.column]),
        both("tokens"),
        both("truncated"),
        both("counts"),
        both("spans"),
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()

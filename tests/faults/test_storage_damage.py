"""Files of embeddings that are damaged, foreign or hostile: each an error of its own."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from embedrt.errors import EmbeddingsError
from embedrt.vectors.files import DTYPES, load_embeddings, save_embeddings
from tests.kit.embedding_files import OTTER, TEXTS, assert_same, error_of, every_format, vectors_of
from tests.kit.mutations import mutations


def rewritten(path: Path, raw: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """A safetensors file with other tensors, and with the SHA-256 that these have."""
    from embedrt.vectors.files import _content_digest, _Record

    found = load_file(path)
    found = {name: tensors.get(name, found[name]) for name in ("vectors", "texts", "offsets")}
    found |= {name: tensor for name, tensor in tensors.items() if name not in found}
    record: dict[str, Any] = {"format_version": 1, "model": None, "fingerprint": None}
    record["sha256"] = _content_digest(_Record(1, None, None), found)
    save_file(found, path, {"embedrt": json.dumps(record | (raw or {}))})
    return path


class TestDamage:
    @given(st.data())
    def test_any_change_is_an_error_or_no_change(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """For the formats with a SHA-256 over everything."""
        folder = tmp_path_factory.mktemp("damage")
        path = folder / data.draw(st.sampled_from(["x.safetensors", "x.npy"]))
        vectors = vectors_of(4, dtype=data.draw(st.sampled_from(DTYPES)))
        save_embeddings(path, TEXTS, vectors, OTTER)
        raw = path.read_bytes()
        changed = data.draw(mutations(len(raw), min(len(raw), 400)))(raw)
        path.write_bytes(changed)
        try:
            found = load_embeddings(path)
        except EmbeddingsError:
            return
        assert_same(found, TEXTS, vectors, OTTER)

    @given(st.data())
    def test_any_change_of_what_has_no_hash_is_an_error_or_well_formed(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        folder = tmp_path_factory.mktemp("damage")
        changed, path = data.draw(
            st.sampled_from([("x.npy.json", folder / "x.npy"), ("x.parquet", folder / "x.parquet")])
        )
        save_embeddings(path, TEXTS, vectors_of(4, dtype=data.draw(st.sampled_from(DTYPES))), OTTER)
        raw = (folder / changed).read_bytes()
        (folder / changed).write_bytes(data.draw(mutations(len(raw), len(raw)))(raw))
        try:
            found = load_embeddings(path)
        except EmbeddingsError:
            return
        save_embeddings(folder / "again.npy", found.texts, found.vectors)

    @every_format
    def test_a_flipped_bit_of_the_vectors(self, tmp_path: Path, suffix: str) -> None:
        path, vectors = tmp_path / f"x{suffix}", vectors_of(50)
        save_embeddings(path, ["a"] * 50, vectors)
        raw = path.read_bytes()
        at = raw.index(vectors[:5].tobytes()) + 40
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert "get the file again" in error_of(path) or "copy both again" in error_of(path)

    @every_format
    @pytest.mark.parametrize(
        "content", [b"", b"\0" * 100, b"PAR1", b"\x93NUMPY\x01\0", b"PK\x03\x04", b"\xff" * 8 + b"{}", b"{}"]
    )
    def test_what_is_something_else(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4))
        path.write_bytes(content)
        error_of(path)

    @every_format
    def test_cut_off_anywhere(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4))
        raw = path.read_bytes()
        for size in range(0, len(raw), 7):
            path.write_bytes(raw[:size])
            error_of(path)

    @every_format
    def test_no_such_file_and_no_plain_file(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        with pytest.raises(FileNotFoundError):
            load_embeddings(path)
        path.mkdir()
        assert "not a plain file" in error_of(path)

    @every_format
    def test_a_pointer_of_git_lfs(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        assert "run `git lfs pull`" in error_of(path)

    def test_a_matrix_without_its_texts(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", vectors_of(4))
        assert "expected the file of its texts, x.npy.json, beside it, got none; copy both" in error_of(
            tmp_path / "x.npy"
        )

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda raw: raw.update(texts=TEXTS[:3]), "expected 3, one per text, got 4"),
            (lambda raw: raw.update(texts="abcd"), "expected a list of texts"),
            (lambda raw: raw.pop("texts"), "x.npy.json: expected a list of texts"),
            (lambda raw: raw.update(texts=[1, 2, 3, 4]), "texts[0]: expected str, got int"),
            (lambda raw: raw.update(texts=["\ud800"] * 4), "lone surrogate"),
            (lambda raw: raw.update(sha256="0" * 64), "expected SHA-256 000"),
            (lambda raw: raw.update(sha256=None), "expected SHA-256 None"),
            (lambda raw: raw.update(format_version=2), "expected format version 1, got 2; update embedrt"),
            (lambda raw: raw.update(format_version="1"), "format_version: expected an integer"),
            (lambda raw: raw.update(fingerprint=7), "fingerprint: expected a string"),
            (lambda raw: raw.update(novelty=7), "unknown field 'novelty'"),
        ],
    )
    def test_the_file_beside_a_matrix(self, tmp_path: Path, edit: Callable[[Any], Any], message: str) -> None:
        path, beside = tmp_path / "x.npy", tmp_path / "x.npy.json"
        save_embeddings(path, TEXTS, vectors_of(4))
        raw = json.loads(beside.read_bytes())
        edit(raw)
        beside.write_text(json.dumps(raw), encoding="utf-8")
        with pytest.raises(EmbeddingsError, match=re.escape(message)):
            load_embeddings(path)

    @pytest.mark.parametrize("matrix", [np.array([{}], object), np.zeros(4, [("a", "f4")]), np.zeros((4, 2), "f8")])
    def test_a_matrix_of_something_else(self, tmp_path: Path, matrix: Any) -> None:
        """Consistent with its hash, and never unpickled."""
        path, beside = tmp_path / "x.npy", tmp_path / "x.npy.json"
        save_embeddings(path, ["a"] * len(matrix), vectors_of(len(matrix)))
        np.save(path, matrix)
        raw = json.loads(beside.read_bytes()) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        beside.write_text(json.dumps(raw), encoding="utf-8")
        error_of(path)

    @pytest.mark.parametrize("shape", ["(4, 10000000000000)", "(4, -1)", "(99999999999, 99999999999)", "(4, 1.5)"])
    def test_a_matrix_that_says_to_be_huge(self, tmp_path: Path, shape: str) -> None:
        path, beside = tmp_path / "x.npy", tmp_path / "x.npy.json"
        save_embeddings(path, TEXTS, vectors_of(4))
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\0\x76\0" + header + bytes(80))
        raw = json.loads(beside.read_bytes()) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        beside.write_text(json.dumps(raw), encoding="utf-8")
        error_of(path)

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"offsets": np.array([0, 7, 3, 9, 9])}, "expected text offsets that rise from 0 to 47"),
            ({"offsets": np.array([1, 7, 7, 9, 47])}, "expected text offsets that rise from 0"),
            ({"offsets": np.array([0, 7, 7, 9, 41])}, "expected text offsets that rise from 0"),
            ({"offsets": np.array([0, -7, 7, 9, 47])}, "expected text offsets that rise from 0"),
            ({"offsets": np.array([0, 47])}, "expected 1, one per text, got 4"),
            ({"offsets": np.array([], np.int64)}, "expected text offsets that rise from 0"),
            ({"offsets": np.array([0, 7, 7, 9, 47], np.int32)}, "expected texts uint8"),
            ({"offsets": np.array([[0, 7, 7, 9, 47]])}, "expected texts uint8"),
            ({"texts": np.zeros(47, np.int8)}, "expected texts uint8"),
            ({"texts": np.full(47, 0xFF, np.uint8)}, "can't decode byte 0xff"),
            ({"vectors": np.zeros((4, 5), np.float64)}, "got float64"),
            ({"vectors": np.zeros((4, 5, 1), np.float32)}, "got [4, 5, 1]"),
            ({"vectors": np.full((4, 5), np.nan, np.float32)}, "vectors[0]: expected finite numbers, got NaN"),
            ({"more": np.zeros(1)}, "not one that save_embeddings wrote"),
            ({"raw": {"format_version": 3}}, "expected format version 1, got 3"),
            ({"raw": {"sha256": None}}, "the SHA-256 of its contents differs"),
            ({"raw": {"model": "another"}}, "the SHA-256 of its contents differs"),
        ],
    )
    def test_safetensors_that_were_made_up(self, tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
        path = tmp_path / "x.safetensors"
        save_embeddings(path, TEXTS, vectors_of(4))
        assert len(load_file(path)["texts"]) == 47
        with pytest.raises(EmbeddingsError, match=re.escape(message)):
            load_embeddings(rewritten(path, **tensors))

    def test_weights_of_a_model(self, tmp_path: Path, tiny_source: Path) -> None:
        shutil.copy(tiny_source / "model.safetensors", tmp_path / "x.safetensors")
        assert "a safetensors file, but not one that save_embeddings wrote" in error_of(tmp_path / "x.safetensors")


FLOATS = vectors_of(4).tolist()


def foreign(path: Path, text: Any, embedding: Any, metadata: dict[str, str] | None = None) -> Path:
    """A Parquet file that another program wrote."""
    table = pa.table({"id": pa.array(range(len(text))), "embedding": embedding, "text": text})
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


class TestForeignParquet:
    @pytest.mark.parametrize(
        "text",
        [
            pa.array(TEXTS),
            pa.array(TEXTS, pa.large_string()),
            pa.array(TEXTS).dictionary_encode(),
            pa.array(TEXTS, pa.large_string()).dictionary_encode(),
        ],
        ids=["string", "large_string", "dictionary", "large dictionary"],
    )
    @pytest.mark.parametrize(
        "kind", [pa.list_(pa.float32(), 5), pa.list_(pa.float32()), pa.large_list(pa.float32())], ids=str
    )
    def test_columns_of_all_kinds(self, tmp_path: Path, text: Any, kind: Any) -> None:
        path = foreign(tmp_path / "x.parquet", text, pa.array(FLOATS, kind))
        assert_same(load_embeddings(path), TEXTS, vectors_of(4))
        assert "got vectors without a recorded model" in error_of(path, OTTER)

    def test_a_table_that_was_filtered_keeps_its_model(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        save_embeddings(path, TEXTS, vectors_of(4), OTTER)
        pq.write_table(pq.read_table(path).take([2, 0]), path)
        assert_same(load_embeddings(path, OTTER), [TEXTS[2], TEXTS[0]], vectors_of(4)[[2, 0]], OTTER)

    @pytest.mark.parametrize(
        ("text", "embedding", "message"),
        [
            (
                pa.array(TEXTS),
                pa.array(FLOATS, pa.list_(pa.float64())),
                "expected lists of float, halffloat, int8, uint8",
            ),
            (pa.array(TEXTS), pa.array(TEXTS), "column 'embedding': expected lists of numbers, got string"),
            (
                pa.array(range(4)),
                pa.array(FLOATS, pa.list_(pa.float32())),
                "column 'text': expected strings, got int64",
            ),
            (
                pa.array([*TEXTS[:3], None]),
                pa.array(FLOATS, pa.list_(pa.float32())),
                "texts[3]: expected str, got NoneType",
            ),
            (pa.array(TEXTS), pa.array([*FLOATS[:3], None], pa.list_(pa.float32(), 5)), "cannot be read as"),
            (
                pa.array(TEXTS),
                pa.array([*FLOATS[:3], None], pa.list_(pa.float32())),
                "column 'embedding': expected vectors without nulls",
            ),
            (
                pa.array(TEXTS),
                pa.array([*FLOATS[:3], [None] * 5], pa.list_(pa.float32())),
                "expected vectors without nulls",
            ),
            (
                pa.array(TEXTS),
                pa.array([*FLOATS[:3], [1.0]], pa.list_(pa.float32())),
                "expected vectors of equal length",
            ),
            (
                pa.array(TEXTS),
                pa.array([[1.0], [], [1.0, 2.0], [1.0]], pa.list_(pa.float32())),
                "expected vectors of equal length",
            ),
            (
                pa.array(TEXTS),
                pa.array([[]] * 4, pa.list_(pa.float32())),
                "expected the shape [texts, dim], got [4, 0]",
            ),
            (
                pa.array(TEXTS),
                pa.array([*FLOATS[:3], [np.nan] * 5], pa.list_(pa.float32())),
                "vectors[3]: expected finite numbers, got NaN or infinity",
            ),
            (pa.array([], pa.string()), pa.array([], pa.list_(pa.float32())), "got [0, 0]"),
        ],
    )
    def test_what_is_not_to_be_read(self, tmp_path: Path, text: Any, embedding: Any, message: str) -> None:
        assert message in error_of(foreign(tmp_path / "x.parquet", text, embedding))

    def test_vectors_of_another_length_in_a_later_batch(self, tmp_path: Path) -> None:
        rows = [[1.0, 2.0]] * 1024 + [[3.0]] * 10
        path = foreign(tmp_path / "x.parquet", pa.array(["a"] * len(rows)), pa.array(rows, pa.list_(pa.float32())))
        assert "expected vectors of equal length" in error_of(path)

    def test_other_columns(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"sentence": TEXTS, "embedding": FLOATS}), tmp_path / "x.parquet")
        assert "expected the columns 'text' and 'embedding', got ['sentence', 'embedding']" in error_of(
            tmp_path / "x.parquet"
        )

    def test_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        broken = pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
        )
        path = foreign(tmp_path / "x.parquet", broken, pa.array(FLOATS[:1], pa.list_(pa.float32())))
        assert "can't decode byte 0xff" in error_of(path)

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            ("{", "not valid JSON"),
            ("[]", "expected an object"),
            ('{"format_version": 9}', "expected format version 1, got 9"),
            ('{"format_version": 1, "model": null}', "missing field 'fingerprint'"),
        ],
    )
    def test_a_record_that_was_made_up(self, tmp_path: Path, raw: str, message: str) -> None:
        path = tmp_path / "x.parquet"
        foreign(path, pa.array(TEXTS), pa.array(FLOATS, pa.list_(pa.float32())), {"embedrt": raw})
        with pytest.raises(EmbeddingsError, match=re.escape(message)):
            load_embeddings(path)

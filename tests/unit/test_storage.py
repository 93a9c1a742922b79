"""Embeddings in files: every kind comes back as it was, and every damage is an error of its own."""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from embedrt import Embedder
from embedrt.errors import EmbeddingsError, EmbedrtError, MissingDependencyError
from embedrt.vectors.files import DTYPES, Embeddings, load_embeddings, save_embeddings
from tests.kit.embedding_files import (
    BADGER,
    OTTER,
    SUFFIXES,
    TEXTS,
    Model,
    assert_same,
    error_of,
    every_format,
    vectors_of,
)


class TestRoundTrip:
    @every_format
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("count", [0, 1, 4])
    def test_every_dtype(self, tmp_path: Path, suffix: str, dtype: str, count: int) -> None:
        path, vectors = tmp_path / f"x{suffix}", vectors_of(count, dtype=dtype)
        save_embeddings(path, TEXTS[:count], vectors, OTTER)
        found = load_embeddings(path, OTTER)
        assert_same(found, TEXTS[:count], vectors, OTTER)
        assert found.vectors.flags.writeable
        assert found.vectors.flags.c_contiguous

    @given(
        texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=5),
        dim=st.integers(1, 9),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 99),
        suffix=st.sampled_from(SUFFIXES),
        model=st.sampled_from([None, OTTER, Model('"quoted" 漢字\n', "")]),
    )
    def test_any_texts(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        texts: list[str],
        dim: int,
        dtype: str,
        seed: int,
        suffix: str,
        model: Model | None,
    ) -> None:
        path = tmp_path_factory.mktemp("any") / f"x{suffix}"
        vectors = vectors_of(len(texts), dim, dtype, seed)
        save_embeddings(str(path), texts, vectors, model)
        assert_same(load_embeddings(str(path)), texts, vectors, model)

    @every_format
    @pytest.mark.parametrize(
        "change",
        [
            lambda v: v.astype(">f4"),
            np.asfortranarray,
            lambda v: np.repeat(v, 3, axis=1)[:, ::3],
            lambda v: v[::-1][::-1],
            list,
        ],
        ids=["big-endian", "fortran", "strided", "reversed", "a list of vectors"],
    )
    def test_any_layout_in_memory(self, tmp_path: Path, suffix: str, change: Callable[[Any], Any]) -> None:
        path, vectors = tmp_path / f"x{suffix}", vectors_of(4)
        save_embeddings(path, np.array(TEXTS), change(vectors))
        assert_same(load_embeddings(path), TEXTS, vectors)

    @pytest.mark.parametrize("count", [1, 1000])
    def test_many_row_groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        monkeypatch.setattr("embedrt.vectors.files._BLOCK_BYTES", 64)
        texts, vectors = [f"text {i}" for i in range(count)], vectors_of(count)
        save_embeddings(tmp_path / "x.parquet", texts, vectors)
        assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == -(-count // 3)
        assert_same(load_embeddings(tmp_path / "x.parquet"), texts, vectors)

    @every_format
    def test_an_existing_file_is_replaced(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4), OTTER)
        save_embeddings(path, ["other"], vectors_of(1, 3), BADGER)
        assert_same(load_embeddings(path), ["other"], vectors_of(1, 3), BADGER)
        names = {path.name, f"{path.name}.json"} if suffix == ".npy" else {path.name}
        assert {file.name for file in tmp_path.iterdir()} == names

    @every_format
    @pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
    def test_files_are_as_readable_as_any(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / "other").touch()
        save_embeddings(tmp_path / f"x{suffix}", TEXTS, vectors_of(4))
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {
            stat.S_IMODE((tmp_path / "other").stat().st_mode)
        }


class TestOtherReaders:
    """The files are what their formats say, for everybody."""

    def test_numpy_reads_the_matrix(self, tmp_path: Path) -> None:
        save_embeddings(tmp_path / "x.npy", TEXTS, vectors_of(4), OTTER)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), vectors_of(4))
        beside = json.loads((tmp_path / "x.npy.json").read_bytes())
        assert beside["texts"] == TEXTS
        assert beside["sha256"] == hashlib.sha256((tmp_path / "x.npy").read_bytes()).hexdigest()
        assert (beside["model"], beside["fingerprint"]) == (OTTER.name, OTTER.fingerprint)

    def test_safetensors_reads_the_tensors(self, tmp_path: Path) -> None:
        save_embeddings(tmp_path / "x.safetensors", TEXTS, vectors_of(4), OTTER)
        tensors = load_file(tmp_path / "x.safetensors")
        np.testing.assert_array_equal(tensors["vectors"], vectors_of(4))
        content, offsets = tensors["texts"].tobytes(), tensors["offsets"]
        assert [content[offsets[i] : offsets[i + 1]].decode() for i in range(4)] == TEXTS

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_pyarrow_reads_the_columns(self, tmp_path: Path, dtype: str) -> None:
        save_embeddings(tmp_path / "x.parquet", TEXTS, vectors_of(4, dtype=dtype), OTTER)
        table = pq.read_table(tmp_path / "x.parquet")
        assert table.schema.field("embedding").type == pa.list_(pa.from_numpy_dtype(dtype), 5)
        assert table.schema.field("text").type == pa.string()
        assert table.column("text").to_pylist() == TEXTS
        assert table.column("embedding").to_pylist() == vectors_of(4, dtype=dtype).tolist()
        assert json.loads(table.schema.metadata[b"embedrt"])["fingerprint"] == OTTER.fingerprint

    @pytest.mark.parametrize("dtype", ["int8", "uint8"])
    def test_a_byte_takes_a_byte_in_parquet(self, tmp_path: Path, dtype: str) -> None:
        vectors = vectors_of(2000, 64, dtype)
        save_embeddings(tmp_path / "x.parquet", ["a"] * 2000, vectors)
        assert (tmp_path / "x.parquet").stat().st_size < 1.2 * vectors.nbytes

    def test_pandas_reads_the_columns(self, tmp_path: Path) -> None:
        import pandas as pd

        save_embeddings(tmp_path / "x.parquet", TEXTS, vectors_of(4))
        frame = pd.read_parquet(tmp_path / "x.parquet")
        assert list(frame["text"]) == TEXTS
        np.testing.assert_array_equal(np.stack(list(frame["embedding"])), vectors_of(4))


class TestArguments:
    @pytest.mark.parametrize("name", ["x.pkl", "x", "x.npz", "x.NPY", ".npy"])
    def test_an_unknown_suffix(self, tmp_path: Path, name: str) -> None:
        message = "expected the suffix .safetensors, .npy, .parquet, got"
        with pytest.raises(ValueError, match=re.escape(message)):
            save_embeddings(tmp_path / name, TEXTS, vectors_of(4))
        with pytest.raises(ValueError, match=re.escape(message)):
            load_embeddings(tmp_path / name)

    @pytest.mark.parametrize(
        ("texts", "vectors", "error", "message"),
        [
            (TEXTS, vectors_of(3), ValueError, "vectors: expected 4, one per text, got 3"),
            (TEXTS, vectors_of(4)[0], ValueError, "vectors: expected the shape [texts, dim], got [5]"),
            ([], np.empty((0, 0), np.float32), ValueError, "vectors: expected the shape [texts, dim], got [0, 0]"),
            (
                TEXTS,
                vectors_of(4).astype(np.float64),
                ValueError,
                "vectors: expected float32, float16, int8, uint8, got",
            ),
            (TEXTS, vectors_of(4).astype(object), TypeError, "expected vectors"),
            (TEXTS, vectors_of(4) > 0, ValueError, "got bool"),
            (
                TEXTS[:2],
                np.array([[1, 2], [1, np.nan]], np.float32),
                ValueError,
                "vectors[1]: expected finite numbers",
            ),
            (
                TEXTS[:2],
                np.array([[1, -np.inf], [1, 2]], np.float16),
                ValueError,
                "vectors[0]: expected finite numbers",
            ),
            (["a", "\ud800"], vectors_of(2), ValueError, "texts[1]: lone surrogate"),
            (["a", None], vectors_of(2), TypeError, "texts[1]: expected str, got NoneType"),
        ],
    )
    @every_format
    def test_what_cannot_be_saved(
        self, tmp_path: Path, suffix: str, texts: Any, vectors: Any, error: type[Exception], message: str
    ) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, ["kept"], vectors_of(1))
        with pytest.raises(error, match=re.escape(message)):
            save_embeddings(path, texts, vectors)
        assert_same(load_embeddings(path), ["kept"], vectors_of(1))

    def test_the_row_with_nan_is_named_beyond_the_first_block(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedrt.vectors.files._BLOCK_BYTES", 64)
        vectors = vectors_of(50)
        vectors[31, 2] = np.nan
        with pytest.raises(ValueError, match=re.escape("vectors[31]: expected finite numbers, got NaN")):
            save_embeddings(tmp_path / "x.npy", ["a"] * 50, vectors)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("model", ["org/otter", 1, Path("bundle")])
    def test_what_is_no_model(self, tmp_path: Path, model: Any) -> None:
        message = f"model: expected an Embedder or None, got {type(model).__name__}"
        with pytest.raises(TypeError, match=message):
            save_embeddings(tmp_path / "x.npy", TEXTS, vectors_of(4), model)
        save_embeddings(tmp_path / "x.npy", TEXTS, vectors_of(4), OTTER)
        with pytest.raises(TypeError, match=message):
            load_embeddings(tmp_path / "x.npy", model)

    @every_format
    def test_vectors_of_another_model_are_refused_by_name(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4), OTTER)
        error = error_of(path, BADGER)
        assert "expected vectors of 'org/badger' (fingerprint " in error
        assert "got vectors of 'org/otter' (0a0a0a0a0a0a)" in error
        renamed = Model("elsewhere", OTTER.fingerprint)
        assert load_embeddings(path, renamed).model == OTTER.name

    def test_an_embedder_is_a_model(self, tmp_path: Path, tiny: Embedder) -> None:
        save_embeddings(tmp_path / "x.npy", ["the cat"], tiny.encode(["the cat"]), tiny)
        found = load_embeddings(tmp_path / "x.npy", tiny)
        assert_same(found, ["the cat"], tiny.encode(["the cat"]), Model(tiny.name, tiny.fingerprint))
        assert "expected vectors of 'org/otter' (fingerprint 0a0a0a0a0a0a)" in error_of(tmp_path / "x.npy", OTTER)

    @every_format
    def test_vectors_of_nobody_are_not_taken_for_those_of_a_model(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4))
        assert "got vectors without a recorded model" in error_of(path, OTTER)

    @pytest.mark.parametrize(("suffix", "package"), [(".safetensors", "safetensors"), (".parquet", "pyarrow")])
    def test_without_the_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str
    ) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4))
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        message = rf"{package} is not installed; run `pip install 'embedrt\[storage\]'`"
        with pytest.raises(MissingDependencyError, match=message):
            load_embeddings(path)
        with pytest.raises(MissingDependencyError, match=message):
            save_embeddings(path, TEXTS, vectors_of(4))


class TestAtOnce:
    """A file is there whole or not at all."""

    @every_format
    def test_an_error_while_writing_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
    ) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4), OTTER)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

        def full(_: Path) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("embedrt.bundle.atomic.sync", full)
        message = re.escape(f"{path}: writing 25 bytes failed: disk full; what was there is unchanged")
        with pytest.raises(EmbeddingsError, match=f"^{message}$"):
            save_embeddings(path, ["other"], vectors_of(1))
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before

    def test_a_matrix_and_texts_of_two_saves_are_not_mixed(self, tmp_path: Path) -> None:
        """As after one file was copied alone."""
        path, other = tmp_path / "x.npy", tmp_path / "other.npy"
        save_embeddings(path, TEXTS, vectors_of(4))
        save_embeddings(other, TEXTS[::-1], vectors_of(4, seed=1))
        other.replace(path)
        assert "as in x.npy.json, got" in error_of(path)
        save_embeddings(path, TEXTS[::-1], vectors_of(4, seed=1))
        assert_same(load_embeddings(path), TEXTS[::-1], vectors_of(4, seed=1))

    @pytest.mark.parametrize("renames", range(4))
    def test_a_pair_is_the_old_or_the_new_one_after_every_rename(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
    ) -> None:
        path, done = tmp_path / "x.npy", 0
        save_embeddings(path, TEXTS, vectors_of(4), OTTER)
        replace = Path.replace

        def killed(self: Path, target: Path) -> None:
            nonlocal done
            if done == renames:
                raise KeyboardInterrupt
            done += 1
            replace(self, target)

        def save(count: int) -> None:
            save_embeddings(path, ["new"] * count, vectors_of(count, seed=1), BADGER)

        for count in (2, 3):  # the second save finds what the first one left
            with monkeypatch.context() as patched:
                patched.setattr(Path, "replace", killed)
                if renames < 3:
                    with pytest.raises(KeyboardInterrupt):
                        save(count)
                else:
                    save(count)
            if renames < 2:
                assert_same(load_embeddings(path), TEXTS, vectors_of(4), OTTER)
            else:
                assert_same(load_embeddings(path), ["new"] * count, vectors_of(count, seed=1), BADGER)
            np.testing.assert_array_equal(np.load(path), load_embeddings(path).vectors)
            done = 0
        save(1)
        assert_same(load_embeddings(path), ["new"], vectors_of(1, seed=1), BADGER)
        assert set(json.loads((tmp_path / "x.npy.json").read_bytes())) == {
            "format_version",
            "model",
            "fingerprint",
            "sha256",
            "texts",
        }
        assert {file.name for file in tmp_path.iterdir()} == {"x.npy", "x.npy.json"}

    def test_a_first_pair_is_absent_or_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, replace = tmp_path / "x.npy", Path.replace

        def killed(self: Path, target: Path) -> None:
            if target.suffix == ".npy":
                raise KeyboardInterrupt
            replace(self, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                save_embeddings(path, TEXTS, vectors_of(4))
        with pytest.raises(FileNotFoundError):
            load_embeddings(path)
        save_embeddings(path, TEXTS, vectors_of(4))
        assert_same(load_embeddings(path), TEXTS, vectors_of(4))

    @every_format
    def test_the_permissions_of_an_existing_file_stay(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, vectors_of(4))
        path.chmod(0o600)
        save_embeddings(path, ["other"], vectors_of(1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


MEMORY = """
import re, sys
import numpy as np
import pyarrow.parquet, safetensors.numpy
from embedrt.vectors.files import load_embeddings, save_embeddings

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

count, path = 150_000, sys.argv[2]
if sys.argv[1] == "save":
    vectors, texts = np.ones((count, 384), np.float32), ["a text"] * count
    before = peak()
    save_embeddings(path, texts, vectors)
else:
    before = peak()
    vectors = load_embeddings(path).vectors
print((peak() - before) / vectors.nbytes)
"""


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@every_format
def test_memory_is_at_most_about_twice_that_of_the_vectors(tmp_path: Path, suffix: str) -> None:
    """Saving adds less than once their size to the vectors that are there; loading takes them and as much again."""
    for step, limit in (("save", 0.7), ("load", 2.2)):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, step, str(tmp_path / f"x{suffix}")],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < limit


def test_the_error_is_one_of_embedrt() -> None:
    assert issubclass(EmbeddingsError, EmbedrtError)


def several(counts: list[int], dim: int = 3, dtype: str = "float32") -> list[Any]:
    flat = vectors_of(sum(counts), dim, dtype)
    ends = np.cumsum(counts).tolist()
    return [flat[end - count : end] for end, count in zip(ends, counts, strict=True)]


def assert_several(found: Embeddings, texts: list[str], vectors: list[Any]) -> None:
    assert found.texts == texts
    assert [(item.dtype, item.shape) for item in found.vectors] == [(item.dtype, item.shape) for item in vectors]
    assert [item.tobytes() for item in found.vectors] == [item.tobytes() for item in vectors]


class TestSeveralVectorsPerText:
    """Multi-vector embeddings."""

    @every_format
    @pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
    @pytest.mark.parametrize("counts", [[2, 0, 5, 1], [0, 0, 0, 0], [4, 0, 0, 0]])
    def test_they_are_loaded_as_they_were(self, tmp_path: Path, suffix: str, dtype: str, counts: list[int]) -> None:
        path, vectors = tmp_path / f"x{suffix}", several(counts, dtype=dtype)
        save_embeddings(path, TEXTS, vectors, OTTER)
        found = load_embeddings(path, OTTER)
        assert_several(found, TEXTS, vectors)
        assert (found.model, found.fingerprint) == (OTTER.name, OTTER.fingerprint)

    @every_format
    def test_lists_of_lists(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        lists: Any = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]
        save_embeddings(path, ["a", "b"], lists)
        found = load_embeddings(path)
        assert [item.tolist() for item in found.vectors] == [[[1, 2]], [[3, 4], [5, 6]]]

    def test_many_row_groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("embedrt.vectors.files._BLOCK_BYTES", 100)
        counts = np.random.default_rng(0).integers(0, 20, 300).tolist()
        vectors, texts = several(counts), [str(i) for i in range(300)]
        save_embeddings(tmp_path / "x.parquet", texts, vectors)
        assert_several(load_embeddings(tmp_path / "x.parquet"), texts, vectors)

    @every_format
    def test_one_vector_per_text_may_follow_and_precede(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        save_embeddings(path, TEXTS, several([1, 2, 3, 4]))
        save_embeddings(path, TEXTS, vectors_of(4))
        assert_same(load_embeddings(path), TEXTS, vectors_of(4))
        save_embeddings(path, TEXTS, several([4, 3, 2, 1]))
        assert_several(load_embeddings(path), TEXTS, several([4, 3, 2, 1]))

    def test_foreign_lists_of_lists_in_parquet(self, tmp_path: Path) -> None:
        kind = pa.list_(pa.list_(pa.float32()))
        embedding = pa.array([[[1, 2]], [], [[3, 4], [5, 6]]], kind)
        pq.write_table(pa.table({"text": ["a", "b", "c"], "embedding": embedding}), tmp_path / "x.parquet")
        found = load_embeddings(tmp_path / "x.parquet")
        assert [item.tolist() for item in found.vectors] == [[[1, 2]], [], [[3, 4], [5, 6]]]

    def test_the_text_with_nan_is_named(self, tmp_path: Path) -> None:
        vectors = several([2, 0, 5, 1])
        vectors[2] = np.where(np.arange(5)[:, None] == 3, np.float32(np.nan), vectors[2])
        with pytest.raises(ValueError, match=r"vectors\[2\]: expected finite numbers"):
            save_embeddings(tmp_path / "x.npy", TEXTS, vectors)

    def test_what_cannot_be_saved(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="vectors: expected 4, one per text, got 3"):
            save_embeddings(tmp_path / "x.npy", TEXTS, several([1, 2, 3]))
        with pytest.raises(ValueError, match=r"expected vectors of equal width, got \[3, 4\]"):
            save_embeddings(tmp_path / "x.npy", TEXTS[:2], several([1]) + several([1], 4))

    def test_counts_that_do_not_fit(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npy"
        save_embeddings(path, TEXTS, several([1, 2, 3, 4]))
        beside = tmp_path / "x.npy.json"
        for counts, message in [
            ("[1, 2, 3, 5]", "counts: expected numbers of vectors that add up to 10, got 11"),
            ('[1, 2, 3, "4"]', "counts: expected a list of integers"),
        ]:
            beside.write_text(re.sub(r'"counts": \[[^]]*\]', f'"counts": {counts}', beside.read_text()))
            assert message in error_of(path)

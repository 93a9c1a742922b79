"""Ranges for int8 vectors: measured as the vectors are, kept in the bundle, and nothing else touched."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedrt
from embedrt import BundleError, Embedder, ModelNotFoundError
from embedrt.bundle.manifest import MANIFEST, Manifest, read_bundle, read_manifest, write_manifest
from embedrt.cli.main import main
from embedrt.hub import local as store
from embedrt_export import export
from tests.kit.bundles import change, copy_bundle
from tests.kit.models import make_model

TEXTS = [f"the {word} of {i} {'river ' * (i % 7)}" for i in range(40) for word in ("cat", "dog", "bank")]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


def ranges_of(folder: Path) -> Any:
    ranges = read_bundle(folder).vector_ranges
    assert ranges is not None
    return np.array(ranges)


def test_ranges_are_those_of_the_vectors(bundle: Path, tiny: Embedder) -> None:
    assert embedrt.ranges(bundle, iter(TEXTS)) == bundle
    vectors = tiny.encode(TEXTS)
    np.testing.assert_array_equal(ranges_of(bundle), [vectors.min(axis=0), vectors.max(axis=0)])


def test_nothing_else_changes(bundle: Path, tiny_bundle: Path, tiny: Embedder) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file() and path.name != MANIFEST}
    embedrt.ranges(bundle, TEXTS)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file() and path.name != MANIFEST} == before
    assert dataclasses.replace(read_bundle(bundle), vector_ranges=None) == read_bundle(tiny_bundle)
    np.testing.assert_array_equal(Embedder(bundle).encode("the cat"), tiny.encode("the cat"))


def test_an_int8_vector_does_not_depend_on_its_call(bundle: Path) -> None:
    embedrt.ranges(bundle, TEXTS)
    embedder = Embedder(bundle)
    together = embedder.encode(TEXTS[:7], precision="int8")
    alone = np.stack([embedder.encode(text, precision="int8") for text in TEXTS[:7]])
    assert np.abs(together.astype(int) - alone).max() <= 1  # where a value lies at the edge of a step
    assert together.dtype == np.int8
    assert len(np.unique(together)) > 50


def test_raw_vectors_before_truncation_with_the_prompt(tmp_path: Path) -> None:
    source = make_model(tmp_path / "m", prompts={"query": "the long river: "}, normalize=False)
    bundle = export(source, tmp_path / "b")
    change(bundle, lambda raw: raw.update(truncate_dim=16))
    embedder = Embedder(bundle)
    embedrt.ranges(bundle, TEXTS)
    plain = embedder.encode(TEXTS, truncate_dim=32)
    assert not np.allclose(np.linalg.norm(plain, axis=1), 1)
    np.testing.assert_array_equal(ranges_of(bundle), [plain.min(axis=0), plain.max(axis=0)])
    embedrt.ranges(bundle, TEXTS, "query")
    queries = embedder.encode(TEXTS, "query", truncate_dim=32)
    np.testing.assert_array_equal(ranges_of(bundle), [queries.min(axis=0), queries.max(axis=0)])
    assert (queries.min(axis=0) != plain.min(axis=0)).any()


@pytest.mark.parametrize("texts", [TEXTS[:99], [], "a text"])
def test_too_few_texts(bundle: Path, texts: Any) -> None:
    count = 1 if isinstance(texts, str) else len(texts)
    with pytest.raises(ValueError, match=f"texts: expected at least 100, better thousands, got {count}; ranges"):
        embedrt.ranges(bundle, texts)
    assert read_bundle(bundle).vector_ranges is None


def test_just_enough_texts(bundle: Path) -> None:
    embedrt.ranges(bundle, TEXTS[:100])
    assert ranges_of(bundle).shape == (2, 32)


def test_wrong_arguments(bundle: Path) -> None:
    with pytest.raises(ValueError, match="prompt_name: expected one of 'query', 'document', got 'other'"):
        embedrt.ranges(bundle, TEXTS, "other")
    with pytest.raises(ModelNotFoundError, match="the network may not be used"):
        embedrt.ranges("org/nothing", TEXTS)


def test_a_name_in_the_store(tiny_bundle: Path) -> None:
    target = store.stored_path("org/tiny")
    target.parent.mkdir(parents=True)
    copy_bundle(tiny_bundle, target)
    assert embedrt.ranges("org/tiny", TEXTS) == target
    assert ranges_of(target).shape == (2, 32)


def test_a_bundle_that_changed_meanwhile_is_left_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old manifest would not fit the files of the new bundle."""
    encode: Any = Embedder.encode

    def replaced(self: Embedder, *arguments: Any, **options: Any) -> Any:
        change(bundle, lambda raw: raw.update(name="another"))
        return encode(self, *arguments, **options)

    monkeypatch.setattr(Embedder, "encode", replaced)
    with pytest.raises(BundleError, match="changed while its ranges were measured; measure them again"):
        embedrt.ranges(bundle, TEXTS)
    assert (read_bundle(bundle).name, read_bundle(bundle).vector_ranges) == ("another", None)


def test_the_manifest_is_replaced_whole_or_not_at_all(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / MANIFEST).read_bytes()

    def full(_: Path) -> None:
        assert (bundle / MANIFEST).read_bytes() == before
        raise OSError("disk full")

    monkeypatch.setattr("embedrt.bundle.atomic.sync", full)
    with pytest.raises(BundleError, match=rf"{MANIFEST}: writing \d+ bytes failed: disk full; what was there is unch"):
        embedrt.ranges(bundle, TEXTS)
    assert (bundle / MANIFEST).read_bytes() == before
    assert not list(bundle.glob(".*"))


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, to whom every folder is open."""
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr(Embedder, "encode", None)
    with pytest.raises(BundleError, match="the ranges cannot be written there; copy the bundle to a writable folder"):
        embedrt.ranges(bundle, TEXTS)


def two_wide(manifest: Manifest) -> Manifest:
    """A manifest of sentence embeddings with two coordinates."""
    route = manifest.routes["default"]
    outputs = {"sentence_embedding": dataclasses.replace(route.outputs["sentence_embedding"], width=2)}
    return dataclasses.replace(manifest, routes={"default": dataclasses.replace(route, outputs=outputs)})


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(ranges=st.lists(st.lists(FLOATS | st.sampled_from([1e39, -1e300, 3.5e38]), max_size=3), max_size=3))
def test_ranges_in_a_manifest_are_sound(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, ranges: list[list[float]]
) -> None:
    """Two rows of `dim` numbers that float32 has, and no maximum below its minimum; anything else is refused."""
    folder = tmp_path_factory.mktemp("ranges")
    manifest = dataclasses.replace(two_wide(read_manifest(tiny_bundle)), vector_ranges=tuple(map(tuple, ranges)))
    write_manifest(folder, manifest)
    with np.errstate(over="ignore"):
        rows = [np.array(row, np.float32) for row in ranges]
    sound = (
        [len(row) for row in rows] == [2, 2]
        and bool(np.isfinite(rows).all())
        and all(low <= high for low, high in zip(*ranges, strict=True))
    )
    if sound:
        assert read_manifest(folder) == manifest
    else:
        with pytest.raises(BundleError, match="vector_ranges: "):
            read_manifest(folder)


def test_sound_ranges_are_drawn_too(tiny_bundle: Path, tmp_path: Path) -> None:
    largest = float(np.finfo(np.float32).max)
    sound = ((-largest, 0.0), (largest, 0.0))
    manifest = dataclasses.replace(two_wide(read_manifest(tiny_bundle)), vector_ranges=sound)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path).vector_ranges == sound
    above = ((0.0, 0.0), (math.nextafter(largest, math.inf), 0.0))
    write_manifest(tmp_path, dataclasses.replace(manifest, vector_ranges=above))
    with pytest.raises(BundleError, match=r"coordinate 0: .* got 0\.0 and 3\.4"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw["vector_ranges"].pop(), r"expected 2 rows of 32 numbers, got rows of \[32\]"),
        (lambda raw: raw["vector_ranges"][1].pop(), r"expected 2 rows of 32 numbers, got rows of \[32, 31\]"),
        (lambda raw: raw.update(vector_ranges=[]), r"expected 2 rows of 32 numbers, got rows of \[\]"),
        (
            lambda raw: raw["vector_ranges"].reverse(),
            "coordinate 0: expected finite float32 numbers, .* got .* and ",
        ),
        (lambda raw: raw["vector_ranges"][0].insert(0, "x"), r"vector_ranges\[0\]\[0\]: expected a number, got str"),
    ],
)
def test_damaged_ranges(bundle: Path, edit: Callable[[Any], Any], message: str) -> None:
    embedrt.ranges(bundle, TEXTS)
    change(bundle, edit)
    with pytest.raises(BundleError, match=message):
        Embedder(bundle)


class TestCommand:
    @pytest.fixture
    def lines(self, tmp_path: Path) -> Path:
        path = tmp_path / "lines.txt"
        path.write_bytes("\r\n".join([*TEXTS, "漢字", ""]).encode())
        return path

    def test_lines_of_a_file(
        self, bundle: Path, lines: Path, tiny: Embedder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["ranges", str(bundle), "--texts", str(lines)]) == 0
        assert capsys.readouterr() == (f"{bundle}: ranges measured over 121 texts\n", "")
        vectors = tiny.encode([*TEXTS, "漢字"])
        np.testing.assert_array_equal(ranges_of(bundle), [vectors.min(axis=0), vectors.max(axis=0)])

    def test_limit(self, bundle: Path, lines: Path, tiny: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ranges", str(bundle), "--texts", str(lines), "--limit", "100"]) == 0
        assert "ranges measured over 100 texts" in capsys.readouterr().out
        np.testing.assert_array_equal(ranges_of(bundle)[1], tiny.encode(TEXTS[:100]).max(axis=0))

    def test_info_shows_it(self, bundle: Path, lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["info", str(bundle)])
        assert "int8 ranges      not measured\n" in capsys.readouterr().out
        main(["ranges", str(bundle), "--texts", str(lines)])
        main(["info", str(bundle)])
        assert "int8 ranges      measured\n" in capsys.readouterr().out
        main(["info", str(bundle), "--json"])
        assert json.loads(capsys.readouterr().out)["vector_ranges"] == ranges_of(bundle).tolist()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--limit", "99"], "texts: expected at least 100, better thousands, got 99; ranges"),
            (["--limit", "0"], "--limit: expected a positive integer, got 0"),
            (["--prompt-name", "other"], "prompt_name: expected one of 'query', 'document', got 'other'"),
            (["--task", "other"], "task: expected one of 'query', 'document', got 'other'"),
        ],
    )
    def test_errors(
        self, bundle: Path, lines: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
    ) -> None:
        assert main(["ranges", str(bundle), "--texts", str(lines), *options]) == 1
        assert message in capsys.readouterr().err
        assert read_bundle(bundle).vector_ranges is None

    def test_no_such_file(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ranges", str(bundle), "--texts", "nowhere.txt"]) == 1
        assert "nowhere.txt" in capsys.readouterr().err

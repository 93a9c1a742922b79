"""The public names, and the functions of `embedrt` that open a room: `export`, `verify`, `diff`, `ranges`, `tune`."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import BundleError, Embedder, ModelNotFoundError, ParityError, ParityReport, errors
from embedrt.bundle.manifest import read_bundle
from tests.kit.bundles import copy_bundle, rehash

DOORS = (embedrt.encode, embedrt.export, embedrt.verify, embedrt.diff, embedrt.ranges, embedrt.tune)


class TestPublicNames:
    def test_all_exist_and_are_sorted(self) -> None:
        assert embedrt.__all__ == sorted(embedrt.__all__)
        for name in embedrt.__all__:
            assert hasattr(embedrt, name), name

    def test_every_error_is_public(self) -> None:
        raised = {name for name, value in vars(errors).items() if getattr(value, "__module__", "") == errors.__name__}
        raised = {name for name in raised if inspect.isclass(getattr(errors, name))}
        public = {name: getattr(embedrt, name) for name in embedrt.__all__}
        exceptions = {name for name, value in public.items() if inspect.isclass(value) and issubclass(value, Exception)}
        assert exceptions == raised
        for name in raised:
            assert getattr(embedrt, name) is getattr(errors, name)

    def test_every_name_has_help(self) -> None:
        for name in embedrt.__all__:
            if name != "__version__":
                assert inspect.getdoc(getattr(embedrt, name)), name

    @pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
    def test_doors_are_documented_whole(self, door: Callable[..., Any]) -> None:
        text = inspect.getdoc(door) or ""
        assert "Example:\n    >>> " in text
        if door is not embedrt.encode:
            for section in ("Args:", "Returns:", "Raises:"):
                assert f"\n{section}\n" in text
            for name in inspect.signature(door).parameters:
                assert f"\n    {name}: " in text, name

    @pytest.mark.subprocess
    def test_doors_stay_open_when_every_room_is_imported(self) -> None:
        """`embedrt.verify` and `embedrt.tune` are the names of rooms too."""
        code = (
            "import importlib, inspect, pkgutil, embedrt\n"
            "for module in pkgutil.walk_packages(embedrt.__path__, 'embedrt.'):\n"
            "    try: module.name.endswith('.__main__') or importlib.import_module(module.name)\n"
            "    except embedrt.MissingDependencyError: pass  # adapters of frameworks that are not there\n"
            "from embedrt import diff, encode, export, ranges, tune, verify\n"
            "assert all(map(inspect.isfunction, (diff, encode, export, ranges, tune, verify)))\n"
            "assert embedrt.verify is verify and embedrt.tune is tune\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


class TestExport:
    def test_a_bundle(self, tiny_source: Path, tmp_path: Path, tiny: Embedder) -> None:
        folder = embedrt.export(tiny_source, tmp_path / "bundle", name="mine")
        assert folder == tmp_path / "bundle"
        assert read_bundle(folder).name == "mine"
        np.testing.assert_array_equal(Embedder(folder).encode("one cat"), tiny.encode("one cat"))

    def test_an_unknown_dtype(self, tiny_source: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"dtype: expected one of 'float32', .*, got 'int9'"):
            embedrt.export(tiny_source, tmp_path / "bundle", dtype=["float32", "int9"])


class TestVerify:
    def test_reports_by_route(self, tiny_bundle: Path, tiny: Embedder) -> None:
        reports = embedrt.verify(tiny_bundle, device="cpu", dtype="float32", threads=1)
        assert list(reports) == ["default"]
        report = reports["default"]
        assert isinstance(report, ParityReport)
        assert report.max_abs_error <= report.tolerance
        assert list(embedrt.verify(tiny)) == ["default"]

    def test_a_file_that_was_damaged_after_loading(self, tiny_bundle: Path, tmp_path: Path) -> None:
        embedder = Embedder(copy_bundle(tiny_bundle, tmp_path / "bundle"))
        (embedder.folder / "config.json").write_text("{}")
        with pytest.raises(BundleError, match=r"config\.json"):
            embedrt.verify(embedder)

    def test_other_vectors(self, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
        vectors = np.load(bundle / "parity" / "vectors.npy")
        vectors[3, 5] += 2e-5
        np.save(bundle / "parity" / "vectors.npy", vectors)
        rehash(bundle)
        with pytest.raises(ParityError, match=r"texts\[3\] = "):
            embedrt.verify(bundle)

    def test_wrong_arguments(self, tiny_bundle: Path, tiny: Embedder) -> None:
        with pytest.raises(ValueError, match="device, dtype, threads: a loaded model has its own"):
            embedrt.verify(tiny, device="cpu")
        with pytest.raises(ValueError, match="source: expected None for reference='bundle', which loads no model"):
            embedrt.verify(tiny_bundle, source="org/model")
        unknown: Any = "torch"
        with pytest.raises(
            ValueError, match="reference: expected one of 'bundle', 'sentence-transformers', got 'torch'"
        ):
            embedrt.verify(tiny_bundle, reference=unknown)
        with pytest.raises(ModelNotFoundError, match="not in the local store"):
            embedrt.verify("org/absent")


class TestDiff:
    def test_bundles_and_embedders(self, tiny_bundle: Path, tiny: Embedder) -> None:
        found = embedrt.diff(tiny_bundle, tiny)
        assert len(found.cosine) == 42
        assert not found.max_abs_error.any()
        assert len(embedrt.diff(tiny, tiny, iter(["one", "two", "three"])).cosine) == 3

    def test_too_few_texts(self, tiny: Embedder) -> None:
        with pytest.raises(ValueError, match="texts: expected at least 2, got 1"):
            embedrt.diff(tiny, tiny, ["one"])


class TestTune:
    def test_the_result_is_kept(self, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
        tuning = embedrt.tune(bundle, seconds=0.01)
        assert isinstance(tuning, embedrt.Tuning)
        assert Embedder(bundle).runners["default"].placement.max_tokens in {way.max_tokens for way in tuning.settings}

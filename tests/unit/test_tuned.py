"""What a tuning decides once it is stored: read strictly, used where it holds, and never over the user's head."""

import copy
import dataclasses
import errno
import json
import logging
import pickle
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt import BundleError, DeviceError, Embedder
from embedrt.bundle.manifest import FLOAT32, MANIFEST, TUNED, open_bundle, read_bundle, read_manifest
from embedrt.engine.machine import available_threads
from embedrt.hub.local import copy_bundle as save_bundle
from embedrt.tune import result as tuned
from embedrt.tune.result import Setting, Tuning, settled, settled_dtype, usual_device
from tests.kit.bundles import copy_bundle

THREADS = available_threads()


def way(dtype: str = FLOAT32, device: str = "cpu", rate: float = 100.0, **changes: Any) -> Setting:
    return dataclasses.replace(Setting(dtype, device, 1, 64, rate, 5.0, 1.0, 1.0), **changes)


def tuning_of(bundle: Path, *ways: Setting) -> Tuning:
    return Tuning(2, tuned.conditions(read_manifest(bundle)), "cpu", "float32", 256, ways or (way(),), (), {})


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that was tuned here: one thread, batches of 64 tokens."""
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    tuned.write(folder, tuning_of(folder))
    return folder


def change(folder: Path, edit: Callable[[Any], Any]) -> None:
    raw = json.loads((folder / TUNED).read_bytes())
    edit(raw)
    (folder / TUNED).write_text(json.dumps(raw), encoding="utf-8")


def in_use(embedder: Embedder) -> tuple[str, int, int]:
    (runner,) = embedder.runners.values()
    return embedder.device, runner.engine.threads, runner.placement.max_tokens


class TestUse:
    def test_what_is_left_open_is_as_tuned(self, bundle: Path, tiny: Embedder) -> None:
        embedder = Embedder(bundle)
        assert in_use(embedder) == ("cpu", 1, 64)
        assert embedder.dtype == "float32"
        assert in_use(Embedder(bundle, "auto")) == ("cpu", 1, 64)
        assert in_use(Embedder(bundle, "cpu")) == ("cpu", 1, 64)
        assert in_use(tiny) == ("cpu", THREADS, 512)

    def test_what_is_given_wins(self, bundle: Path) -> None:
        assert in_use(Embedder(bundle, threads=3)) == ("cpu", 3, 64)
        assert in_use(Embedder(bundle, max_tokens=100)) == ("cpu", 1, 100)
        assert in_use(Embedder(bundle, "cpu", threads=3, max_tokens=100)) == ("cpu", 3, 100)

    def test_a_device_that_was_not_measured_is_as_ever(self, bundle: Path) -> None:
        tuning = tuning_of(bundle, way("int8"))
        assert settled(tuning, "float32", "cpu", None, None) == (None, None)
        assert settled(tuning, "float32", "cpu", None, 7) == (None, 7)
        assert usual_device(tuning, "float32") is None
        with pytest.raises(DeviceError, match="'tpu' is unknown"):
            Embedder(bundle, "tpu")

    def test_another_device_of_a_call_has_its_own_settings(self, bundle: Path) -> None:
        embedder = Embedder(bundle)
        embedder.encode("the cat", device="cpu")
        (runner,) = embedder.loaded.runners("cpu").values()
        assert (runner.engine.threads, runner.placement.max_tokens) == (1, 64)

    def test_copies_and_pickles_run_alike(self, bundle: Path) -> None:
        embedder = Embedder(bundle, dtype="auto")
        for other in (copy.copy(embedder), pickle.loads(pickle.dumps(embedder))):
            assert in_use(other) == ("cpu", 1, 64)
            assert other.dtype == "float32"

    @pytest.mark.subprocess
    def test_workers_run_as_the_parent(self, bundle: Path, tiny: Embedder) -> None:
        if THREADS > 1:
            tuned.write(bundle, tuning_of(bundle, way(threads=2)))
        embedder = Embedder(bundle)
        with embedder.start_multi_process_pool(["cpu", None]) as pool:
            assert pool.devices == ["cpu", "cpu"]
            assert [(one.placement.threads, one.placement.max_tokens) for one in pool._settings] == [(1, 64)] * 2
            assert abs(embedder.encode(["the cat"] * 9, pool=pool) - tiny.encode("the cat")).max() < 1e-6
        with Embedder(bundle, threads=4, max_tokens=99).start_multi_process_pool(["cpu", "cpu"]) as pool:
            assert [(one.placement.threads, one.placement.max_tokens) for one in pool._settings] == [(2, 99)] * 2


class TestDecisions:
    """With devices that this machine does not have."""

    def test_another_device_has_to_be_clearly_faster(self, bundle: Path) -> None:
        assert tuning_of(bundle, way(), way(device="cuda", rate=104.9)).device_for("float32") == "cpu"
        assert tuning_of(bundle, way(), way(device="cuda", rate=105.0)).device_for("float32") == "cuda"
        assert tuning_of(bundle, way(device="cuda", rate=10)).device_for("float32") == "cuda"  # the usual one was wrong
        assert tuning_of(bundle, way()).device_for("int8") is None

    def test_only_float32_has_the_same_numbers_everywhere(self, bundle: Path) -> None:
        tuning = tuning_of(bundle, way(), way("int8"), way("int8", "cuda", 1000), way("bfloat16", "cuda", 1000))
        assert tuning.device_for("int8") == "cpu"
        assert tuning.device_for("bfloat16") == "cuda"

    @pytest.mark.parametrize(
        ("ways", "dtype"),
        [
            ([way()], "float32"),
            ([way(), way("int8", rate=104)], "float32"),
            ([way(), way("int8", rate=200)], "int8"),
            ([way(), way("int8", rate=200), way("bfloat16", rate=300)], "bfloat16"),
            ([way(), way("int8", rate=200, mean_cosine=0.9989)], "float32"),
            ([way(), way("int8", rate=200, min_cosine=0.9949)], "float32"),
            ([way(), way("int8", rate=200, mean_cosine=0.999, min_cosine=0.995)], "int8"),
            ([way("int8", rate=200)], "float32"),
            ([way(), way(device="cuda", rate=400), way("int8", rate=200)], "float32"),
            ([way(), way("int8", rate=200), way("bfloat16", "cuda", rate=300)], "bfloat16"),
        ],
    )
    def test_dtype(self, bundle: Path, ways: list[Setting], dtype: str) -> None:
        tuning, manifest = tuning_of(bundle, *ways), read_manifest(bundle)
        assert tuning.dtype_for(None) == settled_dtype(tuning, manifest, "auto", None) == dtype
        assert settled_dtype(tuning, manifest, "float32", None) == "float32"

    def test_dtype_on_the_device_that_is_named(self, bundle: Path) -> None:
        tuning, manifest = (
            tuning_of(bundle, way(), way("int8", rate=200), way("bfloat16", "cuda", rate=300)),
            read_manifest(bundle),
        )
        assert settled_dtype(tuning, manifest, "auto", "cpu") == "int8"
        assert settled_dtype(None, manifest, "auto", "cpu") == "float32"

    def test_none_is_the_usual_one_whatever_was_measured(self, bundle: Path) -> None:
        tuning, manifest = tuning_of(bundle, way(), way("int8", rate=200)), read_manifest(bundle)
        assert settled_dtype(tuning, manifest, None, None) == "float32"
        route = manifest.routes["default"]
        alone = dataclasses.replace(route, variants=(dataclasses.replace(route.variants[0], dtype="int8"),))
        manifest = dataclasses.replace(manifest, routes={"default": alone})
        assert settled_dtype(tuning, manifest, None, None) == settled_dtype(None, manifest, "auto", None) == "int8"

    def test_a_bundle_whose_usual_dtype_is_another(self, bundle: Path) -> None:
        tuning = dataclasses.replace(tuning_of(bundle, way("int8", rate=200)), usual_dtype="int8")
        assert tuning.dtype_for(None) == "int8"
        faster = dataclasses.replace(tuning, settings=(*tuning.settings, way("bfloat16", rate=300)))
        assert faster.dtype_for(None) == "bfloat16"

    def test_auto_is_float32_where_nothing_was_tuned(self, tiny_bundle: Path) -> None:
        embedder = Embedder(tiny_bundle, dtype="auto")
        assert embedder.dtype == "float32"
        assert in_use(embedder) == ("cpu", THREADS, 512)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["float32", "int8", "bfloat16"]), st.sampled_from(["cpu", "cuda"]), st.floats(1, 9)
            )
        )
    )
    def test_whatever_was_measured(self, tiny_bundle: Path, rows: list[tuple[str, str, float]]) -> None:
        ways = {(dtype, device): way(dtype, device, rate) for dtype, device, rate in rows}
        tuning = tuning_of(tiny_bundle, way(), *(one for pair, one in ways.items() if pair != ("float32", "cpu")))
        dtype = tuning.dtype_for(None)
        device = tuning.device_for(dtype)
        assert device is not None
        assert (found := tuning.setting(dtype, device)) is not None
        assert dtype == "float32" or found.texts_per_second >= 105


class TestFile:
    def test_roundtrip(self, bundle: Path) -> None:
        tuning = dataclasses.replace(tuning_of(bundle), others=(way(rate=1.5),), excluded={"float32 on cuda": "wrong"})
        tuned.write(bundle, tuning)
        assert tuned.read(bundle, read_bundle(bundle)) == tuned.StoredTuning(tuning)
        assert not list(bundle.glob(".*"))

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda raw: raw.update(more=1), "unknown field 'more'"),
            (lambda raw: raw.pop("texts"), "missing field 'texts'"),
            (lambda raw: raw.update(format_version="1"), "format_version: expected an integer, got str"),
            (lambda raw: raw["conditions"].pop("cpu"), "conditions: missing field 'cpu'"),
            (
                lambda raw: raw["settings"][0].update(threads=0),
                r"settings\[0\].threads: expected 1 to \d+, the number",
            ),
            (lambda raw: raw["settings"][0].update(threads=10**6), "expected 1 to .* cores, got 1000000"),
            (
                lambda raw: raw["settings"][0].update(threads=True),
                r"settings\[0\].threads: expected an integer, got bool",
            ),
            (lambda raw: raw["settings"][0].update(max_tokens=0), "max_tokens: expected a positive integer, got 0"),
            (
                lambda raw: raw["settings"][0].update(texts_per_second=0),
                "texts_per_second: expected more than 0, got 0",
            ),
            (lambda raw: raw["others"].append({}), r"others\[0\]: missing field 'dtype'"),
            (lambda raw: raw["settings"].append(raw["settings"][0]), "expected each pair of dtype and device once"),
        ],
    )
    def test_a_damaged_file_is_an_error_with_the_remedy(
        self, bundle: Path, edit: Callable[[Any], Any], message: str
    ) -> None:
        change(bundle, edit)
        with pytest.raises(BundleError, match=message) as caught:
            Embedder(bundle)
        assert str(caught.value).startswith(f"{bundle}: {TUNED}")
        assert str(caught.value).endswith(f"`embedrt tune {bundle} --clear` removes the file")
        assert tuned.clear(bundle)
        assert in_use(Embedder(bundle)) == ("cpu", THREADS, 512)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"format_version": NaN}'])
    def test_no_such_document(self, bundle: Path, content: bytes) -> None:
        (bundle / TUNED).write_bytes(content)
        with pytest.raises(BundleError, match="--clear` removes the file"):
            Embedder(bundle)

    def test_a_link_to_nowhere(self, bundle: Path) -> None:
        (bundle / TUNED).unlink()
        (bundle / TUNED).symlink_to("nowhere")
        with pytest.raises(BundleError, match="--clear` removes the file"):
            Embedder(bundle)
        assert tuned.clear(bundle)
        assert not tuned.clear(bundle)

    @pytest.mark.parametrize(
        ("edit", "reason"),
        [
            (lambda raw: raw["conditions"].update(cpu="Z80"), "measured with cpu Z80, here "),
            (lambda raw: raw["conditions"].update(instructions="mmx"), "measured with instructions mmx, here "),
            (lambda raw: raw["conditions"].update(cores=99), f"measured with cores 99, here {THREADS}"),
            (
                lambda raw: raw["conditions"]["versions"].update(onnxruntime="0.1"),
                r"measured with versions embedrt .*, onnxruntime 0\.1(, .*)?, here embedrt",
            ),
            (lambda raw: raw["conditions"]["versions"].update(plugin="2"), "plugin 2, here embedrt"),
            (lambda raw: raw["conditions"].update(bundle="0"), "measured with another bundle"),
            (lambda raw: raw.update(format_version=1, more=1), "expected format version 2, got 1"),
        ],
    )
    def test_other_conditions_are_told_once(
        self, bundle: Path, edit: Callable[[Any], Any], reason: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        change(bundle, edit)
        with caplog.at_level(logging.INFO, "embedrt"):
            for _ in range(3):
                assert in_use(Embedder(bundle)) == ("cpu", THREADS, 512)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        message = record.getMessage()
        assert message.startswith(f"{bundle / TUNED} is not used: ")
        assert message.endswith(f"run `embedrt tune {bundle}` to measure again")
        assert re.search(reason, message)

    def test_nothing_is_told_where_it_holds(self, bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
        Embedder(bundle)
        assert not caplog.records

    def test_the_conditions_are_of_the_files(self, bundle: Path) -> None:
        manifest = read_bundle(bundle)
        same = dataclasses.replace(manifest, name="other", prompts={"query": "q"})
        assert tuned.conditions(same) == tuned.conditions(manifest)
        files = {
            **manifest.files,
            "onnx/model.onnx": dataclasses.replace(manifest.files["onnx/model.onnx"], sha256="0"),
        }
        for changed in (dataclasses.replace(manifest, files=files), dataclasses.replace(manifest, fingerprint="0")):
            assert tuned.conditions(changed) != tuned.conditions(manifest)

    @pytest.mark.parametrize("write", [tuned.require_writable, lambda folder: tuned.write(folder, tuning_of(folder))])
    def test_a_folder_that_cannot_be_written(
        self, bundle: Path, write: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tests may run as root, to whom every folder is open."""
        before = (bundle / TUNED).read_bytes()

        def read_only(**_: Any) -> str:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(tempfile, "mkdtemp", read_only)
        with pytest.raises(BundleError, match=r"cannot be written there .*Read-only file system.*; make the folder"):
            write(bundle)
        assert (bundle / TUNED).read_bytes() == before

    def test_written_whole_or_not_at_all(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = (bundle / TUNED).read_bytes()

        def full(_: Path) -> None:
            assert (bundle / TUNED).read_bytes() == before
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("embedrt.bundle.atomic.sync", full)
        with pytest.raises(BundleError, match="No space left on device"):
            tuned.write(bundle, tuning_of(bundle, way(rate=3)))
        assert (bundle / TUNED).read_bytes() == before
        assert not list(bundle.glob(".*"))


class TestCopies:
    def test_copies_are_without_it(self, bundle: Path, tmp_path: Path) -> None:
        assert TUNED not in read_bundle(bundle).files
        Embedder(bundle).save_pretrained(tmp_path / "saved")
        save_bundle(open_bundle(bundle), tmp_path / "copied")
        for folder in (tmp_path / "saved", tmp_path / "copied"):
            assert (folder / MANIFEST).is_file()
            assert not (folder / TUNED).exists()

    def test_no_bundle_lists_it(self, bundle: Path) -> None:
        raw = json.loads((bundle / MANIFEST).read_bytes())
        raw["files"][TUNED] = {"size": 1, "sha256": "0"}
        (bundle / MANIFEST).write_text(json.dumps(raw), encoding="utf-8")
        with pytest.raises(BundleError, match=r"files: 'embedrt\.tuned\.json' is not a plain path inside the bundle"):
            read_bundle(bundle)

"""Real tunings of tiny bundles: what is measured, what is left out, and what the commands print."""

import json
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import embedrt
from embedrt import BundleError, Embedder, InferenceError, ModelNotFoundError, ParityError
from embedrt.bundle.manifest import TUNED, read_bundle, record_files
from embedrt.cli.main import main
from embedrt.engine import cpu
from embedrt.engine.devices import DEVICES
from embedrt.engine.machine import available_threads
from embedrt.engine.session import SessionEngine
from embedrt.hub import local as store
from embedrt.run.request import Request
from embedrt.run.runner import Runner
from embedrt.tune import result as tuned
from embedrt.tune import search as tuning
from embedrt.tune.candidates import candidates
from embedrt.tune.result import Setting, Tuning
from tests.kit.bundles import change, copy_bundle, rehash, replace_output

QUICK = 0.1
TEXTS = [f"the cat of {i} {'river ' * (i % 9)}" for i in range(24)]
CPU = candidates("float32", DEVICES["cpu"], available_threads())


@pytest.fixture(autouse=True)
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some machines have it, where it would be measured too."""
    monkeypatch.delitem(DEVICES, "openvino")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(tiny_bundle, tmp_path / "bundle")


def add_dtype(folder: Path, name: str, edit: Callable[[onnx.GraphProto], Any]) -> None:
    """Puts a changed graph into the bundle as another dtype."""
    model = onnx.load(folder / "onnx" / "model.onnx", load_external_data=False)
    edit(model.graph)
    file = f"onnx/model_{name}.onnx"
    (folder / file).write_bytes(model.SerializeToString())
    (record,) = record_files(folder, [file]).values()

    def change_all(raw: Any) -> None:
        raw["files"][file] = {"size": record.size, "sha256": record.sha256}
        for route in raw["routes"].values():
            route["variants"].append({**route["variants"][1], "dtype": name, "file": file})

    change(folder, change_all)


def negate(graph: onnx.GraphProto) -> None:
    replace_output(graph, onnx.helper.make_node("Neg", ["plain"], ["sentence_embedding"]))


def spoil(graph: onnx.GraphProto) -> None:
    graph.node[0].op_type = "NoSuchOperator"


def key(way: Setting) -> tuple[str, str, int, int]:
    return way.dtype, way.device, way.threads, way.max_tokens


class TestTune:
    def test_everything_is_measured_and_the_best_is_kept(self, bundle: Path) -> None:
        found = embedrt.tune(bundle, seconds=QUICK)
        (chosen,) = found.settings
        assert sorted(map(key, [chosen, *found.others])) == sorted(
            (c.dtype, c.device, c.threads, c.max_tokens) for c in CPU
        )
        for way in (chosen, *found.others):
            assert way.texts_per_second > 0
            assert way.one_text_ms > 0
            assert way.min_cosine == pytest.approx(1)
        assert (found.usual_device, found.texts, found.excluded) == ("cpu", 256, {})
        assert tuned.read(bundle, read_bundle(bundle)) == tuned.StoredTuning(found)
        embedder = Embedder(bundle)
        (runner,) = embedder.runners.values()
        assert (runner.engine.threads, runner.placement.max_tokens) == (chosen.threads, chosen.max_tokens)

    def test_neither_bundle_nor_vectors_change(self, bundle: Path, tiny: Embedder) -> None:
        before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
        tuning.tune(bundle, TEXTS, seconds=QUICK)
        after = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
        assert set(after) - set(before) == {bundle / TUNED}
        assert before.items() <= after.items()
        assert np.abs(Embedder(bundle).encode(TEXTS) - tiny.encode(TEXTS)).max() < 2e-6

    def test_own_texts(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: set[str] = set()
        run: Any = Runner.run

        def watched(self: Runner, texts: list[str], request: Request) -> Any:
            seen.update(texts)
            return run(self, texts, request)

        monkeypatch.setattr(Runner, "run", watched)
        monkeypatch.setattr(tuning, "verify_route", lambda *_, **__: None)
        given = list(TEXTS)
        assert tuning.tune(bundle, given, seconds=QUICK).texts == 24
        assert given == TEXTS
        assert seen == set(TEXTS)

    def test_again_replaces_it_also_a_damaged_one(self, bundle: Path) -> None:
        (bundle / TUNED).write_bytes(b"{")
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert tuned.read(bundle, read_bundle(bundle)).tuning == found

    def test_a_name_in_the_store(self, tiny_bundle: Path) -> None:
        target = store.stored_path("org/tiny")
        target.parent.mkdir(parents=True)
        copy_bundle(tiny_bundle, target)
        found = tuning.tune("org/tiny", TEXTS, seconds=QUICK)
        assert tuned.in_use(target, read_bundle(target)) == found

    def test_sessions_of_one_engine_at_a_time(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alive: weakref.WeakSet[SessionEngine] = weakref.WeakSet()
        most = 0
        make: Any = SessionEngine.__init__

        def watched(self: SessionEngine, *arguments: Any, **options: Any) -> None:
            nonlocal most
            most = max(most, len(alive))
            make(self, *arguments, **options)
            alive.add(self)

        monkeypatch.setattr(SessionEngine, "__init__", watched)
        tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert most == 0

    def test_routes_are_all_judged(self, bundle: Path) -> None:
        def two(raw: Any) -> None:
            raw["routes"] = {"query": raw["routes"]["default"], "document": raw["routes"]["default"]}
            raw["tasks"] = {"query": "query", "document": "document"}

        change(bundle, two)
        add_dtype(bundle, "float16", negate)

        def right(raw: Any) -> None:
            variants = raw["routes"]["document"]["variants"]
            variants[-1]["file"] = variants[0]["file"]

        change(bundle, right)
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        way = found.setting("float16", "cpu")
        assert way is not None
        assert way.mean_cosine == pytest.approx(0)
        assert way.min_cosine == pytest.approx(-1)

    def test_a_folder_that_cannot_be_written_is_told_before_the_work(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(**_: Any) -> str:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("tempfile.mkdtemp", read_only)
        monkeypatch.delattr(tuning, "Runner")
        with pytest.raises(BundleError, match=r"Read-only file system.*copy the bundle"):
            tuning.tune(bundle, seconds=QUICK)

    @pytest.mark.parametrize(
        ("texts", "seconds", "message"),
        [
            (TEXTS[:19], 1, "texts: expected at least 20, got 19"),
            ("one", 1, "texts: expected at least 20, got 1"),
            (TEXTS, 0, "seconds: expected more than 0, got 0"),
            (TEXTS, float("nan"), "seconds: expected more than 0, got nan"),
        ],
    )
    def test_wrong_arguments(self, bundle: Path, texts: Any, seconds: float, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tuning.tune(bundle, texts, seconds=seconds)
        assert not (bundle / TUNED).exists()

    def test_no_such_bundle(self) -> None:
        with pytest.raises(ModelNotFoundError, match="the network may not be used"):
            tuning.tune("org/nothing", TEXTS)


class TestDtypes:
    def test_each_is_measured_and_only_a_good_one_is_ever_chosen(self, bundle: Path) -> None:
        add_dtype(bundle, "bfloat16", lambda _: None)
        add_dtype(bundle, "float16", negate)
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert {way.dtype: round(way.mean_cosine, 6) for way in found.settings} == {
            "float32": 1,
            "bfloat16": 1,
            "float16": -1,
        }
        assert len(found.settings) + len(found.others) == 3 * len(CPU)
        assert found.dtype_for(None) in {"float32", "bfloat16"}
        assert Embedder(bundle, dtype="auto").dtype == found.dtype_for(None)
        assert Embedder(bundle).dtype == "float32"

    def test_one_that_fails_is_left_out(self, bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
        add_dtype(bundle, "int8", spoil)
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert [way.dtype for way in found.settings] == ["float32"]
        assert re.match(".*cannot load.*NoSuchOperator", found.excluded["int8 on cpu"])
        assert "int8 on cpu is excluded: " in caplog.text

    def test_without_float32_the_proof_is_what_counts(self, bundle: Path) -> None:
        def rename(raw: Any) -> None:
            for variant in raw["routes"]["default"]["variants"]:
                variant["dtype"] = "float16"

        change(bundle, rename)
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert {(way.dtype, way.mean_cosine) for way in found.settings} == {("float16", 1.0)}
        assert (found.usual_dtype, found.dtype_for(None)) == ("float16", "float16")
        assert Embedder(bundle).dtype == Embedder(bundle, dtype="auto").dtype == "float16"

    def test_without_float32_wrong_vectors_are_an_error(self, bundle: Path) -> None:
        def rename(raw: Any) -> None:
            for variant in raw["routes"]["default"]["variants"]:
                variant["dtype"] = "float16"

        path = bundle / read_bundle(bundle).routes["default"].parity_vectors
        np.save(path, np.load(path) + np.float32(0.1))
        rehash(bundle)
        change(bundle, rename)
        with pytest.raises(ParityError, match="differ from"):
            tuning.tune(bundle, TEXTS, seconds=QUICK)

    def test_wrong_vectors_in_float32_are_an_error(self, bundle: Path) -> None:
        path = bundle / read_bundle(bundle).routes["default"].parity_vectors
        np.save(path, np.load(path) + np.float32(0.1))
        rehash(bundle)
        with pytest.raises(ParityError, match="differ from"):
            tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert not (bundle / TUNED).exists()


class TestDevices:
    """Others than the processor, which here stand for it under another name."""

    @pytest.fixture
    def twin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device = replace(cpu.DEVICE, kind="twin", token_budget=256, parallel=False)
        monkeypatch.setitem(DEVICES, "twin", device)

    def test_every_device_that_is_there(self, bundle: Path, twin: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(DEVICES, "gone", replace(cpu.DEVICE, kind="gone", provider="NoSuchProvider"))
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert [way.device for way in found.settings] == ["cpu", "twin"]
        measured = [way for way in (*found.settings, *found.others) if way.device == "twin"]
        assert sorted(way.max_tokens for way in measured) == [64, 128, 256, 512]
        way = found.setting("float32", "twin")
        assert way is not None
        embedder = Embedder(bundle, "twin")
        assert embedder.device == "twin"
        assert next(iter(embedder.runners.values())).placement.max_tokens == way.max_tokens
        assert Embedder(bundle).device == found.device_for("float32")

    @pytest.mark.subprocess
    def test_a_faster_device_is_taken(self, bundle: Path, twin: None) -> None:
        ways = [
            Setting("float32", name, 1, 64, rate, 1.0, 1.0, 1.0) for name, rate in (("cpu", 100.0), ("twin", 200.0))
        ]
        tuned.write(bundle, Tuning(2, tuned.conditions(read_bundle(bundle)), "cpu", "float32", 24, tuple(ways), (), {}))
        embedder = Embedder(bundle)
        assert embedder.device == "twin"
        assert Embedder(bundle, "cpu").device == "cpu"
        with embedder.start_multi_process_pool(["cpu"]) as pool:
            assert pool.devices == ["cpu"]

    def test_wrong_vectors_exclude_a_device(self, bundle: Path, twin: None, monkeypatch: pytest.MonkeyPatch) -> None:
        answer: Any = SessionEngine.run

        def run(self: SessionEngine, *arguments: Any, **options: Any) -> Any:
            results = answer(self, *arguments, **options)
            return {name: -array for name, array in results.items()} if self.device.name == "twin" else results

        monkeypatch.setattr(SessionEngine, "run", run)
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert [way.device for way in found.settings] == ["cpu"]
        assert "differ from" in found.excluded["float32 on twin"]

    def test_a_budget_that_fails_is_left_out(self, bundle: Path, twin: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """As where a large batch does not fit into the memory of a GPU."""
        run: Any = Runner.run

        def limited(self: Runner, texts: list[str], request: Request) -> Any:
            if self.engine.device.name == "twin" and self.placement.max_tokens == 512:
                raise InferenceError("out of memory\nand more")
            return run(self, texts, request)

        monkeypatch.setattr(Runner, "run", limited)
        found = tuning.tune(bundle, TEXTS, seconds=QUICK)
        assert found.excluded == {f"float32 on twin, {available_threads()} threads, 512 tokens": "out of memory"}
        assert sorted(way.max_tokens for way in (*found.settings, *found.others) if way.device == "twin") == [
            64,
            128,
            256,
        ]


class TestCommand:
    @pytest.fixture
    def run(self, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
        def call(*arguments: object) -> tuple[int, str, str]:
            return main([str(argument) for argument in arguments]), *capsys.readouterr()

        return call

    def test_table_and_choice(self, bundle: Path, run: Any) -> None:
        add_dtype(bundle, "int8", spoil)
        status, out, err = run("tune", bundle, "--seconds", QUICK)
        assert status == 0
        assert err.startswith("embedrt: int8 on cpu is excluded: ")
        head, *rows, excluded, chosen = out.splitlines()
        assert "texts/s" in head
        assert len(rows) == len(CPU)
        assert sum(row.startswith("*") for row in rows) == 1
        assert all(row.endswith("1.000000 / 1.000000") for row in rows)
        assert excluded.startswith("excluded: int8 on cpu: ")
        assert re.fullmatch(
            r'chosen, over 256 texts: float32 on cpu, \d+ threads, \d+ tokens \(\d+ texts/s\); "auto" is float32',
            chosen,
        )
        assert run("tune", bundle, "--show") == (0, out, "")

    def test_info_and_doctor_show_it(self, tiny_bundle: Path, run: Any) -> None:
        target = store.stored_path("org/tiny")
        target.parent.mkdir(parents=True)
        copy_bundle(tiny_bundle, target)
        untuned = f"no; run `embedrt tune {target}` to measure the fastest settings"
        assert f"tuned            {untuned}\n" in run("info", "org/tiny")[1]
        assert f"    tuned            {untuned}\n" in run("doctor")[1]
        run("tune", "org/tiny", "--seconds", QUICK)
        for shown in (run("info", "org/tiny")[1], run("doctor")[1]):
            assert re.search(
                r'tuned +float32 on cpu, \d+ threads, \d+ tokens \(\d+ texts/s\); "auto" is float32\n', shown
            )
        raw = json.loads((target / TUNED).read_bytes())
        raw["conditions"]["cpu"] = "Z80"
        (target / TUNED).write_text(json.dumps(raw))
        for shown in (run("info", "org/tiny")[1], run("doctor")[1], run("tune", "org/tiny", "--show")[1]):
            assert "not used: measured with cpu Z80, here " in shown
        (target / TUNED).write_text("{")
        assert run("info", "org/tiny")[0] == 1
        _, out, _ = run("doctor")
        assert re.search(r"tuned +damaged\n +! .*`embedrt tune .* --clear` removes the file\n", out)

    def test_json(self, bundle: Path, run: Any) -> None:
        assert run("tune", bundle, "--show", "--json") == (0, "null\n", "")
        status, out, _ = run("tune", bundle, "--seconds", QUICK, "--json")
        assert status == 0
        shown = json.loads(out)
        extra = {name: shown.pop(name) for name in ("auto_dtype", "auto_device", "unused")}
        assert extra == {"auto_dtype": "float32", "auto_device": {"float32": "cpu"}, "unused": None}
        assert shown == json.loads((bundle / TUNED).read_bytes())
        change_version = {**shown, "format_version": 9}
        (bundle / TUNED).write_text(json.dumps(change_version))
        _, out, _ = run("tune", bundle, "--show", "--json")
        assert json.loads(out) == {"unused": "expected format version 2, got 9"}

    def test_show_and_clear(self, bundle: Path, run: Any) -> None:
        assert run("tune", bundle, "--show") == (
            0,
            f"no; run `embedrt tune {bundle}` to measure the fastest settings\n",
            "",
        )
        assert run("tune", bundle, "--clear") == (0, f"{bundle}: was not tuned\n", "")
        (bundle / TUNED).write_text("{")
        status, _, err = run("tune", bundle, "--show")
        assert (status, err.count("\n")) == (1, 1)
        assert err.endswith("--clear` removes the file\n")
        assert run("tune", bundle, "--clear") == (0, f"{bundle}: tuning removed\n", "")
        assert not (bundle / TUNED).exists()

    def test_lines_of_a_file(self, bundle: Path, run: Any, tmp_path: Path) -> None:
        lines = tmp_path / "lines.txt"
        lines.write_bytes("\r\n".join(TEXTS).encode())
        _, out, _ = run("tune", bundle, "--texts", lines, "--seconds", QUICK)
        assert "chosen, over 24 texts: " in out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--show", "--seconds", "1"], "--show and --clear measure nothing"),
            (["--clear", "--texts", "lines.txt"], "--show and --clear measure nothing"),
            (["--clear", "--json"], "--clear has nothing to show"),
            (["--texts", "nowhere.txt"], "nowhere.txt"),
            (["--seconds", "-1"], "seconds: expected more than 0, got -1.0"),
        ],
    )
    def test_errors(self, bundle: Path, run: Any, options: list[str], message: str) -> None:
        status, out, err = run("tune", bundle, *options)
        assert (status, out) == (1, "")
        assert message in err

    def test_a_bar_shows_the_progress(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tuning.tune(bundle, TEXTS, seconds=QUICK, show_progress_bar=True)
        err = capsys.readouterr().err
        assert "Tuning" in err
        assert "checking float32 on cpu" in err
        assert "timing float32 on cpu, " in err
        assert "100%" in err

"""`embedrt bench`: its parts, and a run with a tiny model and no peers."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedrt.bench import run as bench_run
from embedrt.bench.engines import (
    OWN,
    OWN_INT8,
    PEERS,
    PREPARATIONS,
    REFERENCE,
    REQUIREMENTS,
    Subject,
    check_peers,
    choose_peers,
    obstacle,
    own_engines,
    role,
)
from embedrt.bench.environment import machine, numpy_features, visible
from embedrt.bench.measure import Measurement, Plan, core_counts, reference_of, turns_of
from embedrt.bench.model import describe, find_bundle
from embedrt.bench.peers import Files
from embedrt.bench.plot import bars, cosine, draw
from embedrt.bench.process import WorkerError, engine_worker, prepare
from embedrt.bench.record import file_name, machine_name, machine_title, read_record, spread
from embedrt.bench.results import Result, by_round, efficiency, never_quiet, scaling_ratios
from embedrt.bench.table import lines
from embedrt.bench.texts import python_passages, sample, workloads
from embedrt.bench.worker import core_order
from embedrt.bundle.manifest import read_manifest
from embedrt.cli.main import main
from embedrt.embedder import Embedder
from embedrt.errors import ModelNotFoundError
from tests.kit.bench_results import BUSY, QUIET, made, result, run
from tests.kit.hub_client import Client
from tests.kit.hub_server import Hub

RESULTS = {REFERENCE: result(REFERENCE, 10), OWN: result(OWN, 30, cosine=0.99996)}
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command: exit status, stdout, stderr."""

    def bench(*arguments: object) -> tuple[int, str, str]:
        return main(["bench", *map(str, arguments)]), *capsys.readouterr()

    return bench


def subject(bundle: Path, model: Path | None = None, name: str = "tiny") -> Subject:
    return Subject(name, read_manifest(bundle), model, "it is elsewhere")


class TestResults:
    def test_disturbed_rounds_make_no_ratio_unless_all_are(self) -> None:
        assert by_round([2, 9], [QUIET, BUSY], [1, 1], [QUIET, QUIET]) == ([2], 1)
        assert by_round([2, 9], [QUIET, QUIET], [1, 1], [QUIET, BUSY]) == ([2], 1)
        assert by_round([2, 9], [BUSY, BUSY], [1, 1], [QUIET, QUIET]) == ([2, 9], 0)
        assert by_round([2, 9], [None, None], [1, 1], [None, None]) == ([2, 9], 2)

    def test_engines_without_a_quiet_round_are_found(self) -> None:
        results = {REFERENCE: result(REFERENCE, 10), OWN: result(OWN, 30)}
        results[REFERENCE].runs["mixed"].other_cores = [QUIET, BUSY]
        assert never_quiet(results, "mixed") == []
        results[REFERENCE].runs["mixed"].other_cores = [BUSY, BUSY]
        assert never_quiet(results, "mixed") == [REFERENCE]

    def test_efficiency_is_per_core(self) -> None:
        by_cores = {4: run(36), 1: run(10), 2: run(19)}
        assert {count: found[0] for count, found in scaling_ratios(by_cores).items()} == {1: 1, 2: 1.9, 4: 3.6}
        assert efficiency(by_cores) == pytest.approx(0.9)
        assert efficiency({2: run(10)}) is None

    def test_numbers_of_cores_double_up_to_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.sched_setaffinity", lambda *_: None, raising=False)
        assert core_counts(1) == ()
        assert core_counts(2) == (1, 2)
        assert core_counts(4) == (1, 2, 4)
        assert core_counts(12) == (1, 2, 4, 8, 12)

    def test_one_cpu_of_each_core_comes_first(self, tmp_path: Path) -> None:
        for cpu, siblings in enumerate(["0-1", "0-1", "2,5", "3", "4", "2,5"]):
            folder = tmp_path / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(siblings + "\n")
        assert core_order({0, 1, 2, 3, 5}, tmp_path) == [0, 2, 3, 1, 5]
        assert core_order({1, 5}, tmp_path) == [1, 5]
        assert core_order({7, 6}, tmp_path) == [6, 7]

    def test_the_reference_is_that_of_the_best_engine_that_works(self) -> None:
        failed = Result("1", "float32", "", error="gone")
        assert reference_of({OWN: RESULTS[OWN], REFERENCE: RESULTS[REFERENCE]}) == REFERENCE
        assert reference_of({OWN: RESULTS[OWN], REFERENCE: failed}) == OWN
        assert reference_of({OWN_INT8: RESULTS[OWN]}) == OWN_INT8
        assert reference_of({"openvino": RESULTS[OWN], OWN: failed}) is None


class TestEngines:
    def test_dtypes_that_the_device_does_not_run_are_left_out(self, tiny_bundle: Path) -> None:
        known = subject(tiny_bundle)
        route = known.manifest.routes["default"]
        foreign = replace(route.variants[-1], dtype="float16", devices=("cuda",))
        routes = {"default": replace(route, variants=(*route.variants, foreign))}
        both = replace(known, manifest=replace(known.manifest, routes=routes))
        request = bench_run.Request(str(tiny_bundle), peers=("none",))
        engines, _ = bench_run._engines(request, both, tiny_bundle, None)
        assert [engine.dtype for engine in engines.values()] == ["float32"]

    def test_own_engines_are_named_after_device_and_dtype(self) -> None:
        found = own_engines(["cpu", "openvino"], ["float32", "int8", "bfloat16"])
        assert list(found) == [
            "embedrt",
            "embedrt-int8",
            "embedrt-bf16",
            "embedrt-openvino",
            "embedrt-openvino-int8",
            "embedrt-openvino-bf16",
        ]
        assert {role(name) for name in found} == {"own"}
        assert role(REFERENCE) == "reference"
        assert {role(name) for name in PEERS if name != REFERENCE} == {"peer"}

    def test_every_engine_has_a_loader_its_files_and_its_requirements(self) -> None:
        from embedrt.bench import gguf_file, peer_files, peers

        modules = {"gguf_file": gguf_file, "peer_files": peer_files}
        for engine in [*PEERS.values(), *own_engines(["cpu"], ["float32"]).values()]:
            assert callable(getattr(peers, engine.load))
            assert set(engine.requires) <= set(REQUIREMENTS)
            assert engine.needs is None or engine.needs in PREPARATIONS
        for made_file in PREPARATIONS.values():
            assert callable(getattr(modules[made_file.file], made_file.function))

    @pytest.mark.parametrize("wanted", [["fastembd"], ["auto", "x"], ["none", "onnxruntime"]])
    def test_unknown_peers_are_named(self, wanted: list[str]) -> None:
        with pytest.raises(ValueError, match="--peers: expected"):
            check_peers(wanted)

    def test_peers_that_cannot_run_have_a_reason(self, tiny_bundle: Path) -> None:
        chosen, left_out = choose_peers(["auto"], subject(tiny_bundle))
        assert "onnxruntime" in chosen
        assert not {"fastembed", "model2vec"} & {*chosen, *left_out}  # slow
        assert all(left_out.values())
        assert REFERENCE in left_out
        assert choose_peers(["none"], subject(tiny_bundle)) == ({}, {})

    def test_a_peer_that_is_named_must_run(self, tiny_bundle: Path) -> None:
        with pytest.raises(ValueError, match=r"--peers: llama\.cpp: "):
            choose_peers(["onnxruntime", "llama.cpp"], subject(tiny_bundle))

    def test_requirements_of_models(self, tiny_bundle: Path, tiny_source: Path) -> None:
        own = subject(tiny_bundle, tiny_source)
        assert [REQUIREMENTS[name](own) for name in ("model", "graph", "pooled")] == [None] * 3
        assert "it is elsewhere" in str(REQUIREMENTS["model"](subject(tiny_bundle)))
        assert "by name only" in str(REQUIREMENTS["catalogue"](own))
        assert REQUIREMENTS["catalogue"](replace(own, name="sentence-transformers/all-MiniLM-L6-v2")) is None
        route = own.manifest.routes["default"]

        def with_route(**changes: Any) -> Subject:
            return replace(own, manifest=replace(own.manifest, routes={"default": replace(route, **changes)}))

        packed = tuple(replace(variant, layout="packed") for variant in route.variants)
        assert "padded float32 graph" in str(REQUIREMENTS["graph"](with_route(variants=packed)))
        prompted = replace(own, manifest=replace(own.manifest, default_prompt_name="query"))
        assert "prompt" in str(REQUIREMENTS["graph"](prompted))
        two = replace(own, manifest=replace(own.manifest, routes={"a": route, "b": route}))
        assert "one route" in str(REQUIREMENTS["graph"](two))
        assert "pooling" in str(REQUIREMENTS["pooled"](with_route(modules=route.modules[:1])))
        assert "vocab.txt" in str(REQUIREMENTS["bert"](own))  # it has a tokenizer.json only

    def test_a_missing_interpreter_is_named(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("EMBEDRT_ST_ONNX_PYTHON", raising=False)
        why = obstacle(PEERS["sentence-transformers-onnx"], subject(tiny_bundle))
        assert "EMBEDRT_ST_ONNX_PYTHON" in str(why)


class TestInstructionSets:
    def test_what_libraries_do_not_find_is_hidden(self) -> None:
        stated = ["avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"]
        every = {"AVX2": True, "AVX512F": True, "AVX512VNNI": True}
        assert visible(stated, every, {}) == stated
        assert visible(stated, every | {"AVX512VNNI": False}, {}) == ["avx2", "avx512f"]
        assert visible(stated, {"AVX2": True, "AVX512F": False, "AVX512VNNI": False}, {}) == ["avx2"]
        assert visible(stated, every, {"amx_int8": False, "avx512_f": True}) == stated[:-1]
        assert visible(stated, {}, {}) == stated

    def test_avx_vnni_does_not_need_avx512(self) -> None:
        assert visible(["avx2", "avx_vnni"], {"AVX2": True, "AVX512VNNI": False}, {}) == ["avx2", "avx_vnni"]

    def test_numpy_tells(self) -> None:
        """Its table is private: without it a hidden instruction set would go unnoticed."""
        assert numpy_features()
        found = machine()
        assert not set(found["instruction_sets"]) & set(found["hidden_instruction_sets"])

    def test_names_and_titles(self) -> None:
        cpu = {"cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz", "family": "6", "model": "143", "usable_cores": 2}
        whole = {**cpu, "instruction_sets": ["avx2", "avx512f", "amx_int8"], "hidden_instruction_sets": []}
        assert machine_name(whole) == "intel-xeon-f6m143-2c"
        assert machine_title(whole) == "Intel Xeon with AMX, 2 cores"
        limited = {**cpu, "instruction_sets": ["avx2"], "hidden_instruction_sets": ["avx512f", "amx_int8"]}
        assert machine_name(limited) == "intel-xeon-f6m143-2c-avx2"
        assert machine_title(limited) == "Intel Xeon limited to AVX2, 2 cores"
        arm: dict[str, Any] = {
            "cpu": "arm64",
            "family": None,
            "usable_cores": 1,
            "instruction_sets": [],
            "hidden_instruction_sets": [],
        }
        assert (machine_name(arm), machine_title(arm)) == ("arm64-1c", "arm64, 1 core")
        assert file_name("2026-11-26T10:00:00+00:00", "arm64-1c") == "2026-11-26-arm64-1c.json"


class TestRecord:
    def test_quality_and_memory_are_beside_each_speed(self) -> None:
        engine = made(RESULTS)["engines"][OWN]
        mixed = engine["workloads"]["mixed"]
        assert mixed["texts_per_s"] == {"median": 30, "low": 30, "high": 30}
        assert mixed["ratio"]["median"] == 3
        assert (mixed["mean_cosine"], mixed["peak_rss_mb"]) == (0.99996, 100)
        assert (mixed["rounds"], mixed["undisturbed_rounds"]) == (2, 2)
        assert (engine["one_text"]["p50_ms"], engine["cold_start_s"]["median"], engine["peak_rss_mb"]) == (1, 0.3, 100)

    def test_every_figure_names_its_unit_or_is_explained(self) -> None:
        written = made(RESULTS)
        known = tuple(unit.removeprefix("*") for unit in written["units"])
        figures = {
            key
            for engine in written["engines"].values()
            for some in [*engine["workloads"].values(), engine["one_text"]]
            for key in some
        }
        assert len(figures) > 8
        assert [key for key in figures if not key.endswith(known) and key != "undisturbed_rounds"] == []

    def test_scaling_has_a_step_for_each_number_of_cores(self) -> None:
        scaled = result(OWN, 30)
        scaled.by_cores = {1: run(10), 2: run(19), 4: run(36)}
        steps = made({OWN: scaled})["engines"][OWN]["scaling"]
        assert [(step["cores"], step["ratio"]["median"], step["efficiency"]) for step in steps] == [
            (1, 1, 1),
            (2, 1.9, 0.95),
            (4, 3.6, 0.9),
        ]

    def test_spread_keeps_four_digits(self) -> None:
        assert spread([1234.56, 0.00123456, 7]) == {"median": 7, "low": 0.001235, "high": 1235}
        assert spread([]) is None
        assert spread([0.0]) == {"median": 0, "low": 0, "high": 0}

    def test_files_of_format_1_are_read(self, tmp_path: Path) -> None:
        old = made(RESULTS)
        old["format"] = 1
        old["not_installed"], old["export_refused"] = ["fastembed"], "no int8: why"
        old["workloads"]["mixed"]["mean_tokens_256"] = old["workloads"]["mixed"].pop("mean_tokens_read")
        for name in ("left_out", "reference", "long_text"):
            del old[name]
        del old["machine"]["hidden_instruction_sets"]
        speeds = [{"median": speed, "low": speed, "high": speed} for speed in (10, 19)]
        ratio = {"median": 1.9, "low": 1.9, "high": 1.9}
        old["engines"][OWN]["scaling"] = {"cores": [1, 2], "texts_per_s": speeds, "ratio": ratio}
        (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
        found = read_record(tmp_path / "old.json")
        assert found["engines"][OWN]["scaling"][1] == {
            "cores": 2,
            "texts_per_s": speeds[1],
            "ratio": ratio,
            "efficiency": 0.95,
        }
        assert found["left_out"] == {"fastembed": "not installed", OWN_INT8: "no int8: why"}
        assert found["workloads"]["mixed"]["mean_tokens_read"] == 103.2
        assert "mixed" in "\n".join(lines(found))

    @pytest.mark.parametrize("content", ["{}", '{"format": 3}'])
    def test_other_formats_are_an_error(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"x\.json: expected format 2 or older, found (None|3); measure again"):
            read_record(tmp_path / "x.json")


class TestTable:
    def test_each_engine_has_its_row(self) -> None:
        text = "\n".join(lines(made(RESULTS)))
        assert "all-MiniLM-L6-v2 on Some CPU, 2 cores" in text
        rows = {
            line.split()[0]: line.split() for line in text.splitlines() if line.startswith(("embedrt ", "sentence"))
        }
        assert rows[OWN][1:5] == ["1.00", "1.00", "0.30", "100"] or OWN in rows
        assert "30.0  3.00 (3.00-3.00)" in text
        assert "fastembed-1 is left out: not installed" in text
        assert "disturbed" not in text

    def test_disturbed_rounds_are_marked(self) -> None:
        results = {REFERENCE: result(REFERENCE, 10), OWN: result(OWN, 30)}
        results[OWN].runs["mixed"].other_cores = [QUIET, BUSY]
        text = "\n".join(lines(made(results)))
        assert "30.0*" in text
        assert "*: other programs disturbed some rounds" in text
        results[OWN].runs["mixed"].other_cores = [BUSY, BUSY]
        text = "\n".join(lines(made(results)))
        assert "30.0!" in text
        assert "!: other programs disturbed every round" in text

    def test_an_engine_that_failed_stays_in_the_table(self) -> None:
        failed = Result("1", "int8", "how", error="no such dtype")
        text = "\n".join(lines(made({**RESULTS, OWN_INT8: failed})))
        assert "embedrt-int8 1: how\n  failed: no such dtype" in text

    def test_scaling_and_streams_have_tables_of_their_own(self) -> None:
        scaled = result(OWN, 30)
        scaled.by_cores = {1: run(10), 2: run(19)}
        text = "\n".join(lines(made({OWN: scaled})))
        assert "10.0 (1.00)  19.0 (0.95)" in text


class TestPlot:
    def test_cosines_are_rounded_down(self) -> None:
        assert (cosine(0.99996), cosine(1.0), cosine(0.9992), cosine(None)) == ("0.9999", "1.0000", "0.9992", "-")

    def test_a_bar_for_each_engine_with_such_vectors_fastest_first(self) -> None:
        written = made({**RESULTS, "model2vec": result("model2vec", 9999, cosine=0.4)})
        assert [name for name, _ in bars(written)] == [OWN, REFERENCE]
        tree = ET.fromstring(draw([written, written]))
        widths = [int(found.attrib["width"]) for found in tree.iter("{http://www.w3.org/2000/svg}rect")][1:]
        assert len(widths) == 4
        assert widths[0] == widths[2] == pytest.approx(3 * widths[1], abs=2)

    def test_a_line_for_each_engine_that_was_measured_with_several_numbers_of_cores(self) -> None:
        scaled = result(OWN, 30)
        scaled.by_cores = {1: run(10), 2: run(19), 4: run(36)}
        drawn = draw([made({OWN: scaled})], scaling=True)
        found = list(ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}polyline"))
        assert [len(line.attrib["points"].split()) for line in found] == [2, 3]
        assert "embedrt: 36 texts/s (0.90)" in drawn
        assert "polyline" not in draw([made({OWN: scaled})])


class TestTexts:
    def test_passages_of_python_fill_all_workloads(self, minilm_source: Path) -> None:
        tokenizer = Tokenizer.from_file(str(minilm_source / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def count(text: str) -> int:
            return len(tokenizer.encode(text).ids)

        found = workloads(python_passages(), count, mixed=400)
        assert {name: len(some) for name, some in found.items()} == {"short": 400, "mixed": 400, "long": 100}
        assert all(8 <= count(text) <= 16 for text in found["short"])
        assert all(count(text) >= 256 for text in found["long"])
        assert found == workloads(python_passages(), count, mixed=400)

    def test_texts_of_the_users_are_taken_as_they_are(self) -> None:
        texts = [f"text {i}" for i in range(50)]
        assert sample(texts, 50) == {"texts": texts}
        drawn = sample(texts, 7)["texts"]
        assert len(set(drawn)) == 7
        assert set(drawn) <= set(texts)


class TestModel:
    def test_a_bundle_is_taken_as_it_is(self, tiny_bundle: Path, tmp_path: Path) -> None:
        found = find_bundle(str(tiny_bundle), None, tmp_path / "b")
        assert (found.bundle, found.source, found.refused) == (tiny_bundle, None, {})
        described = describe(found, None, needs_model=True)
        assert described.model is None
        assert "give it as --source" in described.no_model

    def test_the_source_is_found_by_its_option(self, tiny_bundle: Path, tiny_source: Path, tmp_path: Path) -> None:
        found = find_bundle(str(tiny_bundle), None, tmp_path / "b")
        assert describe(found, str(tiny_source), needs_model=True).model == tiny_source
        assert describe(found, str(tiny_source), needs_model=False).model is None

    def test_a_name_that_leads_nowhere_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ModelNotFoundError, match="org/none"):
            find_bundle("org/none", None, tmp_path / "b")

    @pytest.mark.subprocess
    def test_a_model_folder_is_exported(self, tiny_source: Path, tmp_path: Path) -> None:
        found = find_bundle(str(tiny_source), ["float32"], tmp_path / "b")
        assert read_manifest(found.bundle).dtypes == ("float32",)
        assert describe(found, None, needs_model=True).model == tiny_source

    @pytest.mark.subprocess
    def test_a_model_on_the_hub_is_exported_at_its_revision(
        self, hub: Hub, client: Client, tiny_source: Path, tmp_path: Path
    ) -> None:
        commit = hub.add("org/tiny", tiny_source, "v2")
        code = """
import sys
from pathlib import Path
from embedrt.bench.model import describe, find_bundle
found = find_bundle("org/tiny@v2", ["float32"], Path(sys.argv[1]))
subject = describe(found, None, needs_model=True)
print(subject.manifest.source.revision, (subject.model / "model.safetensors").is_file(), subject.model)
"""
        done = client.python("-c", code, str(tmp_path / "bundle"))
        assert done.stdout.split()[:2] == [commit, "True"], done.stderr
        assert commit in done.stdout.split()[2]


@pytest.mark.subprocess
class TestMeasurement:
    @pytest.fixture
    def files(self, tiny_bundle: Path, tmp_path: Path) -> Files:
        return Files(None, tiny_bundle, tmp_path / "prepared")

    def test_a_peer_by_hand_has_the_same_vectors(self, files: Files, tiny: Embedder, tmp_path: Path) -> None:
        texts = ["one cat", "the bank of a river", "two dogs " * 40]
        worker = engine_worker(PEERS["onnxruntime"], files)
        try:
            worker.ask("encode", texts=texts, save=str(tmp_path / "v.npy"))
            answer = worker.ask("memory", texts=texts)
        finally:
            worker.close()
        np.testing.assert_allclose(np.load(tmp_path / "v.npy"), tiny.encode(texts), atol=1e-5)
        assert answer["seconds"] > 0
        assert (answer["over_rss_mb"] is not None) == sys.platform.startswith("linux")

    def test_an_engine_that_fails_says_why(self, files: Files) -> None:
        (engine,) = own_engines(["cpu"], ["int8"]).values()
        worker = engine_worker(engine, files)
        try:
            with pytest.raises(WorkerError, match="int8"):
                worker.ask("encode", texts=["a"], save=None)
        finally:
            worker.close()

    def test_files_for_peers_are_made_once(self, files: Files) -> None:
        engines = {"light-embed-1": PEERS["light-embed-1"], "fastembed-1": PEERS["fastembed-1"]}
        assert prepare(engines, files) == {}
        settings = json.loads((files.prepared / "limited" / "tokenizer_config.json").read_bytes())
        assert settings["model_max_length"] == 48
        (files.prepared / "limited" / "kept").touch()
        assert prepare(engines, files) == {}
        assert (files.prepared / "limited" / "kept").exists()

    def test_a_file_that_cannot_be_made_fails_the_engine(self, files: Files) -> None:
        failed = prepare({"candding": PEERS["candding"]}, files)
        assert "could not make hub" in failed["candding"]

    def test_a_worker_imports_nothing_of_embedrt(self, files: Files) -> None:
        """What embedrt imports would count for every peer, in its start and in its memory."""
        code = """
import runpy, sys
sys.argv = ["worker.py", sys.argv[2]]
try:
    runpy.run_path(WORKER, run_name="__main__")
except BaseException:
    pass
print(sorted(name for name in sys.modules if name.partition(".")[0] == "embedrt"), file=sys.stderr)
"""
        worker = Path(bench_run.__file__).with_name("worker.py")
        job: dict[str, Any] = {
            "load": "onnxruntime",
            "options": {},
            "cores": None,
            "files": [None, str(files.bundle), "p"],
        }
        done = subprocess.run(
            [sys.executable, "-c", code.replace("WORKER", repr(str(worker))), "x", json.dumps(job)],
            input="",
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.splitlines()[-1] == "[]"

    def test_a_failure_of_one_engine_leaves_the_others(self, files: Files, tmp_path: Path) -> None:
        engines = {**own_engines(["cpu"], ["float32", "int8"])}
        plan = Plan({"mixed": ["one cat", "two dogs"]}, rounds=1, retries=0, starts=0, blocks=1, calls=2)

        class Count:
            turns = 0

            def set_description(self, desc: str) -> None:
                del desc

            def update(self) -> None:
                self.turns += 1

        bar = Count()
        results = bench_run.measure(Measurement(engines, {}, files, plan, tmp_path, bar))
        assert "int8" in str(results[OWN_INT8].error)
        assert results[OWN].error is None
        assert results[OWN].max_abs_error == 0
        assert bar.turns == turns_of(plan, {OWN: engines[OWN]}) + 1


@pytest.mark.subprocess
class TestCommand:
    def test_a_whole_run(self, tiny_bundle: Path, tmp_path: Path, call: Call) -> None:
        (tmp_path / "t.txt").write_text("one cat\n\ntwo dogs\nthe bank of a river\n", encoding="utf-8")
        arguments = ["--texts", tmp_path / "t.txt", "--peers", "none", "--quick", "--scaling"]
        status, out, err = call(
            tiny_bundle, *arguments, "--output", tmp_path / "results", "--plot", tmp_path / "speed.svg"
        )
        assert (status, err) == (0, "")
        (path,) = (tmp_path / "results").glob("*.json")
        assert f"written: {path}" in out
        record = read_record(path)
        assert path.name == file_name(record["date"], record["machine"]["name"])
        assert list(record["engines"]) == [OWN]
        engine = record["engines"][OWN]
        assert record["reference"] == OWN
        assert engine["workloads"]["texts"]["ratio"]["median"] == 1
        assert engine["workloads"]["texts"]["max_abs_error"] == 0
        assert record["workloads"]["texts"]["texts"] == 3
        assert engine["cold_start_s"]["median"] > 0
        assert engine["one_text"]["p50_ms"] > 0
        assert "tiny" in out.splitlines()[0]
        ET.parse(tmp_path / "speed.svg")

    def test_python_s_own_texts_and_a_peer(self, tiny_bundle: Path, tmp_path: Path, call: Call) -> None:
        options = ["--peers", "onnxruntime", "--quick", "--threads", "1"]
        status, out, _ = call(tiny_bundle, *options, "--output", tmp_path / "r.json")
        assert status == 0
        record = read_record(tmp_path / "r.json")
        assert list(record["workloads"]) == ["short", "mixed", "long"]
        assert record["engines"]["onnxruntime"]["workloads"]["mixed"]["max_abs_error"] < 1e-5
        assert "onnxruntime" in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--peers", "torch"], "--peers: expected auto, all, none, or names of sentence-transformers"),
            (["--peers", "none,openvino"], "--peers: expected none alone"),
            (["--rounds", "0"], "--rounds: expected a positive integer, got 0"),
            (["--threads", "4000"], "--threads: expected at most "),
            (["--threads", "1", "--scaling"], "--threads and --scaling exclude each other"),
            (["--plot", "speed.png"], "--plot: expected a file that ends with .svg, got speed.png"),
            (["--plot", "nowhere/speed.svg"], "--plot: nowhere is not a folder"),
            (["--dtype", "float64"], "dtype: expected one of"),
            (["--device", "abacus"], "device: 'abacus' is unknown"),
            (["--texts", "nowhere.txt"], "nowhere.txt"),
        ],
    )
    def test_errors_come_before_the_work(self, arguments: list[str], message: str, call: Call, tmp_path: Path) -> None:
        status, out, err = call(tmp_path / "missing", *arguments)
        assert (status, out) == (1, "")
        assert message in err

    @pytest.mark.parametrize(("content", "message"), [(b"\n \n", "found none"), (b"ok\n\xff\n", ":2: expected UTF-8")])
    def test_texts_that_cannot_be_read(self, content: bytes, message: str, call: Call, tmp_path: Path) -> None:
        (tmp_path / "t.txt").write_bytes(content)
        status, _, err = call(tmp_path / "missing", "--texts", tmp_path / "t.txt")
        assert status == 1
        assert message in err

    def test_a_dtype_that_the_bundle_lacks(self, call: Call, tiny_bundle: Path) -> None:
        status, out, err = call(tiny_bundle, "--peers", "none", "--dtype", "float32,int8")
        assert (status, out) == (1, "")
        assert "int8" in err

    def test_an_output_that_is_a_file_of_another_kind(self, call: Call, tmp_path: Path) -> None:
        (tmp_path / "t.txt").touch()
        status, _, err = call(tmp_path / "missing", "--output", tmp_path / "t.txt")
        assert status == 1
        assert "--output: expected a .json file or a folder" in err


@pytest.mark.subprocess
def test_nothing_of_it_is_imported_with_the_package() -> None:
    code = "import sys, embedrt, embedrt.cli.main; print([name for name in sys.modules if 'bench' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

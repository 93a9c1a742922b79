"""Arithmetic of the benchmarks: FLOPs, retrieval, verdicts, records and the pages made from them."""

import gzip
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.corpus import dictionary
from benchmarks.engines import ENGINES, OPENVINO_BFLOAT16, OWN_FLOAT32, REFERENCE
from benchmarks.gemm import products
from benchmarks.models import Shape
from benchmarks.plot import bars, cosine, draw
from benchmarks.record import file_name, machine_name, machine_title, record, spread
from benchmarks.render import BEGIN, END, between, machine_tables, newest, newest_gpus, pages, readme_table
from benchmarks.report import tables, target_table
from benchmarks.results import Gemm, Result, Run, Soak, by_round, never_quiet
from benchmarks.retrieval import definition, ndcg_at_10, search
from benchmarks.targets import Verdict, at_least, at_most, fastest_good, verdicts

MINILM = Shape(layers=6, hidden=384, inner=1536)
QUIET, BUSY = 0.0, 64.0


def test_flops_of_one_layer_by_hand() -> None:
    # Tokens 3, hidden 4, inner 5: Q, K, V, O; up and down; scores and weighted values.
    products_by_hand = 4 * (3 * 4 * 4) + (3 * 4 * 5) + (3 * 5 * 4) + (3 * 4 * 3) + (3 * 3 * 4)
    assert Shape(layers=1, hidden=4, inner=5).flops(3) == 2 * products_by_hand
    assert Shape(layers=7, hidden=4, inner=5).flops(3) == 7 * 2 * products_by_hand


def test_flops_of_minilm_are_about_22_mflop_a_token() -> None:
    assert MINILM.flops(100) / 100 == pytest.approx(22.2e6, rel=0.01)


def test_the_measured_products_are_those_that_are_counted() -> None:
    linear = 2 * sum(before * after for before, after in products(MINILM))
    assert MINILM.layers * linear == MINILM.flops(1) - 2 * MINILM.layers * 2 * MINILM.hidden


def write_dictionary(folder: Path) -> Path:
    """Two entries, the first under two headwords, in dictd's format."""
    entries = ["Alpha\nA\n\n   The first letter of some alphabet.\n\n", "Beta\n\n   See {Alpha}.\n\n"]
    content = "".join(entries).encode()
    first = len(entries[0])
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    lines = [
        ("00-database-info", 0, 3),
        ("a", 0, first),
        ("alpha", 0, first),
        ("beta", first, len(entries[1])),
    ]
    (folder / "d.dict.dz").write_bytes(gzip.compress(content))
    index = "".join(f"{word}\t{digits[at // 64]}{digits[at % 64]}\t{digits[size]}\n" for word, at, size in lines)
    (folder / "d.index").write_text(index, encoding="utf-8")
    return folder / "d.dict.dz"


def test_dictionary_gives_every_headword_with_its_entry(tmp_path: Path) -> None:
    found = list(dictionary(write_dictionary(tmp_path)))
    assert [word for word, _ in found] == ["a", "alpha", "beta"]
    assert found[0][1] == found[1][1]
    assert definition(found[1][1]) == "The first letter of some alphabet."


def test_search_leaves_out_short_entries_and_joins_headwords(tmp_path: Path) -> None:
    found = search(list(dictionary(write_dictionary(tmp_path))), 10, seed=0)
    assert found.documents == ["The first letter of some alphabet."]
    assert found.queries == ["a", "alpha"]
    assert found.relevant == [{0}, {0}]


def test_one_headword_of_two_entries_has_both_as_relevant() -> None:
    entries = [("x", "X\n\none two three four five"), ("x", "X\n\nsix seven eight nine ten")]
    found = search(entries, 10, seed=0)
    assert found.queries == ["x"]
    assert found.relevant == [{0, 1}]


def test_search_draws_as_many_as_asked_and_the_same_for_the_same_seed() -> None:
    entries = [(f"w{i}", f"W\n\nthis is the entry number {i}") for i in range(50)]
    first = search(entries, 8, seed=3)
    assert len(first.documents) == 8
    assert first == search(entries, 8, seed=3)
    assert first != search(entries, 8, seed=4)


def test_ndcg_by_rank() -> None:
    """One relevant document at rank r gains 1 / log2(r + 1); beyond the tenth nothing."""
    documents = np.array([[math.cos(i / 10), math.sin(i / 10)] for i in range(14)], np.float32)
    query = documents[:1]
    for rank in range(1, 15):
        expected = 1 / math.log2(rank + 1) if rank <= 10 else 0.0
        assert ndcg_at_10(query, documents, [{rank - 1}]) == pytest.approx(expected)


def test_ndcg_of_two_relevant_documents() -> None:
    documents = np.array([[1, 0], [0.9, 0.5], [0, 1]], np.float32)
    query = np.array([[1, 0]], np.float32)
    best = 1 + 1 / math.log2(3)
    assert ndcg_at_10(query, documents, [{0, 2}]) == pytest.approx((1 + 0.5) / best)
    assert ndcg_at_10(query, documents, [{0, 1}]) == pytest.approx(1.0)


def test_ndcg_does_not_depend_on_lengths_or_blocks() -> None:
    random = np.random.default_rng(0)
    queries, documents = random.standard_normal((30, 8)), random.standard_normal((40, 8))
    relevant = [{int(index)} for index in random.integers(0, 40, 30)]
    whole = ndcg_at_10(queries.astype(np.float32), documents.astype(np.float32), relevant)
    scaled = documents * random.uniform(0.5, 2, (40, 1))
    assert ndcg_at_10(queries.astype(np.float32), scaled.astype(np.float32), relevant, block=7) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("value", "shown", "met"),
    [(2.2, "2.20", True), (2.1999, "2.19", False), (2.999, "2.99", True), (0.29, "0.29", False)],
)
def test_a_lower_bound_is_shown_cut_off(value: float, shown: str, met: bool) -> None:
    judged = at_least("speed", 2.2, value)
    assert (judged.target, judged.reached, judged.met) == ("speed >= 2.2", shown, met)


@pytest.mark.parametrize(
    ("value", "shown", "met"), [(0.35, "0.35", True), (0.3501, "0.36", False), (0.2, "0.20", True)]
)
def test_an_upper_bound_is_shown_rounded_up(value: float, shown: str, met: bool) -> None:
    judged = at_most("p50", 0.35, value, "peer")
    assert (judged.reached, judged.met) == (f"{shown}  (peer)", met)


def test_what_was_not_measured_has_no_verdict() -> None:
    assert at_least("x", 1, None) == Verdict("x >= 1", "not measured", None)
    assert at_least("x", 1, None).verdict == "-"


def run(speed: float, cosine: float = 1.0, error: float = 1e-7, rss: float = 100.0) -> Run:
    """Two quiet rounds of one speed."""
    return Run([speed] * 2, [1.0] * 2, [QUIET] * 2, rss, cosine, cosine, error)


def result(name: str, speed: float, cosine: float = 1.0, p50: float = 1.0, ndcg: float | None = 80.0) -> Result:
    """Plausible measurements of an engine."""
    return Result(
        "1",
        ENGINES[name].dtype,
        "",
        start_seconds=[0.4],
        one_text_ms=[[p50] * 3],
        one_text_other_cores=[QUIET],
        runs={"mixed": run(speed, cosine)},
        ndcg=ndcg,
    )


def judged(results: dict[str, Result], *, trained: bool = True) -> dict[str, Verdict]:
    """The table by its targets."""
    gemm = Gemm([100.0] * 2, [200.0] * 2, [QUIET] * 2)
    return {row.target: row for row in verdicts(results, gemm, MINILM, [100], trained=trained)}


def line(table: dict[str, Verdict], start: str) -> Verdict:
    """The only line whose target starts so."""
    (found,) = (row for target, row in table.items() if target.startswith(start))
    return found


def test_table_of_a_run_that_reaches_everything() -> None:
    results = {
        REFERENCE: result(REFERENCE, 10, p50=10),
        "openvino": result("openvino", 20, p50=5),
        OPENVINO_BFLOAT16: result(OPENVINO_BFLOAT16, 60, p50=3, cosine=0.9999),
        "model2vec": result("model2vec", 9999, p50=0.01, cosine=0.4, ndcg=70),
        OWN_FLOAT32: result(OWN_FLOAT32, 80, p50=2),
        "embedrt-int8": result("embedrt-int8", 90, p50=1, cosine=0.9992, ndcg=79.9),
    }
    results[OWN_FLOAT32].by_cores = {"1": run(40), "2": run(76)}
    table = judged(results)
    assert all(row.met for row in table.values()), [row for row in table.values() if not row.met]
    assert line(table, "float32: mixed texts/s to the best float32 peer").reached == "4.00  (openvino)"
    assert line(table, "fast: mixed texts/s to OpenVINO").reached == "1.50  (embedrt-int8)"
    assert line(table, "float32: mixed texts/s with all").reached == "1.90  (2 cores)"
    # 80 texts a second of 100 tokens, against 200 GFLOP/s.
    share = float(line(table, "float32: % of the machine's").reached)
    assert share == pytest.approx(80 * MINILM.flops(100) / 200e9 * 100, abs=0.1)


def test_only_peers_in_float32_count_for_float32_and_only_alike_ones_for_fast() -> None:
    results = {
        REFERENCE: result(REFERENCE, 10, p50=10),
        OPENVINO_BFLOAT16: result(OPENVINO_BFLOAT16, 60, p50=1, cosine=0.9999),
        "model2vec": result("model2vec", 9999, p50=0.01, cosine=0.4),
        OWN_FLOAT32: result(OWN_FLOAT32, 40, p50=2),
        "embedrt-int8": result("embedrt-int8", 90, p50=1),
    }
    table = judged(results)
    assert line(table, "float32: mixed texts/s to the best").reached == f"4.00  ({REFERENCE})"
    assert line(table, "one short text, p50 to the best float32 peer").reached == f"0.20  ({REFERENCE})"
    assert line(table, "one short text, p50 to the best peer").reached == f"1.00  (embedrt-int8 to {OPENVINO_BFLOAT16})"


def test_fast_is_the_fastest_that_keeps_the_quality() -> None:
    results = {
        REFERENCE: result(REFERENCE, 10),
        "embedrt-int8": result("embedrt-int8", 90, cosine=0.9985),
        "embedrt-openvino": result("embedrt-openvino", 30),
        "embedrt-openvino-bf16": result("embedrt-openvino-bf16", 70, cosine=0.99997),
    }
    assert (fast := fastest_good(results, search=True)) is not None
    assert fast.name == "embedrt-openvino-bf16"
    results["embedrt-openvino-bf16"].ndcg = 80.4  # better is other too
    assert (fast := fastest_good(results, search=True)) is not None
    assert fast.name == "embedrt-openvino"
    results["embedrt-openvino"].ndcg = None
    assert (fast := fastest_good(results, search=True)) is not None
    assert fast.name is None
    assert (fast := fastest_good(results, search=False)) is not None
    assert fast.name == "embedrt-openvino-bf16"
    results[REFERENCE].ndcg = None
    assert fastest_good(results, search=True) is None


def test_without_a_dtype_that_keeps_the_quality_the_fast_targets_are_missed() -> None:
    results = {
        REFERENCE: result(REFERENCE, 10),
        OPENVINO_BFLOAT16: result(OPENVINO_BFLOAT16, 20),
        "embedrt-int8": result("embedrt-int8", 900, cosine=0.99),
    }
    table = judged(results)
    for start in ("fast: mean", "fast: mixed texts/s to sentence", "fast: mixed texts/s to OpenVINO", "fast: process"):
        assert line(table, start).met is False
    assert "0.99000" in line(table, "fast: mean").reached


def test_a_run_without_embedrt_has_no_verdicts() -> None:
    assert {row.verdict for row in judged({REFERENCE: result(REFERENCE, 10)}).values()} == {"-"}


def test_random_weights_are_not_judged_by_search_memory_or_start() -> None:
    results = {REFERENCE: result(REFERENCE, 10, ndcg=None), "embedrt-int8": result("embedrt-int8", 70, ndcg=None)}
    table = judged(results, trained=False)
    assert not [target for target in table if "RSS" in target or "start" in target or "nDCG" in target]
    assert line(table, "fast: mixed texts/s to sentence").met


def test_memory_counts_the_long_stream() -> None:
    results = {OWN_FLOAT32: result(OWN_FLOAT32, 10)}
    assert line(judged(results), "float32: peak RSS").met
    results[OWN_FLOAT32].soak = Soak(10, 1.0, 350.4)
    assert line(judged(results), "float32: peak RSS") == Verdict("float32: peak RSS, MB <= 350", "351", False)


def test_disturbed_products_do_not_flatter() -> None:
    results = {OWN_FLOAT32: result(OWN_FLOAT32, 80)}
    gemm = Gemm([100.0] * 2, [20.0, 200.0], [BUSY, BUSY])
    (row,) = (
        row
        for row in verdicts(results, gemm, MINILM, [100], trained=True)
        if row.target.startswith("float32: % of the")
    )
    assert float(row.reached) == pytest.approx(80 * MINILM.flops(100) / 200e9 * 100, abs=0.1)


def test_disturbed_rounds_make_no_ratio_unless_all_are() -> None:
    assert by_round([2, 9], [QUIET, BUSY], [1, 1], [QUIET, QUIET]) == ([2], 1)
    assert by_round([2, 9], [QUIET, QUIET], [1, 1], [QUIET, BUSY]) == ([2], 1)
    assert by_round([2, 9], [BUSY, BUSY], [1, 1], [QUIET, QUIET]) == ([2, 9], 0)
    assert by_round([2, 9], [None, None], [1, 1], [None, None]) == ([2, 9], 2)


def test_the_table_names_engines_without_a_quiet_round() -> None:
    results = {REFERENCE: result(REFERENCE, 10), OWN_FLOAT32: result(OWN_FLOAT32, 30)}
    results[REFERENCE].runs["mixed"].other_cores = [QUIET, BUSY]
    assert never_quiet(results) == []
    results[REFERENCE].runs["mixed"].other_cores = [BUSY, BUSY]
    assert never_quiet(results) == [REFERENCE]
    assert REFERENCE in list(target_table([], [REFERENCE]))[-1]


def test_report_of_an_engine_that_failed_says_so() -> None:
    results = {REFERENCE: result(REFERENCE, 10), OWN_FLOAT32: Result("1", "float32", "how", error="no such dtype")}
    text = "\n".join(tables(results, Gemm(), ["fastembed"]))
    assert "FAILED: no such dtype" in text
    assert "not installed" in text
    rows = list(target_table([Verdict("a >= 1", "2", True), Verdict("b", "not measured", None)], []))
    assert [row.split(" | ")[-1] for row in rows] == ["verdict", "met", "-"]


MACHINE = {
    "name": "some-2c",
    "title": "Some CPU, 2 cores",
    "cpu": "Some CPU",
    "instruction_sets": ["avx2"],
    "cores": 4,
    "usable_cores": 2,
    "memory_gb": 8.2,
    "system": "Linux 6 x86_64",
    "python": "3.11.9",
}


def made(results: dict[str, Result], date: str = "2026-11-26T10:00:00+00:00", **changes: Any) -> dict[str, Any]:
    """A record of a run, as it comes back from the file."""
    about = {
        "date": date,
        "command": "make bench",
        "note": None,
        "machine": MACHINE,
        "versions": {"embedrt": "1"},
        "model": "all-MiniLM-L6-v2",
        "corpus": "a dictionary",
        "workloads": {"mixed": {"texts": 400, "mean_tokens_256": 103.2, "mean_tokens": 120.0}},
        "search": None,
        "not_installed": ["fastembed"],
        "export_refused": None,
    } | changes
    written = record(about, results, Gemm([100.0] * 2, [200.0] * 2, [QUIET] * 2), [Verdict("a >= 1", "0.9", False)])
    return {**json.loads(json.dumps(written)), "file": "f.json"}


RESULTS = {REFERENCE: result(REFERENCE, 10), OWN_FLOAT32: result(OWN_FLOAT32, 30, cosine=0.99996)}


def test_a_record_has_quality_and_memory_beside_each_speed() -> None:
    engine = made(RESULTS)["engines"][OWN_FLOAT32]
    mixed = engine["workloads"]["mixed"]
    assert mixed["texts_per_s"] == {"median": 30, "low": 30, "high": 30}
    assert mixed["ratio"]["median"] == 3
    assert (mixed["mean_cosine"], mixed["peak_rss_mb"], mixed["rounds"], mixed["undisturbed_rounds"]) == (
        0.99996,
        100,
        2,
        2,
    )
    assert (engine["one_text"]["p50_ms"], engine["ndcg_difference"], engine["peak_rss_mb"]) == (1, 0, 100)


def test_every_figure_names_its_unit_or_is_explained() -> None:
    written = made(RESULTS)
    known = tuple(unit.removeprefix("*") for unit in written["units"])
    figures = {
        key
        for engine in written["engines"].values()
        for run in [*engine["workloads"].values(), engine["one_text"]]
        for key in run
    }
    assert len(figures) > 8
    plain = {"rounds", "undisturbed_rounds"}
    assert [key for key in figures if not key.endswith(known) and key not in plain] == []


def test_an_engine_that_failed_stays_in_the_record() -> None:
    failed = made({**RESULTS, "embedrt-int8": Result("1", "int8", "how", error="no | such\nthing")})
    assert failed["engines"]["embedrt-int8"]["workloads"] == {}
    assert "| **embedrt-int8** | int8 | failed: no \\| such thing |" in "\n".join(machine_tables([failed]))


def test_spread_keeps_four_digits() -> None:
    assert spread([1234.56, 0.00123456, 7]) == {"median": 7, "low": 0.001235, "high": 1235}
    assert spread([]) is None
    assert spread([0.0]) == {"median": 0, "low": 0, "high": 0}


def test_names_of_files() -> None:
    cpu = {"cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz", "family": "6", "model": "143", "usable_cores": 2}
    assert machine_name(cpu) == "intel-xeon-f6m143-2c"
    assert machine_title({**cpu, "instruction_sets": ["avx2", "avx512f", "amx_int8"]}) == "Intel Xeon with AMX, 2 cores"
    assert machine_title({"cpu": "CPU", "instruction_sets": [], "usable_cores": 1}) == "CPU, 1 core"
    assert machine_name({"cpu": "arm64", "family": None, "usable_cores": 8}) == "arm64-8c"
    assert file_name("2026-11-26T10:00:00+00:00", "arm64-8c") == "2026-11-26-arm64-8c.json"


def test_the_newest_file_of_each_machine_counts(tmp_path: Path) -> None:
    for date, name in (("2026-01-02", "a"), ("2026-03-04", "a"), ("2025-12-31", "b")):
        written = made(RESULTS, date, machine={**MACHINE, "name": name})
        (tmp_path / file_name(date, name)).write_text(json.dumps(written), encoding="utf-8")
    assert [(found["date"], found["file"]) for found in newest(tmp_path)] == [
        ("2026-03-04", "2026-03-04-a.json"),
        ("2025-12-31", "2025-12-31-b.json"),
    ]
    (tmp_path / "2027-01-01-c.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="expected format 1, found None"):
        newest(tmp_path)


def test_the_text_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between(page, iter(["new"])) == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_the_row_of_the_readme() -> None:
    row = list(readme_table([made(RESULTS)]))[2]
    assert row.startswith("| Some CPU, 2 cores | 30.0 (3.00x) | - | 1.0e-07 | - | 0.40 s (0.40 s) | 100 MB (100 MB) |")


def test_cosines_are_rounded_down() -> None:
    assert (cosine(0.99996), cosine(1.0), cosine(0.9992), cosine(None)) == ("0.9999", "1.0000", "0.9992", "-")


def test_the_plot_has_a_bar_for_each_engine_with_such_vectors_fastest_first() -> None:
    written = made({**RESULTS, "model2vec": result("model2vec", 9999, cosine=0.4)})
    assert [name for name, _ in bars(written)] == [OWN_FLOAT32, REFERENCE]
    tree = ET.fromstring(draw([written, written]))
    widths = [int(found.attrib["width"]) for found in tree.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(widths) == 4
    assert widths[0] == widths[2] == pytest.approx(3 * widths[1], abs=2)


def test_readme_docs_and_plot_are_those_of_the_committed_files() -> None:
    records = newest()
    assert records
    for path, text in pages(records, newest_gpus()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python -m benchmarks.render`"

"""Arithmetic of the benchmarks: FLOPs, retrieval, verdicts, records and the pages made from them."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.compare import extended
from benchmarks.corpus import dictionary
from benchmarks.gemm import Gemm, products
from benchmarks.long_text import LongText, long_text, time_ratio, vocabulary_texts
from benchmarks.models import Shape
from benchmarks.render import (
    BEGIN,
    END,
    between,
    machine_tables,
    newest,
    newest_bulk,
    newest_gpus,
    newest_quality,
    newest_servers,
    newest_tasks,
    pages,
    readme_table,
)
from benchmarks.retrieval import definition, ndcg_at_10, search
from benchmarks.targets import Measured, Verdict, at_least, at_most, verdict_lines, verdicts
from embedrt.bench.engines import OPENVINO_BFLOAT16, OWN, OWN_INT8, REFERENCE
from embedrt.bench.record import file_name
from embedrt.bench.results import Result, Soak
from tests.kit.bench_results import BUSY, MACHINE, QUIET, made, result, run

MINILM = Shape(layers=6, hidden=384, inner=1536)


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


LONG = {
    REFERENCE: LongText(seconds=[10.0], other_cores=[QUIET], over_mb=[900.0], before_mb=[1000.0], vector=[1.0, 0.0]),
    OWN: LongText(seconds=[4.0], other_cores=[QUIET], over_mb=[200.0], before_mb=[700.0], vector=[1.0, 1e-7]),
}
AVX512 = ["avx2", "avx512f", "avx512_vnni"]


def judged(
    results: dict[str, Result],
    *,
    ndcg: dict[str, float] | None = None,
    sets: list[str] = AVX512,
    trained: bool = True,
    long_text: dict[str, LongText] = LONG,
) -> dict[str, Verdict]:
    """The table by its targets."""
    gemm = Gemm([100.0] * 2, [200.0] * 2, [QUIET] * 2)
    found = {REFERENCE: 80.0, OWN_INT8: 79.9} if ndcg is None else ndcg
    measured = Measured(results, found, gemm, MINILM, [100], long_text, sets, trained)
    return {row.target: row for row in verdicts(measured)}


def line(table: dict[str, Verdict], start: str) -> Verdict:
    """The only line whose target starts so."""
    (found,) = (row for target, row in table.items() if target.startswith(start))
    return found


def all_good() -> dict[str, Result]:
    """A run that reaches everything."""
    results = {
        REFERENCE: result(REFERENCE, 10, p50=10),
        "openvino": result("openvino", 20, p50=5),
        OPENVINO_BFLOAT16: result(OPENVINO_BFLOAT16, 60, p50=3, cosine=0.9999),
        "model2vec": result("model2vec", 9999, p50=0.01, cosine=0.4),
        OWN: result(OWN, 80, p50=2),
        OWN_INT8: result(OWN_INT8, 130, p50=1, cosine=0.9992),
    }
    results[OWN].by_cores = {1: run(40), 2: run(78)}
    return results


@pytest.mark.parametrize("sets", [AVX512, ["avx2"]])
def test_table_of_a_run_that_reaches_everything(sets: list[str]) -> None:
    table = judged(all_good(), sets=sets)
    assert all(row.met for row in table.values()), [row for row in table.values() if not row.met]
    assert line(table, "float32: mixed texts/s to the best float32 peer").reached == "4.00  (openvino)"
    assert line(table, "float32: mixed texts/s per core").reached == "0.97  (1, 2 cores)"
    assert line(table, "float32: one text of 8192 tokens, peak").reached == "200"
    assert line(table, "float32: one text of 8192 tokens, time").reached == "0.40"
    # 80 texts a second of 100 tokens, against 200 GFLOP/s.
    share = float(line(table, "float32: % of the machine's").reached)
    assert share == pytest.approx(80 * MINILM.flops(100) / 200e9 * 100, abs=0.1)


def test_bounds_follow_the_instruction_sets() -> None:
    table = judged(all_good())
    assert line(table, "float32: mixed texts/s to sentence-transformers").target.endswith("with AVX-512 >= 2.2")
    assert line(table, "int8: mixed texts/s to OpenVINO").reached == "2.16"
    assert not [target for target in table if "without VNNI" in target]
    table = judged(all_good(), sets=["avx2"])
    assert line(table, "float32: mixed texts/s to sentence-transformers").target.endswith("with AVX2 >= 1.8")
    assert line(table, "int8: mixed texts/s to embedrt's float32, without VNNI >= 1.6").reached == "1.62"
    assert not [target for target in table if "with VNNI" in target]


def test_only_peers_in_float32_count_for_float32() -> None:
    results = all_good()
    del results["openvino"]
    table = judged(results)
    assert line(table, "float32: mixed texts/s to the best").reached == f"8.00  ({REFERENCE})"
    assert line(table, "float32: one short text, p50 to the best").reached == f"0.20  ({REFERENCE})"
    assert line(table, "int8: one short text, p50 to the best").reached == f"0.10  ({REFERENCE})"


@pytest.mark.parametrize(("cosine", "ndcg"), [(0.9985, 79.9), (0.9992, 80.4), (0.9992, 79.6)])
def test_int8_that_loses_quality_misses_its_targets(cosine: float, ndcg: float) -> None:
    results = all_good()
    results[OWN_INT8] = result(OWN_INT8, 900, cosine=cosine)
    table = judged(results, ndcg={REFERENCE: 80.0, OWN_INT8: ndcg})
    for start in ("int8: mean", "int8: mixed texts/s to sentence", "int8: mixed texts/s to OpenVINO"):
        assert line(table, start).met is False
    assert f"mean {cosine:.5f}" in line(table, "int8: mean").reached


def test_without_a_search_the_quality_of_int8_is_open() -> None:
    table = judged(all_good(), ndcg={})
    assert line(table, "int8: mean").met is None
    assert line(table, "int8: mixed texts/s to sentence").met


def test_a_run_without_embedrt_has_no_verdicts() -> None:
    table = judged({REFERENCE: result(REFERENCE, 10)}, long_text={})
    assert {row.verdict for row in table.values()} == {"-"}


def test_random_weights_are_not_judged_by_search_memory_or_start() -> None:
    table = judged({REFERENCE: result(REFERENCE, 10), OWN_INT8: result(OWN_INT8, 70)}, ndcg={}, trained=False)
    assert not [target for target in table if "peak RSS, MB" in target or "start" in target or "nDCG" in target]
    assert line(table, "int8: mixed texts/s to sentence").met


def test_memory_counts_the_stream() -> None:
    results = {OWN: result(OWN, 10)}
    assert line(judged(results), "float32: peak RSS").met
    results[OWN].soak = Soak(10, 1.0, 300.4)
    assert line(judged(results), "float32: peak RSS") == Verdict("float32: peak RSS, MB <= 300", "301", False)


def test_the_long_text_has_a_word_of_the_vocabulary_for_every_token_but_two() -> None:
    words = long_text("[PAD]\n##ing\ncat\ndog\nrené\n", 512).split()
    assert len(words) == 510
    assert set(words) == {"cat", "dog"}


def test_the_long_text_of_one_engine_has_no_ratio() -> None:
    assert time_ratio({OWN: LONG[OWN]}) is None


def test_texts_from_the_vocabulary_have_every_tenth_word() -> None:
    texts = vocabulary_texts("\n".join(f"w{i}" if i % 20 else f"##w{i}" for i in range(2000)))
    assert [word for text in texts for word in text.split()] == [f"w{i}" for i in range(10, 2000, 20)]
    assert max(len(text.split()) for text in texts) == 60


def test_disturbed_products_do_not_flatter() -> None:
    gemm = Gemm([100.0] * 2, [20.0, 200.0], [BUSY, BUSY])
    measured = Measured({OWN: result(OWN, 80)}, {}, gemm, MINILM, [100], {}, AVX512, trained=True)
    table = {row.target: row for row in verdicts(measured)}
    share = float(line(table, "float32: % of the").reached)
    assert share == pytest.approx(80 * MINILM.flops(100) / 200e9 * 100, abs=0.1)


def test_lines_of_verdicts_name_engines_without_a_quiet_round() -> None:
    rows = list(verdict_lines([Verdict("a >= 1", "2", True), Verdict("b", "not measured", None)], []))
    assert [row.split(" | ")[-1] for row in rows] == ["verdict", "met", "-"]
    assert REFERENCE in list(verdict_lines([], [REFERENCE]))[-1]


RESULTS = {REFERENCE: result(REFERENCE, 10), OWN: result(OWN, 30, cosine=0.99996)}


def compared(results: dict[str, Result], **changes: Any) -> dict[str, Any]:
    """A record with what `make bench` measures on top."""
    gemm = Gemm([100.0] * 2, [200.0] * 2, [QUIET] * 2)
    rows = [Verdict("a >= 1", "0.9", False)]
    return extended(made(results, **changes), results, {REFERENCE: 80.0, OWN: 80.25}, gemm, LONG, rows)


def test_a_record_is_extended_by_search_matmuls_and_the_long_text() -> None:
    peer = {**RESULTS, "onnxruntime": result("onnxruntime", 20), OWN_INT8: result(OWN_INT8, 40, cosine=0.999)}
    written = json.loads(json.dumps(compared(peer)))
    assert written["engines"][OWN]["ndcg_difference"] == 0.25
    assert written["engines"]["onnxruntime"]["ndcg_difference"] == 0  # its vectors are the same
    assert written["engines"][OWN_INT8]["ndcg_difference"] is None
    assert written["matmul"]["all_cores_gflop_per_s"]["median"] == 200
    assert written["long_text"]["time_ratio"] == 0.4
    assert written["long_text"]["max_abs_error"] == pytest.approx(1e-7)
    assert written["targets"] == [{"target": "a >= 1", "reached": "0.9", "met": False}]


def test_a_machine_without_targets_has_a_section_too() -> None:
    """`embedrt bench` writes such a file."""
    page = "\n".join(machine_tables([made(RESULTS)]))
    assert "## Some CPU, 2 cores" in page
    assert "Targets" not in page
    page = "\n".join(machine_tables([compared(RESULTS)]))
    assert "| a >= 1 | 0.9 | **missed** |" in page
    assert "- One text of 8192 tokens, ModernBERT base" in page
    assert f"{OWN} 4.0 s and 200 MB over the model" in page
    assert "    - fastembed-1: not installed" in page


def test_throughput_per_core_is_listed_where_there_are_more_than_two() -> None:
    results = {**RESULTS, OWN: result(OWN, 30)}
    results[OWN].by_cores = {1: run(10), 2: run(19), 4: run(36)}
    page = "\n".join(machine_tables([made(results)]))
    assert "- Throughput per core relative to one core, embedrt: 0.95 with 2, 0.90 with 4" in page


def test_hidden_instruction_sets_are_named() -> None:
    hidden = made(RESULTS, machine={**MACHINE, "hidden_instruction_sets": ["avx512f"]})
    assert "avx2; hidden from every engine: avx512f" in "\n".join(machine_tables([hidden]))


def test_an_engine_that_failed_stays_in_the_record() -> None:
    failed = made({**RESULTS, OWN_INT8: Result("1", "int8", "how", error="no | such\nthing")})
    assert failed["engines"][OWN_INT8]["workloads"] == {}
    assert "| **embedrt-int8** | int8 | failed: no \\| such thing |" in "\n".join(machine_tables([failed]))


def test_the_newest_file_of_each_machine_counts(tmp_path: Path) -> None:
    for date, name in (("2026-01-02", "a"), ("2026-03-04", "a"), ("2025-12-31", "b")):
        written = made(RESULTS, date, machine={**MACHINE, "name": name})
        (tmp_path / file_name(date, name)).write_text(json.dumps(written), encoding="utf-8")
    assert [(found["date"], found["file"]) for found in newest(tmp_path)] == [
        ("2026-03-04", "2026-03-04-a.json"),
        ("2025-12-31", "2025-12-31-b.json"),
    ]
    (tmp_path / "2027-01-01-c.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="expected format 2 or older, found None"):
        newest(tmp_path)


def test_the_text_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between(page, iter(["new"])) == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_the_row_of_the_readme() -> None:
    row = list(readme_table([made(RESULTS)]))[2]
    assert row.startswith("| Some CPU, 2 cores | 30.0 (3.00x) | - | 1.0e-07 | - | 0.30 s (0.30 s) | 100 MB (100 MB) |")


def test_readme_docs_and_plot_are_those_of_the_committed_files() -> None:
    records = newest()
    assert records
    others = (newest_gpus(), newest_tasks(), newest_quality(), newest_servers(), newest_bulk())
    for path, text in pages(records, *others).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python -m benchmarks.render`"

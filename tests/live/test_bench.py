"""`embedrt bench` with sentence-transformers as the reference, and torch's view of the CPU."""

from pathlib import Path

from embedrt.bench.engines import OWN, REFERENCE
from embedrt.bench.environment import torch_features
from embedrt.bench.record import read_record
from embedrt.cli.main import main


def test_sentence_transformers_is_the_reference(tiny_bundle: Path, tiny_source: Path, tmp_path: Path) -> None:
    options = ["--source", tiny_source, "--peers", REFERENCE, "--quick", "--output", tmp_path / "r.json"]
    assert main(["bench", *map(str, [tiny_bundle, *options])]) == 0
    record = read_record(tmp_path / "r.json")
    assert record["reference"] == REFERENCE
    for run in record["engines"][OWN]["workloads"].values():
        assert 0 < run["max_abs_error"] < 1e-5
        assert run["ratio"]["median"] > 0


def test_torch_tells_which_instruction_sets_it_finds() -> None:
    """Only torch looks for AMX: without its answer, hidden AMX would go unnoticed."""
    assert {"amx_int8", "avx_vnni", "avx512_f"} <= set(torch_features())

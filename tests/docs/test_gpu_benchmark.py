"""The benchmark on a GPU: its arithmetic, its tables, and a run of the command with tiny models on the CPU."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.models import LIMIT, MODELS, GpuModel, quick, tensor_shapes
from benchmarks.gpu.numbers import by_kind, quality
from benchmarks.gpu.own import cut
from benchmarks.gpu.record import gpu_file_name, gpu_tables, gpu_verdicts, matmul_percent, new_record
from benchmarks.gpu.steps import Clock
from benchmarks.models import Shape
from benchmarks.render import newest, newest_gpus
from tests.kit.family_models import REFERENCE, cases

TINY = {
    "bert": GpuModel("", "bert", 2, 32, 4, 4, 8, 64, "mean", 1),
    "modernbert": GpuModel("", "modernbert", 4, 32, 4, 4, 8, 40, "mean", 1),
    "qwen3": GpuModel("", "qwen3", 2, 32, 4, 2, 8, 64, "lasttoken", 1),
}


@pytest.mark.parametrize("family", TINY)
def test_the_tensors_are_those_that_transformers_saves(family: str) -> None:
    saved = json.loads((REFERENCE / f"{family}.json").read_bytes())["cases"]["plain"]["tensors"]
    words = cases(family)["plain"].config["vocab_size"]
    ours = {name: list(shape) for name, shape in tensor_shapes(TINY[family], words)}
    if family == "bert":
        assert ours.pop("embeddings.position_embeddings.weight") == [2 * LIMIT, 32]
        saved.pop("embeddings.position_embeddings.weight")
    assert ours == saved


def test_flops_of_a_bert_are_those_of_the_other_benchmark() -> None:
    model = MODELS["base"]
    assert model.flops(100) * 100 == Shape(model.layers, model.hidden, model.inner).flops(100)


def test_flops_of_a_gated_layer_with_grouped_heads_by_hand() -> None:
    model = GpuModel("", "qwen3", 1, hidden=4, heads=2, groups=1, head_size=3, inner=5, pooling="mean", texts=1)
    queries_keys_values_output = 4 * 6 + 4 * 3 + 4 * 3 + 6 * 4
    gate_up_down = 3 * 4 * 5
    scores_and_values = 2 * 7 * 6
    assert model.flops(7) == 2 * (queries_keys_values_output + gate_up_down + scores_and_values)


def test_every_model_has_a_tiny_form() -> None:
    for model in map(quick, MODELS.values()):
        assert model.heads * model.head_size == model.hidden
        assert model.heads % model.groups == 0


def test_batches_have_every_text_once_and_keep_to_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    batches = cut(lengths, 128)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert max(int(lengths[batch].sum()) for batch in batches) <= 128 + 60
    assert lengths[batches[0][0]] == lengths.max()
    assert [batch.tolist() for batch in cut(np.array([3]), 1)] == [[0]]


def test_quality_by_hand() -> None:
    ours, theirs = np.array([[1, 0], [0, 2]], np.float32), np.array([[1, 0], [1, 0]], np.float32)
    assert quality(ours, theirs) == {"mean_cosine": 0.5, "min_cosine": 0.0, "max_abs_error": 2.0}


def test_kernels_by_kind() -> None:
    found = by_kind(
        {
            "pytorch_flash::flash_fwd_kernel<cutlass::half_t>": 20,
            "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n": 50,
            "onnxruntime::contrib::cuda::SkipLayerNormKernelSmall": 15,
            "_BiasGeluKernel": 10,
            "void somethingElse()": 5,
        }
    )
    assert found == {"matmul": 50, "attention": 20, "normalization": 15, "activation": 10, "other": 5}


def test_a_step_that_fails_and_one_without_time_are_noted_and_the_others_go_on() -> None:
    written: list[int] = []
    clock = Clock(time.monotonic() + 60, lambda: written.append(len(clock.steps)))
    assert clock.take("works", 1, lambda: 7) == 7
    assert clock.take("fails", 1, lambda: 1 // 0) is None
    assert clock.take("long", 61, lambda: 7) is None
    assert [(step["step"], step["error"]) for step in clock.steps] == [
        ("works", None),
        ("fails", "ZeroDivisionError: integer division or modulo by zero"),
        ("long", "left out: no time for it"),
    ]
    assert written == [1, 2, 3]


def made() -> dict[str, Any]:
    """A record as a run writes it."""
    machine = {"gpu": "NVIDIA H100", "driver": "580", "cpu": "CPU", "usable_cores": 16}
    about = {"date": "2026-11-27", "command": "c", "machine": machine, "versions": {"embedrt": "1"}}
    record = new_record({**about, "corpus": "a dictionary", "dtype": "float16", "file": "f.json"})
    record["matmul_tflop_per_s"] = {"square": 750.0}
    spread = {"median": 40000.0, "low": 39000.0, "high": 41000.0}
    record["models"] = {
        "minilm": {
            "title": "all-MiniLM-L6-v2",
            "tokenizer": {"mixed": {"texts_per_s": {"median": 61000.0}}},
            "end_to_end": {"mixed": {"embedrt_texts_per_s": spread, "ratio": {"median": 9.44}}},
            "model_alone": {"mixed": {"embedrt_best_tokens_per_s": 9e6, "embedrt_tflop_per_s": 200.0}},
            "one_query": {"call_p50_ms": 0.3, "sentence_transformers_p50_ms": 4.5},
            "parity": {"mean_cosine": 0.9999996, "min_cosine": 0.99999, "alone_to_together": {"min_cosine": 1.0}},
        },
        "large": {
            "title": "large",
            "model_alone": {"mixed": {"embedrt_best_tokens_per_s": 0.75e6, "torch_best_tokens_per_s": 0.5e6}},
        },
        "qwen3": {"title": "qwen3", "error": "no | such\nthing"},
    }
    record["steps"] = [{"step": "large: parity", "seconds": 1.0, "error": "E: e"}]
    return record


def test_verdicts() -> None:
    rows = {row.target: row for row in gpu_verdicts(made())}
    assert [(row.reached, row.met) for row in rows.values()] == [
        ("9.44", False),
        ("40000", False),
        ("65.57", False),
        ("1.50", True),
        ("not measured", None),
        ("0.07", True),
        ("0.999999", True),
        ("not measured", None),
        ("not measured", None),
    ]


def test_an_empty_record_has_verdicts_and_a_table() -> None:
    record = {**made(), "models": {}, "matmul_tflop_per_s": None}
    assert {row.verdict for row in gpu_verdicts(record)} == {"-"}
    assert "## NVIDIA H100" in list(gpu_tables([record]))


def test_the_table_of_models() -> None:
    record = made()
    lines = list(gpu_tables([record]))
    assert (
        "| all-MiniLM-L6-v2 | 40000 (9.4x) | - | 9.000 | 27 | 0.30 (4.50) | 1.000000 | 0.999990 | 1.000000 |" in lines
    )
    assert "| large | - | - | 0.750 (0.500) | - | - | - | - | - |" in lines
    assert "- Not measured: large: parity" in lines
    assert matmul_percent(record, "minilm") == pytest.approx(100 * 200 / 750)


def test_records_of_cards_are_kept_apart_from_those_of_machines(tmp_path: Path) -> None:
    name = gpu_file_name("2026-11-27T10:00:00", "NVIDIA H100 80GB HBM3")
    assert name == "2026-11-27-gpu-nvidia-h100-80gb-hbm3.json"
    (tmp_path / name).write_text(json.dumps(made()), encoding="utf-8")
    assert newest(tmp_path) == []
    assert [record["machine"]["gpu"] for record in newest_gpus(tmp_path)] == ["NVIDIA H100"]


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_command_runs_on_a_cpu(tmp_path: Path) -> None:
    """Whatever needs torch is noted where torch is missing."""
    status = main(["--device", "cpu", "--quick", "--models", "qwen3", "large", "--output", str(tmp_path / "r.json")])
    record = json.loads((tmp_path / "r.json").read_bytes())
    failed = [step for step in record["steps"] if step["error"]]
    assert status == bool(failed)
    assert [step for step in failed if "'torch'" not in step["error"]] == []
    assert record["targets"] == []
    for name in ("qwen3", "large"):
        model = record["models"][name]
        assert model["end_to_end"]["mixed"]["embedrt_texts_per_s"]["median"] > 0
        assert model["model_alone"]["mixed"]["embedrt_best_tokens_per_s"] > 0
        assert model["one_query"]["engine_alone_p50_ms"] > 0
        assert model["parity"]["alone_to_together"]["min_cosine"] > 0.99999

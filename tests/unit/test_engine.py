"""Devices: each provider's session options, as far as they can be seen without its hardware."""

from pathlib import Path

import numpy as np
import pytest

from embedrt.engine import Batch, Device, coreml, cpu, cuda
from embedrt.engine.devices import DEVICES
from embedrt.engine.session import SessionEngine, onnxruntime
from tests.kit.two_layouts import graph, with_tokens_in


def configured(device: Device, dtype: str = "float32") -> list[tuple[str, dict[str, str]]]:
    return device.configure(onnxruntime().SessionOptions(), device, dtype, 2)


def test_the_table_is_by_kind() -> None:
    assert list(DEVICES) == ["cpu", "cuda", "coreml", "openvino"]
    assert all(device.kind == kind == device.name for kind, device in DEVICES.items())


@pytest.mark.parametrize(("at", "index"), [(None, None), ("0", "0"), ("3", "3")])
def test_float32_on_cuda_is_float32(at: str | None, index: str | None) -> None:
    """With TF32, the provider's default, vectors are off by 1e-4."""
    device = cuda.DEVICE if at is None else cuda.DEVICE.with_suffix(at)
    (provider, options), fallback = configured(device)
    assert (provider, fallback) == ("CUDAExecutionProvider", ("CPUExecutionProvider", {}))
    assert options["use_tf32"] == "0"
    assert options.get("device_id") == index


@pytest.mark.parametrize(
    ("dtype", "number", "tolerance"), [("float32", 1, 0), ("float16", 10, 2e-3), ("bfloat16", 16, 2e-2)]
)
def test_outputs_are_float32(tmp_path: Path, dtype: str, number: int, tolerance: float) -> None:
    """numpy has no bfloat16, and callers get float32 whatever the graph has."""
    exact, narrow = tmp_path / "exact.onnx", tmp_path / "narrow.onnx"
    exact.write_bytes(graph(None))
    narrow.write_bytes(with_tokens_in(graph(None), number))
    ids = np.array([[5, 6, 7], [8, 9, 0]])
    batch = Batch({"input_ids": ids, "attention_mask": np.minimum(ids, 1)})
    outputs = ("token_embeddings", "sentence_embedding")
    found = SessionEngine(narrow, cpu.DEVICE, 1, dtype=dtype).run(batch, outputs)
    expected = SessionEngine(exact, cpu.DEVICE, 1).run(batch, outputs)
    assert list(found) == [*outputs]
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["sentence_embedding"], expected["sentence_embedding"])
    np.testing.assert_allclose(found["token_embeddings"], expected["token_embeddings"], rtol=0, atol=tolerance)
    assert (found["token_embeddings"] != expected["token_embeddings"]).any() == (number != 1)


def test_coreml_compiles_programs() -> None:
    assert configured(coreml.DEVICE)[0] == ("CoreMLExecutionProvider", {"ModelFormat": "MLProgram"})

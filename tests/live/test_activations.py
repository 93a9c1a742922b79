"""Every activation against transformers' own."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from transformers.activations import ACT2FN

from embedrt_export.graph.builder import GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.layers.activations import ACTIVATIONS


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation(name: str, tmp_path: Path) -> None:
    with DataFile(tmp_path / "graph.data") as data:
        graph = GraphBuilder(data)
        graph._inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [None]))
        graph.output("y", ACTIVATIONS[name](graph, "x"), ["n"])
        graph.save(tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    x = np.concatenate([np.linspace(-12, 12, 4801), [0.0, -0.0, 1e-30, -50, 50]]).astype(np.float32)
    (found,) = session.run(None, {"x": x})
    expected = ACT2FN[name](torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() <= 2e-6 * max(1.0, np.abs(expected).max())

"""CoreML as far as it can be tested without Apple hardware: options, cache folder, and sessions for static shapes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.engine import Batch, Device, coreml, cpu
from embedrt.engine.devices import DEVICES, find_device
from embedrt.engine.session import SessionEngine, onnxruntime
from embedrt.engine.static_shapes import StaticShapes, fill, rounded_rows
from embedrt.run.planning import padded_length
from tests.kit.bundles import copy_bundle

TEXTS = [f"{'one cat ' * (i % 11)}and {i} dogs" for i in range(40)]
SHAPED = replace(coreml.DEVICE, shape=(8, 64), graph="ab12")


class TestOptions:
    @pytest.mark.parametrize(
        ("at", "units"),
        [(None, "ALL"), ("ALL", "ALL"), ("GPU", "CPUAndGPU"), ("NPU", "CPUAndNeuralEngine"), ("CPU", "CPUOnly")],
    )
    def test_compute_units(self, at: str | None, units: str) -> None:
        given = coreml.settings(replace(coreml.DEVICE, at=at), None)
        assert given == {
            "ModelFormat": "MLProgram",
            "MLComputeUnits": units,
            "RequireStaticInputShapes": "1",
            "EnableOnSubgraphs": "0",
        }

    def test_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CoreMLExecutionProvider"])
        names = ("coreml", "mps", "coreml:GPU", "coreml:NPU", "coreml:CPU", "coreml:ALL")
        assert [find_device(name).place for name in names] == ["ALL", "ALL", "GPU", "NPU", "CPU", "ALL"]

    def test_compiled_programs_are_kept_by_graph_version_and_shape(self, own_store: Path) -> None:
        ((provider, given), fallback) = coreml.configure(onnxruntime().SessionOptions(), SHAPED, "float32", 2)
        folder = own_store / "coreml" / f"ab12-{onnxruntime().__version__}" / "8x64"
        assert (provider, fallback) == ("CoreMLExecutionProvider", ("CPUExecutionProvider", {}))
        assert given["ModelCacheDirectory"] == str(folder)
        assert folder.is_dir()
        assert coreml.cache_folder(replace(SHAPED, shape=(1, 64))) != folder
        assert coreml.cache_folder(replace(SHAPED, graph="ab13")) != folder

    def test_no_place_for_them(self, own_store: Path) -> None:
        """A folder that cannot be made costs time, and is no error."""
        own_store.write_text("a file")
        assert coreml.cache_folder(SHAPED) is None
        assert coreml.cache_folder(coreml.DEVICE) is None

    def test_the_shape_is_fixed(self, tiny_bundle: Path) -> None:
        """With the CPU's kernels, which take the same session options."""
        options = onnxruntime().SessionOptions()
        coreml.configure(options, SHAPED, "float32", 1)
        graph = tiny_bundle / "onnx" / "model.onnx"
        session = onnxruntime().InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        assert {tuple(value.shape) for value in session.get_inputs()} == {(8, 64)}


@pytest.mark.parametrize(("rows", "rounded"), [(1, 1), (2, 8), (8, 8), (9, 32), (32, 32)])
def test_few_numbers_of_rows(rows: int, rounded: int) -> None:
    assert rounded_rows(rows) == rounded


def test_few_lengths() -> None:
    found = {padded_length(length, coreml.DEVICE.length_step) for length in range(1, 513)}
    assert sorted(found) == list(range(64, 513, 64))


def test_rows_are_filled_up_with_real_ones() -> None:
    assert fill(np.array([[1, 2], [3, 4]]), 4).tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    """The device "coreml" with the CPU's kernels, and the devices of the sessions that it makes."""
    devices: list[Device] = []

    def configure(options: Any, device: Device, dtype: str, threads: int) -> Any:
        devices.append(device)
        coreml.configure(options, device, dtype, threads)
        return [(cpu.PROVIDER, {})]

    fake = replace(coreml.DEVICE, provider=cpu.PROVIDER, configure=configure, length_step=16)
    monkeypatch.setitem(DEVICES, "coreml", fake)
    return devices


class TestStaticShapes:
    def test_vectors_are_those_of_the_cpu(self, tiny: Embedder, tiny_bundle: Path, made: list[Device]) -> None:
        model = Embedder(tiny_bundle, "coreml:GPU")
        assert isinstance(model.runners["default"].engine, StaticShapes)
        assert (model.device, made) == ("coreml:GPU", [])
        assert model.engine == f"onnxruntime {onnxruntime().__version__} CPUExecutionProvider on coreml:GPU"
        for texts in (TEXTS, TEXTS[:1], TEXTS[3:6]):
            np.testing.assert_allclose(model.encode(texts), tiny.encode(texts), atol=1e-6)
        shapes = [device.shape for device in made]
        assert len(set(shapes)) == len(shapes)  # each is made once
        assert {shape[0] for shape in shapes if shape} <= {1, 8, 32}
        assert {shape[1] for shape in shapes if shape} <= {16, 32, 48}
        tokens = model.encode(TEXTS[:3], output_value="token_embeddings")
        for one, other in zip(tokens, tiny.encode(TEXTS[:3], output_value="token_embeddings"), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_a_graph_has_the_same_digest_wherever_it_is(
        self, tiny_bundle: Path, tmp_path: Path, made: list[Device]
    ) -> None:
        for folder in (tiny_bundle, copy_bundle(tiny_bundle, tmp_path / "copy")):
            Embedder(folder, "coreml").encode("one cat")
        first, second = made
        assert first.graph == second.graph
        assert len(first.graph) == 64

    def test_the_shapes_that_were_used_last_are_kept(self) -> None:
        shapes: list[tuple[int, int]] = []

        class Counted:
            device, threads, workers, description = coreml.DEVICE, 1, 1, ""

            def run(self, batch: Batch, outputs: Sequence[str]) -> Any:
                return {"sentence_embedding": np.zeros((batch.shape[0], 4), np.float32)}

        def make(device: Device) -> Counted:
            assert device.shape is not None
            shapes.append(device.shape)
            return Counted()

        engine = StaticShapes(coreml.DEVICE, 1, make)

        def run(rows: int, length: int) -> None:
            found = engine.run(Batch({"input_ids": np.zeros((rows, length), np.int64)}), ["sentence_embedding"])
            assert found["sentence_embedding"].shape == (rows, 4)

        for length in range(1, 9):
            run(3, length)
        run(5, 1)
        assert shapes == [(8, length) for length in range(1, 9)]
        run(1, 1)  # the ninth drops (8, 2), which was used longest ago
        run(8, 1)
        run(2, 2)
        assert shapes[8:] == [(1, 1), (8, 2)]
        run(70, 9)  # in parts of 32, 32 and 6 rows
        assert shapes[10:] == [(32, 9), (8, 9)]


def test_the_session_of_another_device_has_no_shape(tiny: Embedder) -> None:
    engine = tiny.runners["default"].engine
    assert isinstance(engine, SessionEngine)
    assert engine.device.shape is None

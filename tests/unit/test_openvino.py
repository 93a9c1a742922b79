"""The device "openvino": what it computes where the plug-in takes the processor, and what it says elsewhere."""

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from embedrt import Embedder, tune
from embedrt.bundle.manifest import read_manifest
from embedrt.bundle.reports import ParityReport
from embedrt.engine import Batch, openvino
from embedrt.engine.devices import DEVICES, find_device
from embedrt.engine.placement import choose_variant
from embedrt.engine.session import SessionEngine, onnxruntime
from embedrt.errors import BundleError, DeviceError, ParityError
from embedrt.run.planning import padded_length
from embedrt.tasks.graph_values import graph_values
from embedrt.verify.bundle import bundled_texts, verify
from embedrt.verify.parity import compare
from tests.kit.bundles import copy_bundle, edit_graph, parity, replace_output

# As pyproject.toml has it: the tests' environment has the plug-in wherever there is a wheel of it.
WHEEL = (sys.platform, platform.machine()) in {("linux", "x86_64"), ("win32", "AMD64")}
needs_wheel = pytest.mark.skipif(not WHEEL, reason="there is no wheel of the plug-in for this platform")


def vendors() -> set[str]:
    """Who made the processor, as ONNX Runtime sees it."""
    return {device.device.vendor for device in onnxruntime().get_ep_devices() if device.device.type.name == "CPU"}


def offered() -> list[str]:
    return list(openvino.offered(onnxruntime())) if WHEEL else []


# Where the plug-in should take the processor these run, and fail if it does not.
runs = pytest.mark.skipif(
    not WHEEL or ("Intel" not in " ".join(vendors()) and "CPU" not in offered()),
    reason="the plug-in has no wheel for this platform, or does not take this processor",
)
bf16 = pytest.mark.skipif(
    not WHEEL
    or ("CPU" in offered() and "BF16" not in openvino.capabilities(openvino.find_device(onnxruntime(), "CPU"))),
    reason="this processor does not compute in bfloat16",
)


def python(code: str, *arguments: object) -> str:
    """Runs code in a fresh process and returns what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_wheel
def test_the_plug_in_is_there_where_it_has_a_wheel() -> None:
    offered()


ASK = """
import sys
sys.modules["onnxruntime_ep_openvino"] = None
from embedrt.errors import DeviceError
from embedrt.engine.devices import find_device
for name in ("openvino", "openvino:GPU"):
    try:
        find_device(name)
    except DeviceError as error:
        print(error)
print(find_device(None).name)
"""


@pytest.mark.subprocess
def test_without_the_plug_in_the_message_says_what_to_install() -> None:
    message = "device: '{}': onnxruntime-ep-openvino is not installed; run `pip install 'embedrt[openvino]'`"
    assert python(ASK).splitlines()[:2] == [message.format("openvino"), message.format("openvino:GPU")]


@needs_wheel
@pytest.mark.parametrize("target", ["GPU.77", "NPU.77", *([] if "CPU" in offered() else ["CPU"])])
def test_hardware_that_is_not_there(tiny_bundle: Path, target: str) -> None:
    with pytest.raises(DeviceError) as caught:
        Embedder(tiny_bundle, f"openvino:{target}")
    message = str(caught.value)
    assert message.startswith(f"device: 'openvino:{target}': OpenVINO's device {target!r} is not offered by ")
    assert f"it offers {', '.join(offered()) or 'none'}" in message
    assert f"this CPU is from {' and '.join(vendors())}" in message


REGISTER = """
import threading
from embedrt.engine import openvino
from embedrt.engine.session import onnxruntime

ort = onnxruntime()
register, calls = ort.register_execution_provider_library, []
ort.register_execution_provider_library = lambda *given: (calls.append(given), register(*given))
barrier, found = threading.Barrier(8), []

def ask():
    barrier.wait()
    found.append(sorted(openvino.offered(ort)))

threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == found[:1] * 8, found
print(len(calls))
"""


@pytest.mark.subprocess
@needs_wheel
def test_many_threads_register_the_plug_in_once() -> None:
    assert python(REGISTER) == "1\n"


PROGRAM = """
import onnxruntime, onnxruntime_ep_openvino
onnxruntime.register_execution_provider_library("mine", onnxruntime_ep_openvino.get_library_path())
from embedrt.engine import openvino
print(*openvino.offered(onnxruntime))
"""


@pytest.mark.subprocess
@needs_wheel
def test_a_program_may_have_registered_it() -> None:
    assert python(PROGRAM).split() == offered()


def test_automatic_choice_never_takes_it() -> None:
    if WHEEL:
        offered()
    assert find_device(None).name in {"cpu", "cuda"}


def test_its_settings() -> None:
    given = openvino.settings("CPU", "f32", 3)
    assert json.loads(given["load_config"]) == {
        "CPU": {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "3"}
    }
    given = openvino.settings("GPU", "bf16", 3)  # which has no threads
    assert json.loads(given["load_config"]) == {"GPU": {"INFERENCE_PRECISION_HINT": "bf16"}}


class TestDtypes:
    """The variant for a dtype on a device, without an engine."""

    def choose(self, bundle: Path, device: str, dtype: str, **int8: Any) -> str:
        route = read_manifest(bundle).routes["default"]
        added = [replace(route.variants[-1], dtype="int8", file="onnx/int8.onnx", **int8)] if int8 else []
        route = replace(route, variants=(*route.variants, *added))
        return choose_variant(bundle, route, DEVICES[device], dtype).file

    def test_bfloat16_is_the_float32_graph(self, tiny_bundle: Path) -> None:
        assert self.choose(tiny_bundle, "cpu", "fp32") == "onnx/model_cpu.onnx"
        for dtype in ("bf16", "bfloat16", "fp32", "float32"):
            assert self.choose(tiny_bundle, "openvino", dtype) == "onnx/model.onnx"

    def test_bfloat16_elsewhere(self, tiny_bundle: Path) -> None:
        message = (
            r"dtype 'bfloat16' is not in it; it has float32; device 'openvino' may compute it from float32; "
            r"`embedrt export SOURCE --dtype float32,bfloat16` makes a bundle that has it, for device cuda$"
        )
        with pytest.raises(BundleError, match=message):
            Embedder(tiny_bundle, "cpu", dtype="bf16")

    def test_operators_of_onnxruntime(self, tiny_bundle: Path) -> None:
        assert self.choose(tiny_bundle, "cpu", "int8", operators="onnxruntime") == "onnx/int8.onnx"
        message = "dtype 'int8': device 'openvino' computes float32, bfloat16 from graphs of standard ONNX operators"
        with pytest.raises(DeviceError, match=message):
            self.choose(tiny_bundle, "openvino", "int8", operators="onnxruntime")

    def test_a_dtype_that_nobody_has_tried(self, tiny_bundle: Path) -> None:
        message = r"dtype 'int8': device 'openvino' computes float32, bfloat16 .*; use one of these dtypes, or device="
        with pytest.raises(DeviceError, match=message):
            self.choose(tiny_bundle, "openvino", "int8", operators="portable")

    def test_a_cosine_below_its_bound(self, tiny: Embedder) -> None:
        runner, texts = tiny.runners["default"], ["one cat", "two dogs"]
        reference = graph_values(runner, texts)
        reference[:, 0] += 0.2
        compare(runner, texts, reference, "x", independent=True, tolerance=1.0)
        with pytest.raises(ParityError, match=r"expected a cosine similarity of at least 0\.999 to x, got 0\.9\d+"):
            compare(runner, texts, reference, "x", independent=True, tolerance=1.0, min_cosine=0.999)


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of the batches that engines get."""
    seen: list[tuple[int, int]] = []
    run = SessionEngine.run

    def spy(self: SessionEngine, batch: Batch, *given: Any) -> Any:
        seen.append(batch.shape)
        return run(self, batch, *given)

    monkeypatch.setattr(SessionEngine, "run", spy)
    return seen


@runs
class TestVectors:
    @pytest.mark.parametrize("name", ["openvino", "openvino:CPU"])
    def test_they_are_those_of_the_processor(self, minilm: Embedder, minilm_bundle: Path, name: str) -> None:
        embedder = Embedder(minilm_bundle, name)
        assert embedder.device == name
        assert embedder.engine.endswith(f" OpenVINOExecutionProvider on {name} in float32")
        report = verify(embedder)["default"]
        assert isinstance(report, ParityReport)
        assert max(report.max_abs_error, report.max_batch_error) < 2e-6
        texts = bundled_texts(embedder)
        np.testing.assert_allclose(embedder.encode(texts), minilm.encode(texts), rtol=0, atol=2e-6)

    @bf16
    def test_bfloat16_is_near_and_not_the_same(self, minilm: Embedder, minilm_bundle: Path) -> None:
        embedder = Embedder(minilm_bundle, "openvino", dtype="bf16")
        assert embedder.engine.endswith(" on openvino in bfloat16")
        report = verify(embedder)["default"]
        assert isinstance(report, ParityReport)
        exported = parity(minilm.manifest)
        assert isinstance(exported, ParityReport)
        assert (report.tolerance, report.reference) == (1e-2, exported.reference)
        assert report.min_cosine > 0.9999
        assert 1e-4 < report.max_abs_error < 5e-3

    def test_hardware_without_the_precision(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openvino, "capabilities", lambda _: ["FP32", "INT8"])
        Embedder(tiny_bundle, "openvino")
        message = r"'CPU' does not compute in BF16 on this machine, only in FP32, INT8; use another dtype"
        with pytest.raises(DeviceError, match=message):
            Embedder(tiny_bundle, "openvino", dtype="bf16")

    def test_tokens_as_well(self, tiny: Embedder, tiny_bundle: Path) -> None:
        texts = ["one cat", "two dogs " * 9]
        found = Embedder(tiny_bundle, "openvino").encode(texts, output_value="token_embeddings")
        for a, b in zip(found, tiny.encode(texts, output_value="token_embeddings"), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)

    def test_nodes_that_it_does_not_run_are_an_error(self, tiny_bundle: Path, tmp_path: Path) -> None:
        folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
        node = onnx.helper.make_node("SampleOp", ["plain"], ["sentence_embedding"], domain="com.microsoft")
        edit_graph(folder, lambda graph: replace_output(graph, node))
        model = onnx.load(folder / "onnx" / "model.onnx", load_external_data=False)
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        (folder / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
        edit_graph(folder, lambda _: None)
        assert Embedder(folder, "cpu").encode("one cat").shape == (32,)
        with pytest.raises(DeviceError, match=r"cannot load .* on 'openvino'"):
            Embedder(folder, "openvino")

    def test_threads(self, tiny_bundle: Path) -> None:
        runner = Embedder(tiny_bundle, "openvino", threads=3).runners["default"]
        assert isinstance(runner.engine, SessionEngine)
        given = runner.engine._session(3).get_provider_options()["OpenVINOExecutionProvider"]
        assert json.loads(given["load_config"])["CPU"]["INFERENCE_NUM_THREADS"] == "3"
        assert runner.engine.workers == 1

    def test_batches_have_few_lengths(self, tiny_bundle: Path, shapes: list[tuple[int, int]]) -> None:
        embedder = Embedder(tiny_bundle, "openvino")
        limit = embedder.manifest.routes["default"].position_limit
        embedder.encode(["cat " * count for count in range(1, 40)])
        embedder.encode("one cat")
        assert {length for _, length in shapes} <= {padded_length(length, 8, limit) for length in range(1, 64)}
        assert len(shapes) > 2

    @bf16
    def test_tune_measures_it(self, tiny_bundle: Path, tmp_path: Path) -> None:
        found = tune(copy_bundle(tiny_bundle, tmp_path / "bundle"), seconds=0.1)
        measured = {(way.dtype, way.device) for way in (*found.settings, *found.others)}
        assert measured >= {("float32", "cpu"), ("float32", "openvino"), ("bfloat16", "openvino")}
        assert found.excluded == {}

    @pytest.mark.subprocess
    def test_a_pool(self, tiny: Embedder, tiny_bundle: Path) -> None:
        texts = [f"cat {i}" for i in range(40)]
        embedder = Embedder(tiny_bundle)
        with embedder.start_multi_process_pool(["openvino", "openvino:CPU"]) as pool:
            assert pool.devices == ["openvino", "openvino:CPU"]
            np.testing.assert_allclose(embedder.encode(texts, pool=pool), tiny.encode(texts), rtol=0, atol=2e-6)

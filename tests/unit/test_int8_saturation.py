"""The probe of the int8 kernels, with every outcome on every CPU."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedrt.engine import cpu, int8_saturation
from embedrt.engine.session import onnxruntime, plain_session
from embedrt.errors import DeviceError

PRECISE = {"session.x64quantprecision": "1"}


def probe(outputs: int = 16) -> onnx.ModelProto:
    """The graph whose bytes the module has, because the runtime does without onnx."""
    tensors = [
        numpy_helper.from_array(np.full((8, outputs), 127, np.int8), "weight"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    node = helper.make_node(
        "MatMulIntegerToFloat", ["x", "weight", "one", "one", "zero"], ["y"], domain="com.microsoft"
    )
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", 8])]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])]
    graph = helper.make_graph([node], "product", inputs, outs, tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The probe runs again, and leaves nothing to other tests."""
    int8_saturation.exact_config.cache_clear()
    yield
    int8_saturation.exact_config.cache_clear()


def test_the_graph_is_the_one_described() -> None:
    assert onnx.load_from_string(int8_saturation.PROBE) == probe()


def test_some_config_is_exact_on_this_cpu() -> None:
    assert int8_saturation.exact_config() in int8_saturation.CONFIGS


def test_the_precise_kernels_are_exact_on_every_cpu() -> None:
    assert int8_saturation.is_exact(PRECISE, int8_saturation.ANY_PAIR)


@pytest.mark.parametrize("largest_pair", [0, 1, 2, 127, 128])
@pytest.mark.parametrize("config", int8_saturation.CONFIGS)
def test_bounded_pairs_are_exact_on_every_cpu(config: Mapping[str, str], largest_pair: int) -> None:
    assert int8_saturation.is_exact(config, largest_pair)
    assert dict(int8_saturation.exact_config(largest_pair)) == {}


@pytest.mark.parametrize("largest_pair", [3, 128, 254])
def test_the_probe_multiplies_pairs_of_the_size_asked_for(largest_pair: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[bytes] = []

    def session(graph: bytes, **options: object) -> object:
        graphs.append(graph)
        return plain_session(graph, config=PRECISE)

    monkeypatch.setattr(int8_saturation, "plain_session", session)
    assert int8_saturation.is_exact({}, largest_pair)
    weight = numpy_helper.to_array(onnx.load_from_string(graphs[0]).graph.initializer[0])
    assert (weight[::2].astype(int) + weight[1::2] == largest_pair).all()
    assert np.ptp(weight) <= 1


def test_a_sum_that_saturates_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of products added in 16 bits: what kernels without VNNI compute."""

    class Saturating:
        def run(self, outputs: None, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((4, 16), 32767 * 4, np.float32)]

    monkeypatch.setattr(int8_saturation, "plain_session", lambda *_, **__: Saturating())
    assert not int8_saturation.is_exact({}, int8_saturation.ANY_PAIR)


def never_saturates(config: Mapping[str, str], largest_pair: int) -> bool:
    return True


def saturates(config: Mapping[str, str], largest_pair: int) -> bool:
    """A CPU with AVX2, or with AVX-512 without VNNI."""
    return bool(config) or 255 * largest_pair < 2**15


@pytest.mark.parametrize(
    ("exact", "largest_pair", "expected"),
    [
        (never_saturates, None, {}),
        (never_saturates, 254, {}),
        (never_saturates, 128, {}),
        (saturates, None, PRECISE),
        (saturates, 254, PRECISE),
        (saturates, 129, PRECISE),
        (saturates, 128, {}),
        (saturates, 0, {}),
    ],
)
def test_the_session_gets_the_fastest_exact_kernels(
    monkeypatch: pytest.MonkeyPatch, exact: object, largest_pair: int | None, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(int8_saturation, "is_exact", exact)
    options = onnxruntime().SessionOptions()
    cpu.configure(options, replace(cpu.DEVICE, largest_pair=largest_pair), "int8", 1)
    assert dict(int8_saturation.exact_config(largest_pair)) == expected
    assert int8_saturation.relies_on(largest_pair) == (exact is saturates and not expected)
    if expected:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="does not have configuration with key"):
            options.get_session_config_entry("session.x64quantprecision")


def test_other_dtypes_need_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_saturation, "is_exact", lambda config, largest_pair: pytest.fail("the probe ran"))
    options = onnxruntime().SessionOptions()
    assert cpu.configure(options, cpu.DEVICE, "float32", 1) == [("CPUExecutionProvider", {})]


def test_bounded_weights_run_where_others_saturate_under_every_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_saturation, "is_exact", lambda config, largest_pair: largest_pair <= 128)
    assert dict(int8_saturation.exact_config(128)) == {}
    assert int8_saturation.relies_on(128)


def test_a_cpu_whose_kernels_saturate_under_every_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_saturation, "is_exact", lambda config, largest_pair: False)
    with pytest.raises(DeviceError, match=r"int8 kernels saturate on this CPU.*dtype='float32'"):
        int8_saturation.exact_config()


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_both_kernels_compute_the_same_integers(rows: int) -> None:
    """On small numbers, where nothing saturates: the option changes the kernel and not the numbers."""
    x = np.random.default_rng(rows).integers(0, 64, (rows, 8)).astype(np.uint8)
    for config in int8_saturation.CONFIGS:
        (found,) = plain_session(int8_saturation.PROBE, config=config).run(None, {"x": x})
        np.testing.assert_array_equal(found, x.astype(np.int64) @ np.full((8, 16), 127))

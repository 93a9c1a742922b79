"""The dtype int8: how activations and weights become 8 bits, and what comes of it."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from embedrt import Embedder, tune
from embedrt.bundle.manifest import Variant, read_bundle, read_manifest
from embedrt.bundle.reports import QualityReport
from embedrt.cli.main import main
from embedrt.engine import cpu, int8_saturation
from embedrt.engine.devices import DEVICES
from embedrt.engine.session import onnxruntime, plain_session
from embedrt.errors import BundleError, DeviceError, ExportError, QualityError, UnsupportedModelError
from embedrt.inputs.padding import pad
from embedrt.verify import parity
from embedrt.verify.bundle import verify
from embedrt.verify.parity import cosines
from embedrt_export import export, pipeline
from embedrt_export.dtypes.int8 import absorb, linear, quantize
from embedrt_export.dtypes.int8.activations import Scheme, choose
from embedrt_export.dtypes.int8.embeddings import quantize_embeddings
from embedrt_export.dtypes.int8.gptq import round_weights
from embedrt_export.dtypes.int8.layer import QuantizedLayer
from embedrt_export.dtypes.int8.levels import EXACT_PAIR, FULL_PAIR, column_scales, largest_pair
from embedrt_export.dtypes.int8.linear import find_layers, observe, replace_layers
from embedrt_export.dtypes.int8.texts import FEWEST, OWN, read_texts
from embedrt_export.graph.builder import OPSET
from embedrt_export.graph.data_file import DataFile
from tests.kit.bundles import change, copy_bundle, edit_graph, read_raw, rehash, write_raw
from tests.kit.models import make_model
from tests.kit.shared_folders import shared_folder

REFERENCE = Path(__file__).parents[1] / "reference"
NATURAL = [
    "The ferry leaves at seven, and again at noon if the sea is calm.",
    "how to remove a red wine stain from a wool carpet",
    "An index makes reading faster and writing slower.",
    "Der Vertrag endet, wenn ihn keine Seite bis zum Monatsende verlängert.",
    "Les abeilles indiquent par une danse la direction des fleurs.",
    "El museo abre los domingos por la mañana y la entrada es gratuita.",
]


def values(tokens: int, channels: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((tokens, channels)).astype(np.float32)


def scheme(low: float, high: float) -> Scheme:
    return Scheme(None, None, low, high, np.array([], np.int64))


class TestActivations:
    @given(st.floats(-50, 0), st.floats(1e-3, 50), st.lists(st.floats(-60, 60, width=32), min_size=1))
    def test_what_is_within_the_range_is_off_by_half_a_level(
        self, low: float, high: float, numbers: list[float]
    ) -> None:
        made = scheme(low, high)
        x = np.array([numbers], np.float32)
        zero, step = float(made.zero_point), float(made.scale)
        inside = np.clip(x, -zero * step, (255 - zero) * step)
        assert np.abs(made.quantized(x) - inside).max() <= 0.5001 * step + 1e-6

    @given(st.floats(-50, 0), st.floats(1e-3, 50))
    def test_zero_stays_zero(self, low: float, high: float) -> None:
        assert scheme(low, high).quantized(np.zeros((1, 1), np.float32)) == 0

    def test_excess_and_the_rest_are_the_whole(self) -> None:
        x = values(50, 8) * 10
        made = Scheme(None, None, -3.0, 5.0, np.array([1, 6]))
        assert np.allclose(np.clip(x, -3, 5)[:, [1, 6]] + made.excess(x), x[:, [1, 6]])

    def test_channels_that_are_larger_than_others_are_smoothed(self) -> None:
        x = values(500, 64)
        x[:, 3] *= 40
        chosen = choose(x, [values(64, 128, seed=1)], EXACT_PAIR)
        assert chosen.smoothing is not None
        assert chosen.smoothing.argmax() == 3
        assert np.exp(np.log(chosen.smoothing.astype(np.float64)).mean()) == pytest.approx(1)

    def test_of_a_wide_input_the_largest_channels_exceed(self) -> None:
        x = values(500, 256)
        x[::50, [7, 200]] += 60
        chosen = choose(x, [values(256, 64, seed=1)], EXACT_PAIR)
        assert {7, 200} <= set(chosen.outliers.tolist())
        assert chosen.high < 20

    def test_even_values_need_neither(self) -> None:
        chosen = choose(
            np.random.default_rng(0).uniform(-1, 1, (500, 64)).astype(np.float32), [values(64, 64)], EXACT_PAIR
        )
        assert chosen.smoothing is None
        assert len(chosen.outliers) == 0

    def test_zeros_alone_are_no_division_by_zero(self) -> None:
        chosen = choose(np.zeros((10, 64), np.float32), [values(64, 64)], EXACT_PAIR)
        assert (chosen.quantized(np.zeros((10, 64), np.float32)) == 0).all()


class TestRounding:
    def test_errors_make_up_for_each_other(self) -> None:
        mixed = values(2000, 8) @ values(8, 96, seed=1) + 0.1 * values(2000, 96, seed=2)
        weight = values(96, 40, seed=3).astype(np.float64)
        levels, scales = round_weights(weight, (mixed.T @ mixed).astype(np.float64), EXACT_PAIR)
        plain_scales = column_scales(weight, EXACT_PAIR)
        nearest = np.round(weight / plain_scales) * plain_scales
        exact = mixed @ weight
        found, plain = np.abs(mixed @ (levels * scales) - exact).mean(), np.abs(mixed @ nearest - exact).mean()
        assert found < 0.6 * plain

    @given(st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
    def test_independent_inputs_round_to_the_nearest_level(self, channels: int, outputs: int, seed: int) -> None:
        weight = values(channels, outputs, seed).astype(np.float64)
        levels, scales = round_weights(weight, np.eye(channels), FULL_PAIR)
        assert levels.dtype == np.int8
        assert np.abs(levels).max() == 127
        assert np.abs(levels * scales - weight).max() <= 0.5001 * scales.max()

    @given(st.integers(1, 40), st.integers(1, 5), st.integers(2, 2 * FULL_PAIR), st.integers(0, 2**32 - 1))
    def test_no_pair_is_above_the_bound(self, channels: int, outputs: int, bound: int, seed: int) -> None:
        x = values(50, channels, seed) @ values(channels, channels, seed + 1)
        weight = values(channels, outputs, seed + 2).astype(np.float64) ** 3
        levels, scales = round_weights(weight, (x.T @ x).astype(np.float64), bound)
        first, second = np.zeros((2, channels + channels % 2 >> 1, outputs), int)
        first[:], second[: channels // 2] = levels[::2], levels[1::2]
        positive = np.maximum(first, 0) + np.maximum(second, 0)
        negative = np.maximum(-first, 0) + np.maximum(-second, 0)
        assert max(positive.max(), negative.max()) == largest_pair(levels) <= bound
        assert np.abs(levels.astype(int)).max() <= 127
        assert (scales > 0).all()

    def test_the_scale_of_a_column_is_the_smallest_that_fits(self) -> None:
        weight = np.array([[90.0, 90, 90], [80, -80, 10], [-3, 3, 127], [-100, 20, 0]])
        assert np.allclose(column_scales(weight, EXACT_PAIR), [170 / 128, 90 / 127, 1])
        assert np.allclose(column_scales(weight, FULL_PAIR), [100 / 127, 90 / 127, 1])
        assert np.allclose(column_scales(weight[:3], EXACT_PAIR), [170 / 128, 90 / 127, 1])

    @given(st.integers(0, 2**32 - 1))
    def test_a_pair_is_nearly_as_good_as_the_best_one_there_is(self, seed: int) -> None:
        """Against all pairs of levels, for weights that leave no room: both have one sign and are large."""
        chance = np.random.default_rng(seed)
        x = chance.standard_normal((100, 2)) @ chance.standard_normal((2, 2))
        moments = x.T @ x + 0.1 * np.eye(2)
        weight = np.abs(chance.standard_normal((2, 1))) + 0.1
        levels, scales = round_weights(weight, moments, EXACT_PAIR)
        grid = np.stack(np.meshgrid(np.arange(-127, 128), np.arange(-127, 128)), axis=-1).reshape(-1, 2)
        positive, negative = np.maximum(grid, 0).sum(axis=1), np.maximum(-grid, 0).sum(axis=1)
        allowed = grid[(positive <= EXACT_PAIR) & (negative <= EXACT_PAIR)]

        def loss(candidates: NDArray[np.integer]) -> NDArray[np.float64]:
            errors = candidates * scales[0] - weight[:, 0]
            found: NDArray[np.float64] = np.einsum("ni,ij,nj->n", errors, moments, errors)
            return found

        step = float(scales[0]) ** 2 * moments.trace()
        assert loss(levels.T)[0] <= loss(allowed).min() + step

    def test_a_column_of_zeros(self) -> None:
        levels, scales = round_weights(np.zeros((64, 2)), np.eye(64), EXACT_PAIR)
        assert (levels == 0).all()
        assert np.isfinite(scales).all()


class TestTexts:
    def test_own_texts_are_of_many_scripts_and_lengths(self) -> None:
        texts = read_texts(None)
        assert "embedrt's own texts" in texts.origin
        joined = "".join(texts.calibration)
        for letter in "aяعかकไ":
            assert letter in joined
        lengths = [len(text) for text in texts.calibration]
        assert min(lengths) < 5
        assert max(lengths) > 600

    def test_no_line_to_judge_by_was_seen_before(self) -> None:
        texts = read_texts(None)
        lines = OWN.read_text("utf-8").splitlines()
        held_back = [line for line in lines if line in texts.held_back]
        assert len(held_back) >= 25
        assert not [line for line in held_back for text in texts.calibration if len(line) > 20 and line in text]

    def test_a_file_of_too_few_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "lines.txt"
        path.write_text("the same\n" * 1000, "utf-8")
        with pytest.raises(ExportError, match=f"expected {FEWEST} or more different lines for calibration, found 1"):
            read_texts(path)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "lines.txt"
        path.write_bytes(b"\xff\xfe\x00" * 100)
        with pytest.raises(ExportError, match=r":1: expected UTF-8, got byte 0x"):
            read_texts(path)


def quality(bundle: Path, form: int = 0) -> QualityReport:
    """The proof of one of the bundle's int8 graphs: the one for CPUs, or the portable one."""
    proof = int8_variants(bundle)[form].proof
    assert isinstance(proof, QualityReport)
    return proof


def int8_variants(bundle: Path) -> tuple[Variant, ...]:
    """The int8 graphs: the one for CPUs, and the portable one."""
    return read_manifest(bundle).routes["default"].variants_in("int8")


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU whose int8 kernels saturate under every session config."""
    int8_saturation.exact_config.cache_clear()
    monkeypatch.setattr(int8_saturation, "is_exact", lambda config, largest_pair: False)
    yield
    int8_saturation.exact_config.cache_clear()


@pytest.fixture(scope="module")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT that is just wide enough for 8 bits."""

    def make(folder: Path) -> None:
        make_model(folder, hidden_size=64, intermediate_size=256)

    return shared_folder(tmp_path_factory, "small/small-bert", make)


@pytest.fixture(scope="module")
def small_bundle(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle in both dtypes."""

    def make(folder: Path) -> None:
        export(small_source, folder, dtype=("float32", "int8"))

    return shared_folder(tmp_path_factory, "small/bundle", make)


@pytest.fixture(scope="module")
def int8_alone(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle in int8 alone."""

    def make(folder: Path) -> None:
        export(small_source, folder, dtype="int8")

    return shared_folder(tmp_path_factory, "small/int8", make)


class TestBundle:
    def test_linear_layers_are_in_8_bits_and_the_rest_is_as_it_was(self, small_bundle: Path) -> None:
        assert Embedder(small_bundle).manifest.dtypes == ("float32", "int8")
        fast, portable = int8_variants(small_bundle)
        assert (fast.operators, fast.devices) == ("onnxruntime", ("cpu",))
        assert (portable.operators, portable.devices) == ("portable", ())
        for variant, multiplies in ((fast, "MatMulIntegerToFloat"), (portable, "DequantizeLinear")):
            counts: dict[str, int] = {}
            for node in onnx.load(small_bundle / variant.file, load_external_data=False).graph.node:
                counts[node.op_type] = counts.get(node.op_type, 0) + 1
            # 2 layers of 6, whose two sides are dequantized
            assert counts[multiplies] == (12 if variant is fast else 24)
            assert counts["QuantizeLinear"] == 8  # query, key and value share one

    def test_the_portable_graph_has_standard_operators_and_the_same_vectors(self, small_bundle: Path) -> None:
        fast, portable = int8_variants(small_bundle)
        model = onnx.load(small_bundle / portable.file, load_external_data=False)
        assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
        onnx.checker.check_model(small_bundle / portable.file, full_check=True)
        tokens = Embedder(small_bundle).tokenize(NATURAL)
        feeds = {name: np.asarray(values, np.int64) for name, values in tokens.items()}
        found = [
            plain_session(small_bundle / variant.file).run(["sentence_embedding"], feeds)[0]
            for variant in (fast, portable)
        ]
        assert cosines(*found).min() >= 0.99999
        # Engines without int8 kernels compute the same.
        (plain,) = plain_session(small_bundle / portable.file, optimize=False).run(["sentence_embedding"], feeds)
        assert cosines(plain, found[1]).min() >= 0.99999

    def test_onnx_runtime_computes_the_portable_graph_with_int8_kernels(
        self, small_bundle: Path, tmp_path: Path
    ) -> None:
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 4  # of what depends on this machine
        ort.InferenceSession(small_bundle / int8_variants(small_bundle)[1].file, options, ["CPUExecutionProvider"])
        counts: dict[str, int] = {}
        for node in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        assert counts["MatMulIntegerToFloat"] == 12
        assert "DequantizeLinear" not in counts

    def test_a_portable_graph_that_is_not_good_enough_is_left_out(
        self, small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def wrong(matmul: linear.Matmul) -> list[onnx.NodeProto]:
            return [
                *linear.portable_matmul(dataclasses.replace(matmul, y=f"{matmul.y}.right")),
                onnx.helper.make_node("Neg", [f"{matmul.y}.right"], [matmul.y], name=f"{matmul.name}.negated"),
            ]

        monkeypatch.setattr(quantize, "_PORTABLE", dataclasses.replace(quantize._PORTABLE, add_matmul=wrong))
        with caplog.at_level("INFO", "embedrt.export"):
            bundle = export(small_source, tmp_path / "bundle", dtype="int8")
        assert [variant.file for variant in int8_variants(bundle)] == ["onnx/model_int8_cpu.onnx"]
        assert {path.name for path in (bundle / "onnx").iterdir()} == {"model_int8_cpu.onnx", "model_int8.onnx_data"}
        assert "without a graph of standard operators" in caplog.text

    @pytest.mark.parametrize("add_matmul", [linear.fused_matmul, linear.portable_matmul])
    @pytest.mark.parametrize(("outliers", "smooth"), [([], False), ([], True), ([2, 70], False)])
    def test_what_takes_the_place_of_a_product_computes_what_it_says(
        self, outliers: list[int], smooth: bool, add_matmul: linear.AddMatmul, tmp_path: Path
    ) -> None:
        x, weight, bias = values(30, 96) * 3, values(80, 96, seed=1), values(1, 80, seed=2)[0]
        factor = np.linspace(0.5, 2, 96, dtype=np.float32) if smooth else None
        made = Scheme(None, factor, -2.0, 4.0, np.array(outliers, np.int64))
        levels, scales = round_weights(
            (weight.T * (1 if factor is None else factor[:, None])).astype(float), np.eye(96), EXACT_PAIR
        )
        node = onnx.helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], name="product", transB=1)
        graph = onnx.helper.make_graph(
            [node],
            "product",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["tokens", 96])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["tokens", 80])],
            [onnx.numpy_helper.from_array(weight, "weight"), onnx.numpy_helper.from_array(bias, "bias")],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
        (layer,) = find_layers(model)
        extra = weight.T[outliers]
        with DataFile(tmp_path / "model.data") as data:
            tensors = {"weight": weight, "bias": bias}
            replaced = QuantizedLayer(made, levels, scales, bias, extra, 0.0)
            replace_layers(model, [(layer, replaced)], data, tensors.__getitem__, add_matmul)
            data.flush()
            onnx.save_model(model, tmp_path / "model.onnx")
            session = onnxruntime().InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
            (y,) = session.run(None, {"x": x})
        expected = made.quantized(x) @ (levels * scales) + made.excess(x) @ extra + bias
        assert np.abs(y - expected).max() <= 1e-3
        if outliers:
            assert np.abs(made.excess(x) @ extra).max() > 1

    def test_the_nodes_before_an_activation_center_smooth_and_reorder_it(self, small_bundle: Path) -> None:
        """In BERT all activations but that of the second feed-forward layer come from a norm or from attention."""
        variant, _ = int8_variants(small_bundle)
        model = onnx.load(small_bundle / variant.file, load_external_data=False)
        makers = {name: node for node in model.graph.node for name in node.output}
        quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        made_by = [makers[node.input[0]].op_type for node in quantized]
        assert sorted(set(made_by)) == ["Gelu", "LayerNormalization", "Reshape"]
        assert not [node for node in model.graph.node if node.op_type == "Sub" and "centered" in node.name]
        assert "Gather" not in [node.op_type for node in model.graph.node if node.name.endswith(".some")]
        scaled = [node for node in model.graph.node if node.name.endswith(".scaled")]
        assert len(scaled) == 4  # the residuals of 2 layers
        assert not [node for node in model.graph.node if node.name.endswith(".restored")]

    @pytest.mark.parametrize("left_out", [None, 0, 1, 2, 4], ids=["none", "query", "key", "values", "first"])
    def test_nodes_that_absorb_compute_the_same(
        self, left_out: int | None, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Against nodes of their own for center and smoothing, and a gather; also where a layer stays in float32."""
        folder = copy_bundle(small_bundle, tmp_path / "bundle")
        runner = Embedder(folder).runners["default"]
        source = folder / "onnx/model.onnx"
        found = list(quantize._quantized(source, folder / "onnx/scratch.onnx", runner, NATURAL, EXACT_PAIR))
        chosen = [one for i, one in enumerate(found) if i % 6 != left_out]
        tokens = runner.tokenize(NATURAL)
        feeds = pad(tokens, np.arange(len(NATURAL)), int(tokens.lengths.max()), runner.route.tokenization)

        def replaced(name: str) -> tuple[int, NDArray[np.float32]]:
            model = onnx.load(source, load_external_data=False)
            with DataFile(source.with_name(f"{name}.data")) as data:
                replace_layers(model, chosen, data, quantize._reader(model, source.parent))
            onnx.save_model(model, source.with_name(f"{name}.onnx"))
            (made,) = plain_session(source.with_name(f"{name}.onnx")).run(["sentence_embedding"], feeds)
            added = [node for node in model.graph.node if node.name.endswith((".centered", ".smooth", ".some"))]
            return sum(node.op_type != "Slice" for node in added), made

        nodes, absorbed = replaced("absorbed")
        monkeypatch.setattr(linear, "find_sources", lambda model, layers: {})
        monkeypatch.setattr(absorb, "_ELEMENTWISE", frozenset())
        more_nodes, plain = replaced("plain")
        assert more_nodes > nodes
        assert left_out is not None or nodes == 0
        assert cosines(absorbed, plain).min() >= 0.99999

    def test_pairs_of_all_weights_keep_to_the_manifest(self, small_bundle: Path) -> None:
        for variant, readers in zip(
            int8_variants(small_bundle), ("MatMulIntegerToFloat", "DequantizeLinear"), strict=True
        ):
            assert variant.largest_pair == EXACT_PAIR
            model = onnx.load(small_bundle / variant.file)
            tensors = {tensor.name: tensor for tensor in model.graph.initializer}
            read = {name for node in model.graph.node if node.op_type == readers for name in node.input[:2]}
            weights = [onnx.numpy_helper.to_array(tensors[name]) for name in read & set(tensors)]
            pairs = [largest_pair(weight) for weight in weights if weight.dtype == np.int8]
            assert len(pairs) == 12
            assert max(pairs) == EXACT_PAIR

    def test_large_tables_are_in_8_bits_where_only_rows_are_read(self) -> None:
        table = values(3000, 100)
        table[7] = 0
        tensors = [onnx.numpy_helper.from_array(table, name) for name in ("rows", "used", "small")]
        tensors[2] = onnx.numpy_helper.from_array(table[:10], "small")
        nodes = [
            onnx.helper.make_node("Gather", ["rows", "ids"], ["a"], name="a"),
            onnx.helper.make_node("Gather", ["used", "ids"], ["b"], name="b"),
            onnx.helper.make_node("Gather", ["small", "ids"], ["c"], name="c"),
            onnx.helper.make_node("Add", ["used", "used"], ["d"], name="d"),
        ]
        outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "abcd"]
        ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])
        graph = onnx.helper.make_graph(nodes, "tables", [ids], outputs, tensors)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
        before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
        with tempfile.TemporaryDirectory() as folder, DataFile(Path(folder) / "model.data") as data:
            assert quantize_embeddings(model, before.__getitem__, data) == 1
            data.flush()
            onnx.save_model(model, Path(folder) / "model.onnx")
            session = onnxruntime().InferenceSession(Path(folder) / "model.onnx", providers=["CPUExecutionProvider"])
            a, b, c, d = session.run(None, {"ids": np.array([7, 0, 9, 9])})
        assert {tensor.name for tensor in model.graph.initializer} == {"rows.levels", "rows.scales", "used", "small"}
        rows = table[[7, 0, 9, 9]]
        assert (np.abs(a - rows) <= 0.5001 * np.abs(rows).max(axis=1, keepdims=True) / 127).all()
        assert (b == rows).all()
        assert (c == rows).all()
        assert (d == 2 * table).all()

    def test_its_weights_lie_in_its_own_files(self, small_bundle: Path) -> None:
        places = []
        for variant, file in zip(int8_variants(small_bundle), ("model_int8_cpu", "model_int8"), strict=True):
            assert (variant.file, variant.data) == (f"onnx/{file}.onnx", "onnx/model_int8.onnx_data")
            model = onnx.load(small_bundle / variant.file, load_external_data=False)
            external = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
            assert external
            assert {ExternalDataInfo(tensor).location for tensor in external} == {"model_int8.onnx_data"}
            places.append({(tensor.name, ExternalDataInfo(tensor).offset) for tensor in external})
        assert places[0] == places[1]  # nothing is there twice

    @pytest.mark.slow
    def test_int8_alone_has_the_same_vectors(self, small_bundle: Path, int8_alone: Path) -> None:
        manifest = read_bundle(int8_alone)
        assert manifest.dtypes == ("int8",)
        graphs = {"onnx/model_int8_cpu.onnx", "onnx/model_int8.onnx", "onnx/model_int8.onnx_data"}
        assert {name for name in manifest.files if name.startswith("onnx/")} == graphs
        assert {path.name for path in (int8_alone / "onnx").iterdir()} == {Path(name).name for name in graphs}
        embedder = Embedder(int8_alone)
        assert embedder.dtype == "int8"
        both = Embedder(small_bundle, dtype="int8")
        np.testing.assert_array_equal(embedder.encode(NATURAL), both.encode(NATURAL))
        assert verify(embedder).keys() == {"default"}
        message = r"dtype 'float32' is not in it; it has int8; .*`embedrt export SOURCE --dtype int8,float32`"
        with pytest.raises(BundleError, match=message):
            Embedder(int8_alone, dtype="float32")

    @pytest.mark.slow
    def test_int8_alone_is_tuned_by_its_proof(self, int8_alone: Path, tmp_path: Path) -> None:
        folder = copy_bundle(int8_alone, tmp_path / "alone")
        report = quality(folder)
        setting = tune(folder, seconds=0.1).setting("int8", "cpu")
        assert setting is not None
        assert (setting.mean_cosine, setting.min_cosine) == (report.mean_cosine, report.min_cosine)
        assert Embedder(folder, dtype="auto").dtype == "int8"

    def test_where_int8_saturates_it_stops_before_any_work(
        self, small_source: Path, tmp_path: Path, saturating: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(pipeline, "locate")
        with pytest.raises(DeviceError, match="int8 kernels saturate on this CPU"):
            export(small_source, tmp_path / "bundle", dtype="int8")
        assert list(tmp_path.glob("*bundle*")) == []

    def test_where_int8_saturates_float32_is_still_made(
        self, tiny_source: Path, tmp_path: Path, saturating: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = export(tiny_source, tmp_path / "bundle", dtype=("float32", "int8"))
        assert read_manifest(folder).dtypes == ("float32",)
        assert "exporting without int8: dtype 'int8': " in caplog.text

    def test_the_report_is_true(self, small_bundle: Path) -> None:
        exact, lossy = Embedder(small_bundle), Embedder(small_bundle, dtype="int8")
        report = quality(small_bundle)
        texts = read_texts(None).held_back
        found = cosines(lossy.encode(texts), exact.encode(texts))
        assert report.mean_cosine == pytest.approx(found.mean(), abs=1e-4)
        assert report.min_cosine == pytest.approx(found.min(), abs=1e-3)
        assert report.is_good
        assert report.max_batch_error <= 2e-6

    def test_verify_computes_the_vectors_again(self, small_bundle: Path, tmp_path: Path) -> None:
        made = quality(small_bundle)
        found = verify(Embedder(small_bundle, dtype="int8"))["default"]
        assert dataclasses.replace(made, engine="") == dataclasses.replace(found, engine="")

        path = copy_bundle(small_bundle, tmp_path / "bundle") / "parity" / "vectors.npy"
        reference = np.load(path)
        reference[3] += 0.1
        np.save(path, reference)
        rehash(tmp_path / "bundle")
        with pytest.raises(QualityError, match=r"worse here than where they were exported.*dtype='float32'"):
            verify(Embedder(tmp_path / "bundle", dtype="int8"))

    @pytest.mark.slow
    def test_the_same_export_gives_the_same_graph(self, small_source: Path, small_bundle: Path, tmp_path: Path) -> None:
        again = export(small_source, tmp_path / "again", dtype=("float32", "int8"))
        files = [read_raw(folder)["files"] for folder in (small_bundle, again)]
        assert files[0] == files[1]

    def test_all_kernels_give_the_same_vectors(self, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both outcomes of the probe, on every CPU, bit by bit: pairs are bounded, so no kernel saturates."""
        texts = json.loads((small_bundle / "parity/texts.json").read_bytes())
        expected = Embedder(small_bundle, dtype="int8").encode(texts)
        int8_saturation.exact_config.cache_clear()
        monkeypatch.setattr(int8_saturation, "is_exact", lambda config, largest_pair: bool(config))
        try:
            found = Embedder(small_bundle, dtype="int8").encode(texts)
            assert dict(int8_saturation.exact_config(EXACT_PAIR)) == {"session.x64quantprecision": "1"}
        finally:
            int8_saturation.exact_config.cache_clear()
        np.testing.assert_array_equal(found, expected)

    def test_a_manifest_that_lies_about_pairs(
        self, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A CPU that relies on the bound checks it when it loads the bundle, and `verify` checks it on every CPU."""
        folder = copy_bundle(small_bundle, tmp_path / "bundle")
        raw = read_raw(folder)
        variant, _ = (one for one in raw["routes"]["default"]["variants"] if one["dtype"] == "int8")
        variant["largest_pair"] = EXACT_PAIR - 1
        write_raw(folder, raw)
        message = (
            r"model_int8_cpu\.onnx: expected int8 weights whose pairs add up to at most 127, as in the manifest, "
            "got 128"
        )
        with pytest.raises(BundleError, match=message):
            verify(Embedder(folder, dtype="int8"))
        assert main(["verify", str(folder), "--dtype", "int8"]) == 1
        assert "got 128; export the model again" in capsys.readouterr().err
        int8_saturation.exact_config.cache_clear()
        monkeypatch.setattr(
            int8_saturation, "is_exact", lambda config, largest_pair: bool(config) or largest_pair <= EXACT_PAIR
        )
        try:
            with pytest.raises(BundleError, match=message):
                Embedder(folder, dtype="int8").encode("a text")
            Embedder(small_bundle, dtype="int8").encode("a text")
            variant["largest_pair"] = None  # nothing is stated, so the kernels are those for any weights
            write_raw(folder, raw)
            Embedder(folder, dtype="int8").encode("a text")
        finally:
            int8_saturation.exact_config.cache_clear()

    @pytest.mark.parametrize(
        ("dtype", "value", "message"),
        [
            ("int8", -1, r"variants\[2\]\.largest_pair: expected 0 to 254, got -1"),
            ("int8", 255, r"variants\[2\]\.largest_pair: expected 0 to 254, got 255"),
            ("int8", 128.0, "largest_pair"),
            ("int8", True, "largest_pair"),
            ("int8", "128", "largest_pair"),
            ("float32", 128, r"variants\[0\]\.largest_pair: expected null for dtype 'float32'"),
        ],
    )
    def test_a_bound_that_is_none(
        self, small_bundle: Path, tmp_path: Path, dtype: str, value: object, message: str
    ) -> None:
        folder = copy_bundle(small_bundle, tmp_path / "bundle")
        raw = read_raw(folder)
        next(one for one in raw["routes"]["default"]["variants"] if one["dtype"] == dtype)["largest_pair"] = value
        write_raw(folder, raw)
        with pytest.raises(BundleError, match=message):
            read_manifest(folder)

    def test_another_device_would_leave_its_work_to_the_processor(
        self, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(DEVICES, "other", dataclasses.replace(cpu.DEVICE, kind="other"))
        portable = Embedder(small_bundle, "other", dtype="int8").runners["default"].placement.variant
        assert portable == int8_variants(small_bundle)[1]
        small_bundle = copy_bundle(small_bundle, tmp_path / "bundle")
        change(small_bundle, lambda raw: raw["routes"]["default"]["variants"].pop())
        with pytest.raises(DeviceError, match=r"runs on cpu only, not on 'other'; use device='cpu', or another dtype"):
            Embedder(small_bundle, "other", dtype="int8")

    @pytest.mark.slow
    def test_tuning_takes_it_as_the_export_judged_it(self, small_bundle: Path, tmp_path: Path) -> None:
        """The texts that tuning makes up are odd; with texts of the user it is judged by those."""
        folder = copy_bundle(small_bundle, tmp_path / "bundle")
        report = quality(folder)
        setting = tune(folder, seconds=0.1).setting("int8", "cpu")
        assert setting is not None
        assert (setting.mean_cosine, setting.min_cosine) == (report.mean_cosine, report.min_cosine)
        texts = [f"{text} {i}" for i in range(30) for text in NATURAL]
        setting = tune(folder, texts, seconds=0.1).setting("int8", "cpu")
        assert setting is not None
        assert setting.mean_cosine != report.mean_cosine

    def test_info_shows_the_quality(self, small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["info", str(small_bundle)]) == 0
        assert "quality int8" in capsys.readouterr().out

    @pytest.mark.slow
    def test_below_the_floor_there_is_no_bundle(
        self, small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parity, "MEAN_COSINE", 0.9999999)
        with pytest.raises(QualityError, match=r"0\.9999999 and .*--calibration-texts FILE"):
            export(small_source, tmp_path / "bundle", dtype="int8")
        assert list(tmp_path.glob("*bundle*")) == []

    @pytest.mark.slow
    def test_the_worst_layers_stay_in_float32_until_it_is_good_enough(
        self, small_source: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = quality(small_bundle)
        monkeypatch.setattr(parity, "MEAN_COSINE", whole.mean_cosine + 1e-7)
        found = quality(export(small_source, tmp_path / "bundle", dtype="int8"))
        assert found.mean_cosine > whole.mean_cosine
        assert not found.method.startswith("12 of 12")

    @pytest.mark.slow
    def test_where_bounded_pairs_are_too_coarse_weights_have_the_full_range(
        self, small_source: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantize, "_KEPT_SHARES", (0.0,))
        monkeypatch.setattr(quantize, "_PAIR_BOUNDS", {2: "", FULL_PAIR: ", with slower kernels"})
        bundle = export(small_source, tmp_path / "bundle", dtype=["float32", "int8"])
        (variant,) = int8_variants(bundle)  # other tools do not know which CPUs need the slower kernels
        assert variant.file == "onnx/model_int8_cpu.onnx"
        assert variant.largest_pair is not None
        assert EXACT_PAIR < variant.largest_pair <= FULL_PAIR
        assert quality(bundle).method.endswith(", with slower kernels")
        verify(Embedder(bundle, dtype="int8"))  # raises if it is worse than the report
        # The first try left nothing behind.
        assert (bundle / quantize.DATA).stat().st_size <= (small_bundle / quantize.DATA).stat().st_size * 1.01

    def test_a_model_without_linear_layers_of_some_size(self, tiny_source: Path, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModelError, match="no linear layers that embedrt can quantize"):
            export(tiny_source, tmp_path / "bundle", dtype="int8")

    @pytest.mark.slow
    def test_texts_of_your_own(self, small_source: Path, tmp_path: Path) -> None:
        lines = tmp_path / "lines.txt"
        lines.write_text("\n".join(f"text number {i} of the river" for i in range(80)), "utf-8")
        folder = export(small_source, tmp_path / "bundle", dtype="int8", calibration_texts=lines)
        assert "lines.txt" in quality(folder).method

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"dtype": "int4"}, "dtype: expected one of 'float32', .*, got 'int4'"),
            ({"dtype": "float32,int8"}, "dtype: expected one of 'float32', .*, got 'float32,int8'"),
            ({"dtype": ("float32", "")}, "dtype: expected one of 'float32', .*, got ''"),
            ({"dtype": "tf32"}, "dtype: 'tf32' cannot be exported; expected float32 or float16 or bfloat16 or int8"),
            ({"dtype": []}, "dtype: expected one or more of float32, float16, bfloat16, int8, got none"),
            ({"calibration_texts": "lines.txt"}, "calibration_texts: only for float16 or bfloat16 or int8; add"),
        ],
    )
    def test_wrong_arguments(self, tiny_source: Path, tmp_path: Path, arguments: dict[str, str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            export(tiny_source, tmp_path / "bundle", **arguments)  # type: ignore[arg-type]

    @pytest.mark.slow
    def test_values_are_observed_a_few_at_a_time(
        self, small_source: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantize, "_HELD", 1)
        again = export(small_source, tmp_path / "again", dtype="int8")
        a, b = (Embedder(folder, dtype="int8").encode(NATURAL) for folder in (small_bundle, again))
        assert np.abs(a - b).max() <= 1e-3

    def test_a_head_that_runs_once_a_text_stays_in_float32(self, small_bundle: Path, tmp_path: Path) -> None:
        """Linear layers of whole texts are few and cheap; `observe` recognizes them by their number of rows."""
        folder = copy_bundle(small_bundle, tmp_path / "bundle")
        head = np.eye(64, dtype=np.float32)

        def edit(graph: onnx.GraphProto) -> None:
            for node in graph.node:
                node.output[:] = ["plain" if name == "sentence_embedding" else name for name in node.output]
            graph.initializer.append(onnx.numpy_helper.from_array(head, "head"))
            graph.node.append(
                onnx.helper.make_node("Gemm", ["plain", "head"], ["sentence_embedding"], name="head", transB=1)
            )

        edit_graph(folder, edit)
        runner = Embedder(folder).runners["default"]
        model = onnx.load(folder / "onnx/model.onnx", load_external_data=False)
        assert [layer.x for layer in find_layers(model) if layer.node == "head"] == ["plain"]
        assert observe(model, folder / "onnx/scratch.onnx", runner, NATURAL, ["plain"]) == {}


@pytest.mark.slow
def test_the_real_model(minilm_int8_bundle: Path) -> None:
    """All promises of the dtype on real weights."""
    lossy, exact = Embedder(minilm_int8_bundle, dtype="int8"), Embedder(minilm_int8_bundle)
    report = quality(minilm_int8_bundle)
    assert report.mean_cosine >= 0.999
    assert report.min_cosine >= 0.995
    assert int(report.method.split(" of ")[0]) >= 33  # of 36
    # Texts that neither calibrated nor judged: natural ones, and the odd ones of the golden vectors.
    found, expected = lossy.encode(NATURAL), exact.encode(NATURAL)
    assert cosines(found, expected).min() >= 0.995
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() <= 1e-6
    odd = json.loads((REFERENCE / "texts.json").read_bytes())
    golden = np.load(REFERENCE / "minilm.npy", allow_pickle=False)
    planned = lossy.encode(odd)
    assert cosines(planned, golden).mean() >= 0.997
    # A vector does not depend on its batch.
    some = odd[::7]
    assert np.abs(np.stack([lossy.encode(text) for text in some]) - planned[::7]).max() <= 2e-6
    assert np.abs(lossy.encode(some, batch_size=3) - planned[::7]).max() <= 2e-6

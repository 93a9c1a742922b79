"""Graph pieces against formulas in float64, by two engines, and the file that the builder writes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator

from embedrt import Embedder, UnsupportedModelError
from embedrt.bundle.check import FileRecord
from embedrt.engine.session import onnxruntime
from embedrt_export import export
from embedrt_export.graph.builder import INT64, OPSET, GraphBuilder
from embedrt_export.graph.data_file import DataFile
from embedrt_export.heads.head import Masks
from embedrt_export.heads.normalize import normalize
from embedrt_export.heads.pooling import POOLERS, pool
from embedrt_export.layers.activations import ACTIVATIONS, activation
from embedrt_export.layers.attention import attention_bias
from embedrt_export.layers.relative import bucket
from tests.kit.formulas import ACTIVATION_FORMULAS, mpnet_bucket
from tests.kit.models import make_model
from tests.kit.scopes import scope_of

Array = NDArray[Any]
Engine = Callable[[Path, dict[str, Array]], Array]


def run_onnxruntime(path: Path, feeds: dict[str, Array]) -> Array:
    session = onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    return cast("Array", session.run(None, feeds)[0])


def run_reference(path: Path, feeds: dict[str, Array]) -> Array:
    return cast("list[Array]", ReferenceEvaluator(onnx.load(path)).run(None, feeds))[0]


ENGINES: dict[str, Engine] = {"onnxruntime": run_onnxruntime, "onnx.reference": run_reference}


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def numbers(graph: GraphBuilder, values: Array) -> str:
    """A constant of the graph."""
    return graph.weight("numbers", values.astype(np.float32))


POINTS = np.unique(np.concatenate([np.linspace(-12, 12, 481), [0.0, 1e-6, -1e-6, 20.0, -20.0]])).astype(np.float32)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(tmp_path: Path, engine: Engine, name: str) -> None:
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        graph.output("y", activation(graph, name, numbers(graph, POINTS)), [len(POINTS)])
        graph.save(tmp_path / "m.onnx")

    result = engine(tmp_path / "m.onnx", {})

    expected = ACTIVATION_FORMULAS[name](POINTS.astype(np.float64))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=3e-6, atol=2e-6)


def test_unknown_activation(tmp_path: Path) -> None:
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        with pytest.raises(UnsupportedModelError, match="'xielu' is not supported"):
            activation(graph, "xielu", "x")


# Right padding, left padding, no padding, one token, gaps, and nothing but padding.
MASKS = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]])


# The same, with the first two tokens left out.
POOLED = np.array(
    [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
)


def expected_pooling(mode: str, row: Array, mask: Array, pooled: Array) -> list[float]:
    """Over one text's tokens that count."""
    tokens = [vector for vector, counts in zip(row.tolist(), pooled.tolist(), strict=True) if counts]
    if mode == "cls":
        return list((tokens or row.tolist())[0])
    if not tokens:
        return [float(np.finfo(np.float32).min) if mode == "max" else 0.0] * 4
    if mode == "max":
        return [max(column) for column in zip(*tokens, strict=True)]
    if mode == "lasttoken":
        return list(tokens[-1])
    if mode == "weightedmean":
        places = [place - mask.tolist().index(1) + 1 for place, counts in enumerate(pooled.tolist()) if counts]
        weighted = [[place * x for x in token] for place, token in zip(places, tokens, strict=True)]
        return [sum(column) / sum(places) for column in zip(*weighted, strict=True)]
    divisor = len(tokens) if mode == "mean" else len(tokens) ** 0.5
    return [sum(column) / divisor for column in zip(*tokens, strict=True)]


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("pooled", [MASKS, POOLED], ids=["all tokens", "two left out"])
@pytest.mark.parametrize("modes", [*((mode,) for mode in POOLERS), tuple(POOLERS), ("mean", "cls")], ids="-".join)
def test_pooling(tmp_path: Path, engine: Engine, modes: tuple[str, ...], pooled: Array, is_long: bool) -> None:
    embeddings = np.random.default_rng(0).normal(-3, 1, (*MASKS.shape, 4)).astype(np.float32)
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        masks = Masks(graph.input("attention_mask"), graph.input("pooling_mask"), is_long)
        y = pool(graph, modes, numbers(graph, embeddings), masks)
        graph.output("y", y, ["batch", 4 * len(modes)])
        graph.save(tmp_path / "m.onnx")

    result = engine(tmp_path / "m.onnx", {"attention_mask": MASKS, "pooling_mask": pooled})

    expected = np.array(
        [
            [value for mode in modes for value in expected_pooling(mode, *rows)]
            for rows in zip(embeddings, MASKS, pooled, strict=True)
        ]
    )
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_every_activation_has_a_test() -> None:
    assert set(ACTIVATIONS) == set(ACTIVATION_FORMULAS)


def test_normalize(tmp_path: Path, engine: Engine) -> None:
    vectors = np.array([[3, 4], [0, 0], [1e-20, 0], [-1e18, 1e18], [2e-12, 0]], np.float32)
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        graph.output("y", normalize(graph, numbers(graph, vectors)), [len(vectors), 2])
        graph.save(tmp_path / "m.onnx")

    result = engine(tmp_path / "m.onnx", {})

    root = 0.5**0.5
    expected = np.array([0.6, 0.8, 0, 0, 1e-8, 0, -root, root, 1, 0]).reshape(5, 2)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_padding_bias(tmp_path: Path, engine: Engine) -> None:
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        graph.output("y", attention_bias(scope_of(graph)).term, ["batch", 1, 1, "sequence"])
        graph.save(tmp_path / "m.onnx")
    result = engine(tmp_path / "m.onnx", {"input_ids": MASKS, "attention_mask": MASKS})
    assert result.shape == (6, 1, 1, 5)
    np.testing.assert_array_equal(result[:, 0, 0, :] == 0, MASKS == 1)
    np.testing.assert_array_equal(result[:, 0, 0, :] < -3e38, MASKS == 0)


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("name", ["model.onnx", "model_cpu.onnx"])
def test_whole_model_on_padding_alone(
    tmp_path: Path, engine: Engine, architecture: str, pooling: str, name: str
) -> None:
    """Finite where a row has no token at all, and such a row changes nothing in the others."""
    model = make_model(tmp_path / "model", architecture, pooling=pooling, normalize=pooling != "max")
    bundle = export(model, tmp_path / "bundle")
    graph = bundle / "onnx" / name
    pad = Embedder(bundle).manifest.routes["default"].tokenization.pad_id
    ids = np.array([[2, 9, 8, 3], [pad] * 4, [2, 9, pad, pad]])
    mask = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])

    together = run_sentence(engine, graph, {"input_ids": ids, "attention_mask": mask})

    assert np.isfinite(together).all()
    for row, length in ((0, 4), (2, 2)):
        alone = run_sentence(
            engine, graph, {"input_ids": ids[row : row + 1, :length], "attention_mask": np.ones((1, length), np.int64)}
        )
        np.testing.assert_allclose(together[row], alone[0], atol=2e-6 * max(1.0, float(np.linalg.norm(alone))))


def run_sentence(engine: Engine, path: Path, feeds: dict[str, Array]) -> Array:
    """The output `sentence_embedding`, which comes second; the engines above give the first."""
    model = onnx.load(path)
    while model.graph.output[0].name != "sentence_embedding":
        del model.graph.output[0]
    onnx.save_model(model, path.with_name("sentence.onnx"))
    return engine(path.with_name("sentence.onnx"), feeds)


def test_bucket() -> None:
    offsets = np.arange(-600, 601)
    assert bucket(offsets, 32, 128).tolist() == [mpnet_bucket(offset) for offset in offsets.tolist()]
    borders = [8, 12, 16, 23, 32, 46, 64, 91]
    assert bucket(np.array(borders), 32, 128).tolist() == list(range(24, 32))
    assert bucket(-np.array(borders) + 1, 32, 128).tolist() == list(range(7, 15))


def test_builder_writes_data_that_can_be_mapped(tmp_path: Path) -> None:
    """Large tensors at 64 KiB, small ones at a cache line, none over another, all inside the file."""
    random = np.random.default_rng(0)
    shapes = [(3, 100), (1, 257), (513, 512), (7, 99), (600, 600), (4,), (5, 60)]
    values = {f"t{i}": random.normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)}
    path = tmp_path / "m.onnx"
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        for name, value in values.items():
            flat = graph.op("Reshape", graph.weight(name, value), graph.ints(-1))
            graph.output(f"{name}_out", flat, [value.size])
        graph.save(path)

    model = onnx.load(path, load_external_data=False)
    end = 0
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            assert len(tensor.raw_data) < 1024
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(place["offset"]), int(place["length"])
        assert place["location"] == "m.onnx_data"
        assert offset >= end
        assert offset % (1 << 16 if length >= 1 << 20 else 64) == 0
        assert length == values[tensor.name].nbytes
        end = offset + length
    assert end == (tmp_path / "m.onnx_data").stat().st_size
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for name, value in values.items():
        np.testing.assert_array_equal(stored[name], value)


def test_builder_refuses_two_tensors_of_one_name(tmp_path: Path) -> None:
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        graph.weight("w", np.ones(3, np.float32))
        with pytest.raises(ValueError, match="two tensors named 'w'"):
            graph.weight("w", np.zeros(3, np.float32))


def test_builder_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "m.onnx_data").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        DataFile(tmp_path / "m.onnx_data")
    assert (tmp_path / "m.onnx_data").read_bytes() == b"mine"


def test_builder_shares_constants_and_keeps_kinds_apart(tmp_path: Path) -> None:
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        names = [
            graph.ints(1),
            graph.index(1),
            graph.scalar(1),
            graph.ints(1, 1),
            graph.scalar(0.0),
            graph.scalar(-0.0),
        ]
        assert len(set(names)) == len(names)
        assert graph.ints(1) == names[0]


def test_builder_has_onnx_check_what_it_saves(tmp_path: Path) -> None:
    with DataFile(tmp_path / "m.onnx_data") as data:
        graph = GraphBuilder(data)
        graph.output("y", graph.op("NoSuchOperator", numbers(graph, np.ones(2))), [2])
        with pytest.raises(onnx.checker.ValidationError):
            graph.save(tmp_path / "m.onnx")


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
def test_graph_of_a_bundle(tmp_path: Path, architecture: str) -> None:
    """Standard ONNX of one opset, with the inputs and outputs by the names that other tools expect."""
    path = export(make_model(tmp_path / "model", architecture), tmp_path / "bundle") / "onnx" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(path, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert (model.ir_version, OPSET) == (9, 20)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    inputs = {value.name: signature(value) for value in model.graph.input}
    assert inputs == {name: (INT64, ["batch", "sequence"]) for name in ("input_ids", "attention_mask")}
    assert {value.name: signature(value)[1] for value in model.graph.output} == {
        "last_hidden_state": ["batch", "sequence", 32],
        "token_embeddings": ["batch", "sequence", 32],
        "sentence_embedding": ["batch", 32],
    }


def signature(value: onnx.ValueInfoProto) -> tuple[int, list[str | int]]:
    kind = value.type.tensor_type
    return kind.elem_type, [axis.dim_param or axis.dim_value for axis in kind.shape.dim]


def test_the_data_file_is_hashed_while_it_is_written(tmp_path: Path) -> None:
    """Small and large tensors, an equal one, and the gaps between them."""
    random = np.random.default_rng(0)
    large = random.normal(size=(600, 500)).astype(np.float32)
    with DataFile(tmp_path / "m.onnx.data") as data:
        for i, values in enumerate((random.normal(size=300).astype(np.float32), large, large, large.T)):
            data.tensor(f"t{i}", values)
    content = (tmp_path / "m.onnx.data").read_bytes()
    assert len(content) > 2 * large.nbytes
    assert data.record == FileRecord(len(content), hashlib.sha256(content).hexdigest())

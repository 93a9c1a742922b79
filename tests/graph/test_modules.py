"""Chains of modules against formulas in float64 that start from the graph's own token embeddings."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from embedrt import Embedder, ExportError, UnsupportedModelError
from embedrt.bundle.manifest import read_bundle
from embedrt.engine.session import onnxruntime
from embedrt_export import export
from embedrt_export.heads.dense import DENSE_ACTIVATIONS
from embedrt_export.heads.pooling import POOLERS
from tests.kit.chains import Entry, draw, module_type, pooling, write_chain, write_static
from tests.kit.edits import edit_json
from tests.kit.formulas import erf, sigmoid
from tests.kit.models import make_model, write_json

Floats = NDArray[np.float64]
TEXTS = [
    "",
    "one",
    "the cat",
    "the river bank and the boat of the dog",
    "千里 й ä",
    "word " * 60,
    "a " * 45,
    "two three",
]


def tokens_of(embedder: Embedder, text: str) -> Floats:
    """Token embeddings of one text alone: `[tokens, hidden]`."""
    path = embedder.folder / embedder.manifest.routes["default"].variants[-1].file
    session = onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["token_embeddings"], embedder.tokenize(text))
    return np.asarray(found[0], np.float64)


def check(source: Path, expected: Callable[[Floats], Floats], bundle: Path) -> Embedder:
    """The vectors of a bundle are `expected` of the token embeddings, alone and together."""
    embedder = Embedder(export(source, bundle))
    wanted = np.stack([expected(tokens_of(embedder, text)) for text in TEXTS])
    scale = max(1.0, float(np.linalg.norm(wanted, axis=1).max()))
    assert np.abs(embedder.encode(TEXTS) - wanted).max() / scale < 2e-6
    assert np.abs(np.stack([embedder.encode(text) for text in TEXTS]) - wanted).max() / scale < 2e-6
    return embedder


def pooled(mode: str, x: Floats) -> Floats:
    places = np.arange(1, len(x) + 1)[:, None]
    by_mode: dict[str, Callable[[], Floats]] = {
        "cls": lambda: x[0],
        "max": lambda: x.max(axis=0),
        "mean": lambda: x.mean(axis=0),
        "mean_sqrt_len_tokens": lambda: x.sum(axis=0) / np.sqrt(len(x)),
        "weightedmean": lambda: (x * places).sum(axis=0) / places.sum(),
        "lasttoken": lambda: x[-1],
    }
    return by_mode[mode]()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.mark.parametrize("mode", [*POOLERS, ["lasttoken", "mean", "weightedmean", "cls"]], ids=str)
def test_pooling_modes(model: Path, tmp_path: Path, mode: str | list[str]) -> None:
    modes = [mode] if isinstance(mode, str) else mode
    check(write_chain(model, pooling(mode)), lambda x: np.concatenate([pooled(m, x) for m in modes]), tmp_path / "b")


ACTIVATIONS: dict[str, Callable[[Floats], Any]] = {
    "CELU": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "ELU": lambda x: np.where(x > 0, x, np.exp(x) - 1),
    "GELU": lambda x: x / 2 * (1 + erf(x / np.sqrt(2))),
    "Hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "Hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "Hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Identity": lambda x: x,
    "LeakyReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "LogSigmoid": lambda x: np.log(sigmoid(x)),
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SELU": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
    "SiLU": lambda x: x * sigmoid(x),
    "Sigmoid": sigmoid,
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
    "Tanhshrink": lambda x: x - np.tanh(x),
}


@pytest.mark.parametrize("name", DENSE_ACTIVATIONS)
def test_dense_activations(model: Path, tmp_path: Path, name: str) -> None:
    weight, bias = draw(20, 32), draw(20, seed=1)
    config = {"in_features": 32, "out_features": 20, "activation_function": f"torch.nn.modules.activation.{name}"}
    source = write_chain(model, pooling(), ("Dense", config, {"linear.weight": weight, "linear.bias": bias}))
    check(source, lambda x: np.asarray(ACTIVATIONS[name](weight.astype(float) @ x.mean(axis=0) + bias)), tmp_path / "b")


def test_dense_falls_back_to_tanh_where_torch_does_not_name_the_activation(model: Path, tmp_path: Path) -> None:
    weight = draw(32, 32)
    config = {"in_features": 32, "out_features": 32, "bias": False, "activation_function": "my.code.Swoosh"}
    source = write_chain(model, pooling(), ("Dense", config, {"linear.weight": weight}))
    check(source, lambda x: np.tanh(weight.astype(float) @ x.mean(axis=0)), tmp_path / "b")


@pytest.mark.parametrize("out", [32, 24])
def test_dense_with_a_residual(model: Path, tmp_path: Path, out: int) -> None:
    tensors = {"linear.weight": draw(out, 32), "linear.bias": draw(out, seed=1)}
    if out != 32:
        tensors["residual.weight"] = draw(out, 32, seed=2)
    config = {"in_features": 32, "out_features": out, "use_residual": True}

    def expected(x: Floats) -> Floats:
        mean = x.mean(axis=0)
        rest = tensors["residual.weight"].astype(float) @ mean if out != 32 else mean
        return np.asarray(np.tanh(tensors["linear.weight"].astype(float) @ mean + tensors["linear.bias"]) + rest)

    check(write_chain(model, pooling(), ("Dense", config, tensors)), expected, tmp_path / "b")


def test_two_dense_two_layer_norms_dropout_and_normalize(model: Path, tmp_path: Path) -> None:
    first, second = draw(48, 32), draw(16, 48, seed=1)
    scale, shift = 1 + draw(48, seed=2), draw(48, seed=3)
    chain: tuple[Entry, ...] = (
        pooling(),
        ("Dense", {"in_features": 32, "out_features": 48, "bias": False}, {"linear.weight": first}),
        ("LayerNorm", {"dimension": 48}, {"norm.weight": scale, "norm.bias": shift}),
        ("LayerNorm", {"dimension": 48}, {"norm.weight": shift, "norm.bias": scale}),
        ("Dropout", {"dropout": 0.4}, {}),
        ("Dense", {"in_features": 48, "out_features": 16, "bias": False}, {"linear.weight": second}),
        ("Normalize", {}, {}),
    )

    def expected(x: Floats) -> Floats:
        y = np.tanh(first.astype(float) @ x.mean(axis=0))
        y = (y - y.mean()) / np.sqrt(y.var() + 1e-5) * scale + shift
        y = (y - y.mean()) / np.sqrt(y.var() + 1e-5) * shift + scale
        y = np.tanh(second.astype(float) @ y)
        return np.asarray(y / np.linalg.norm(y))

    embedder = check(write_chain(model, *chain), expected, tmp_path / "b")
    route = embedder.manifest.routes["default"]
    assert (embedder.manifest.dim, route.outputs["token_embeddings"].width, route.normalized) == (16, 32, True)
    assert [module.type for module in route.modules] == ["Transformer", *(kind for kind, _, _ in chain)]


def test_dense_on_tokens_and_under_other_names(model: Path, tmp_path: Path) -> None:
    """The graph's token embeddings are those after the chain."""
    weight = draw(24, 32)
    on_tokens = {
        "in_features": 32,
        "out_features": 24,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "token_embeddings",
        "module_output_name": "token_embeddings",
    }
    chain = (("Dense", on_tokens, {"linear.weight": weight}), pooling(dim=24))
    check(write_chain(model, *chain), lambda x: x.mean(axis=0), tmp_path / "b")
    plain = Embedder(export(write_chain(make_model(tmp_path / "plain"), pooling()), tmp_path / "plain-bundle"))
    assert np.abs(Embedder(tmp_path / "b").encode(TEXTS) - plain.encode(TEXTS) @ weight.T).max() < 1e-5


def test_weighted_layer_pooling(tmp_path: Path) -> None:
    """With all weight on the last layer it is the plain mean; else it differs."""
    layers = {"embedding_dimension": 32, "num_hidden_layers": 2, "layer_start": 1}

    def vectors(name: str, weights: list[float], **config: Any) -> NDArray[np.float32]:
        model = make_model(tmp_path / name, **config)
        tensors = {"layer_weights": np.array(weights, np.float32)}
        source = write_chain(model, ("WeightedLayerPooling", layers, tensors), pooling())
        return Embedder(export(source, tmp_path / f"{name}-bundle")).encode(TEXTS)

    plain = Embedder(export(write_chain(make_model(tmp_path / "p"), pooling()), tmp_path / "p-bundle")).encode(TEXTS)
    last = vectors("last", [0.0, 3.0], output_hidden_states=True)
    first = vectors("first", [1.0, 0.0], output_hidden_states=True)
    both = vectors("both", [1.0, 3.0], output_hidden_states=True)
    assert np.abs(last - plain).max() < 1e-6
    assert np.abs(both - (first + 3 * last) / 4).max() < 1e-5
    assert np.abs(first - last).max() > 0.1


def test_weighted_layer_pooling_without_the_states_does_nothing(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers: Entry = ("WeightedLayerPooling", {"embedding_dimension": 32, "num_hidden_layers": 2, "layer_start": 1}, {})
    with caplog.at_level(logging.WARNING, "embedrt.export"):
        check(write_chain(model, layers, pooling()), lambda x: x.mean(axis=0), tmp_path / "b")
    assert "it has no effect, as config.json does not set output_hidden_states" in caplog.text


@pytest.mark.parametrize("mode", POOLERS)
def test_prompts_that_are_left_out_of_the_pooling(model: Path, tmp_path: Path, mode: str) -> None:
    embedder = Embedder(export(write_chain(model, pooling(mode, include_prompt=False)), tmp_path / "b"))
    texts = [text for text in TEXTS if text]
    assert embedder.manifest.routes["default"].tokenization.pooling_mask
    prompt = "three dogs : "
    left_out = 1 + len(embedder.tokenize(prompt)["input_ids"][0]) - 2  # the first special token and the prompt's tokens
    for text in texts:
        x = tokens_of(embedder, prompt + text)
        if mode == "weightedmean":
            places = np.arange(1, len(x) + 1)[left_out:, None]
            expected = (x[left_out:] * places).sum(axis=0) / places.sum()
        else:
            expected = pooled(mode, x[left_out:])
        scale = max(1.0, float(np.linalg.norm(expected)))
        assert np.abs(embedder.encode(text, prompt=prompt) - expected).max() / scale < 2e-6
    alone = np.stack([embedder.encode(text, prompt=prompt) for text in texts])
    assert np.abs(embedder.encode(texts, prompt=prompt) - alone).max() < 1e-5
    assert np.abs(embedder.encode(texts) - np.stack([pooled(mode, tokens_of(embedder, t)) for t in texts])).max() < 1e-5


def test_a_prompt_as_long_as_the_model_reads_leaves_its_last_token(model: Path, tmp_path: Path) -> None:
    embedder = Embedder(export(write_chain(model, pooling(include_prompt=False)), tmp_path / "b"))
    x = tokens_of(embedder, "word " * 100)
    assert np.abs(embedder.encode("one", prompt="word " * 100) - x[-1]).max() / np.linalg.norm(x[-1]) < 2e-6


def test_causal_models_without_modules_pool_the_last_token(model: Path, tmp_path: Path) -> None:
    (model / "modules.json").unlink()
    config = json.loads((model / "config.json").read_bytes())
    check(model, lambda x: x.mean(axis=0), tmp_path / "mean")
    write_json(model / "config.json", {**config, "architectures": ["SomethingForCausalLM"]})
    check(model, lambda x: x[-1], tmp_path / "last")
    write_json(model / "config.json", {**config, "architectures": ["SomethingForCausalLM"], "is_causal": False})
    check(model, lambda x: x.mean(axis=0), tmp_path / "bidirectional")


def static_vector(folder: Path, text: str, table: Floats) -> Floats:
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return table[ids].mean(axis=0) if ids else np.zeros(table.shape[1])


def test_static_embedding(tmp_path: Path) -> None:
    table = draw(133, 24)
    source = write_static(tmp_path / "static", {"embedding.weight": table})
    embedder = Embedder(export(source, tmp_path / "bundle"))
    texts = [*TEXTS, "two dogs " * 3000]
    expected = np.stack([static_vector(source, text, table.astype(float)) for text in texts])
    assert np.abs(embedder.encode(texts) - expected).max() < 1e-6
    assert np.abs(np.stack([embedder.encode(text) for text in texts]) - expected).max() < 1e-6
    route = embedder.manifest.routes["default"]
    assert (route.architecture, route.max_seq_length, embedder.manifest.dim) == ("static", None, 24)
    assert embedder.token_count(["", texts[-1]]) == [0, 9000]
    assert not embedder.encode("").any()


def test_static_embedding_of_model2vec_with_shared_rows(tmp_path: Path) -> None:
    rows, mapping = draw(50, 16), np.arange(133, dtype=np.int32) % 50
    weights = np.linspace(0.1, 2, 133)
    tensors: dict[str, NDArray[Any]] = {"embeddings": rows, "mapping": mapping, "weights": weights}
    source = write_static(tmp_path / "static", tensors, "Normalize")
    embedder = Embedder(export(source, tmp_path / "bundle"))
    table = rows[mapping].astype(float) * weights[:, None]
    expected = np.stack([static_vector(source, text, table) for text in TEXTS])
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    assert np.abs(embedder.encode(TEXTS) - expected).max() < 1e-6
    assert embedder.manifest.routes["default"].normalized


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embedding.weight": draw(100, 8)}, "has id 132, but the model has only 100 word embeddings"),
        ({"other": draw(133, 8)}, "tensor 'embeddings' is missing"),
        ({"embeddings": draw(133)}, r"tensor 'embeddings' has shape \(133,\); expected rows and columns"),
        (
            {"embeddings": draw(9, 8), "mapping": np.arange(133) % 10},
            "'mapping' names rows that 'embeddings' with its 9",
        ),
        ({"embeddings": draw(133, 8), "weights": np.ones(5)}, r"'weights': expected shape \(133,\), got \(5,\)"),
        ({"embeddings": draw(9, 8), "mapping": draw(133)}, "'mapping': expected a vector of integers, got F32"),
    ],
)
def test_static_embeddings_that_do_not_fit(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    source = write_static(tmp_path / "static", tensors)
    with pytest.raises(ExportError, match=message):
        export(source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("length", "by_blocks"), [(512, False), (513, True)])
def test_sums_by_blocks_only_where_texts_may_be_long(tmp_path: Path, length: int, by_blocks: bool) -> None:
    model = make_model(tmp_path / "model", max_position_embeddings=600, max_seq_length=length)
    graph = onnx.load(export(model, tmp_path / "bundle") / "onnx" / "model.onnx", load_external_data=False).graph
    assert ("Pad" in {node.op_type for node in graph.node}) == by_blocks


def write_router(folder: Path, structure: dict[str, list[str]], **parameters: Any) -> Path:
    """Two Dense modules after a shared transformer: "wide" and "narrow" are on offer."""
    write_chain(folder, pooling())
    for seed, name in enumerate(("wide", "narrow")):
        place = folder / "2_Router" / name
        write_json(place / "config.json", {"in_features": 32, "out_features": 8, "bias": False})
        save_file({"linear.weight": draw(8, 32, seed=seed)}, place / "model.safetensors")
    types = {name: module_type("Dense") for name in ("wide", "narrow")}
    write_json(
        folder / "2_Router" / "router_config.json", {"types": types, "structure": structure, "parameters": parameters}
    )
    modules = json.loads((folder / "modules.json").read_bytes())
    modules.append({"idx": 2, "name": "2", "path": "2_Router", "type": module_type("Router"), "kwargs": ["task"]})
    write_json(folder / "modules.json", modules)
    return folder


ROUTES = {"query": ["wide"], "document": ["narrow"]}


def test_router(model: Path, tmp_path: Path) -> None:
    source = write_router(model, ROUTES, default_route="document")
    embedder = Embedder(export(source, tmp_path / "bundle"))
    plain = Embedder(export(write_chain(make_model(tmp_path / "plain"), pooling()), tmp_path / "plain-bundle"))
    means = plain.encode(TEXTS).astype(float)
    query, document = (np.tanh(means @ draw(8, 32, seed=seed).T.astype(float)) for seed in (0, 1))
    assert np.abs(embedder.encode_query(TEXTS) - query).max() < 2e-6
    assert np.abs(embedder.encode_document(TEXTS) - document).max() < 2e-6
    assert np.abs(embedder.encode(TEXTS) - document).max() < 2e-6
    assert np.abs(embedder.encode(TEXTS, task="query") - query).max() < 2e-6
    assert embedder.manifest.tasks == {"": "document", "query": "query", "document": "document"}
    assert [embedder.manifest.task_of(name) for name in ("query", "document", "passage")] == ["query", "", None]
    with pytest.raises(ValueError, match="task: expected one of 'query', 'document', got 'passage'"):
        embedder.encode(TEXTS, task="passage")
    reports = {name: route.variants[0].proof for name, route in embedder.manifest.routes.items()}
    assert set(reports) == {"query", "document"}
    sizes = [(tmp_path / name / "onnx" / "model.onnx_data").stat().st_size for name in ("bundle", "plain-bundle")]
    assert sizes[0] < sizes[1] + 4096, "the routes share the transformer's weights"
    # Other tools would find no graph that they look for.
    assert "transformers.js_config" not in json.loads((tmp_path / "bundle" / "config.json").read_bytes())


def test_router_in_float16(model: Path, tmp_path: Path) -> None:
    source = write_router(model, ROUTES, default_route="document")
    manifest = read_bundle(export(source, tmp_path / "bundle", dtype="float16"), "always")
    variants = {name: route.variants for name, route in manifest.routes.items()}
    assert {name: [(one.dtype, one.file) for one in found] for name, found in variants.items()} == {
        name: [("float16", f"onnx/{name}.float16.onnx")] for name in ("query", "document")
    }
    assert {one.data for found in variants.values() for one in found} == {"onnx/model_float16.onnx_data"}
    size = (tmp_path / "bundle" / "onnx" / "model_float16.onnx_data").stat().st_size
    plain = export(write_chain(make_model(tmp_path / "plain"), pooling()), tmp_path / "plain-bundle", dtype="float16")
    assert size < (plain / "onnx" / "model_float16.onnx_data").stat().st_size + 4096, "the routes share the weights"


@pytest.mark.parametrize(
    ("parameters", "tasks"),
    [
        ({}, {"": "query", "query": "query", "document": "document"}),
        ({"allow_empty_key": False}, {"query": "query", "document": "document"}),
        (
            {"route_mappings": {"('query', 'text')": "document", "(None, 'text')": "query"}},
            {"": "query", "query": "document", "document": "query"},
        ),
        (
            {"route_mappings": {"('document', None)": "query"}, "default_route": "document"},
            {"": "document", "query": "query", "document": "query"},
        ),
    ],
)
def test_router_chooses_by_task(model: Path, tmp_path: Path, parameters: dict[str, Any], tasks: dict[str, str]) -> None:
    embedder = Embedder(export(write_router(model, ROUTES, **parameters), tmp_path / "bundle"))
    assert embedder.manifest.tasks == tasks
    if "" not in tasks:
        with pytest.raises(ValueError, match="task: expected one of 'query', 'document', got None; this model"):
            embedder.encode("one")


def test_router_with_a_tokenizer_of_its_own_for_each_route(tmp_path: Path) -> None:
    """A table for queries, a transformer for documents."""
    folder = tmp_path / "model"
    make_model(folder / "document_0_Transformer", hidden_size=32)
    write_json(folder / "document_1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "cls"})
    table = draw(133, 32)
    write_static(folder / "query_0_StaticEmbedding", {"embedding.weight": table})
    structure = {
        "query": ["query_0_StaticEmbedding"],
        "document": ["document_0_Transformer", "document_1_Pooling"],
    }
    types = {name: module_type(name.split("_")[2]) for names in structure.values() for name in names}
    parameters: dict[str, Any] = {"default_route": None, "allow_empty_key": False, "route_mappings": {}}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": module_type("Router")}])
    embedder = Embedder(export(folder, tmp_path / "bundle"))
    expected = np.stack(
        [static_vector(folder / "query_0_StaticEmbedding", text, table.astype(float)) for text in TEXTS]
    )
    assert np.abs(embedder.encode_query(TEXTS) - expected).max() < 1e-6
    documents = make_model(tmp_path / "documents", pooling="cls", normalize=False, hidden_size=32)
    alone = Embedder(export(documents, tmp_path / "documents-bundle"))
    assert np.abs(embedder.encode_document(TEXTS) - alone.encode(TEXTS)).max() < 1e-6
    assert embedder.manifest.routes["query"].max_seq_length is None
    assert embedder.manifest.routes["document"].max_seq_length == 48


def damaged_router(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = write_router(folder, ROUTES) / "2_Router" / "router_config.json"
        config = json.loads(path.read_bytes())
        change(config)
        write_json(path, config)

    return damage


def with_layer_weights_from_the_embeddings_on(folder: Path) -> None:
    edit_json(folder / "config.json", output_hidden_states=True)
    config = {"embedding_dimension": 32, "layer_start": 0}
    layers: Entry = ("WeightedLayerPooling", config, {"layer_weights": np.ones(2, np.float32)})
    write_chain(folder, layers, pooling())


BAD_CHAINS: dict[str, tuple[Callable[[Path], Any], type[ExportError], str]] = {
    "no pooling": (
        write_chain,
        UnsupportedModelError,
        "no Pooling module: the model returns token embeddings",
    ),
    "dense width": (
        lambda model: write_chain(model, pooling(), ("Dense", {"in_features": 31, "out_features": 8}, {})),
        ExportError,
        "Dense in '2_Dense': config.json expects 31 dimensions, but its input has 32",
    ),
    "dense without weights": (
        lambda model: write_chain(model, pooling(), ("Dense", {"in_features": 32, "out_features": 8}, {})),
        ExportError,
        "2_Dense: no model.safetensors",
    ),
    "dense activation": (
        lambda model: write_chain(
            model,
            pooling(),
            ("Dense", {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.Softmax2d"}, {}),
        ),
        UnsupportedModelError,
        "2_Dense/config.json: activation_function 'torch.nn.Softmax2d' is not supported; supported: CELU",
    ),
    "dense key": (
        lambda model: write_chain(model, pooling(), ("Dense", {"in_features": 32, "out_features": 8, "mix": 1}, {})),
        UnsupportedModelError,
        "2_Dense/config.json: unknown field 'mix'",
    ),
    "layer weights": (
        with_layer_weights_from_the_embeddings_on,
        ExportError,
        "'layer_weights' has shape",
    ),
    "router without config": (
        lambda model: (write_router(model, ROUTES) / "2_Router" / "router_config.json").unlink(),
        ExportError,
        "the Router in '2_Router' has no router_config.json",
    ),
    "router without routes": (
        damaged_router(lambda config: config.update(structure={})),
        ExportError,
        "structure has no route",
    ),
    "too many routes": (
        damaged_router(lambda config: config.update(structure={f"r{i}": ["wide"] for i in range(501)})),
        UnsupportedModelError,
        r"2_Router/router_config.json: expected at most 1000 modules and routes, got 1002",
    ),
    "too many modules in a route": (
        damaged_router(lambda config: config.update(structure={"query": ["wide"] * 100_000})),
        UnsupportedModelError,
        r"2_Router/router_config.json: expected at most 1000 modules and routes, got 100001",
    ),
    "route outside": (
        damaged_router(lambda config: config.update(structure={"../query": ["wide"]})),
        UnsupportedModelError,
        "'../query' is not a route name",
    ),
    "module outside": (
        damaged_router(
            lambda config: config.update(types={"../../x": module_type("Dense")}, structure={"query": ["../../x"]})
        ),
        ExportError,
        "path '2_Router/../../x' is not a plain path inside the model folder",
    ),
    "unknown module": (
        damaged_router(lambda config: config["structure"].update(query=["missing"])),
        ExportError,
        "structure.query names 'missing', which is not among the types",
    ),
    "unknown route": (
        damaged_router(lambda config: config["parameters"].update(default_route="passage")),
        ExportError,
        "no route 'passage'; there are query, document",
    ),
    "mapping": (
        damaged_router(lambda config: config["parameters"].update(route_mappings={"__import__('os')": "query"})),
        UnsupportedModelError,
        "is not a pair of task and modality",
    ),
    "router in a router": (
        damaged_router(lambda config: config["types"].update(wide=module_type("Router"))),
        UnsupportedModelError,
        "a Router in a Router is not supported",
    ),
    "different widths": (
        damaged_router(lambda config: config["structure"].update(document=[])),
        UnsupportedModelError,
        "vectors of different widths, which cannot be compared: query: 8, document: 32",
    ),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_chains_that_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    damage, kind, message = BAD_CHAINS[name]
    damage(model)
    with pytest.raises(kind, match=message):
        export(model, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_limit_below_the_prompt_leaves_the_last_token(model: Path, tmp_path: Path) -> None:
    embedder = Embedder(export(write_chain(model, pooling(include_prompt=False)), tmp_path / "b"))
    embedder.max_seq_length = 6
    tokens = embedder.encode("the cat", prompt="one two three " * 5, output_value="token_embeddings")
    assert len(tokens) == 6
    assert np.abs(embedder.encode("the cat", prompt="one two three " * 5) - tokens[-1]).max() < 1e-6

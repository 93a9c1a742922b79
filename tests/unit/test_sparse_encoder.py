"""SparseEncoder beside its golden calls: arguments, errors, processes, files and the command."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest

from embedrt import (
    Embedder,
    MissingDependencyError,
    SparseEncoder,
    SparseVectors,
    TruncationError,
    load_embeddings,
    semantic_search,
)
from embedrt.cli.main import main
from embedrt.errors import ExportError, UnsupportedModelError
from embedrt_export import export
from tests.kit.edits import edit_json
from tests.kit.models import make_model, write_json
from tests.kit.sparse_models import ROWS, add_head, family_model, finish, router_of_json, splade, static

TEXTS = ["the dog, the cat.", "", "river bank! money", "a boat on the river " * 30]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    return export(splade(folder / "model"), folder / "bundle")


@pytest.fixture(scope="module")
def model(bundle: Path) -> SparseEncoder:
    return SparseEncoder(bundle)


def test_a_vector_does_not_depend_on_the_others(model: SparseEncoder) -> None:
    texts = TEXTS * 40
    together = model.encode(texts)
    alone = SparseVectors.stack([model.encode(text) for text in TEXTS])
    assert together.shape == (160, ROWS)
    assert np.abs(together.to_dense() - np.tile(alone.to_dense(), (40, 1))).max() < 1e-5
    assert np.abs(model.encode(texts, batch_size=1).to_dense() - together.to_dense()).max() < 1e-5


def test_pool(model: SparseEncoder) -> None:
    with model.start_multi_process_pool(["cpu"]) as pool:
        found = model.encode_document(TEXTS, pool=pool, chunk_size=2, max_active_dims=7)
    assert (found.to_dense() == model.encode_document(TEXTS, max_active_dims=7).to_dense()).all()
    assert found.counts.max() == 7


def test_settings(bundle: Path, tmp_path: Path) -> None:
    model = SparseEncoder(bundle, max_active_dims=3, similarity_fn_name="cosine", prompts={"query": "dog "})
    assert model.encode(TEXTS).counts.max() == 3
    model.max_active_dims = 4
    model.save_pretrained(tmp_path / "copy")
    again = SparseEncoder(tmp_path / "copy")
    assert (again.max_active_dims, again.similarity_fn_name, again.prompts["query"]) == (4, "cosine", "dog ")
    assert (again.encode_query("a cat").to_dense() == model.encode_query("a cat").to_dense()).all()
    again.similarity_fn_name = None
    assert again.similarity_fn_name == "dot"
    assert again.get_embedding_dimension() == ROWS
    assert again.splade_pooling_chunk_size is None
    for other in (copy.copy(again), pickle.loads(pickle.dumps(again))):
        assert (other.encode("a cat").to_dense() == again.encode("a cat").to_dense()).all()


def test_arguments(model: SparseEncoder, bundle: Path) -> None:
    with pytest.raises(ValueError, match="max_active_dims: expected a positive integer, got 0"):
        SparseEncoder(bundle, max_active_dims=0)
    with pytest.raises(ValueError, match="max_active_dims: expected a positive integer, got True"):
        model.encode("a", max_active_dims=True)
    with pytest.raises(ValueError, match="similarity: expected one of"):
        SparseEncoder(bundle, similarity_fn_name="maxsim")
    with pytest.raises(ValueError, match="convert_to_sparse_tensor: expected True or False"):
        model.encode("a", convert_to_sparse_tensor=1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="prompt_name: expected one of 'query'"):
        model.encode("a", prompt_name="passage")
    with pytest.raises(ValueError, match="top_k: expected a positive integer, got 0"):
        model.decode(model.encode("a"), top_k=0)
    with pytest.raises(TypeError, match=r"texts\[1\]: expected str, got NoneType"):
        model.encode(["a", None])  # type: ignore[list-item]
    with pytest.raises(TruncationError, match=r"texts\[3\]"):
        model.encode(TEXTS, on_truncation="error")
    with pytest.raises(ValueError, match="model_kwargs: not available"):
        SparseEncoder(bundle, model_kwargs={"a": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embeddings: expected vectors of width 2300, got 2301"):
        model.decode(np.ones(ROWS + 1))
    with pytest.warns(DeprecationWarning, match="get_embedding_dimension"):
        assert model.get_sentence_embedding_dimension() == ROWS


def test_without_torch(model: SparseEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse", None)
    with pytest.raises(MissingDependencyError, match="torch is not installed"):
        model.encode("a", convert_to_tensor=True)
    with pytest.raises(MissingDependencyError, match="SciPy is not installed"):
        model.encode("a").to_scipy()


def test_another_class(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"open it with embedrt\.SparseEncoder"):
        Embedder(bundle)
    with pytest.raises(ValueError, match=r"open it with embedrt\.Embedder"):
        SparseEncoder(export(make_model(tmp_path / "model"), tmp_path / "bundle"))


def test_words(model: SparseEncoder) -> None:
    vectors = model.encode(TEXTS)
    words = model.decode(vectors, top_k=3)
    assert [len(row) for row in words] == [3] * 4
    assert words[0] == model.decode(vectors[0], top_k=3)
    weights = vectors.to_opensearch(model.vocabulary)[0]
    token, weight = max(weights.items(), key=lambda entry: entry[1])
    assert words[0][0][1] == weight
    assert words[0][0][0] in {token, None}
    assert len(set(model.vocabulary)) == ROWS


def test_search(model: SparseEncoder) -> None:
    corpus = model.encode_document(TEXTS)
    scores = model.similarity(model.encode_query("river"), corpus)[0]
    (hits,) = semantic_search(model.encode_query("river"), corpus, top_k=2)
    assert len(hits) == 2
    assert scores.shape == (4,)


def test_the_logits_of_all_tokens_are_in_no_value(bundle: Path) -> None:
    """The decoder runs in blocks of the vocabulary, and its weights are the word embeddings in the data file."""
    graph = onnx.load(bundle / "onnx" / "model.onnx", load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    blocks = [tensors[node.input[1]] for node in graph.node if node.op_type == "Gemm" and node.input[1] in tensors]
    rows = [tensor.dims[0] for tensor in blocks if "decoder" in tensor.name]
    assert rows == [1024, 1024, 252]
    table = tensors["embeddings.word_embeddings.weight"]
    places = {entry.key: entry.value for entry in table.external_data}
    first = next(tensor for tensor in blocks if "decoder" in tensor.name)
    assert {entry.key: entry.value for entry in first.external_data}["offset"] == places["offset"]
    assert (bundle / "onnx" / "model.onnx_data").stat().st_size < 2 * ROWS * 32 * 4


def test_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode = ["encode", "--model", str(bundle)]
    assert main([*encode, "the dog", "a cat"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2
    assert list(rows[0].values()) == sorted(rows[0].values(), reverse=True)
    file = tmp_path / "vectors.safetensors"
    assert main([*encode, "--task", "query", "--output", str(file), "the dog"]) == 0
    assert "weights of 1 texts" in capsys.readouterr().err
    model = SparseEncoder(bundle)
    loaded = load_embeddings(file, model)
    assert (loaded.vectors.to_dense() == model.encode_query(["the dog"]).to_dense()).all()
    for arguments in (["--normalize"], ["--truncate-dim", "3"], ["--output", str(tmp_path / "vectors.npy")]):
        assert main([*encode, *arguments, "the dog"]) != 0


def test_models_that_are_refused(tmp_path: Path) -> None:
    source = family_model(tmp_path / "float16", "distilbert")
    with pytest.raises(UnsupportedModelError, match="sparse models are not supported; use float32 or int8"):
        export(source, tmp_path / "out", dtype="float16")
    edit_json(source / "1_SpladePooling" / "config.json", pooling_strategy="mean")
    with pytest.raises(UnsupportedModelError, match="pooling_strategy"):
        export(source, tmp_path / "out")
    add_head(make_model(tmp_path / "no-decoder"), "bert")
    edit_json(tmp_path / "no-decoder" / "config.json", tie_word_embeddings=False)
    finish(tmp_path / "no-decoder")
    with pytest.raises(ExportError, match=r"'cls.predictions.decoder.weight' is missing, but config.json has tie_word"):
        export(tmp_path / "no-decoder", tmp_path / "out")
    other = make_model(tmp_path / "embeds")
    with pytest.raises(UnsupportedModelError, match="no SpladePooling module"):
        export(other, tmp_path / "out", task="sparse")


def test_weights_by_token(tmp_path: Path) -> None:
    source = router_of_json(tmp_path / "model")
    place = source / "query_0_SparseStaticEmbedding"
    weights = json.loads((place / "idf.json").read_bytes())
    write_json(place / "idf.json", weights | {"notatoken": 1.0})
    with pytest.raises(ExportError, match=r"idf.json: 'notatoken' is not a token of the vocabulary"):
        export(source, tmp_path / "out")
    write_json(place / "idf.json", weights | {"the": "heavy"})
    with pytest.raises(ExportError, match=r"idf.json: 'the': expected a finite number, got heavy"):
        export(source, tmp_path / "out")
    (place / "idf.json").unlink()
    with pytest.raises(ExportError, match=r"expected idf.json in the folder of the module or of the model"):
        export(source, tmp_path / "out")
    write_json(source / "idf.json", weights)
    with SparseEncoder(export(source, tmp_path / "out")) as model:
        assert model.encode_query("", prompt="").counts.tolist() == [0]
        assert model.decode(model.encode_query("", prompt="")) == []
        twice = model.encode_query("dog dog dog", prompt="")
        assert list(twice.to_dicts().values()) == [np.float32(weights["dog"])]


def test_static_weights_are_the_same_in_int8(tmp_path: Path) -> None:
    """A Router needs its routes in the same dtypes, and this one has no linear layers."""
    bundle = export(static(tmp_path / "model"), tmp_path / "bundle", dtype=("float32", "int8"))
    assert (tmp_path / "bundle" / "onnx" / "model_int8.onnx_data").is_file()
    with SparseEncoder(bundle) as exact, SparseEncoder(bundle, dtype="int8") as small:
        assert small.dtype == "int8"
        assert (small.encode(TEXTS).to_dense() == exact.encode(TEXTS).to_dense()).all()
        assert exact.encode("").counts.tolist() == [0]
    with SparseEncoder(export(static(tmp_path / "again"), tmp_path / "alone", dtype="int8")) as small:
        assert small.encode("the dog").counts.tolist() == [2]

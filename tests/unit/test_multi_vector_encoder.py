"""MultiVectorEncoder: arguments, batches, processes and files; tests/parity/test_late.py has the values."""

import copy
import pickle
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder, HierarchicalTokenPooling, MultiVectorEncoder, load_embeddings, save_embeddings
from embedrt.errors import MissingDependencyError, TruncationError, TruncationWarning
from embedrt_export import export
from tests.kit import late_models
from tests.kit.late_calls import TEXTS

LONG = "river bank money, boat! " * 30


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late")
    return export(late_models.fixed(folder / "model"), folder / "bundle", reference="onnx")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[MultiVectorEncoder]:
    with MultiVectorEncoder(bundle) as model:
        yield model


def assert_equal(found: list[Any], wanted: list[Any]) -> None:
    assert [array.shape for array in found] == [array.shape for array in wanted]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_shapes(model: MultiVectorEncoder) -> None:
    assert [array.shape for array in model.encode_query(TEXTS)] == [(12, 8)] * 4
    documents = model.encode_document([*TEXTS, LONG])
    assert {array.dtype for array in documents} == {np.dtype(np.float32)}
    assert max(map(len, documents)) <= 20
    assert model.encode_query("a dog").shape == (12, 8)
    assert model.encode_query([]) == []
    assert model.get_embedding_dimension() == 8
    assert model.prompts == {"query": "[Q] ", "document": "[D] ", "other": "dog "}


@pytest.mark.parametrize("max_tokens", [1, 40, 100_000])
def test_a_vector_does_not_depend_on_the_batch(bundle: Path, max_tokens: int) -> None:
    texts = [*TEXTS, LONG] * 7
    with MultiVectorEncoder(bundle, max_tokens=max_tokens) as model:
        for encode in (model.encode_query, model.encode_document, model.encode):
            assert_equal(encode(texts), [encode(text) for text in texts])


def test_calls_of_all_kinds_share_batches(model: MultiVectorEncoder) -> None:
    """Batches of several threads are joined: expanded queries with documents."""
    methods = [model.encode_query, model.encode_document, model.encode] * 4
    wanted, found = [method(TEXTS) for method in methods], {}

    def encode(i: int) -> None:
        for _ in range(10):
            found[i] = methods[i](TEXTS)
            assert_equal(found[i], wanted[i])

    threads = [threading.Thread(target=encode, args=(i,)) for i in range(len(methods))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(methods)


@pytest.mark.subprocess
@pytest.mark.slow
def test_processes(model: MultiVectorEncoder) -> None:
    pooling = HierarchicalTokenPooling(2)
    with model.start_multi_process_pool(["cpu", "cpu"]) as pool:
        assert_equal(model.encode_query(TEXTS, pool=pool, chunk_size=1), model.encode_query(TEXTS))
        assert_equal(
            model.encode_document(TEXTS, pool=pool, token_pooling=pooling),
            model.encode_document(TEXTS, token_pooling=pooling),
        )


def test_truncation(model: MultiVectorEncoder) -> None:
    with pytest.raises(TruncationError, match=r"texts\[1\]: longer than the 12 tokens"):
        model.encode_query(["dog", LONG], on_truncation="error")
    with pytest.warns(TruncationWarning, match="1 of 2 texts truncated to 20 tokens"):
        model.encode_document(["dog", LONG], on_truncation="warn")
    assert model.encode_query("dog", on_truncation="error").shape == (12, 8)


def test_a_document_of_many_words(model: MultiVectorEncoder) -> None:
    words = "river bank money, boat! " * 25_000
    assert_equal([model.encode_document(words)], [model.encode_document(words[:400])])


def test_rank(model: MultiVectorEncoder) -> None:
    documents = [*TEXTS, LONG, "the dog"]
    scores = model.similarity(model.encode_query(["a dog"]), model.encode_document(documents))[0]
    order = sorted(range(len(documents)), key=lambda i: -scores[i])
    ranked = model.rank("a dog", documents)
    assert [entry["corpus_id"] for entry in ranked] == order
    assert all(type(entry["score"]) is float and set(entry) == {"corpus_id", "score"} for entry in ranked)
    np.testing.assert_allclose([entry["score"] for entry in ranked], scores[order], rtol=1e-6)
    best = model.rank("a dog", documents, top_k=2, return_documents=True)
    assert [entry["text"] for entry in best] == [documents[i] for i in order[:2]]
    assert model.rank("a dog", []) == []


def test_similarity(model: MultiVectorEncoder) -> None:
    queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
    scores = model.similarity(queries, documents)
    assert (scores.dtype.name, scores.shape) == ("float32", (4, 4))
    np.testing.assert_allclose(model.similarity_pairwise(queries, documents), np.diagonal(scores), rtol=1e-5)
    other = copy.copy(model)
    other.similarity_fn_name = "meanmaxsim"
    np.testing.assert_allclose(other.similarity(queries, documents), scores / 12, rtol=1e-6)
    assert (model.similarity_fn_name, other.similarity_fn_name) == ("maxsim", "meanmaxsim")
    other.close()


def test_files(model: MultiVectorEncoder, tmp_path: Path) -> None:
    vectors = model.encode_document(TEXTS)
    for name in ("x.safetensors", "x.npy", "x.parquet"):
        save_embeddings(tmp_path / name, TEXTS, vectors, model)
        loaded = load_embeddings(tmp_path / name, model)
        assert loaded.texts == TEXTS
        np.testing.assert_array_equal(model.similarity(vectors, loaded.vectors), model.similarity(vectors, vectors))


def test_copies(model: MultiVectorEncoder, tmp_path: Path) -> None:
    other = copy.copy(model)
    other.prompts, other.similarity_fn_name = {**other.prompts, "query": "find "}, "meanmaxsim"
    other.save_pretrained(tmp_path / "copy")
    with MultiVectorEncoder(tmp_path / "copy") as saved, pickle.loads(pickle.dumps(model)) as pickled:
        assert (saved.similarity_fn_name, saved.prompts["query"]) == ("meanmaxsim", "find ")
        assert saved.manifest.multi_vector == model.manifest.multi_vector
        assert_equal(saved.encode_query(TEXTS, prompt="[Q] "), model.encode_query(TEXTS, prompt="[Q] "))
        assert_equal(pickled.encode_document(TEXTS), model.encode_document(TEXTS))
    other.close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"output_value": "sentence_embedding"}, ValueError, "output_value: expected 'token_embeddings' or None"),
        ({"token_pooling": 2}, TypeError, "token_pooling: expected a HierarchicalTokenPooling or None, got 2"),
        ({"convert_to_tensor": True}, ValueError, "convert_to_tensor: not available in embedrt; .* differ in length"),
        ({"task": "passage"}, ValueError, "task: expected one of 'query', 'document', got 'passage'"),
        ({"prompt_name": "nope"}, ValueError, "prompt_name: expected one of"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"on_truncation": "maybe"}, ValueError, "on_truncation"),
        ({"normalize_embeddings": "yes"}, ValueError, "normalize_embeddings"),
    ],
)
def test_arguments_that_are_refused(
    model: MultiVectorEncoder, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.encode("dog", **arguments)


def test_inputs_that_are_refused(model: MultiVectorEncoder) -> None:
    inputs: Any = ["dog", None]
    with pytest.raises(TypeError, match=r"texts\[1\]: expected str, got NoneType"):
        model.encode_document(inputs)
    query: Any = ["dog"]
    with pytest.raises(TypeError, match="query: expected str, got list"):
        model.rank(query, ["dog"])
    with pytest.raises(ValueError, match="top_k"):
        model.rank("dog", ["dog"], top_k=0)
    with pytest.raises(ValueError, match="similarity_fn_name: expected one of 'maxsim', 'meanmaxsim', got 'cosine'"):
        model.similarity_fn_name = "cosine"


def test_tensors_need_torch(model: MultiVectorEncoder) -> None:
    if find_spec("torch") is None:
        with pytest.raises(MissingDependencyError, match="torch is not installed"):
            model.encode("dog", convert_to_numpy=False)


def test_bundles_of_another_task(bundle: Path, tiny: Embedder) -> None:
    with pytest.raises(ValueError, match=r"expected a bundle of the task 'embed'.* embedrt\.MultiVectorEncoder"):
        Embedder(bundle)
    with pytest.raises(ValueError, match=r"expected a bundle of the task 'multi-vector'.* embedrt\.Embedder"):
        MultiVectorEncoder(tiny.folder)


def test_arguments_of_the_constructor(bundle: Path) -> None:
    with pytest.raises(ValueError, match="modules: not available"):
        MultiVectorEncoder(bundle, modules=[])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="similarity_fn_name: expected one of"):
        MultiVectorEncoder(bundle, similarity_fn_name="dot")
    with MultiVectorEncoder(bundle, backend="torch", prompts={"query": ""}, similarity_fn_name="meanmaxsim") as model:
        assert (model.prompts["query"], model.similarity_fn_name) == ("", "meanmaxsim")

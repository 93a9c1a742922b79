"""CrossEncoder: arguments, activations, errors that name what is wrong, settings that a copy keeps."""

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import CrossEncoder, Embedder, TruncationError, TruncationWarning
from embedrt.tasks.activations import NamedActivation, activate, find_activation
from embedrt.types import ACTIVATIONS
from embedrt_export import export
from tests.kit.score_calls import DOCUMENTS, PAIRS, QUERY
from tests.kit.score_models import MODELS

LOGITS = np.array([[-3.5, 0.0, 2.25], [88.0, -100.0, 0.5]], np.float32)
FORMULAS: dict[str, Callable[[float], float]] = {
    "Identity": lambda x: x,
    "Sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "Tanh": math.tanh,
    "LogSigmoid": lambda x: -math.log1p(math.exp(-x)),
    "ReLU": lambda x: max(x, 0.0),
    "GELU": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "SiLU": lambda x: x / (1 + math.exp(-x)),
    "Softplus": lambda x: math.log1p(math.exp(x)),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of models with one label, with three, and with a chat template."""
    folder = tmp_path_factory.mktemp("rerank")
    return {
        name: export(MODELS[name](folder / name / "model"), folder / name / "bundle", task="score", reference="onnx")
        for name in ("prompts", "three", "yes-no")
    }


@pytest.fixture(scope="module")
def model(bundles: dict[str, Path]) -> Iterator[CrossEncoder]:
    with CrossEncoder(bundles["prompts"]) as opened:
        yield opened


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    found = find_activation(f"torch.nn.modules.activation.{name}")
    assert found == NamedActivation(name)
    values = activate(LOGITS, found)
    if name in FORMULAS:
        expected = np.vectorize(FORMULAS[name])(LOGITS.astype(np.float64))
    else:
        powers = np.exp(LOGITS.astype(np.float64))
        expected = powers / powers.sum(axis=1, keepdims=True)
        expected = np.log(expected) if name == "LogSoftmax" else expected
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=2e-6, atol=2e-6)


def test_activations_do_not_overflow() -> None:
    with np.errstate(over="raise", invalid="raise"):
        for name in ACTIVATIONS:
            assert np.isfinite(activate(np.array([[-7e37], [7e37]], np.float32), NamedActivation(name))).all(), name


def test_functions_as_activations(model: CrossEncoder) -> None:
    logits = model.predict(PAIRS)
    np.testing.assert_array_equal(model.predict(PAIRS, activation_fn=lambda x: x * 2), logits * 2)
    assert model.predict(PAIRS, activation_fn=lambda x: np.hstack([x, x])).shape == (len(PAIRS), 2)
    assert model.predict(PAIRS, activation_fn=lambda x: x.astype(np.float64)).dtype == np.float32
    with pytest.raises(ValueError, match="activation_fn: expected a result with 10 rows"):
        model.predict(PAIRS, activation_fn=lambda x: x.sum())
    model.activation_fn = "tanh"
    try:
        assert model.activation_fn == NamedActivation("Tanh")
        np.testing.assert_array_equal(model.predict(PAIRS), np.tanh(logits))
    finally:
        model.activation_fn = "Identity"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("Mish", ValueError, "activation_fn: expected one of Identity, Sigmoid, .* got 'Mish'"),
        (3, TypeError, "activation_fn: expected a name or a function, got 3"),
        (dict, TypeError, "got <class 'dict'>; pass an object of the class"),
    ],
)
def test_values_that_are_no_activation(model: CrossEncoder, value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        model.predict(PAIRS, activation_fn=value)


def test_documents_of_any_length(model: CrossEncoder) -> None:
    long = "the river bank " * 40_000
    scores = model.predict([(QUERY, long), (QUERY, long[:3000]), (QUERY, ""), ("", "")])
    assert scores[0] == scores[1]
    assert np.isfinite(scores).all()
    with pytest.raises(TruncationError, match=r"texts\[0\]: longer than the 48 tokens"):
        model.predict([(QUERY, long), (QUERY, "a")], on_truncation="error")
    with pytest.warns(TruncationWarning, match="1 of 2 texts truncated to 48 tokens"):
        model.predict([(QUERY, long), (QUERY, "a")], on_truncation="warn")


def test_scores_do_not_depend_on_other_pairs(model: CrossEncoder) -> None:
    together = model.predict(PAIRS * 30, batch_size=7)
    alone = np.array([model.predict(pair) for pair in PAIRS])
    np.testing.assert_allclose(together, np.tile(alone, 30), atol=2e-6)


def test_equal_scores_keep_their_order(model: CrossEncoder) -> None:
    ranked = model.rank(QUERY, ["same"] * 5, return_documents=True)
    assert [entry["corpus_id"] for entry in ranked] == [0, 1, 2, 3, 4]
    assert {entry["text"] for entry in ranked} == {"same"}
    assert all(type(entry["score"]) is float for entry in ranked)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((None, DOCUMENTS), TypeError, "query: expected str, got NoneType"),
        ((QUERY, "a document"), TypeError, "documents: expected an ordered collection of str, got one str"),
        ((QUERY, ["a", None]), TypeError, r"documents\[1\]: expected str, got NoneType"),
        ((QUERY, ["a"], -1), ValueError, "top_k: expected 0 or more, or None, got -1"),
        ((QUERY, ["a"], 1.5), ValueError, "top_k: expected 0 or more, or None, got 1.5"),
        ((QUERY, ["a"], None, 1), ValueError, "return_documents: expected True or False, got 1"),
        ((QUERY, ["a"], None, False, "nothing"), ValueError, "prompt_name: expected one of 'query', got 'nothing'"),
    ],
)
def test_wrong_arguments_of_rank(
    model: CrossEncoder, arguments: tuple[Any, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        model.rank(*arguments)


def test_wrong_arguments_of_predict(model: CrossEncoder) -> None:
    with pytest.raises(TypeError, match=r"inputs\[1\]\[1\]: expected str, got NoneType"):
        model.predict([("a", "b"), ("a", None)])
    with pytest.raises(TypeError, match=r"inputs\[1\]: expected a pair of texts, got str"):
        model.predict([("a", "b"), "a"])
    with pytest.raises(ValueError, match="inputs: expected a pair of texts, got 3 items"):
        model.predict(["a", "b", "c"])
    with pytest.raises(TypeError, match="inputs: expected"):
        model.predict()
    with pytest.raises(ValueError, match="batch_size: expected a positive integer, got 0"):
        model.predict(PAIRS, batch_size=0)
    with pytest.raises(ValueError, match="apply_softmax: expected True or False, got 1"):
        model.predict(PAIRS, apply_softmax=1)  # type: ignore[arg-type]


def test_several_labels(bundles: dict[str, Path]) -> None:
    with CrossEncoder(bundles["three"], num_labels=3) as model:
        assert model.num_labels == 3
        assert model.activation_fn == NamedActivation("Identity")
        assert model.predict(PAIRS, apply_softmax=True).sum(axis=1) == pytest.approx(1, abs=1e-6)
        with pytest.raises(ValueError, match="rank: expected a model with one label, got 3"):
            model.rank(QUERY, DOCUMENTS)


def test_a_template_needs_both_texts(bundles: dict[str, Path]) -> None:
    with CrossEncoder(bundles["yes-no"]) as model, pytest.raises(ValueError, match="the model's template needs both"):
        model.predict("a lone text")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, "model_name_or_path: expected a bundle folder"),
        (
            {"model_name_or_path": "three", "num_labels": 1},
            ValueError,
            "num_labels: expected 3, the labels of this model",
        ),
        (
            {"model_name_or_path": "three", "max_length": 3},
            ValueError,
            "max_seq_length: expected 4 or more, room for a",
        ),
        ({"model_name_or_path": "three", "max_length": 65}, ValueError, "max_seq_length: expected 3 to 64"),
        ({"model_name_or_path": "three", "activation_fn": "x"}, ValueError, "activation_fn: expected one of"),
        (
            {"model_name_or_path": "three", "model_kwargs": {"a": 1}},
            ValueError,
            "model_kwargs: not available in embedrt",
        ),
        ({"model_name_or_path": "three", "tokenizer_args": {"a": 1}}, ValueError, "processor_kwargs: not available"),
        ({"model_name_or_path": "three", "backend": "openvino"}, ValueError, "backend: not available in embedrt"),
        ({"model_name_or_path": "three", "keep_in_fp32_modules": ["a"]}, ValueError, "keep_in_fp32_modules: not"),
    ],
)
def test_wrong_arguments_of_the_constructor(
    bundles: dict[str, Path], arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    named: dict[str, Any] = {
        key: bundles[value] if key == "model_name_or_path" else value for key, value in arguments.items()
    }
    with pytest.raises(kind, match=message):
        CrossEncoder(**named)


def test_old_names_and_positions(bundles: dict[str, Path]) -> None:
    with CrossEncoder(bundles["prompts"], 1, 20, "sigmoid") as model:
        assert (model.max_seq_length, model.activation_fn) == (20, NamedActivation("Sigmoid"))
        expected = model.predict(PAIRS, activation_fn="Tanh")
        with pytest.deprecated_call(match="sentences= is the old name of inputs="):
            np.testing.assert_array_equal(model.predict(sentences=PAIRS, activation_fn="Tanh"), expected)
        with pytest.deprecated_call(match="activation_fct= is the old name of activation_fn="):
            np.testing.assert_array_equal(model.predict(PAIRS, activation_fct="Tanh"), expected)
        with pytest.deprecated_call(match="num_workers="):
            assert len(model.rank(QUERY, DOCUMENTS, num_workers=2)) == len(DOCUMENTS)
        with pytest.deprecated_call(match="max_length is the old name of max_seq_length"):
            assert model.max_length == 20
        with pytest.deprecated_call(match="default_activation_function is the old name"):
            assert model.default_activation_function == NamedActivation("Sigmoid")
        with pytest.raises(TypeError, match="sentences: the old name of inputs, which is given too"):
            model.predict(PAIRS, sentences=PAIRS)
    with (
        pytest.deprecated_call(match="model_name= is the old name"),
        CrossEncoder(model_name=bundles["prompts"]) as model,
    ):
        assert model.prompts == {"query": "the cat "}


def test_a_copy_keeps_what_was_set(bundles: dict[str, Path], tmp_path: Path) -> None:
    with CrossEncoder(
        bundles["prompts"], max_length=20, activation_fn="Softplus", default_prompt_name="query"
    ) as model:
        expected = model.predict(PAIRS)
        model.save_pretrained(tmp_path / "copy")
        pickled = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(pickled.predict(PAIRS), expected)
        pickled.close()
        model.activation_fn = lambda x: x
        with pytest.raises(ValueError, match="activation_fn: expected one with a name, such as 'Sigmoid'"):
            model.save_pretrained(tmp_path / "other")
    with CrossEncoder(tmp_path / "copy") as copied:
        assert (copied.max_seq_length, copied.activation_fn) == (20, NamedActivation("Softplus"))
        np.testing.assert_array_equal(copied.predict(PAIRS), expected)


def test_bundles_of_other_tasks(bundles: dict[str, Path], tiny_bundle: Path) -> None:
    with pytest.raises(
        ValueError, match=r"expected a bundle of the task 'score', got 'embed'; open it with embedrt\.E"
    ):
        CrossEncoder(tiny_bundle)
    with pytest.raises(ValueError, match=r"expected a bundle of the task 'embed', got 'score'; .*embedrt\.Cross"):
        Embedder(bundles["three"])


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("name", ["prompts", "yes-no"])
def test_processes(bundles: dict[str, Path], name: str) -> None:
    with CrossEncoder(bundles[name]) as model:
        expected = model.predict(PAIRS * 4, prompt="one ")
        found = model.predict(PAIRS * 4, prompt="one ", device=["cpu", "cpu"], chunk_size=9)
    np.testing.assert_allclose(found, expected, atol=2e-6)

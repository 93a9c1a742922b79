"""Arguments of calls: each is checked before any work, and the message names it."""

import re
from collections import Counter, OrderedDict, UserDict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import Embedder
from embedrt.engine.session import SessionEngine
from embedrt.inputs.values import shown
from tests.kit.api_differences import STRICTER
from tests.kit.bundles import copy_bundle
from tests.kit.chains import draw, write_static
from tests.kit.embedding_files import Model

TEXTS = ["the cat", "a dog", "the river bank"]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every run of a graph a failure."""

    def run(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model ran")

    monkeypatch.setattr(SessionEngine, "run", run)


def raised(call: Callable[[], Any]) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    return str(caught.value)


RANGES = np.stack([np.full(32, -1.0), np.full(32, 1.0)])


@pytest.mark.usefixtures("idle")
class TestBeforeAnyWork:
    @pytest.mark.parametrize(
        ("ranges", "message"),
        [
            ("x", r"ranges: expected an array \[2, 32\], minimum and maximum of every coordinate, got 'x'"),
            (5, r"ranges: expected the shape \[2, 32\], .* got \[\]"),
            (RANGES[:, :31], r"ranges: expected the shape \[2, 32\], .* got \[2, 31\]"),
            (RANGES[:1], r"ranges: expected the shape \[2, 32\], .* got \[1, 32\]"),
            (np.full((2, 32), np.nan), "ranges: NaN or infinity"),
            (RANGES[::-1], "ranges: expected minimum <= maximum"),
        ],
        ids=["text", "number", "narrow", "one row", "NaN", "falling"],
    )
    @pytest.mark.parametrize("precision", ["int8", "uint8"])
    def test_ranges(self, tiny: Embedder, ranges: Any, message: str, precision: Any) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: tiny.encode(TEXTS, precision=precision, ranges=ranges),
            lambda: tiny.encode("a", precision=precision, ranges=ranges),
            lambda: tiny.encode([], precision=precision, ranges=ranges),
            lambda: tiny.encode_iter(TEXTS, precision=precision, ranges=ranges),
            lambda: tiny.encode(TEXTS, precision=precision, ranges=ranges, output_value="token_embeddings"),
        ]
        for call in calls:
            assert re.match(message, raised(call))

    def test_ranges_of_truncated_vectors(self, tiny: Embedder) -> None:
        message = raised(lambda: tiny.encode(TEXTS, precision="int8", ranges=RANGES, truncate_dim=8))
        assert message.startswith("ranges: expected the shape [2, 8]")

    def test_a_single_text_has_no_ranges(self, tiny: Embedder) -> None:
        message = raised(lambda: tiny.encode("a", precision="int8"))
        assert message.startswith("ranges: expected at least 2 vectors to measure, got 1; pass ranges=")

    @pytest.mark.parametrize("value", ["no", 2, 1, 0, "", [], {}, np.array([1, 2]), np.array([True]), 1.0, np.int64(1)])
    @pytest.mark.parametrize(
        "name", ["normalize_embeddings", "convert_to_numpy", "convert_to_tensor", "show_progress_bar"]
    )
    def test_truth_values(self, tiny: Embedder, name: str, value: Any) -> None:
        encode: Any = tiny.encode
        message = raised(lambda: encode(TEXTS, **{name: value}))
        assert message == f"{name}: expected True or False, got {shown(value)}"

    @pytest.mark.parametrize("value", ["no", 1, np.array([1, 2])])
    def test_truth_values_elsewhere(self, tiny: Embedder, tmp_path: Path, value: Any) -> None:
        vectors = np.eye(3, dtype=np.float32)
        calls: dict[str, Callable[[], Any]] = {
            "normalize_embeddings": lambda: tiny.encode_iter(TEXTS, normalize_embeddings=value),
            "truncation": lambda: tiny.token_count("a", truncation=value),
            "create_model_card": lambda: tiny.save_pretrained(tmp_path / "copy", create_model_card=value),
            "exist_ok": lambda: tiny.push_to_hub("org/x", exist_ok=value),
            "private": lambda: tiny.push_to_hub("org/x", private=value),
            "local_files_only": lambda: Embedder(tiny.folder, local_files_only=value),
            "rescore": lambda: embedrt.semantic_search(vectors, vectors, rescore=value),
        }
        for name, call in calls.items():
            assert raised(call) == f"{name}: expected True or False, got {shown(value)}"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("value", [True, False, np.bool(True), 2.0, "2", None, [2], np.array([2, 3]), 0, -1])
    def test_integers(self, tiny: Embedder, value: Any) -> None:
        vectors = np.eye(3, dtype=np.float32)
        calls: dict[str, Callable[[], Any]] = {
            "top_k": lambda: embedrt.semantic_search(vectors, vectors, top_k=value),
            "max_pairs": lambda: embedrt.paraphrase_mining(tiny, TEXTS, max_pairs=value),
            "min_community_size": lambda: embedrt.community_detection(vectors, min_community_size=value),
        }
        if value is not None:
            calls["batch_size"] = lambda: tiny.encode(TEXTS, batch_size=value)
            calls["chunk_size"] = lambda: tiny.encode(TEXTS, chunk_size=value)
            calls["threads"] = lambda: Embedder(tiny.folder, threads=value)
        for name, call in calls.items():
            assert raised(call) == f"{name}: expected a positive integer, got {shown(value)}"

    @pytest.mark.parametrize("value", [{}, "", 0, False, "INT8", ["int8"], np.array(["int8"]), np.array("int8")])
    @pytest.mark.parametrize("name", ["precision", "output_value", "on_truncation"])
    def test_names(self, tiny: Embedder, name: str, value: Any) -> None:
        encode: Any = tiny.encode
        assert raised(lambda: encode(TEXTS, **{name: value})).startswith(f"{name}: expected one of '")

    @pytest.mark.parametrize(
        "texts",
        [
            {"a": 1},
            Counter(["a"]),
            OrderedDict(a=1),
            UserDict(a=1),
            MappingProxyType({"a": 1}),
            {"a"},
            frozenset("a"),
            b"a",
            5,
            None,
        ],
        ids=lambda texts: type(texts).__name__,
    )
    def test_what_has_no_order_or_is_no_collection(self, tiny: Embedder, texts: Any, tmp_path: Path) -> None:
        expected = f"expected str or an ordered collection of str, got {type(texts).__name__}"
        for call in (tiny.encode, tiny.encode_query, tiny.encode_long, tiny.tokenize, tiny.token_count, tiny.windows):
            assert expected in raised(lambda call=call: call(texts))  # type: ignore[misc]
        assert raised(lambda: tiny.encode_iter(texts)) == f"inputs: {expected}"
        assert raised(lambda: embedrt.paraphrase_mining(tiny, texts)) == f"sentences: {expected}"
        assert expected in raised(lambda: embedrt.save_embeddings(tmp_path / "x.npy", texts, RANGES))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"dtype": "float64"}, "dtype: expected one of"),
            ({"dtype": ["float32"]}, "dtype: expected one of"),
            ({"similarity_fn_name": "jaccard"}, "similarity: expected one of"),
            ({"verify": "twice"}, "verify: expected one of"),
            ({"prompts": {"a": 1}}, "prompts['a']: expected a str by its name, got 1"),
            ({"prompts": {1: "a"}}, "prompts[1]: expected a str by its name, got 'a'"),
            ({"prompts": {"a": "\ud800"}}, "prompts['a'][1]: lone surrogate"),
        ],
    )
    def test_a_constructor_looks_for_no_model(
        self, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
    ) -> None:
        def find(*_: Any, **__: Any) -> Any:
            raise AssertionError("a model was looked for")

        monkeypatch.setattr("embedrt.model.resolve", find)
        assert raised(lambda: Embedder("org/model", **arguments)).startswith(message)

    def test_a_constructor_asks_for_the_device_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("embedrt.model.resolve", None)
        with pytest.raises(embedrt.DeviceError, match="device: 'gpu' is unknown"):
            Embedder("org/model", "gpu")


@pytest.mark.parametrize("kind", [int, np.int64, np.int8, np.uint32, np.array])
def test_integers_of_numpy_are_integers(tiny_bundle: Path, kind: Callable[[int], Any]) -> None:
    model = Embedder(tiny_bundle, threads=kind(1), max_tokens=kind(64), truncate_dim=kind(16))
    plain = Embedder(tiny_bundle, threads=1, max_tokens=64, truncate_dim=16)
    np.testing.assert_array_equal(model.encode(TEXTS, batch_size=kind(2)), plain.encode(TEXTS, batch_size=2))
    assert model.encode(TEXTS, truncate_dim=kind(5)).shape == (3, 5)
    model.max_seq_length = kind(8)
    assert type(model.max_seq_length) is int
    assert model.tokenizer(TEXTS[0], truncation=True, max_length=kind(3))["input_ids"] == [2, 5, 3]
    assert model.encode_long("one two " * 9, max_tokens=kind(6), overlap=kind(1)).shape == (16,)
    vectors = np.eye(3, dtype=np.float32)
    assert embedrt.semantic_search(vectors, vectors, kind(2), kind(2), kind(1))[2][0]["corpus_id"] == 2
    assert embedrt.paraphrase_mining(model, TEXTS, max_pairs=kind(1), top_k=kind(1))
    assert embedrt.community_detection(vectors, 0.5, kind(1), kind(2)) == [[0], [1], [2]]
    assert embedrt.truncate_embeddings(vectors, kind(2)).shape == (3, 2)
    codes = embedrt.quantize_embeddings(vectors, "ubinary")
    assert embedrt.dequantize_embeddings(codes, "ubinary", dim=kind(3)).shape == (3, 3)


def test_truth_values_of_numpy_are_truth_values(tiny: Embedder) -> None:
    encode: Any = tiny.encode
    np.testing.assert_array_equal(
        encode(TEXTS, normalize_embeddings=np.bool(True), show_progress_bar=np.bool(False)),
        encode(TEXTS, normalize_embeddings=True),
    )


@pytest.mark.parametrize("size", [2**31, 2**63, 10**30])
def test_sizes_beyond_every_input(tiny: Embedder, size: int) -> None:
    np.testing.assert_array_equal(tiny.encode(TEXTS, batch_size=size), tiny.encode(TEXTS))
    vectors = np.eye(3, dtype=np.float32)
    assert len(embedrt.semantic_search(vectors, vectors, size, size, size)[0]) == 3
    assert len(embedrt.paraphrase_mining_embeddings(vectors, size, size, size, size)) == 3


class Liar(str):
    """A str that says to be plain."""

    __slots__ = ()

    def isascii(self) -> bool:
        return True

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b""

    def __len__(self) -> int:
        return 0

    def __add__(self, _: str) -> str:
        return "another"

    def __str__(self) -> str:
        return "another"

    def __getitem__(self, _: Any) -> str:
        return "?"


def test_a_str_that_lies_is_what_it_holds(tiny: Embedder) -> None:
    np.testing.assert_array_equal(tiny.encode(Liar("the cat")), tiny.encode("the cat"))
    np.testing.assert_array_equal(tiny.encode([Liar("the cat"), "a"]), tiny.encode(["the cat", "a"]))
    np.testing.assert_array_equal(tiny.encode("cat", prompt=Liar("the ")), tiny.encode("cat", prompt="the "))
    (found,) = tiny.encode_iter([Liar("the cat")])
    np.testing.assert_array_equal(found, tiny.encode("the cat"))
    for call in (
        lambda: tiny.encode(["a", Liar("é\ud800")]),
        lambda: list(tiny.encode_iter(["a", Liar("é\ud800")])),
    ):
        assert raised(call).startswith(r"texts[1]: lone surrogate '\ud800' at character 1; ")
    assert raised(lambda: tiny.encode("a", prompt=Liar("\ud800"))).startswith("prompt: lone surrogate")


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("device", [5, {}, {"cpu"}, np.array(["cpu"]), b"cpu", True])
def test_a_device_that_is_no_name(tiny: Embedder, device: Any) -> None:
    for call in (lambda: tiny.encode("a", device=device), lambda: Embedder(tiny.folder, device)):
        with pytest.raises(embedrt.DeviceError, match=r"device: .* is unknown; known: auto, cpu, "):
            call()


@pytest.mark.usefixtures("idle")
def test_the_rest(tiny: Embedder, tmp_path: Path) -> None:
    vectors: Any = np.eye(3, dtype=np.float32)
    anything: Any = 5
    name: Any = "cos"
    two: Any = np.array([1, 2])
    calls: dict[str, Callable[[], Any]] = {
        "threads: expected at most 4096, got 4097": lambda: Embedder(tiny.folder, threads=4097),
        "revision: expected str or None, got 5": lambda: Embedder(tiny.folder, revision=anything),
        "cache_folder: expected str, Path or None, got 5": lambda: Embedder(tiny.folder, cache_folder=anything),
        "path: expected str or Path, got 5": lambda: tiny.save_pretrained(anything),
        "model_name: expected str or None, got 5": lambda: tiny.save_pretrained(tmp_path / "x", anything),
        "model_name: lone surrogate '\\ud800' at": lambda: tiny.save_pretrained(tmp_path / "x", "\ud800"),
        "spans: expected pairs (start, end), got 5": lambda: tiny.encode_chunks("abc", anything),
        "spans: expected pairs (start, end), got 'cos'": lambda: tiny.encode_chunks("abc", name),
        "padding: expected True, False, 'longest' or 'max_length', got arr": lambda: tiny.tokenizer("a", padding=two),
        "max_length: expected 3 to 2147483647, or None, got 2147483648": lambda: tiny.tokenizer("a", max_length=2**31),
        "threshold: expected a cosine similarity, got 'cos'": lambda: embedrt.community_detection(vectors, name),
        "score_function: expected a function, got 'cos'": lambda: embedrt.semantic_search(
            vectors, vectors, score_function=name
        ),
        "score_function: expected a function, got 5": lambda: embedrt.paraphrase_mining(
            tiny, TEXTS, score_function=anything
        ),
        "show_progress_bar: expected True or False, got 'cos'": lambda: embedrt.tune(
            tiny.folder, show_progress_bar=name
        ),
    }
    for message, call in calls.items():
        assert raised(call).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["one"],), "texts: expected at least 2, got 1"),
        (({"a": 1},), "texts: expected str or an ordered collection of str, got dict"),
    ],
)
def test_a_comparison_loads_no_model(monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str) -> None:
    monkeypatch.setattr(embedrt, "_open", None)
    assert raised(lambda: embedrt.diff("org/a", "org/b", *arguments)) == message
    verify: Any = embedrt.verify
    assert raised(lambda: verify("org/a", reference="x")).startswith("reference: expected one of 'bundle', 'sent")
    assert raised(lambda: verify("org/a", source="x")).startswith("source: expected None for reference='bundle'")


def test_a_model_whose_name_is_no_text(tmp_path: Path) -> None:
    model = Model("a\ud800", "0" * 64)
    message = raised(lambda: embedrt.save_embeddings(tmp_path / "x.npy", ["a"], np.eye(1, dtype=np.float32), model))
    assert message.startswith("model[0]: lone surrogate")


def test_a_limit_of_a_model_without_positions(tmp_path: Path) -> None:
    source = write_static(tmp_path / "static", {"embedding.weight": draw(133, 24)})
    model = Embedder(embedrt.export(source, tmp_path / "bundle"))
    model.max_seq_length = 2**31 - 1
    assert model.encode(TEXTS).shape == (3, 24)
    message = raised(lambda: setattr(model, "max_seq_length", 2**31))
    assert message == "max_seq_length: expected 1 to 2147483647, or None, got 2147483648"


def test_a_text_that_is_no_str(tiny: Embedder) -> None:
    assert raised(lambda: tiny.encode_chunks(5, [(0, 1)])) == "text: expected str, got int"  # type: ignore[arg-type]
    assert raised(lambda: tiny.preprocess("a", prompt=5)) == "prompt: expected str or None, got int"  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", ["x", 0, -1, float("nan"), None, True, [1]])
def test_seconds_to_tune(tiny_bundle: Path, tmp_path: Path, seconds: Any) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
    message = raised(lambda: embedrt.tune(bundle, seconds=seconds))
    assert message == f"seconds: expected more than 0, got {shown(seconds)}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overwrite": "no"}, "overwrite: expected True or False, got 'no'"),
        ({"reference": "torch"}, "reference: expected one of 'auto', 'sentence-transformers', 'golden', 'onnx', got"),
        ({"name": "../x"}, "'../x' is not a model name"),
    ],
)
def test_an_export_looks_for_no_model(monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str) -> None:
    monkeypatch.setattr("embedrt_export.pipeline.locate", None)
    assert raised(lambda: embedrt.export("org/model", **arguments)).startswith(message)


def test_stricter_values_are_in_the_table_of_differences() -> None:
    assert {row.what for row in STRICTER} == {
        "truth values that are no bool: `normalize_embeddings=1`",
        '`precision=""`, and other empty values',
    }

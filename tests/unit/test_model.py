"""A loaded bundle and its settings: prompts, lengths, dimensions, similarity, names of old."""

import json
import pickle
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum
from math import prod
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import BundleError, DeviceError, Embedder, InferenceError, ModelNotFoundError, TruncationError
from embedrt.engine import Batch, cpu
from embedrt.engine.devices import DEVICES
from embedrt.types import DeviceName
from embedrt_export import export
from tests.kit.bundles import change, copy_bundle
from tests.kit.chains import draw, pooling, write_chain, write_static
from tests.kit.models import make_model


@pytest.fixture
def own(tiny_bundle: Path) -> Embedder:
    """The random BERT with settings of its own."""
    return Embedder(tiny_bundle)


class TestConstructor:
    def test_prompts_win_over_those_of_the_model(self, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "b")
        change(
            bundle, lambda raw: raw.update(prompts={"query": "one ", "passage": "two "}, default_prompt_name="query")
        )
        plain, given = (
            Embedder(bundle),
            Embedder(bundle, prompts={"query": "cat ", "x": "dog "}, default_prompt_name="x"),
        )
        assert plain.prompts == {"query": "one ", "document": "", "passage": "two "}
        assert given.prompts == {"query": "cat ", "document": "", "passage": "two ", "x": "dog "}
        np.testing.assert_array_equal(plain.encode("a"), plain.encode("one a", prompt=""))
        np.testing.assert_array_equal(given.encode("a"), plain.encode("dog a", prompt=""))
        np.testing.assert_array_equal(given.encode_query("a"), plain.encode("cat a", prompt=""))
        np.testing.assert_array_equal(given.encode_document("a"), plain.encode("a", prompt=""))
        given.prompts["query"] = "river "
        np.testing.assert_array_equal(given.encode_query("a"), plain.encode("river a", prompt=""))

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"default_prompt_name": "x"}, ValueError, "prompt_name: expected one of 'query', 'document', got 'x'"),
            ({"truncate_dim": 33}, ValueError, "truncate_dim: expected 1 to 32 or None, got 33"),
            ({"truncate_dim": 0}, ValueError, "truncate_dim: expected 1 to 32 or None, got 0"),
            ({"max_tokens": 0}, ValueError, "max_tokens: expected a positive integer, got 0"),
            ({"similarity_fn_name": "maxsim"}, ValueError, "maxsim"),
            ({"modules": []}, ValueError, "modules: not available in embedrt; embedrt runs exported models"),
            (
                {"backend": "openvino"},
                ValueError,
                "backend: not available in embedrt; there is one engine, ONNX Runtime",
            ),
            ({"model_kwargs": {"a": 1}}, ValueError, "model_kwargs: not available in embedrt; "),
            ({"processor_kwargs": {"a": 1}}, ValueError, "processor_kwargs: not available in embedrt; "),
            ({"tokenizer_kwargs": {"a": 1}}, ValueError, "tokenizer_kwargs: not available in embedrt; "),
            ({"config_kwargs": {"a": 1}}, ValueError, "config_kwargs: not available in embedrt; "),
            ({"model_card_data": {"a": 1}}, ValueError, "model_card_data: not available in embedrt; "),
            ({"unheard_of": 1}, TypeError, "unheard_of"),
            ({"prompts": 5}, TypeError, "prompts: expected a dict or None, got int"),
        ],
    )
    def test_wrong_arguments(
        self, tiny_bundle: Path, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            Embedder(tiny_bundle, **options)
        assert message in str(caught.value)

    def test_what_changes_nothing(self, tiny: Embedder, tiny_bundle: Path) -> None:
        empty: Any = {name: {} for name in ("model_kwargs", "processor_kwargs", "tokenizer_kwargs", "config_kwargs")}
        model = Embedder(tiny_bundle, trust_remote_code=True, backend="onnx", **empty)
        np.testing.assert_array_equal(model.encode("one"), tiny.encode("one"))

    def test_truncate_dim(self, tiny: Embedder, tiny_bundle: Path) -> None:
        model = Embedder(tiny_bundle, truncate_dim=8)
        assert model.get_embedding_dimension() == 8
        np.testing.assert_array_equal(model.encode(["one"]), tiny.encode(["one"])[:, :8])
        np.testing.assert_array_equal(model.encode(["one"], truncate_dim=32), tiny.encode(["one"]))

    def test_max_tokens_bounds_the_batches(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Embedder(tiny_bundle, max_tokens=40)
        run, sizes = model.runners["default"].engine.run, []

        def note(batch: Batch, outputs: Sequence[str]) -> Any:
            sizes.append(prod(batch.shape))
            return run(batch, outputs)

        monkeypatch.setattr(model.runners["default"].engine, "run", note)
        model.encode(["one two"] * 30 + ["word " * 60])
        assert sorted(sizes)[-2:] == [40, 48]

    def test_cache_folder(self, tiny: Embedder, tiny_bundle: Path, tmp_path: Path) -> None:
        copy_bundle(tiny_bundle, tmp_path / "cache" / "bundles" / "org--tiny")
        model = Embedder("org/tiny", cache_folder=tmp_path / "cache", local_files_only=True)
        np.testing.assert_array_equal(model.encode("one"), tiny.encode("one"))
        with pytest.raises(ModelNotFoundError, match="is not in the local store"):
            Embedder("org/tiny", local_files_only=True)

    @pytest.mark.parametrize("variable", ["EMBEDRT_HOME", "SENTENCE_TRANSFORMERS_HOME"])
    def test_homes(self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        copy_bundle(tiny_bundle, tmp_path / "home" / "bundles" / "org--tiny")
        monkeypatch.delenv("EMBEDRT_HOME")
        monkeypatch.setenv(variable, str(tmp_path / "home"))
        assert Embedder("org/tiny", local_files_only=True).folder == tmp_path / "home" / "bundles" / "org--tiny"

    def test_a_name_without_organization(self, own_store: Path, tiny_bundle: Path) -> None:
        copy_bundle(tiny_bundle, own_store / "bundles" / "sentence-transformers--all-Tiny")
        assert Embedder("all-Tiny", local_files_only=True).folder.name == "sentence-transformers--all-Tiny"
        copy_bundle(tiny_bundle, own_store / "bundles" / "all-Tiny")
        assert Embedder("all-Tiny", local_files_only=True).folder.name == "all-Tiny"
        with pytest.raises(ModelNotFoundError, match="`embedrt export sentence-transformers/other -o FOLDER`"):
            Embedder("other", local_files_only=True)

    def test_repr(self, own: Embedder) -> None:
        assert repr(own) == "Embedder('tiny-bert', None)"


class TestClose:
    def test_the_sessions_go_at_once(self, own: Embedder) -> None:
        own.encode(["one", "two"])
        engine = weakref.ref(own.runners["default"].engine)
        own.close()
        assert engine() is None

    def test_use_after_close(self, own: Embedder) -> None:
        with own as model:
            model.encode("one")
        own.close()
        for use in (lambda: own.encode("one"), lambda: own.token_count("one"), lambda: list(own.encode_iter(["one"]))):
            with pytest.raises(InferenceError, match=r"^the model 'tiny-bert' is closed; load it again$"):
                use()

    def test_another_device(self, own: Embedder) -> None:
        np.testing.assert_array_equal(own.encode("one", device="cpu"), own.encode("one"))
        own.close()
        with pytest.raises(InferenceError, match="closed"):
            own.encode("one", device="cpu")


class TestMaxSeqLength:
    def test_shorter_and_longer(self, own: Embedder, tiny: Embedder) -> None:
        text = "one two three " * 30
        assert own.max_seq_length == 48
        own.max_seq_length = 5
        assert own.max_seq_length == own.token_count(text) == 5
        assert own.tokenize([text, "one"])["input_ids"].shape == (2, 5)
        np.testing.assert_array_equal(own.encode(text), tiny.encode("one two three"))
        with pytest.raises(TruncationError, match="longer than the 5 tokens"):
            own.encode(text, on_truncation="error")
        own.max_seq_length = 64
        assert own.token_count(text) == 64
        assert np.abs(own.encode(text) - tiny.encode(text)).max() > 1e-3
        own.max_seq_length = 48
        np.testing.assert_array_equal(own.encode(text), tiny.encode(text))

    def test_it_is_part_of_the_fingerprint(self, own: Embedder) -> None:
        before = own.fingerprint
        assert before == own.manifest.fingerprint
        own.max_seq_length = 20
        changed = own.fingerprint
        assert changed != before
        own.max_seq_length = 21
        assert own.fingerprint not in {before, changed}
        own.max_seq_length = 48
        assert own.fingerprint == before

    @pytest.mark.parametrize("value", [0, 2, 65, -1, 3.0, "8", True, None])
    def test_out_of_range(self, own: Embedder, value: Any) -> None:
        with pytest.raises(ValueError, match=r"^max_seq_length: expected 3 to 64, the number of positions, got "):
            own.max_seq_length = value
        assert own.max_seq_length == 48

    def test_without_positions_there_is_no_end(self, tmp_path: Path) -> None:
        source = write_static(tmp_path / "static", {"embedding.weight": draw(133, 24)})
        model = Embedder(export(source, tmp_path / "b"))
        assert model.max_seq_length is None
        model.max_seq_length = 1000
        assert model.max_seq_length == model.token_count("one " * 3000) == 1000
        model.max_seq_length = None
        assert model.token_count("one " * 3000) == 3000


class TestTokens:
    def test_token_count(self, own: Embedder) -> None:
        assert own.token_count("one two") == 4
        assert own.token_count(["", "one", "one " * 100]) == [2, 3, 48]
        assert own.token_count(["", "one", "one " * 100], truncation=False) == [2, 3, 102]
        assert own.token_count([]) == []

    def test_tokenize(self, own: Embedder) -> None:
        features = own.tokenize(["one two", "one"])
        assert set(features) == {"input_ids", "attention_mask"}
        assert features["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
        assert features["input_ids"].dtype == np.int64
        assert own.tokenize([])["input_ids"].shape == (0, 0)


class TestSimilarity:
    @pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
    def test_functions(self, tmp_path: Path, name: str) -> None:
        model = Embedder(export(write_chain(make_model(tmp_path / "m"), pooling()), tmp_path / "b"))
        a, b = model.encode(["one", "two", "the cat"]).astype(float), model.encode(["cat", "dog"]).astype(float)
        expected = {
            "cosine": a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)),
            "dot": a @ b.T,
            "euclidean": -np.linalg.norm(a[:, None] - b[None], axis=2),
            "manhattan": -np.abs(a[:, None] - b[None]).sum(axis=2),
        }[name]
        assert model.similarity_fn_name == "cosine"
        model.similarity_fn_name = name
        assert np.abs(model.similarity(a, b) - expected).max() <= 1e-5
        assert np.abs(model.similarity_pairwise(a[:2], b) - np.diag(expected)).max() <= 1e-5
        assert np.abs(model.similarity(a[0], b) - expected[:1]).max() <= 1e-5

    def test_an_enum_as_sentence_transformers_has_it(self, tiny_bundle: Path) -> None:
        class SimilarityFunction(Enum):
            DOT = "dot"

        assert Embedder(tiny_bundle, similarity_fn_name=SimilarityFunction.DOT).similarity_fn_name == "dot"

    def test_the_name_in_the_bundle(self, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "b")
        change(bundle, lambda raw: raw.update(similarity_fn_name="euclidean"))
        assert Embedder(bundle).similarity_fn_name == "euclidean"
        assert Embedder(bundle, similarity_fn_name="dot").similarity_fn_name == "dot"


class TestDimensions:
    def test_truncate_embeddings(self, own: Embedder, tiny: Embedder) -> None:
        with own.truncate_embeddings(8):
            np.testing.assert_array_equal(own.encode("one"), tiny.encode("one")[:8])
            assert own.get_embedding_dimension() == 8
        assert own.get_embedding_dimension() == 32
        with pytest.raises(ZeroDivisionError), own.truncate_embeddings(4):
            raise ZeroDivisionError
        assert own.truncate_dim is None
        with (
            pytest.raises(ValueError, match=r"^truncate_dim: expected 1 to 32 or None, got 40$"),
            own.truncate_embeddings(40),
        ):
            pass

    def test_old_names(self, own: Embedder, tiny: Embedder) -> None:
        with pytest.warns(
            DeprecationWarning, match="^get_sentence_embedding_dimension is the old name of get_embedding_d"
        ):
            assert own.get_sentence_embedding_dimension() == 32
        with pytest.warns(DeprecationWarning, match="old name of max_seq_length") as caught:
            assert own.get_max_seq_length() == 48
        assert caught[0].filename == __file__
        with pytest.warns(DeprecationWarning, match="old name of truncate_embeddings"):
            block = own.truncate_sentence_embeddings(8)
        with block:
            assert own.encode("one").shape == (8,)
        with pytest.warns(DeprecationWarning, match="^sentences= is the old name of inputs=$") as caught:
            np.testing.assert_array_equal(
                own.encode(sentences=["one"]),  # type: ignore[call-overload]
                tiny.encode(["one"]),
            )
        assert caught[0].filename == __file__


class TestClientsOfSentenceTransformers:
    """What clients do with a model of sentence-transformers."""

    @pytest.mark.parametrize("backend", ["torch", "onnx", None])
    def test_backends_that_clients_pass(self, tiny: Embedder, tiny_bundle: Path, backend: Any) -> None:
        np.testing.assert_array_equal(Embedder(tiny_bundle, backend=backend).encode("one"), tiny.encode("one"))

    def test_evaluators_leave_their_metrics(self, tiny_bundle: Path, tmp_path: Path) -> None:
        class Evaluator:
            name = "sts|dev"

        model = Embedder(tiny_bundle)
        model.model_card_data.set_evaluation_metrics(Evaluator(), {"pearson": np.float64(0.5)}, epoch=0, step=0)
        model.save(tmp_path / "copy")
        assert "| `sts\\|dev` | `pearson` | 0.5000 |" in (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")

    def test_preprocess_is_tokenize_with_a_prompt(self, tiny: Embedder) -> None:
        texts = ["one cat", "two dogs and a river"]
        for name, values in tiny.tokenize(texts).items():
            np.testing.assert_array_equal(tiny.preprocess(texts)[name], values)
        found, expected = tiny.preprocess(["one cat"], prompt="a river "), tiny.tokenize(["a river one cat"])
        assert {name: values.tolist() for name, values in found.items()} == {
            name: values.tolist() for name, values in expected.items()
        }

    def test_a_subclass_gets_keywords(self, tiny_bundle: Path) -> None:
        seen = []

        class Mine(Embedder):
            def encode(self, **options: Any) -> Any:  # type: ignore[override]
                seen.append(options)
                return super().encode(**options)

        model = Mine(tiny_bundle, prompts={"query": "find: ", "passage": "read: "})
        model.encode_query(["one"], batch_size=3)
        model.encode_document("one", None, None, 7)
        assert [(call["inputs"], call["prompt_name"], call["task"], call["batch_size"]) for call in seen] == [
            (["one"], "query", "query", 3),
            ("one", "document", "document", 7),
        ]


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> str:
    """A second device that computes as the CPU does."""
    monkeypatch.setitem(DEVICES, "twin", replace(cpu.DEVICE, kind="twin"))
    return "twin"


class TestMethodsOfTorch:
    """Methods that models of torch have: they work, or say what to do instead."""

    def test_the_device_is_a_name_and_more(self, own: Embedder) -> None:
        class device:  # noqa: N801 - as torch has it
            __module__ = "torch"

            def __init__(self, name: str) -> None:
                self.name = name

            def __str__(self) -> str:
                return self.name

        assert own.device == "cpu"
        assert device("cpu") == own.device
        assert own.device == device("cpu") != DeviceName("cuda:1")
        assert own.device != device("cuda")
        assert (own.device.type, DeviceName("cuda:1").type) == ("cpu", "cuda")
        assert hash(own.device) == hash("cpu")
        assert json.dumps(own.device) == '"cpu"'

    def test_to_the_device_it_has(self, own: Embedder) -> None:
        engine = own.runners["default"].engine
        assert own.to("cpu").to(device="cpu").to(None).cpu().eval().float() is own
        assert own.runners["default"].engine is engine

    def test_to_another_device(self, own: Embedder, tiny: Embedder, twin: str) -> None:
        before = weakref.ref(own.runners["default"].engine)
        assert own.to(twin) is own
        assert own.device == twin
        assert before() is None
        np.testing.assert_array_equal(own.encode(["one", "two"]), tiny.encode(["one", "two"]))
        assert pickle.loads(pickle.dumps(own)).device == twin
        assert own.cpu().device == "cpu"

    def test_calls_go_on_while_it_moves(self, own: Embedder, tiny: Embedder, twin: str) -> None:
        expected = tiny.encode(["one", "two"])
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(own.encode, ["one", "two"]) for _ in range(60)]
            for name in (twin, "cpu") * 5:
                own.to(name)
            for call in calls:
                np.testing.assert_array_equal(call.result(), expected)

    @pytest.mark.parametrize("device", ["gpu", "tpu:0", 3])
    def test_to_a_device_that_is_not_there(self, own: Embedder, device: Any) -> None:
        with pytest.raises(DeviceError, match=r"device: .* is unknown"):
            own.to(device)
        assert own.device == "cpu"

    @pytest.mark.parametrize(("index", "name"), [(None, "cuda"), (1, "cuda:1"), ("cuda:0", "cuda:0")])
    def test_to_a_gpu(self, own: Embedder, index: Any, name: str) -> None:
        with pytest.raises(DeviceError, match=f"device: '{name}': .* no CUDAExecutionProvider"):
            own.cuda(index)

    @pytest.mark.parametrize(
        ("convert", "dtype"),
        [
            (lambda model: model.half(), "float16"),
            (lambda model: model.bfloat16(), "bfloat16"),
            (lambda model: model.to("cpu", dtype="int8"), "int8"),
            (lambda model: model.to(dtype="fp16"), "float16"),
        ],
        ids=["half", "bfloat16", "int8", "fp16"],
    )
    def test_to_another_dtype(self, own: Embedder, convert: Callable[[Embedder], Any], dtype: str) -> None:
        with pytest.raises(ValueError, match=f"^dtype: expected 'float32', in which .* load it with dtype='{dtype}'"):
            convert(own)

    def test_training(self, own: Embedder) -> None:
        assert own.train(False) is own
        with pytest.raises(ValueError, match="mode: expected False, got True; a bundle cannot be trained"):
            own.train()

    def test_the_first_module(self, own: Embedder) -> None:
        first = own[0]
        assert first.tokenizer is own.tokenizer
        assert first.max_seq_length == 48
        own._first_module().max_seq_length = 6
        assert (own.max_seq_length, first.max_seq_length) == (6, 6)
        with pytest.raises(AttributeError, match="'FirstModule' object has no attribute 'auto_model': there is no"):
            first.auto_model  # type: ignore[attr-defined]  # noqa: B018
        for index in (1, -1, "0"):
            with pytest.raises(IndexError, match="expected 0, the module with the tokenizer, got"):
                own[index]  # type: ignore[index]
        with pytest.raises(TypeError, match="not iterable"):
            iter(own)
        assert own  # as `if model:` asks

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [
            ("parameters", "a bundle has no torch weights"),
            ("modules", "a bundle is one graph"),
            ("state_dict", "a bundle has no torch weights"),
            ("forward", "`encode(texts, output_value=None)`"),
            ("auto_model", "there is no transformers model"),
            ("fit", "a bundle cannot be trained"),
            ("save_to_hub", "the method is `push_to_hub`"),
        ],
    )
    def test_what_a_bundle_cannot_have(self, own: Embedder, name: str, remedy: str) -> None:
        assert not hasattr(own, name)
        with pytest.raises(AttributeError, match=r"^'Embedder' object has no attribute") as caught:
            getattr(own, name)
        assert remedy in str(caught.value)

    def test_an_unknown_attribute(self, own: Embedder) -> None:
        with pytest.raises(AttributeError, match=r"^'Embedder' object has no attribute 'encoed'$"):
            own.encoed  # type: ignore[attr-defined]  # noqa: B018

    def test_the_prompt_in_the_pooling(self, own: Embedder, tmp_path: Path) -> None:
        own.set_pooling_include_prompt(True)
        with pytest.raises(ValueError, match="include_prompt: expected True, as the bundle was exported, got False"):
            own.set_pooling_include_prompt(False)
        source = write_chain(make_model(tmp_path / "m"), pooling(include_prompt=False))
        model = Embedder(export(source, tmp_path / "b"))
        model.set_pooling_include_prompt(False)
        with pytest.raises(ValueError, match="include_prompt: expected False"):
            model.set_pooling_include_prompt(True)

    def test_arguments_of_a_model(self, own: Embedder) -> None:
        assert own.get_model_kwargs() == []

    def test_evaluators_are_called(self, own: Embedder, tmp_path: Path) -> None:
        seen: list[Any] = []

        def evaluator(model: Embedder, output_path: str | None) -> float:
            seen.append((model, output_path))
            return 0.5

        assert own.evaluate(evaluator) == own.evaluate(evaluator, str(tmp_path / "a" / "b")) == 0.5
        assert seen == [(own, None), (own, str(tmp_path / "a" / "b"))]
        assert (tmp_path / "a" / "b").is_dir()

    def test_a_model_that_is_absent_is_an_os_error(self) -> None:
        with pytest.raises(OSError, match=r"^'org/other' is not in the local store"):
            Embedder("org/other", local_files_only=True)


class TestOneEngineADevice:
    def test_by_any_name(self, tiny_bundle: Path) -> None:
        model = Embedder(tiny_bundle)
        model.encode("one", device="cpu")
        model.encode("one", device="auto")
        model.encode("one")
        engines = {id(model.loaded.runners(name)["default"].engine) for name in (None, "auto", "cpu")}
        assert len(engines) == 1

    def test_by_many_threads_at_once(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Embedder(tiny_bundle)
        monkeypatch.setitem(DEVICES, "twin", replace(cpu.DEVICE, kind="twin"))
        together = Barrier(8)

        def use(_: int) -> int:
            together.wait(timeout=60)
            return id(model.loaded.runners("twin")["default"])

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(use, range(8)))) == 1


class TestSave:
    def test_what_was_set_is_kept(self, tiny_bundle: Path, tmp_path: Path) -> None:
        model = Embedder(tiny_bundle, prompts={"query": "find: ", "other": "see "}, default_prompt_name="other")
        model.similarity_fn_name = "euclidean"
        model.truncate_dim = 9
        model.max_seq_length = 6
        model.save_pretrained(tmp_path / "copy", model_name="mine")
        other = Embedder(tmp_path / "copy")
        assert other.name == "mine"
        assert other.prompts == model.prompts == {"query": "find: ", "document": "", "other": "see "}
        assert (other.default_prompt_name, other.similarity_fn_name) == ("other", "euclidean")
        assert (other.truncate_dim, other.max_seq_length) == (9, 6)
        assert other.fingerprint == model.fingerprint != Embedder(tiny_bundle).fingerprint
        texts = ["one cat", "two dogs and a river bank"]
        np.testing.assert_array_equal(other.encode(texts), model.encode(texts))
        read = json.loads((tmp_path / "copy" / "config_sentence_transformers.json").read_bytes())
        assert (read["prompts"], read["similarity_fn_name"]) == (other.manifest.prompts, "euclidean")
        assert json.loads((tmp_path / "copy" / "sentence_bert_config.json").read_bytes())["max_seq_length"] == 6
        assert json.loads((tmp_path / "copy" / "tokenizer_config.json").read_bytes())["model_max_length"] == 6

    def test_the_copy_still_has_its_proof(self, tiny_bundle: Path, tmp_path: Path) -> None:
        model = Embedder(tiny_bundle)
        model.max_seq_length = 6
        model.save_pretrained(tmp_path / "copy")
        (report,) = embedrt.verify(tmp_path / "copy").values()
        assert [report] == [*embedrt.verify(tiny_bundle).values()]

    def test_an_unchanged_copy_is_the_bundle(self, tiny_bundle: Path, tmp_path: Path) -> None:
        Embedder(tiny_bundle).save(tmp_path / "copy", create_model_card=False)
        for path in tiny_bundle.rglob("*"):
            if path.is_file():
                assert (tmp_path / "copy" / path.relative_to(tiny_bundle)).read_bytes() == path.read_bytes()

    def test_other_settings_do_not_replace_a_copy(self, tiny_bundle: Path, tmp_path: Path) -> None:
        model = Embedder(tiny_bundle)
        model.save(tmp_path / "copy")
        model.save(tmp_path / "copy")
        model.similarity_fn_name = "dot"
        with pytest.raises(BundleError, match="with other prompts or ranges; choose another folder"):
            model.save(tmp_path / "copy")


def test_scripts_read_the_tokenizer(tiny_bundle: Path) -> None:
    model = Embedder(tiny_bundle)
    texts = ["one cat", "two dogs and a river bank"]
    found = model.tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    for name, values in model.tokenize(texts).items():
        np.testing.assert_array_equal(found[name], values)
    model.max_seq_length = 6
    assert model.tokenizer.model_max_length == 6
    assert model.tokenizer is model.tokenizer
    pickle.loads(pickle.dumps(model)).close()


@pytest.mark.parametrize(("verify", "fails"), [("never", False), ("always", True)])
def test_files_are_hashed_as_asked(tiny_bundle: Path, tmp_path: Path, verify: Any, fails: bool) -> None:
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    path = folder / "parity" / "texts.json"
    path.write_bytes(path.read_bytes()[::-1])  # of the same size, and not read by the model
    if fails:
        with pytest.raises(BundleError, match="SHA-256"):
            Embedder(folder, verify=verify)
    else:
        Embedder(folder, verify=verify)
    with pytest.raises(ValueError, match="verify: expected one of 'once', 'always', 'never', got 'now'"):
        Embedder(folder, verify="now")  # type: ignore[arg-type]

"""TEI's API against a running server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import embedrt
from embedrt import CrossEncoder, Embedder, MultiVectorEncoder, SparseEncoder
from embedrt.server import served as served_module
from embedrt.server.dialects import tei
from embedrt.server.errors import RequestError
from embedrt.server.served import Served
from embedrt.server.settings import Limits, ModelSettings, Settings
from tests.kit.bundles import copy_bundle, rehash
from tests.kit.edits import edit_json
from tests.kit.server import Answer, Running, serving

TEXTS = ["A cat sat.", "", "Ein Hund läuft.", "word " * 300, "猫", "one two three"]
LIMIT = 8
ERRORS: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "tei_errors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prompted(bundles: dict[str, Path]) -> Iterator[Embedder]:
    """A model whose vectors have other lengths than 1, with prompts."""
    with Embedder(bundles["prompted"]) as model:
        yield model


@pytest.fixture(scope="module")
def small(bundles: dict[str, Path]) -> Iterator[Running]:
    """A server with one model and small limits."""
    limits = Limits(request_texts=4)
    with serving(Settings((ModelSettings("tiny", str(bundles["tiny"]), max_seq_length=LIMIT),), limits=limits)) as one:
        yield one


@pytest.fixture(scope="module")
def logits(bundles: dict[str, Path]) -> dict[str, Any]:
    """The logits of two pairs, and of the first text of each."""
    found = {}
    for name in ("sigmoid", "three"):
        with CrossEncoder(bundles[name]) as model:
            scores = [model.predict(item, activation_fn="Identity") for item in (("a", "b"), ("c", "d"), "a", "c")]
            found[name] = np.array([np.ravel(row) for row in scores])
    return found


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class TestEmbed:
    def test_vectors_have_length_1(self, served: Running, prompted: Embedder) -> None:
        answer = served.post("/embed", {"inputs": TEXTS, "model": "prompted"})
        assert answer.status == 200
        np.testing.assert_allclose(answer.json, prompted.encode(TEXTS, normalize_embeddings=True), atol=1e-6)

    def test_vectors_as_they_are(self, served: Running, prompted: Embedder) -> None:
        answer = served.post("/embed", {"inputs": TEXTS, "model": "prompted", "normalize": False})
        np.testing.assert_allclose(answer.json, prompted.encode(TEXTS), atol=1e-6)

    def test_one_text_is_a_batch_of_one(self, served: Running, tiny: Embedder) -> None:
        answer = served.post("/embed", {"inputs": "A cat sat."})
        np.testing.assert_allclose(answer.json, tiny.encode(["A cat sat."]), atol=1e-6)

    def test_vectors_are_truncated_before_they_are_scaled(self, served: Running, prompted: Embedder) -> None:
        answer = served.post("/embed", {"inputs": TEXTS, "model": "prompted", "dimensions": 5})
        expected = prompted.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
        np.testing.assert_allclose(answer.json, expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("fields", "prompt_name"),
        [({"prompt_name": "query"}, "query"), ({"model": "prompted:query"}, "query"), ({}, None)],
    )
    def test_prompts(
        self, served: Running, prompted: Embedder, fields: dict[str, str], prompt_name: str | None
    ) -> None:
        answer = served.post("/embed", {"inputs": TEXTS, "model": "prompted", **fields})
        expected = prompted.encode(TEXTS, prompt_name, normalize_embeddings=True)
        np.testing.assert_allclose(answer.json, expected, atol=1e-6)

    @pytest.mark.parametrize("direction", ["left", "Left", "right", "Right", None])
    def test_truncation_on_either_side(self, small: Running, bundles: dict[str, Path], direction: str | None) -> None:
        text = "one two three cat dog two one three dog cat"
        answer = small.post("/embed", {"inputs": text, "truncation_direction": direction, "truncate": True})
        rust = Tokenizer.from_file(str(bundles["tiny"] / "tokenizer.json"))
        rust.enable_truncation(LIMIT, direction="left" if (direction or "").lower() == "left" else "right")
        spans = rust.encode(text).offsets[1:-1]
        with Embedder(bundles["tiny"]) as model:
            expected = model.encode([text[spans[0][0] : spans[-1][1]]])
        np.testing.assert_allclose(answer.json, expected, atol=1e-6)
        assert answer.headers["x-embedrt-truncated"] == "1"

    def test_headers(self, small: Running) -> None:
        answer = small.post("/embed", {"inputs": ["one two", "three"]})
        assert (answer.headers["x-compute-characters"], answer.headers["x-compute-tokens"]) == ("12", "7")
        for name in ("compute", "total", "tokenization", "queue", "inference"):
            assert answer.headers[f"x-{name}-time"].isdigit()

    def test_token_ids(self, served: Running, bundles: dict[str, Path], tiny: Embedder) -> None:
        ids = tiny.tokenizer.encode("one two three")
        answer = served.post("/embed", {"inputs": ids})
        assert (answer.status, answer.json["error_type"]) == (422, "Validation")
        assert "--token-ids" in answer.json["error"]
        with serving(Settings((ModelSettings("tiny", str(bundles["tiny"]), token_ids="model"),))) as running:
            for inputs in (ids, [ids, ids]):
                found = running.post("/embed", {"inputs": inputs}).json
                np.testing.assert_allclose(found, tiny.encode(["one two three"] * len(found)), atol=1e-6)
            for path in ("/embed_all", "/embed_sparse"):
                assert running.post(path, {"inputs": ids}).status in {422, 424}


class TestOtherOutputs:
    def test_tokens(self, served: Running, tiny: Embedder) -> None:
        found = served.post("/embed_all", {"inputs": TEXTS}).json
        expected = tiny.encode(TEXTS, output_value="token_embeddings")
        assert [len(rows) for rows in found] == [len(rows) for rows in expected]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)

    def test_vectors_of_too_many_tokens(self, served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request of a few megabytes would have a reply of many gigabytes."""
        monkeypatch.setattr(served_module, "_TOKEN_NUMBERS", 32 * 60)
        assert served.post("/embed_all", {"inputs": ["x" * 100, "y" * 12]}).status == 200
        answer = served.post("/embed_all", {"inputs": ["x" * 100, "y" * 13]})
        assert (answer.status, answer.json["error_type"]) == (413, "Validation")
        assert answer.json["error"].startswith("inputs: expected texts of at most 60 tokens in all for vectors of tok")

    def test_tokens_of_late_interaction(self, served: Running, bundles: dict[str, Path]) -> None:
        with MultiVectorEncoder(bundles["late"]) as model:
            for name, encode in (("late:query", model.encode_query), ("late:document", model.encode_document)):
                found = served.post("/embed_all", {"inputs": TEXTS, "model": name}).json
                for ours, theirs in zip(found, encode(TEXTS), strict=True):
                    np.testing.assert_allclose(ours, theirs, atol=1e-6)

    def test_sparse(self, served: Running, bundles: dict[str, Path]) -> None:
        found = served.post("/embed_sparse", {"inputs": TEXTS}).json
        with SparseEncoder(bundles["sparse"]) as model:
            expected = model.encode(TEXTS)
        for i, row in enumerate(found):
            start, end = expected.indptr[i], expected.indptr[i + 1]
            assert [one["index"] for one in row] == expected.indices[start:end].tolist()
            np.testing.assert_allclose([one["value"] for one in row], expected.values[start:end], atol=1e-5)

    def test_similarity(self, served: Running, prompted: Embedder) -> None:
        body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}, "model": "prompted"}
        expected = prompted.similarity(prompted.encode(TEXTS[:1]), prompted.encode(TEXTS))[0]
        np.testing.assert_allclose(served.post("/similarity", body).json, expected, atol=1e-6)
        assert served.post("/similarity", {**body, "parameters": {}}).json[0] == 1.0
        queries = unit(prompted.encode([TEXTS[0], TEXTS[2]], "query"))
        body = {"inputs": {"source_sentence": TEXTS[0], "sentences": [TEXTS[2]]}, "model": "prompted"}
        answer = served.post("/similarity", {**body, "parameters": {"prompt_name": "query"}})
        np.testing.assert_allclose(answer.json, queries[1:] @ queries[0], atol=1e-6)


class TestPredict:
    """Scores are sigmoid or softmax of the logits, whatever the model's own activation is."""

    def expected(self, logits: Any, *, raw: bool) -> Any:
        if raw:
            return logits
        powers = np.exp(logits.astype(np.float64))
        return powers / (1 + powers) if logits.shape[1] == 1 else powers / powers.sum(axis=1, keepdims=True)

    @pytest.mark.parametrize("raw", [False, True])
    @pytest.mark.parametrize("name", ["sigmoid", "three"])
    def test_batch_of_texts_and_pairs(self, served: Running, logits: dict[str, Any], name: str, raw: bool) -> None:
        inputs = [["a", "b"], ["c"], ["c", "d"], ["a"]]
        answer = served.post("/predict", {"inputs": inputs, "model": name, "raw_scores": raw})
        rows = self.expected(logits[name], raw=raw)[[0, 3, 1, 2]]
        assert len(answer.json) == 4
        for found, row in zip(answer.json, rows, strict=True):
            order = np.argsort(-row, kind="stable")
            assert [one["label"] for one in found] == [f"LABEL_{i}" for i in order]
            np.testing.assert_allclose([one["score"] for one in found], row[order], atol=1e-6)

    def test_two_texts_are_one_pair(self, served: Running, logits: dict[str, Any]) -> None:
        rows = self.expected(logits["sigmoid"], raw=False)
        for inputs, row in ((["a", "b"], 0), ("a", 2), (["a"], 2)):
            (found,) = served.post("/predict", {"inputs": inputs}).json
            assert found["label"] == "LABEL_0"
            assert found["score"] == pytest.approx(rows[row, 0], abs=1e-6)

    @pytest.mark.parametrize(
        ("inputs", "status", "message"),
        [
            ([], 400, "`inputs` cannot be empty"),
            (["a", "b", "c"], 422, "inputs: expected a list with one text or two, got 3 items"),
            ([["a"], ["b", "c", "d"]], 422, "inputs[1]: expected a list with one text or two, got 3 items"),
            ([["a"], []], 422, "inputs[1]: expected a list with one text or two, got 0 items"),
            ([["a"], "b"], 422, "inputs[1]: expected a list with one text or two, got a text"),
            (["a", ["b"]], 422, "inputs: expected a list with one text or two, got 2 items"),
            ([["a", 1]], 422, "inputs[0][1]: expected str, got int"),
        ],
    )
    def test_errors(self, served: Running, inputs: Any, status: int, message: str) -> None:
        answer = served.post("/predict", {"inputs": inputs})
        assert (answer.status, answer.json["error"]) == (status, message)

    def test_labels_of_the_config(self, bundles: dict[str, Path], tmp_path: Path) -> None:
        bundle = copy_bundle(bundles["three"], tmp_path / "bundle")
        edit_json(bundle / "config.json", id2label={"0": "contradiction", "1": "entailment", "2": "neutral"})
        rehash(bundle)
        with serving(Settings((ModelSettings("nli", str(bundle)),))) as running:
            found = running.post("/predict", {"inputs": ["a", "b"]}).json
            info = running.get("/info").json
        assert {one["label"] for one in found} == {"contradiction", "entailment", "neutral"}
        assert info["model_type"]["classifier"]["label2id"] == {"contradiction": 0, "entailment": 1, "neutral": 2}


class TestTokenizer:
    @pytest.mark.parametrize("special", [True, False])
    def test_tokenize(self, served: Running, bundles: dict[str, Path], special: bool) -> None:
        found = served.post("/tokenize", {"inputs": TEXTS, "add_special_tokens": special}).json
        rust = Tokenizer.from_file(str(bundles["tiny"] / "tokenizer.json"))
        rust.no_truncation()
        for text, tokens in zip(TEXTS, found, strict=True):
            encoding = rust.encode(text, add_special_tokens=special)
            assert [one["id"] for one in tokens] == encoding.ids
            assert [one["special"] for one in tokens] == [mask == 1 for mask in encoding.special_tokens_mask]
            for one, name, (start, stop) in zip(tokens, encoding.tokens, encoding.offsets, strict=True):
                assert set(one) == {"id", "text", "special", "start", "stop"}
                if one["special"]:
                    assert (one["text"], one["start"], one["stop"]) == (name, None, None)
                else:
                    assert one["text"] == text[start:stop] == text.encode()[one["start"] : one["stop"]].decode()

    def test_prompt(self, served: Running) -> None:
        body = {"inputs": "one", "model": "prompted", "prompt_name": "query"}
        whole = served.post("/tokenize", {"inputs": ["the cat: one"], "model": "prompted"}).json
        assert served.post("/tokenize", body).json == whole

    def test_many_characters(self, served: Running) -> None:
        answer = served.post("/tokenize", {"inputs": ["one ", "two" * 2**19]})
        assert answer.status == 422
        assert answer.json["error"] == (
            "Input validation error: `inputs` must have less than 1048576 characters. Given: 1572868"
        )

    def test_decode(self, served: Running, tiny: Embedder) -> None:
        texts = ["one two three", "a cat"]
        rows = [tiny.tokenizer.encode(text) for text in texts]
        assert served.post("/decode", {"ids": rows}).json == texts
        assert served.post("/decode", {"ids": rows[0]}).json == texts[:1]
        (special,) = served.post("/decode", {"ids": rows[0], "skip_special_tokens": False}).json
        assert special == tiny.tokenizer.decode(rows[0])
        assert special != texts[0]

    @pytest.mark.parametrize("ids", [[1, -1], [1, 10**6], [[1], [10**9]], [[1], []], [1, [2]], [[1], 2], [2**40]])
    def test_ids_out_of_the_vocabulary(self, served: Running, ids: Any) -> None:
        answer = served.post("/decode", {"ids": ids})
        assert answer.status in {400, 422}
        assert answer.json["error"].startswith("ids")


class TestInfo:
    def test_embedding(self, served: Running, tiny: Embedder) -> None:
        answer = served.get("/info")
        assert answer.json == {
            "model_id": tiny.name,
            "model_sha": None,
            "model_dtype": "float32",
            "served_model_name": "tiny",
            "model_type": {"embedding": {"pooling": "mean"}},
            "max_concurrent_requests": 512,
            "max_input_length": tiny.max_seq_length,
            "max_batch_tokens": tiny.runners["default"].token_budget,
            "max_batch_requests": None,
            "max_client_batch_size": 16384,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": embedrt.__version__,
            "sha": None,
            "docker_label": None,
            "fingerprint": tiny.fingerprint,
        }

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("sigmoid", {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}),
            ("sparse", {"embedding": {"pooling": "splade"}}),
            ("late", {"embedding": {"pooling": "none"}}),
        ],
    )
    def test_other_tasks(self, bundles: dict[str, Path], name: str, expected: Any) -> None:
        with serving(Settings((ModelSettings(name, str(bundles[name])),))) as running:
            assert running.get("/info").json["model_type"] == expected


class TestHealth:
    @pytest.mark.parametrize("path", ["/health", "/ping"])
    def test_it_runs_every_model(self, served: Running, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
        checked: list[str] = []
        check = Served._check

        async def note(one: Served) -> None:
            checked.append(one.name)
            await check(one)

        monkeypatch.setattr(Served, "_check", note)
        answer = served.get(path)
        assert (answer.status, answer.body) == (200, b"")
        assert sorted(checked) == sorted(one.name for one in served.state.models.served)

    @pytest.mark.parametrize("failure", [RequestError("the model failed", "unhealthy"), None])
    def test_a_model_that_fails_or_hangs(
        self, small: Running, monkeypatch: pytest.MonkeyPatch, failure: RequestError | None
    ) -> None:
        import asyncio

        async def fail(_: Served) -> None:
            if failure is not None:
                raise failure
            await asyncio.Event().wait()

        monkeypatch.setattr(tei, "_HEALTH_SECONDS", 0.01)
        monkeypatch.setattr(Served, "_check", fail)
        answer = small.get("/health")
        assert (answer.status, answer.json) == (503, {"error": "unhealthy", "error_type": "Unhealthy"})
        monkeypatch.undo()
        small.state.models.served[0]._checking = None
        assert small.get("/health").status == 200


class TestErrors:
    """Each has the status and the keys of TEI's reply, its `error_type`, and its message where clients read that."""

    @pytest.mark.parametrize("name", ERRORS)
    def test_golden(self, small: Running, bundles: dict[str, Path], name: str) -> None:
        case = ERRORS[name]
        path, body = case["request"]["path"], case["request"]["body"]
        if body is None:
            body = b"{"
        elif isinstance(inputs := body.get("inputs"), dict) and "repeat" in inputs:
            text, times = inputs["repeat"]
            body = {**body, "inputs": text * times}
        answer = self.overloaded(bundles, path, body) if "overloaded" in case["request"] else small.post(path, body)
        assert answer.status == case["status"], answer.json
        found, expected = answer.json, case["reply"]
        assert set(found) == {"error", "error_type"}
        assert found["error_type"] == expected["error_type"]
        assert found["error"] == expected["error"] or (expected["error"] is None and len(found["error"]) > 10)

    def overloaded(self, bundles: dict[str, Path], path: str, body: Any) -> Answer:
        with serving(Settings((ModelSettings("tiny", str(bundles["tiny"])),), limits=Limits(requests=1))) as running:
            queue = next(iter(running.queues.by_device.values()))
            queue._most_requests = 0
            answer = running.post(path, body)
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        return answer

    def test_the_index_of_a_text_in_a_batch(self, small: Running) -> None:
        answer = small.post("/embed", {"inputs": ["one", "two " * 20], "truncate": False})
        assert answer.json["error"] == (
            "Input validation error: `inputs` must have less than 8 tokens. Given: 22 (inputs[1])"
        )

    def test_a_wrong_key_has_no_body(self, bundles: dict[str, Path]) -> None:
        with serving(Settings((ModelSettings("tiny", str(bundles["tiny"])),), keys=("right",))) as running:
            for headers in ({}, {"authorization": "Bearer wrong"}):
                answer = running.post("/embed", {"inputs": "one"}, **headers)
                assert (answer.status, answer.body) == (401, b"")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert running.post("/embed", {"inputs": "one"}, authorization="Bearer right").status == 200
            assert running.get("/health").status == 200
            assert running.get("/ping").status == 200
            assert running.get("/info").status == 401

    def test_a_body_over_the_limit(self, bundles: dict[str, Path]) -> None:
        settings = Settings((ModelSettings("tiny", str(bundles["tiny"])),), limits=Limits(body_bytes=100))
        with serving(settings) as running:
            answer = running.post("/embed", {"inputs": "x" * 100})
        assert (answer.status, answer.json["error_type"]) == (413, "Validation")

    def test_truncation_may_be_off(self, bundles: dict[str, Path]) -> None:
        model = ModelSettings("tiny", str(bundles["tiny"]), max_seq_length=LIMIT, auto_truncate=False)
        with serving(Settings((model,))) as running:
            assert running.post("/embed", {"inputs": "one " * 20}).status == 422
            assert running.post("/embed", {"inputs": "one " * 20, "truncate": True}).status == 200

    def test_a_long_text_is_not_truncated_from_the_left(self, small: Running) -> None:
        body = {"inputs": ["one", "two " * 10**5], "truncation_direction": "left"}
        answer = small.post("/embed", body)
        assert answer.status == 422
        assert answer.json["error"] == (
            "Input validation error: `inputs` must have less than 262144 characters. Given: 400000 (inputs[1])"
        )
        assert small.post("/embed", {**body, "truncation_direction": "right"}).status == 200

    @pytest.mark.parametrize("pooling", ["cls", "mean", "splade"])
    def test_the_pooling_that_the_settings_name(self, bundles: dict[str, Path], pooling: Any) -> None:
        settings = Settings((ModelSettings("tiny", str(bundles["tiny"]), pooling=pooling),))
        if pooling == "mean":
            with serving(settings) as running:
                assert running.get("/info").status == 200
            return
        message = rf"^tiny: pooling: expected {pooling}, but the model has mean; leave it out"
        with pytest.raises(ValueError, match=message), serving(settings):
            pass


@pytest.mark.parametrize("direction", ["left", "right"])
def test_rerank_truncates_on_either_side(bundles: dict[str, Path], direction: str) -> None:
    query, text = "one cat", " ".join(f"dog {i}" for i in range(40))
    settings = Settings((ModelSettings("sigmoid", str(bundles["sigmoid"]), max_seq_length=16),))
    rust = Tokenizer.from_file(str(bundles["sigmoid"] / "tokenizer.json"))
    rust.enable_truncation(16, direction=direction)
    encoding = rust.encode(query, text)
    kept = [span for span, row in zip(encoding.offsets, encoding.sequence_ids, strict=True) if row == 1]
    with serving(settings) as running, CrossEncoder(bundles["sigmoid"]) as model:
        body = {"query": query, "texts": [text], "truncation_direction": direction}
        ((found),) = running.post("/rerank", body).json
        expected = model.predict((query, text[kept[0][0] : kept[-1][1]]))
    assert found["score"] == pytest.approx(float(expected), abs=1e-6)

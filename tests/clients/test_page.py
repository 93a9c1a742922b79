"""The page at `/` in a real browser: a person types, clicks and reads."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedrt import CrossEncoder, Embedder, MultiVectorEncoder, SparseEncoder
from embedrt.server.settings import ModelSettings, Settings
from tests.clients.conftest import MODEL, RERANKER, outcome
from tests.clients.fuzz import make_bundles
from tests.kit.browser import CONTRAST, Page, browsing, find_browser
from tests.kit.server import Running, serving
from tests.kit.shared_folders import shared_folder

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
FIRST, SECOND = "A sailor mends the net.", "The fisherman repairs his net."


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser."""
    assert BROWSER is not None
    with browsing(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, server: Running) -> Iterator[Page]:
    """The page of the server; its console stays empty."""
    browser.events.clear()
    browser.open(f"{server.url}/")
    browser.wait("document.getElementById('model').options.length === 2")
    yield browser
    browser.run("1")  # events before this reply have been read
    said = [event for event in browser.events if event.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown"}]
    assert not said, json.dumps(said, indent=1)


def compare(page: Page, first: str, second: str) -> None:
    """Type two texts and press Ctrl+Enter."""
    for element, text in (("first", first), ("second", second)):
        page.focus(element)
        page.type(text)
    page.press("Enter", modifiers=2)
    page.wait("!document.getElementById('result').hidden || !document.getElementById('error').hidden")


def test_typing_two_texts_shows_their_similarity(page: Page, minilm: Embedder) -> None:
    assert page.run("document.getElementById('model').value") == MODEL
    assert "384 dimensions" in page.text("facts")
    assert "256 tokens" in page.text("facts")
    compare(page, FIRST, SECOND)
    a, b = np.asarray(minilm.encode([FIRST, SECOND]))
    assert page.text("score") == f"{float(a @ b):.4f}"
    assert page.text("kind") == "Cosine similarity"
    assert "17 tokens" in page.text("detail")
    assert "truncated" not in page.text("detail")


def test_a_click_does_the_same_and_truncation_is_shown(page: Page) -> None:
    page.focus("first")
    page.type("word " * 400)
    page.click("compare")
    page.wait("!document.getElementById('result').hidden")
    assert "truncated" in page.text("detail")


def test_a_reranker_scores_a_document_for_a_query(page: Page, reranker_bundle: Path) -> None:
    choose(page, RERANKER)
    assert (page.text("first-label"), page.text("second-label")) == ("Query", "Document")
    compare(page, FIRST, SECOND)
    assert page.text("score") == f"{CrossEncoder(reranker_bundle).predict([(FIRST, SECOND)])[0]:.4f}"
    assert "rerank" in page.text("code")


def choose(page: Page, model: str) -> None:
    """Choose a model in the list."""
    page.run(
        f"(() => {{ const list = document.getElementById('model'); list.value = '{model}'; "
        "list.dispatchEvent(new Event('change')); })()"
    )


def test_models_of_other_tasks_and_with_prompts(
    browser: Page, minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundles = shared_folder(tmp_path_factory, "clients/fuzz", make_bundles)
    models = (
        ModelSettings("prompted", str(minilm_bundle), prompts={"query": "query: "}),
        ModelSettings("sparse", str(bundles / "sparse")),
        ModelSettings("late", str(bundles / "multi-vector")),
    )
    with serving(Settings(models)) as running:
        browser.open(f"{running.url}/")
        browser.wait("document.getElementById('model').options.length === 3")
        compare(browser, FIRST, SECOND)
        dense = Embedder(minilm_bundle)
        vectors = np.asarray(dense.encode([f"query: {FIRST}", SECOND]))
        assert browser.text("score") == f"{float(vectors[0] @ vectors[1]):.4f}"
        assert "prompted:query" in browser.text("code")
        browser.click("sides")
        assert "prompted:query" not in browser.text("code")
        compare(browser, FIRST, SECOND)
        vectors = np.asarray(dense.encode([FIRST, SECOND]))
        assert browser.text("score") == f"{float(vectors[0] @ vectors[1]):.4f}"

        choose(browser, "sparse")
        browser.click("sides")
        compare(browser, FIRST, SECOND)
        sparse = SparseEncoder(bundles / "sparse")
        score = sparse.similarity(sparse.encode_query([FIRST]), sparse.encode_document([SECOND]))
        assert float(browser.text("score")) == pytest.approx(float(score[0, 0]), abs=6e-5)
        assert "embed_sparse" in browser.text("code")

        choose(browser, "late")
        compare(browser, FIRST, SECOND)
        late = MultiVectorEncoder(bundles / "multi-vector")
        score = late.similarity(late.encode_query([FIRST]), late.encode_document([SECOND]))
        assert float(browser.text("score")) == pytest.approx(float(score[0, 0]), abs=6e-5)


def test_the_keyboard_reaches_everything_in_order(page: Page) -> None:
    page.focus("model")
    reached = []
    for _ in range(7):
        reached.append(
            page.run("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
        page.press("Tab")
    assert reached == ["model", "first", "second", "compare", "language", "PRE", "copy"]
    page.focus("compare")
    page.press("Enter")
    page.wait("!document.getElementById('result').hidden")


def test_every_field_has_a_label_and_both_color_schemes_have_contrast(page: Page) -> None:
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    fields = [node for node in tree if node.get("role", {}).get("value") in {"textbox", "combobox", "button", "radio"}]
    assert len(fields) >= 8
    assert all(node["name"]["value"] for node in fields)
    for scheme in ("light", "dark"):
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for element in ("facts", "first", "compare", "code", "copy"):
            assert page.run(CONTRAST % element) >= 4.5, (scheme, element)
    page.send("Emulation.setEmulatedMedia", features=[])


def test_the_code_follows_the_texts_and_the_python_code_runs(page: Page, minilm: Embedder, tmp_path: Path) -> None:
    compare(page, 'He said "no".', "It's late; $HOME\\n")
    code = page.text("code")
    (tmp_path / "program.py").write_text(f"{code}\nimport json; print(json.dumps(vectors))\n", encoding="utf-8")
    found = outcome(tmp_path / "program.py", tmp_path, {})
    expected = np.asarray(minilm.encode(['He said "no".', "It's late; $HOME\\n"]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    page.click("copy")
    page.wait("document.getElementById('copied').textContent === 'Copied.'")


def test_nothing_is_loaded_from_elsewhere(page: Page, server: Running) -> None:
    compare(page, FIRST, SECOND)
    asked = [
        event["params"]["request"]["url"] for event in page.events if event.get("method") == "Network.requestWillBeSent"
    ]
    assert {url.split("?")[0].removeprefix(server.url) for url in asked if not url.startswith("data:")} == {
        "/",
        "/page/models",
        "/v1/embeddings",
    }
    policy = server.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_with_keys_the_page_asks_for_one_and_keeps_it_out_of_the_code(browser: Page, server: Running) -> None:
    with serving(replace(server.state.settings, keys=("secret-key",))) as locked:
        browser.open(f"{locked.url}/")
        browser.wait("!document.getElementById('error').hidden")
        assert "API key" in browser.text("error")
        browser.focus("key")
        browser.type("secret-key")
        browser.press("Enter")
        browser.wait("document.getElementById('model').options.length === 2")
        compare(browser, FIRST, SECOND)
        assert re.fullmatch(r"0\.\d{4}", browser.text("score"))
        assert "YOUR_API_KEY" in browser.text("code")
        assert "secret-key" not in browser.run("document.documentElement.outerHTML")
        assert browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0

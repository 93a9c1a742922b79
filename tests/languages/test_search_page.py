"""The page `examples/browser/index.html` in a real browser: a person loads a bundle, types documents and searches."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedrt import Embedder
from tests.kit.browser import CONTRAST, Page
from tests.kit.static_files import serving_files
from tests.languages.conftest import TEXTS, needs_browser

pytestmark = needs_browser
QUERY = "How do animals rest?"


@pytest.fixture
def page(browser: Page, address: str) -> Iterator[Page]:
    """The page with a loaded bundle; its console stays empty."""
    browser.events.clear()
    browser.open(f"{address}/index.html")
    loaded(browser)
    yield browser
    assert not complaints(browser)


def complaints(page: Page) -> list[str]:
    """What the page has written to its console."""
    page.run("1")  # events before this reply have been read
    kinds = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    return [json.dumps(event, indent=1) for event in page.events if event.get("method") in kinds]


def loaded(page: Page) -> None:
    page.wait("/is ready/.test(document.getElementById('model-status').textContent)")


def search(page: Page, query: str) -> list[tuple[float, str]]:
    """Type a query, press Enter, and read the results."""
    page.focus("query")
    page.type(query)
    page.press("Enter")
    page.wait("/query embedded/.test(document.getElementById('search-status').textContent)")
    rows = page.run(
        "[...document.querySelectorAll('#results li')].map((one) => [...one.children].map((part) => part.innerText))"
    )
    return [(float(score), text) for score, text, _ in rows]


def write(page: Page, documents: list[str]) -> None:
    """Type documents, one a line."""
    page.focus("documents")
    page.type("\n".join(documents))


def ranked(model: Embedder, query: str, documents: list[str]) -> list[tuple[float, str]]:
    """The best documents in Python."""
    scores = np.asarray(model.encode_document(documents)) @ np.asarray(model.encode_query(query))
    return [(float(scores[i]), documents[i]) for i in np.argsort(-scores, kind="stable")[:10]]


def assert_same(found: list[tuple[float, str]], expected: list[tuple[float, str]]) -> None:
    assert [text for _, text in found] == [text for _, text in expected]
    np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], rtol=0, atol=6e-5)


def lines(page: Page) -> list[str]:
    return str(page.run("document.getElementById('documents').value")).splitlines()


def test_the_documents_that_the_page_starts_with(page: Page, minilm: Embedder) -> None:
    found = search(page, QUERY)
    assert_same(found, ranked(minilm, QUERY, lines(page)))
    assert found[0][1].startswith("Sea otters hold hands")
    assert len(found) == 10


def test_typed_documents_of_all_scripts_and_lengths(page: Page, minilm: Embedder) -> None:
    typed = [text.strip() for text in TEXTS if text.strip() and "\n" not in text and "\t" not in text]
    documents = list(dict.fromkeys([*typed[:-8:3], *typed[-8:]]))
    write(page, documents)
    for query in ("Wie schlafen Tiere?", "word " * 300, "👩‍🔬"):
        found = search(page, query)
        expected = ranked(minilm, query, documents)
        np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], rtol=0, atol=6e-5)


def test_only_new_documents_are_embedded(page: Page) -> None:
    write(page, ["one", "two"])
    search(page, QUERY)
    assert "2 embedded" in page.text("search-status")
    write(page, ["one", "two", "three", "two"])
    search(page, QUERY)
    assert "3 documents, 1 embedded" in page.text("search-status")


def test_int8_by_choice(browser: Page, address: str, small_bundle: Path, int8: Embedder) -> None:
    browser.open(f"{address}/index.html?bundle=small/")
    loaded(browser)
    assert "in float32 is ready" in browser.text("model-status")
    exact = search(browser, QUERY)
    assert_same(exact, ranked(Embedder(small_bundle), QUERY, lines(browser)))
    browser.run(
        "(() => { const list = document.getElementById('dtype'); list.value = 'int8'; "
        "list.dispatchEvent(new Event('change')); })()"
    )
    browser.wait("/in int8 is ready/.test(document.getElementById('model-status').textContent)")
    found = search(browser, QUERY)
    expected = {text: score for score, text in ranked(int8, QUERY, lines(browser))}
    assert len(found) == 10
    for score, text in found[:5]:
        assert score == pytest.approx(expected[text], abs=0.005)
    browser.open(f"{address}/index.html?bundle=small/&dtype=int8")
    loaded(browser)
    assert "in int8 is ready" in browser.text("model-status")


def test_a_folder_that_a_person_picks(page: Page, minilm_bundle: Path, minilm: Embedder) -> None:
    pick(page, "folder", [minilm_bundle])
    page.wait("document.getElementById('find').disabled")
    loaded(page)
    assert_same(search(page, QUERY), ranked(minilm, QUERY, lines(page)))


def pick(page: Page, element: str, paths: list[Path]) -> None:
    """Choose files in a file dialog."""
    root = page.send("DOM.getDocument")["root"]["nodeId"]
    node = page.send("DOM.querySelector", nodeId=root, selector=f"#{element}")["nodeId"]
    page.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])


def test_text_files_add_their_paragraphs(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("first\nparagraph\n\n\nsecond one\n", encoding="utf-8")
    write(page, ["typed"])
    pick(page, "files", [tmp_path / "notes.txt"])
    page.wait("document.getElementById('documents').value.includes('second')")
    assert lines(page) == ["typed", "first paragraph", "second one"]


def test_nothing_to_search(page: Page) -> None:
    write(page, [""])
    page.run("document.getElementById('documents').value = ''")
    page.focus("query")
    page.press("Enter")
    page.wait("!document.getElementById('search-error').hidden")
    assert page.text("search-error") == "Type or drop some documents first."


def failure(page: Page, address: str) -> str:
    """The error that the page shows when it is opened."""
    page.open(address)
    page.wait("!document.getElementById('model-error').hidden")
    return page.text("model-error")


def test_no_bundle_at_the_address(browser: Page, address: str) -> None:
    message = failure(browser, f"{address}/index.html?bundle=nowhere/")
    assert f"There is no bundle at {address}/nowhere/" in message
    assert "embedrt export sentence-transformers/all-MiniLM-L6-v2 -o bundle" in message
    browser.focus("address")
    browser.type("bundle/")
    browser.press("Enter")
    loaded(browser)
    assert not browser.run("!document.getElementById('model-error').hidden")


def test_missing_libraries_damaged_files_and_other_folders(
    browser: Page, site: Path, minilm_bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(site / "index.html", folder)
    (folder / "bundle").symlink_to(minilm_bundle)
    damaged = folder / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    graph = bytearray((damaged / "onnx/model.onnx_data").read_bytes())
    graph[100] ^= 1
    (damaged / "onnx/model.onnx_data").write_bytes(graph)
    with serving_files(folder) as url:
        message = failure(browser, f"{url}/index.html")
        assert "onnxruntime-web is missing" in message or "@huggingface/tokenizers is missing" in message
        assert "npm install onnxruntime-web @huggingface/tokenizers" in message
        (folder / "node_modules").symlink_to(site / "node_modules")
        message = failure(browser, f"{url}/index.html?bundle=damaged/")
        assert message == (
            "onnx/model.onnx_data is damaged: its SHA-256 is not the one in embedrt.json. Copy the bundle again."
        )
        os.truncate(damaged / "onnx/model.onnx_data", 100)
        later = (damaged / "onnx/model.onnx_data").stat().st_mtime + 10  # the server compares whole seconds
        os.utime(damaged / "onnx/model.onnx_data", (later, later))
        assert "has 100 bytes instead of" in failure(browser, f"{url}/index.html?bundle=damaged/&again")
        (damaged / "onnx/model.onnx_data").unlink()
        assert "the server answered 404. Copy the whole bundle" in failure(
            browser, f"{url}/index.html?bundle=damaged/&gone"
        )
        pick(browser, "folder", [site / "node_modules" / "onnxruntime-web" / "dist"])
        browser.wait("/no embedrt.json/.test(document.getElementById('model-error').textContent)")


def test_the_keyboard_reaches_everything_in_order(page: Page) -> None:
    page.focus("address")
    reached = []
    for _ in range(8):
        reached.append(page.run("document.activeElement.id"))
        page.press("Tab")
    assert reached == ["address", "load", "folder", "documents", "files", "query", "find", ""]


def test_every_field_has_a_label_and_both_color_schemes_have_contrast(page: Page) -> None:
    search(page, QUERY)
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"textbox", "searchbox", "combobox", "button"}
    fields = [node for node in tree if node.get("role", {}).get("value") in roles]
    assert len(fields) >= 7
    assert all(node["name"]["value"] for node in fields)
    for scheme in ("light", "dark"):
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for element in ("address", "load", "documents", "documents-hint", "query", "find", "search-status", "results"):
            assert page.run(CONTRAST % element) >= 4.5, (scheme, element)
    page.send("Emulation.setEmulatedMedia", features=[])


def test_nothing_is_loaded_from_elsewhere(page: Page, address: str) -> None:
    search(page, QUERY)
    asked = [
        event["params"]["request"]["url"] for event in page.events if event.get("method") == "Network.requestWillBeSent"
    ]
    elsewhere = [url for url in asked if not re.match(rf"{re.escape(address)}/|data:|blob:", url)]
    assert asked
    assert not elsewhere

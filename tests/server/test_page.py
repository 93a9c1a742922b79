"""The page at `/`, without a browser: its policy, and what it knows of the models. tests/clients has a browser."""

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from embedrt.server.settings import ModelSettings, Settings
from embedrt_export import export
from tests.kit import score_models, sparse_models
from tests.kit.server import Running, serving


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with models of three tasks; the first has a prompt for queries."""
    folder = tmp_path_factory.mktemp("page")
    reranker = export(score_models.MODELS["sigmoid"](folder / "models" / "reranker"), folder / "reranker")
    splade = export(sparse_models.splade(folder / "models" / "splade"), folder / "splade")
    models = (
        ModelSettings("tiny", str(tiny_bundle), prompts={"query": "query: "}),
        ModelSettings("reranker", str(reranker)),
        ModelSettings("splade", str(splade)),
    )
    with serving(Settings(models)) as running:
        yield running


def test_the_policy_allows_the_script_and_the_style_of_the_page_and_nothing_else(server: Running) -> None:
    answer = server.get("/")
    page, policy = answer.body.decode(), answer.headers["content-security-policy"]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert f"{tag}-src 'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" in policy
    assert not re.search(r"""\son\w+=|\sstyle=|<script\s|<style\s""", page), "neither allows attributes"
    assert policy.startswith("default-src 'none'; ")


def test_the_page_loads_nothing_from_elsewhere(server: Running) -> None:
    page = server.get("/").body.decode()
    markup, _, script = page.partition("<script>")
    addresses = re.findall(r"""(?:src|href|url|action|data)\s*[=(]\s*["']?([^"'\s>)]+)""", markup)
    assert {address for address in addresses if not address.startswith("data:")} == {"openapi.json"}
    # Addresses of the script are relative to that of the page, which may lie behind a prefix.
    assert re.findall(r"\bfetch\(`([^`]+)`", script) == ["${base}/${path}"]
    assert "import(" not in script
    assert re.findall(r"https?://[\w./]*", page) == ["http://www.w3.org/2000/svg"], "the name of a format"


def test_the_page_knows_the_task_and_the_sides_of_every_model(server: Running) -> None:
    models = server.get("/page/models").json
    assert [(one["name"], one["task"], one["sides"]) for one in models] == [
        ("tiny", "embed", ["query"]),
        ("reranker", "score", []),
        ("splade", "sparse", ["query", "document"]),
    ]
    assert models[0]["width"] == 32
    assert models[1]["width"] == 1


def test_without_the_page_there_is_a_health_check(tiny_bundle: Path) -> None:
    with serving(replace(Settings((ModelSettings("tiny", str(tiny_bundle)),)), page=False)) as running:
        answer = running.get("/")
        assert (answer.status, answer.body) == (200, b"")


def test_with_keys_the_page_is_public_and_the_models_are_not(tiny_bundle: Path) -> None:
    with serving(replace(Settings((ModelSettings("tiny", str(tiny_bundle)),)), keys=("one",))) as running:
        assert running.get("/").status == 200
        assert running.get("/page/models").status == 401
        assert running.get("/page/models", authorization="Bearer one").status == 200

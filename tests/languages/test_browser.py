"""Graphs and libraries in a headless browser: vectors as in Python."""

import json

import numpy as np
import pytest

from tests.kit.browser import Page
from tests.kit.clients import Record, max_error, npm_version
from tests.kit.pages import ROOT, titled_blocks
from tests.languages.conftest import LANGUAGES, TEXTS, TOLERANCE, Vectors, needs_browser

pytestmark = needs_browser
MODULES = "/node_modules"
# Few: a browser takes longer.
ROWS = [*range(0, len(TEXTS) - 10, 6), *range(len(TEXTS) - 10, len(TEXTS))]
SETTINGS = titled_blocks("javascript", ROOT / "docs" / "guides" / "other-languages.md")["transformers.js in a browser"]


@pytest.fixture
def page(browser: Page, address: str) -> Page:
    """An empty page of the server."""
    browser.events.clear()
    browser.open(f"{address}/bundle/config.json")
    return browser


def run_graph(page: Page, folder: str, graph: str, data: str, token_ids: list[list[int]]) -> Vectors:
    """The vectors of token ids by a graph in onnxruntime-web, one text at a time."""
    code = f"""(async () => {{
      const ort = await import("{MODULES}/onnxruntime-web/dist/ort.wasm.min.mjs");
      const bytes = async (name) => new Uint8Array(await (await fetch(`/{folder}/onnx/${{name}}`)).arrayBuffer());
      const externalData = [{{ path: "{data}", data: await bytes("{data}") }}];
      const session = await ort.InferenceSession.create(await bytes("{graph}"), {{ externalData }});
      const rows = [];
      for (const ids of {json.dumps(token_ids)}) {{
        const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
        const feeds = {{ input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) }};
        if (session.inputNames.includes("token_type_ids")) feeds.token_type_ids = tensor(ids.map(() => 0));
        rows.push([...(await session.run(feeds, ["sentence_embedding"])).sentence_embedding.data]);
      }}
      await session.release();
      return rows;
    }})()"""
    return np.asarray(page.run(code), np.float32)


@pytest.mark.parametrize("graph", ["model.onnx", "model_cpu.onnx"])
def test_float32_graphs(graph: str, page: Page, token_ids: list[list[int]], expected: Vectors, record: Record) -> None:
    found = run_graph(page, "bundle", graph, "model.onnx_data", [token_ids[i] for i in ROWS])
    error = max_error(found, expected[ROWS])
    version = npm_version("onnxruntime-web", LANGUAGES)
    record("onnxruntime-web", version, f"InferenceSession of {graph} in Chromium", error, tolerance=TOLERANCE)


@pytest.mark.parametrize("graph", ["model_int8.onnx", "model_int8_cpu.onnx"])
def test_int8_graphs(graph: str, page: Page, token_ids: list[list[int]], expected_int8: Vectors) -> None:
    found = run_graph(page, "small", graph, "model_int8.onnx_data", [token_ids[i] for i in ROWS])
    cosines = (found * expected_int8[ROWS]).sum(axis=1)
    assert cosines.min() >= 0.9995
    assert cosines.mean() >= 0.9999


@pytest.mark.parametrize(("name", "options"), [("bundle", "{}"), ("small", '{ dtype: "int8" }')])
def test_transformers_js(
    name: str, options: str, page: Page, expected: Vectors, expected_int8: Vectors, record: Record
) -> None:
    short = [i for i in ROWS if len(TEXTS[i]) < 300]
    code = f"""(async () => {{
      const library = "{MODULES}/@huggingface/transformers/dist/transformers.min.js";
      const {{ AutoModel, AutoTokenizer, env }} = await import(library);
      {SETTINGS.replace('"/models/"', '"/"')}
      env.useBrowserCache = false;
      const tokenizer = await AutoTokenizer.from_pretrained("{name}");
      const model = await AutoModel.from_pretrained("{name}", {options});
      const inputs = tokenizer({json.dumps([TEXTS[i] for i in short])}, {{ padding: true, truncation: true }});
      return (await model(inputs)).sentence_embedding.tolist();
    }})()"""
    found = page.run(code)
    asked = [
        event["params"]["request"]["url"] for event in page.events if event.get("method") == "Network.requestWillBeSent"
    ]
    assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "blob:", "data:"))]
    if name == "bundle":
        version = npm_version("@huggingface/transformers", LANGUAGES)
        error = max_error(found, expected[short])
        record("transformers.js", version, "AutoModel in Chromium", error, tolerance=TOLERANCE)
    else:
        assert any(url.endswith("/onnx/model_int8.onnx_data") for url in asked)
        assert (np.asarray(found) * expected_int8[short]).sum(axis=1).min() >= 0.9995

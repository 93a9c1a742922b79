"""The code of the guide in Node: vectors as in Python."""

from pathlib import Path

import numpy as np
import pytest

from tests.kit.clients import Record, max_error, npm_version
from tests.kit.pages import ROOT, titled_blocks
from tests.languages.conftest import LANGUAGES, TEXTS, TOLERANCE, Node, Vectors, needs_node

pytestmark = needs_node
GUIDE = ROOT / "docs" / "guides" / "other-languages.md"
CODE = titled_blocks("javascript", GUIDE)
# What each block calls.
CALLED = {
    "transformers.js": ("@huggingface/transformers", "AutoModel in Node"),
    "onnxruntime-node": ("onnxruntime-node", "InferenceSession"),
}
PRINT = """
const given = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const rows = (vectors) => [...vectors].map((one) => [...one]);
const alone = [];
for (const text of given.texts) alone.push(...rows(await embed([text])));
console.log(JSON.stringify({ shown: rows(vectors), batch: rows(await embed(given.texts)), alone }));
"""


def program(title: str, bundle: Path) -> str:
    """The code of a block of the guide, with vectors of other texts after it."""
    assert "./my-bundle" in CODE[title]
    require = 'import { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);\n'
    return f"{require}{CODE[title]}{PRINT}".replace("./my-bundle", str(bundle))


@pytest.mark.parametrize("title", CALLED)
def test_float32(title: str, minilm_bundle: Path, node: Node, expected: Vectors, record: Record) -> None:
    found = node(program(title, minilm_bundle), texts=TEXTS)
    assert np.shape(found["shown"]) == (2, 384)
    package, called = CALLED[title]
    error = max(max_error(found[name], expected) for name in ("alone", "batch"))
    record(title, npm_version(package, LANGUAGES), called, error, tolerance=TOLERANCE)


@pytest.mark.parametrize("title", CALLED)
def test_int8(title: str, small_bundle: Path, node: Node, expected_int8: Vectors) -> None:
    code = program(title, small_bundle)
    before, after = {
        "transformers.js": (
            f'from_pretrained("{small_bundle}");\n\nasync',
            f'from_pretrained("{small_bundle}", {{ dtype: "int8" }});\n\nasync',
        ),
        "onnxruntime-node": ("model.onnx", "model_int8.onnx"),
    }[title]
    assert before in code
    found = node(code.replace(before, after), texts=TEXTS)
    # A rounding error in float32 may move a value to the next level.
    for name in ("alone", "batch"):
        cosines = (np.asarray(found[name]) * expected_int8).sum(axis=1)
        assert cosines.min() >= 0.9995, name
        assert cosines.mean() >= 0.9999, name


def test_a_pipeline_that_pools_by_itself(minilm_bundle: Path, node: Node, expected: Vectors, record: Record) -> None:
    short = [i for i, text in enumerate(TEXTS) if len(text) < 300]
    code = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ pipeline }} from "@huggingface/transformers";
        const {{ texts }} = JSON.parse(readFileSync(0, "utf8"));
        const extract = await pipeline("feature-extraction", "{minilm_bundle}");
        const found = await extract(texts, {{ pooling: "mean", normalize: true }});
        console.log(JSON.stringify(found.tolist()));
    """
    found = node(code, texts=[TEXTS[i] for i in short])
    version = npm_version("@huggingface/transformers", LANGUAGES)
    record("transformers.js", version, "pipeline in Node", max_error(found, expected[short]), tolerance=TOLERANCE)

"""Model cards: read back by the hub's own parser and by a Markdown parser, whatever the manifest says."""

import dataclasses
from html.parser import HTMLParser
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from embedrt import Embedder
from embedrt.bundle.facts import size
from embedrt.bundle.manifest import KIND_OF_TASK, NAME_OF_KIND, Manifest, Output, Source, Variant
from embedrt.bundle.reports import ParityReport, QualityReport, RankReport
from embedrt.hub.card import model_card
from embedrt.types import Task


class Tables(HTMLParser):
    """The tables of a page as rows of cells, and every element in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.elements: set[str] = set()
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[-1][-1][-1] += data


def front_matter(card: str) -> dict[str, Any]:
    """As the hub's client reads it."""
    data: dict[str, Any] = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    return data


def rendered(card: str) -> Tables:
    return Tables(MarkdownIt("commonmark").enable("table").render(ModelCard(card, ignore_metadata_errors=False).text))


@pytest.fixture(scope="module")
def manifest(tiny: Embedder) -> Manifest:
    return tiny.manifest


HUB = Source("hub", "sentence-transformers/all-MiniLM-L6-v2", "abc")


def test_front_matter(manifest: Manifest) -> None:
    data = front_matter(model_card(dataclasses.replace(manifest, source=HUB), "org/tiny"))
    assert data == {
        "library_name": "embedrt",
        "pipeline_tag": "sentence-similarity",
        "tags": ["embedrt", "sentence-transformers", "onnx", "feature-extraction", "sentence-similarity"],
        "base_model": HUB.id,
    }


@pytest.mark.parametrize(
    "source",
    [
        Source("folder", "org/model", None),
        Source("package", "gt_model", "1"),
        Source("hub", "model", None),
        Source("hub", 'org/model"\nlicense: mit', None),
        Source("hub", "../model", None),
        Source("hub", "org/model\n", None),
    ],
)
def test_no_base_model_where_the_source_is_none_on_the_hub(manifest: Manifest, source: Source) -> None:
    data = front_matter(model_card(dataclasses.replace(manifest, source=source)))
    assert set(data) == {"library_name", "pipeline_tag", "tags"}


def test_what_it_says(manifest: Manifest) -> None:
    changed = dataclasses.replace(
        manifest, source=HUB, prompts={"query": "q: "}, default_prompt_name="query", truncate_dim=16
    )
    card = model_card(changed, "org/tiny")
    assert "\npip install 'embedrt[cpu]'\n" in card
    assert "\n# `org/tiny`\n" in card
    assert "model = Embedder('org/tiny')\n" in card
    assert "# float32 (2, 16)\n" in card
    facts, parity = rendered(card).tables
    assert {row[0]: row[1] for row in facts[1:]} == {
        "task": "embed",
        "source": f"hub {HUB.id} at abc",
        "architecture": "bert, native graph",
        "modules": "Transformer > Pooling mean > Normalize",
        "normalized": "yes",
        "max tokens": "48",
        "dimensions": "32, truncated to 16",
        "dtypes": "float32",
        "similarity": manifest.similarity_fn_name or "cosine",
        "prompt query, the default": "'q: '",
        "int8 ranges": "not measured",
        "size": f"{size(manifest) / 1e6:.1f} MB in {len(manifest.files) + 1} files",
        "fingerprint": manifest.fingerprint,
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.made_with.items()),
    }
    expected = []
    for variant in manifest.routes["default"].variants:
        report = variant.proof
        assert isinstance(report, ParityReport)
        expected.append(
            [
                "default",
                "float32",
                variant.file,
                str(report.texts),
                str(report.max_tokens),
                f"{report.max_abs_error:.1e}, by batch {report.max_batch_error:.1e}",
                "1e-05",
                f"{report.reference}, not independent",
                report.engine,
            ]
        )
    assert parity[1:] == expected
    assert len(expected) == 2


def test_of_a_folder(manifest: Manifest) -> None:
    card = model_card(manifest)
    assert f"\n# `{manifest.name}`\n" in card
    assert "Embedder('path/to/this/folder')" in card


def test_a_row_for_every_variant_of_every_route(manifest: Manifest) -> None:
    route = manifest.routes["default"]
    portable = route.variants[1]
    quality = QualityReport("rounding", 9, 48, 0.9991, 0.996, 0.999, 0.995, 0.998, 0.99, 1e-7, "onnxruntime")
    int8 = dataclasses.replace(portable, dtype="int8", file="onnx/model_int8.onnx", proof=quality)
    routes = {"query": dataclasses.replace(route, variants=(portable, int8)), "document": route}
    facts, proof = rendered(model_card(dataclasses.replace(manifest, routes=routes))).tables
    assert [row[:3] for row in proof[1:]] == [
        ["query", "float32", "onnx/model.onnx"],
        ["query", "int8", "onnx/model_int8.onnx"],
        ["document", "float32", "onnx/model_cpu.onnx"],
        ["document", "float32", "onnx/model.onnx"],
    ]
    assert proof[2][3:] == [
        *("9", "48", "cosine 0.99910 mean, 0.99600 min", "0.999 and 0.995"),
        *("float32; rounding", "onnxruntime"),
    ]
    ranks = RankReport("rounding", 90, 48, 0.97, 1.0, 0.004, 0.01, 0.9, 0.02, 0.02, 1e-7, "onnxruntime")
    routes["document"] = dataclasses.replace(route, variants=(dataclasses.replace(int8, proof=ranks),))
    _, proof = rendered(model_card(dataclasses.replace(manifest, routes=routes))).tables
    assert proof[3][3:] == [
        *("90", "48", "rank correlation 0.9700, score error 4.0e-03", "0.9 and 0.02"),
        *("float32; rounding", "onnxruntime"),
    ]
    assert {"architecture (query)", "architecture (document)"} <= {row[0] for row in facts}


HOSTILE = [
    "<script>alert(1)</script>",
    "[a](javascript:alert(1))",
    "![x](http://evil)",
    "`code` ``",
    "`",
    "a | b \\| c \\",
    "\n\n# heading\n---\n",
    "```\n```",
    "\u202eabc\x1b[2J",
    "{load}",
    "http://evil.example",
    "&lt; &#124;",
    "",
]


def hostile(variant: Variant, text: str) -> Variant:
    """A variant whose strings are all this one."""
    assert isinstance(variant.proof, ParityReport)
    proof = dataclasses.replace(variant.proof, reference=text, engine=text)
    return dataclasses.replace(variant, file=text, proof=proof)


ELEMENTS = {"h1", "h2", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}


@given(
    text=st.sampled_from(HOSTILE)
    | st.text(st.sampled_from(list("`|\\<>[]()*_#\n ~&;!ab")))
    | st.text(st.characters(exclude_categories=["Cs"]))
)
def test_strings_of_the_manifest_are_only_text(manifest: Manifest, text: str) -> None:
    route = manifest.routes["default"]
    changed = dataclasses.replace(
        manifest,
        name=text,
        source=Source("hub", text, text),
        prompts={text: text},
        similarity_fn_name=text,
        made_with={text: text},
        fingerprint=text,
        routes={
            "default": dataclasses.replace(
                route,
                architecture=text,
                modules=(dataclasses.replace(route.modules[0], type=text, settings={"pooling_mode": [text]}),),
                variants=(hostile(route.variants[0], text), route.variants[1]),
            )
        },
    )
    plain, page = rendered(model_card(manifest)), rendered(model_card(changed))
    assert page.elements <= ELEMENTS
    assert [len(row) for row in page.tables[1]] == [len(row) for row in plain.tables[1]]
    assert len(page.tables) == 2
    assert len(page.tables[0]) == len(plain.tables[0]) + 1  # the prompt
    assert {len(row) for row in page.tables[0]} == {2}
    shown = "".join(c if c.isprintable() else " " for c in text).strip().replace("\\|", "\\ |") or "(empty)"
    found = next(row[1] for row in page.tables[0] if row[0] == "fingerprint")
    assert found.split() == shown.split()


@pytest.mark.parametrize(
    ("task", "name", "pipeline", "width"),
    [
        ("score", "CrossEncoder", "text-ranking", "labels"),
        ("sparse", "SparseEncoder", "feature-extraction", "vocabulary entries"),
        ("multi-vector", "MultiVectorEncoder", "sentence-similarity", "dimensions per token"),
    ],
)
def test_other_tasks_have_their_class(manifest: Manifest, task: Task, name: str, pipeline: str, width: str) -> None:
    (route,) = manifest.routes.values()
    kind = KIND_OF_TASK[task]
    routes = {"default": dataclasses.replace(route, outputs={NAME_OF_KIND[kind]: Output(kind, 7, normalized=False)})}
    card = model_card(dataclasses.replace(manifest, task=task, routes=routes), "org/tiny")
    assert f"\nfrom embedrt import {name}\n\nmodel = {name}('org/tiny')\n" in card
    assert front_matter(card)["pipeline_tag"] == pipeline
    facts = {row[0]: row[1] for row in rendered(card).tables[0][1:]}
    assert (facts["task"], facts[width]) == (task, "7")
    assert "int8 ranges" not in facts

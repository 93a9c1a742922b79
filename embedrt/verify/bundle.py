"""Verification of whole bundles: files and vectors against a reference, or against another bundle."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from embedrt.bundle.reports import ParityReport, QualityReport
from embedrt.embedder import Embedder
from embedrt.hub.resolve import exporter
from embedrt.inputs.check import check_texts
from embedrt.verify.difference import Difference, difference
from embedrt.verify.parity import read_parity_texts, verify_route

ReferenceKind = Literal["bundle", "sentence-transformers"]


def bundled_texts(embedder: Embedder) -> list[str]:
    """The parity texts in a bundle: those of the route for calls without a task, else of the first route."""
    route = embedder.manifest.routes.get(embedder.manifest.tasks.get("", ""))
    route = next(iter(embedder.manifest.routes.values())) if route is None else route
    return read_parity_texts(embedder.loaded.bundle.files, route)


def verify(
    embedder: Embedder, reference: ReferenceKind = "bundle", source: str | Path | None = None
) -> Mapping[str, ParityReport | QualityReport]:
    """Verify a loaded bundle; see `embedrt.verify`."""
    if reference not in get_args(ReferenceKind):
        known = ", ".join(map(repr, get_args(ReferenceKind)))
        raise ValueError(f"reference: expected one of {known}, got {reference!r}")
    if source is not None and reference == "bundle":
        raise ValueError("source: expected None for reference='bundle', which loads no model")
    embedder.loaded.bundle.files.check(embedder.manifest.files, "always")
    if reference == "bundle":
        return {name: verify_route(runner) for name, runner in embedder.runners.items()}
    reports: Mapping[str, ParityReport] = exporter().verify_with_sentence_transformers(embedder, source)
    return reports


def diff(a: Embedder, b: Embedder, texts: Iterable[str] | None = None, task: str | None = None) -> Difference:
    """Compare the vectors of two loaded bundles; see `embedrt.diff`."""
    items = bundled_texts(a) if texts is None else check_texts(texts)[0]
    return difference(*(model.encode(items, prompt="", truncate_dim=None, task=task) for model in (a, b)))

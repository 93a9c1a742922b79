"""Verification of whole bundles: files and vectors against a reference, or against another bundle."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from embedrt.bundle.reports import Accuracy, ParityReport
from embedrt.embedder import Embedder
from embedrt.engine.int8_weights import require_pairs
from embedrt.hub.resolve import exporter
from embedrt.inputs.check import check_texts
from embedrt.inputs.values import one_of
from embedrt.model import Model
from embedrt.run.runner import Runner
from embedrt.verify.difference import Difference, difference
from embedrt.verify.parity import read_parity_items, verify_route

ReferenceKind = Literal["bundle", "sentence-transformers"]


def bundled_texts(embedder: Embedder) -> list[str]:
    """The parity texts in a bundle: those of the route for calls without a task, else of the first route."""
    route = embedder.manifest.routes.get(embedder.manifest.tasks.get("", ""))
    route = next(iter(embedder.manifest.routes.values())) if route is None else route
    items = read_parity_items(embedder.loaded.bundle.files, route, embedder.manifest.task)
    return [item for item in items if isinstance(item, str)]


def verify(
    model: Model, reference: ReferenceKind = "bundle", source: str | Path | None = None
) -> Mapping[str, ParityReport | Accuracy]:
    """Verify a loaded bundle; see `embedrt.verify`."""
    check_reference(reference, source)
    model.loaded.bundle.files.check(model.manifest.files, "always")
    for runner in model.runners.values():
        _check_weights(runner)
    if reference == "bundle":
        return {name: verify_route(runner) for name, runner in model.runners.items()}
    reports: Mapping[str, ParityReport] = exporter().verify_with_sentence_transformers(model, source)
    return reports


def _check_weights(runner: Runner) -> None:
    """Check what the manifest states about int8 weights: this CPU may not rely on it, but another one may."""
    variant = runner.placement.variant
    graph = runner.folder / variant.file
    runner.files.load(variant.files, lambda root: require_pairs(graph, variant, root / variant.file))


def check_reference(reference: ReferenceKind, source: str | Path | None) -> None:
    """Check the reference of `verify`, before a bundle is loaded.

    Raises:
        ValueError: The reference is unknown, or the source does not apply to it.
    """
    one_of(reference, ReferenceKind, "reference")
    if source is not None and reference == "bundle":
        raise ValueError("source: expected None for reference='bundle', which loads no model")


def check_diff_texts(texts: Iterable[str]) -> list[str]:
    """The texts of `diff`, checked before a bundle is loaded.

    Raises:
        TypeError: A text is not a str.
        ValueError: There are fewer than two.
    """
    items, _ = check_texts(texts)
    if len(items) < 2:
        raise ValueError(f"texts: expected at least 2, got {len(items)}")
    return items


def diff(a: Embedder, b: Embedder, texts: Iterable[str] | None = None, task: str | None = None) -> Difference:
    """Compare the vectors of two loaded bundles; see `embedrt.diff`."""
    items = bundled_texts(a) if texts is None else check_diff_texts(texts)
    return difference(*(model.encode(items, prompt="", truncate_dim=None, task=task) for model in (a, b)))

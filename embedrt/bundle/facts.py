"""Bundle facts as pairs of label and value, for `embedrt info`, the model card and `embedrt doctor`."""

from collections.abc import Iterator

from embedrt.bundle.manifest import DEFAULT_ROUTE, Manifest, Route, Source
from embedrt.types import Task

Fact = tuple[str, str]

# The word for the width of what a model makes.
_WIDTHS: dict[Task, str] = {
    "embed": "dimensions",
    "score": "labels",
    "sparse": "vocabulary entries",
    "multi-vector": "dimensions per token",
}
# The similarity of models that name none.
_SIMILARITIES: dict[Task, str] = {"embed": "cosine", "sparse": "dot", "multi-vector": "maxsim"}


def facts(manifest: Manifest) -> Iterator[Fact]:
    """Facts about the model: source, modules, dimensions, dtypes, prompts, and the software that made the bundle."""
    yield "task", manifest.task
    yield "source", source_line(manifest.source)
    for name, route in manifest.routes.items():
        yield of_route("architecture", name), f"{route.architecture}, {route.via} graph"
        yield of_route("modules", name), " > ".join(module.summary for module in route.modules)
        if manifest.task == "embed":
            yield of_route("normalized", name), "yes" if route.normalized else "no"
        yield of_route("max tokens", name), "no limit" if route.max_seq_length is None else str(route.max_seq_length)
    kept = f", truncated to {manifest.truncate_dim}" if manifest.truncate_dim else ""
    yield _WIDTHS[manifest.task], f"{manifest.dim}{kept}"
    yield "dtypes", ", ".join(manifest.dtypes)
    if manifest.task in _SIMILARITIES:
        yield "similarity", manifest.similarity_fn_name or _SIMILARITIES[manifest.task]
    for name, prompt in manifest.prompts.items():
        yield f"prompt {name}" + (", the default" if name == manifest.default_prompt_name else ""), repr(prompt)
    if manifest.task == "embed":
        yield "int8 ranges", "not measured" if manifest.vector_ranges is None else "measured"
    yield "size", f"{size(manifest) / 1e6:.1f} MB in {len(manifest.files) + 1} files"
    yield "fingerprint", manifest.fingerprint
    yield "made with", ", ".join(f"{name} {version}" for name, version in manifest.made_with.items())


def proofs(manifest: Manifest) -> Iterator[Fact]:
    """The proof of each variant of each route, labeled such as "parity float32"."""
    for name, route in manifest.routes.items():
        yield from route_proofs(name, route)


def route_proofs(name: str, route: Route) -> Iterator[Fact]:
    """The proof of each variant of one route."""
    for variant in route.variants:
        if variant.proof is not None:
            yield of_route(f"{variant.proof.kind} {variant.dtype}", name), f"{variant.file}: {variant.proof.summary}"


def headline(manifest: Manifest) -> str:
    """Architecture, width and dtypes, such as "bert, 384 dimensions, float32"."""
    architectures = dict.fromkeys(route.architecture for route in manifest.routes.values())
    return f"{' and '.join(architectures)}, {width(manifest)}, {', '.join(manifest.dtypes)}"


def width(manifest: Manifest) -> str:
    """The width of what a model makes, such as "384 dimensions" or "1 labels"."""
    return f"{manifest.dim} {_WIDTHS[manifest.task]}"


def size(manifest: Manifest) -> int:
    """The size of all files that the manifest lists, in bytes."""
    return sum(record.size for record in manifest.files.values())


def source_line(source: Source) -> str:
    """The kind, name and revision of a source."""
    return f"{source.kind} {source.id}" + (f" at {source.revision}" if source.revision else "")


def of_route(label: str, name: str) -> str:
    """A label that names the route, unless it is the only one."""
    return label if name == DEFAULT_ROUTE else f"{label} ({name})"
